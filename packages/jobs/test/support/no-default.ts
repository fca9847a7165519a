/** A module that exports its layer under a name, and none as its default. */
export { handlers } from "./kinds.js";
