/** The one filter as the console has it: in its URL as people write it, and as the API takes it. */
import { howToSay, momentOf } from "@parametric-portal/operator/moment";

export const fields = [
  "type",
  "reason",
  "since",
  "until",
  "text",
  "payload",
  "fingerprint",
  "requestId",
  "userId",
  "originalJobId",
  "state",
] as const;
export type Field = (typeof fields)[number];
/** What the URL says: `type=mail.*`, `since=2h`, `payload={"a":1}`. */
export type Filter = Readonly<Partial<Record<Field, string>>>;

/** The filter of a URL; what it does not know is left out. */
export const filterOf = (search: Readonly<Record<string, unknown>>): Filter =>
  Object.fromEntries(
    fields.flatMap((field) => {
      const value = search[field];
      return typeof value === "string" && value.trim() !== "" ? [[field, value.trim()]] : [];
    }),
  );

const uuid = /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/iu;

const problemOf = (field: Field, value: string): string | undefined => {
  switch (field) {
    case "type":
      return value === "*" ? "leave it out for every type" : undefined;
    case "since":
    case "until":
      return momentOf(value, Date.now()) === undefined ? howToSay : undefined;
    case "payload":
      try {
        JSON.parse(value);
        return undefined;
      } catch {
        return 'this is no JSON: {"order":{"id":7}}';
      }
    case "fingerprint":
    case "requestId":
    case "userId":
    case "originalJobId":
      return uuid.test(value) ? undefined : "this is no id";
    case "state":
      return ["pending", "replayed", "any"].includes(value) ? undefined : "pending, replayed or any";
    default:
      return undefined;
  }
};

/** What cannot be meant, by field. */
export const problemsOf = (filter: Filter): Readonly<Partial<Record<Field, string>>> =>
  Object.fromEntries(
    fields.flatMap((field) => {
      const value = filter[field];
      const problem = value === undefined ? undefined : problemOf(field, value);
      return problem === undefined ? [] : [[field, problem]];
    }),
  );

/** As the API takes it in a body. A moment that was said as "2h ago" is counted from now. */
export type ApiFilter = Readonly<Record<string, unknown>>;
export const toApi = ({ payload, since, state, type, until, ...rest }: Filter): ApiFilter => {
  const now = Date.now();
  const moment = (text: string | undefined) => (text === undefined ? undefined : momentOf(text, now)?.toISOString());
  const [from, to] = [moment(since), moment(until)];
  const conditions = {
    ...rest,
    ...(type === undefined ? {} : { type: type.endsWith("*") ? { prefix: type.slice(0, -1) } : type }),
    ...(from === undefined ? {} : { since: from }),
    ...(to === undefined ? {} : { until: to }),
    ...(payload === undefined ? {} : { payload: JSON.parse(payload) as unknown }),
  };
  return {
    ...(Object.keys(conditions).length === 0 ? { all: true } : conditions),
    ...(state === undefined ? {} : { state }),
  };
};

/** The same as parameters of a URL. */
export const toParams = (filter: ApiFilter): URLSearchParams => {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(filter)) {
    if (name === "all") continue;
    if (name === "ids") params.set(name, (value as ReadonlyArray<string>).join(","));
    else if (name === "payload") params.set(name, JSON.stringify(value));
    else if (name === "type" && typeof value === "object")
      params.set("typePrefix", (value as { readonly prefix: string }).prefix);
    else params.set(name, String(value));
  }
  return params;
};
