/** A moment as people say it: `2h`, `90m`, `3d`, `1w` ago, or a date and time. The command's flags and the console's URL read it alike. */

const secondsOf: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 };

const isDate = /^\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?$/iu;

/** What is said when it is none. */
export const howToSay = "say how long ago (45s, 90m, 2h, 3d, 1w), or when (2026-11-25T13:00Z)";

/** The moment that is meant; undefined when it is none, or lies outside what a Date holds. `now`: milliseconds since 1970. */
export const momentOf = (text: string, now: number): Date | undefined => {
  const [, amount, unit = ""] = /^(\d+(?:\.\d+)?)(s|m|h|d|w)$/u.exec(text.trim()) ?? [];
  const seconds = secondsOf[unit];
  // Date.parse alone makes a day in 2001 of "2".
  const at =
    seconds === undefined
      ? isDate.test(text.trim())
        ? Date.parse(text.trim())
        : Number.NaN
      : now - Number(amount) * seconds * 1000;
  return Number.isFinite(at) && Math.abs(at) <= 8.64e15 ? new Date(at) : undefined;
};
