/** A self-signed certificate, made fresh, so that no private key has to stand in the repository. */
import { generateKeyPairSync, sign } from "node:crypto";

const der = (tag: number, ...parts: ReadonlyArray<Buffer>) => {
  const body = Buffer.concat(parts);
  const length = body.length;
  const head = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...head]), body]);
};
const sequence = (...parts: ReadonlyArray<Buffer>) => der(0x30, ...parts);
const octets = (body: Buffer) => der(0x04, body);
const bits = (body: Buffer) => der(0x03, Buffer.from([0]), body);
const integer = (value: number) => der(0x02, Buffer.from([value]));
const identifier = (hex: string) => der(0x06, Buffer.from(hex, "hex"));
const time = (text: string) => der(0x18, Buffer.from(text));

const ecdsaWithSha256 = sequence(identifier("2a8648ce3d040302"));

const pem = (label: string, body: Buffer) =>
  `-----BEGIN ${label}-----\n${body.toString("base64").replace(/.{64}/g, "$&\n")}\n-----END ${label}-----\n`;

/** A certificate for one DNS name, valid until 2099, which is its own authority; and its key. Both PEM. */
export const selfSigned = (name: string) => {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const commonName = der(0x31, sequence(identifier("550403"), der(0x0c, Buffer.from(name))));
  const extensions = sequence(
    sequence(identifier("551d13"), octets(sequence(der(0x01, Buffer.from([0xff]))))),
    sequence(identifier("551d11"), octets(sequence(der(0x82, Buffer.from(name))))),
  );
  const body = sequence(
    der(0xa0, integer(2)),
    integer(1),
    ecdsaWithSha256,
    sequence(commonName),
    sequence(time("20200101000000Z"), time("20991231235959Z")),
    sequence(commonName),
    publicKey.export({ type: "spki", format: "der" }),
    der(0xa3, extensions),
  );
  const certificate = sequence(body, ecdsaWithSha256, bits(sign("sha256", body, privateKey)));
  return {
    certificate: pem("CERTIFICATE", certificate),
    key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
  };
};
