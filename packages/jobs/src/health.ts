/**
 * What a runner answers to those who watch it, over HTTP: `GET /live`, `GET /ready` and `GET /metrics`.
 *
 * `/live` is 200 as long as the process turns its event loop. `/ready` is 200 while the runner works: it has joined, and the
 * database answers; otherwise it is 503 with problem+json that says what is wrong. It is 503 from the moment the runner is
 * asked to stop, while its jobs have their grace, and the server lives longer than they: build {@link layer} outside of the
 * runner and {@link layerRunner} on top of it.
 */
import { createServer } from "node:http";
import * as HttpMiddleware from "@effect/platform/HttpMiddleware";
import * as HttpRouter from "@effect/platform/HttpRouter";
import * as HttpServer from "@effect/platform/HttpServer";
import type { ServeError } from "@effect/platform/HttpServerError";
import * as HttpServerResponse from "@effect/platform/HttpServerResponse";
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer";
import * as SqlClient from "@effect/sql/SqlClient";
import * as Client from "@parametric-portal/database/client";
import { databaseError } from "@parametric-portal/database/sql-state";
import * as Context from "effect/Context";
import * as Duration from "effect/Duration";
import * as Effect from "effect/Effect";
import * as Layer from "effect/Layer";
import * as Option from "effect/Option";
import * as S from "effect/Schema";
import type * as Scope from "effect/Scope";
import * as Prometheus from "./prometheus.js";
import { Worker } from "./worker.js";

export interface HealthOptions {
  /** Where it listens; 0 takes a port that is free. */
  readonly port: number;
  /** Default: every address of the machine. */
  readonly host?: string | undefined;
}

/** Why a runner is not ready, in words; none when it is. */
export type Check = Effect.Effect<Option.Option<string>>;

export class Health extends Context.Tag("@parametric-portal/jobs/Health")<
  Health,
  {
    /** The port where it listens. */
    readonly port: number;
    /** From now on readiness is this check's to say, and when the scope closes it is "stopping" for good. */
    readonly watch: (check: Check) => Effect.Effect<void, never, Scope.Scope>;
  }
>() {}

/** What `GET /ready` answers with when it is not: RFC 9457. */
const problem = (detail: string) =>
  HttpServerResponse.unsafeJson(
    { type: "about:blank", title: "Service Unavailable", status: 503, detail },
    { status: 503, contentType: "application/problem+json" },
  );

const noStore = HttpServerResponse.setHeader("cache-control", "no-store");

/** The server. Fails with `ServeError` when the port is taken. */
export const layer = (options: HealthOptions): Layer.Layer<Health, ServeError> =>
  Layer.scoped(
    Health,
    Effect.gen(function* () {
      let check: Check = Effect.succeedSome("The runner has not started yet");
      const server = yield* HttpServer.HttpServer;
      const app = HttpRouter.empty.pipe(
        HttpRouter.get("/live", Effect.succeed(noStore(HttpServerResponse.unsafeJson({ status: "live" })))),
        HttpRouter.get(
          "/ready",
          Effect.map(
            Effect.suspend(() => check),
            Option.match({
              onNone: () => noStore(HttpServerResponse.unsafeJson({ status: "ready" })),
              onSome: (detail) => noStore(problem(detail)),
            }),
          ),
        ),
        HttpRouter.get(
          "/metrics",
          Effect.map(Prometheus.render, (text) =>
            HttpServerResponse.text(text, { contentType: Prometheus.contentType }),
          ),
        ),
        Effect.catchTag("RouteNotFound", () => HttpServerResponse.empty({ status: 404 })),
      );
      // Probes come every few seconds; a span for each would drown the jobs'.
      yield* Effect.locally(HttpServer.serveEffect(app), HttpMiddleware.currentTracerDisabledWhen, () => true);
      return {
        port: server.address._tag === "TcpAddress" ? server.address.port : options.port,
        watch: (given) =>
          Effect.acquireRelease(
            Effect.sync(() => {
              check = given;
            }),
            () =>
              Effect.sync(() => {
                check = Effect.succeedSome("The runner is stopping");
              }),
          ),
      };
    }),
  ).pipe(
    Layer.provide(
      NodeHttpServer.layer(() => createServer({ requestTimeout: 10_000, keepAliveTimeout: 5_000 }), {
        port: options.port,
        host: options.host,
      }),
    ),
  );

export interface RunnerCheckOptions {
  /** The address under which it is in the cluster, `host:port`; left out: it runs alone. */
  readonly address?: string | undefined;
  /** How long the database may take to answer. Default 2 seconds. */
  readonly within?: Duration.DurationInput | undefined;
}

const decodeJoined = S.decodeUnknown(S.Tuple(S.Struct({ isJoined: S.Boolean })));

/** Whether the cluster has lately heard of the runner. Needs the system role. */
const isJoined = (address: string) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient;
    const rows = yield* sql`
      SELECT EXISTS (
        SELECT FROM job_runners WHERE address = ${address} AND last_heartbeat > now() - interval '10 seconds') AS is_joined`;
    const [answer] = yield* Effect.orDie(decodeJoined(rows));
    return answer.isJoined;
  });

/** Whether a runner works: the database answers, its engine's last statement was answered, it has joined. */
export const makeCheck = (options: RunnerCheckOptions = {}) =>
  Effect.gen(function* () {
    const worker = yield* Worker;
    const sql = yield* SqlClient.SqlClient;
    const within = Duration.decode(options.within ?? "2 seconds");
    const check: Check = Effect.gen(function* () {
      const { isReadOnly } = yield* Client.health;
      if (isReadOnly) return Option.some("The database is read-only");
      if (!worker.isAnswered()) return Option.some("The database did not answer the runner's last statement");
      if (options.address !== undefined && !(yield* isJoined(options.address))) {
        return Option.some(`The runner ${options.address} has not joined the cluster, or is not heard of any more`);
      }
      return Option.none();
    }).pipe(
      Effect.catchAll((error) => Effect.succeedSome(`The database does not answer: ${databaseError(error).message}`)),
      Effect.disconnect,
      Effect.timeoutTo({
        duration: within,
        onTimeout: () => Option.some(`The database did not answer within ${Duration.format(within)}`),
        onSuccess: (_) => _,
      }),
      Effect.catchAllDefect((defect) => Effect.succeedSome(`The check failed: ${String(defect)}`)),
      Effect.withTracerEnabled(false),
      Effect.provideService(SqlClient.SqlClient, sql),
    );
    return check;
  });

/**
 * Readiness of the runner in the context. Give it a client of its own (one connection, `role: "parametric_system"`), so that
 * busy handlers cannot make a healthy runner look ill.
 */
export const layerRunner = (
  options: RunnerCheckOptions = {},
): Layer.Layer<never, never, Health | Worker | SqlClient.SqlClient> =>
  Layer.scopedDiscard(
    Effect.gen(function* () {
      const health = yield* Health;
      yield* health.watch(yield* makeCheck(options));
    }),
  );
