/** The two tenants of the demo, new in every run, so that it may run again and beside others on the same database. */
import * as Client from "@parametric-portal/database/client";
import { DatabaseService } from "@parametric-portal/database/repos";
import * as Effect from "effect/Effect";
import * as Random from "effect/Random";

export interface Tenant {
  readonly id: string;
  readonly name: string;
}

/** One of each for the two tenants, in their order. */
export type Both<A> = readonly [A, A];

/** `acme` and `globex`, each with a mark that is this run's. */
export const createTenants = Effect.gen(function* () {
  const db = yield* DatabaseService;
  const mark = (yield* Random.nextIntBetween(0x100000, 0x1000000)).toString(16);
  const create = (name: string) => Client.system(db.apps.insert({ name: `${name} ${mark}` }));
  const tenants: Both<Tenant> = [yield* create("acme"), yield* create("globex")];
  return tenants;
});

/** The same for one tenant and then for the other. */
export const forBoth = <A, B, E, R>([a, b]: Both<A>, each: (item: A, place: 0 | 1) => Effect.Effect<B, E, R>) =>
  Effect.gen(function* () {
    const results: Both<B> = [yield* each(a, 0), yield* each(b, 1)];
    return results;
  });
