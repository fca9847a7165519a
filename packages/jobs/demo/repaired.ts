/** The handlers module of the release that mends both mistakes. */
import * as Layer from "effect/Layer";
import * as Announcer from "./announcer.js";
import { repaired } from "./handlers.js";

export default Layer.provide(repaired, Announcer.layer);
