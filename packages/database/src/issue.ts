/**
 * What is wrong, first of all, with a value that does not fit its schema. Pure.
 *
 * The library's formatter quotes the value, and overflows the stack over one that is nested some thousand levels deep. Whoever may
 * send JSON may send that, so where it fails only the place is told.
 */
import * as ParseResult from "effect/ParseResult";

/** The place within the value, what kind of problem it is, and in words what was expected. */
export type Issue = Pick<ParseResult.ArrayFormatterIssue, "_tag" | "path" | "message">;

const placeOf = (issue: ParseResult.ParseIssue, path: ReadonlyArray<PropertyKey>): Omit<Issue, "message"> => {
  switch (issue._tag) {
    case "Pointer":
      return placeOf(issue.issue, path.concat(issue.path));
    case "Composite": {
      const [first = issue] = [issue.issues].flat();
      return first === issue ? { _tag: issue._tag, path } : placeOf(first, path);
    }
    case "Refinement":
    case "Transformation":
      return placeOf(issue.issue, path);
    default:
      return { _tag: issue._tag, path };
  }
};

export const firstIssue = (error: ParseResult.ParseError): Issue => {
  try {
    const [issue] = ParseResult.ArrayFormatter.formatErrorSync(error);
    if (issue !== undefined) return issue;
  } catch {
    // Told below.
  }
  return { ...placeOf(error.issue, []), message: "is not what is expected, and cannot be shown" };
};
