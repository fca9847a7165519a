/** The handlers module of the release that the story starts with. */
import * as Layer from "effect/Layer";
import * as Announcer from "./announcer.js";
import { deployed } from "./handlers.js";

export default Layer.provide(deployed, Announcer.layer);
