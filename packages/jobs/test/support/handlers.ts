/** What `runner` is started with in tests. */
export { handlers as default } from "./kinds.js";
