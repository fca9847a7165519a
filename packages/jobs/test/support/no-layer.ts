/** A module that exports something else than a layer. */
export default { handlers: [] };
