import * as Client from "@parametric-portal/database/client";
import * as Migrator from "@parametric-portal/database/migrator";
import * as Effect from "effect/Effect";
Effect.runPromise(Migrator.run().pipe(Effect.provide(Client.layerConfig()))).catch((e)=>{console.error(e);process.exit(1)});
