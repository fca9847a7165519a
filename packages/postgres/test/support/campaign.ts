/** What only `npm run test:full` runs. */
export const isFull = process.env.TEST_FULL === "1";
