/** The driver's own client, as it comes: for tests that show what `Client.layer` does differently, and why. */
import * as PgClient from "@effect/sql-pg/PgClient";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Str from "effect/String";
import { DatabaseService } from "../../src/repos.js";
import { TestUrl } from "./database.js";

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
