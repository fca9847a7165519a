/**
 * Loaded before a program: its clock is wrong by as many milliseconds as `CLOCK_SHIFTS` says first, and jumps to the next of the list
 * with each SIGUSR2. Says where it is on standard output.
 */
const shifts = JSON.parse(process.env.CLOCK_SHIFTS ?? "[0]") as ReadonlyArray<number>;
let place = 0;
const shift = () => shifts[place % shifts.length] ?? 0;

const Right = Date;
const now = () => Right.now() + shift();
globalThis.Date = new Proxy(Right, {
  construct: (target, given, newTarget) => Reflect.construct(target, given.length === 0 ? [now()] : given, newTarget),
  apply: () => new Right(now()).toString(),
  get: (target, name) => (name === "now" ? now : Reflect.get(target, name)),
});

process.on("SIGUSR2", () => {
  place += 1;
  console.log(JSON.stringify({ clock: shift() }));
});
