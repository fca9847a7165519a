/** The driver's own client, as it comes: for tests that show what `Client.layer` does differently, and why. */
import * as PgClient from "@effect/sql-pg/PgClient";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Str from "effect/String";
import pg from "pg";
import { DatabaseService } from "../../src/repos.js";
import { TestUrl } from "./database.js";

/** JSON as the text that the models decode. */
export const jsonAsText = {
  getTypeParser: (oid: number, format?: "text" | "binary") =>
    oid === 114 || oid === 3802 ? (text: string) => text : pg.types.getTypeParser(oid, format),
} as NonNullable<PgClient.PgClientConfig["types"]>;

/** This file's database by the driver's own client, and the service on it. */
export const stockClient = (options: Pick<PgClient.PgClientConfig, "transformJson" | "types">) =>
  DatabaseService.layer.pipe(
    Layer.provideMerge(
      Layer.unwrapEffect(
        Effect.map(TestUrl, (url) =>
          PgClient.layer({
            ...options,
            url,
            transformQueryNames: Str.camelToSnake,
            transformResultNames: Str.snakeToCamel,
          }),
        ),
      ),
    ),
  );
