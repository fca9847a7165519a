/** JSON: as a tree to look at, as a text to edit, and as the difference of two. */
import { diffJson } from "diff";
import { allExpanded, JsonView } from "react-json-view-lite";
import "react-json-view-lite/dist/index.css";

const plain = {
  container: "json",
  basicChildStyle: "json-child",
  childFieldsContainer: "json-children",
  label: "json-label",
  clickableLabel: "json-label",
  nullValue: "json-null",
  undefinedValue: "json-null",
  stringValue: "json-string",
  booleanValue: "json-number",
  numberValue: "json-number",
  otherValue: "json-null",
  punctuation: "json-mark",
  expandIcon: "json-icon closed",
  collapseIcon: "json-icon open",
  collapsedContent: "json-more",
  noQuotesForStringValues: false,
  quotesForFieldNames: false,
  ariaLables: { collapseJson: "Collapse", expandJson: "Expand" },
  stringifyStringValues: true,
};

/** What takes long to draw, and is not read at a glance either. */
const isLarge = (value: unknown) => JSON.stringify(value).length > 20_000;

export const JsonTree = ({ value }: { readonly value: unknown }) =>
  typeof value === "object" && value !== null ? (
    <JsonView data={value} style={plain} shouldExpandNode={isLarge(value) ? (level) => level < 1 : allExpanded} />
  ) : (
    <p className="json">{JSON.stringify(value)}</p>
  );

/** The first number in a JSON text that a browser cannot hold: one of more digits than it keeps. */
export const inexactNumber = (text: string): string | undefined => {
  const outside = text.replaceAll(/"(?:[^"\\]|\\.)*"/gu, '""');
  return (outside.match(/-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/gu) ?? []).find((number) => {
    const digits = number
      .replace(/[eE].*$/u, "")
      .replaceAll(/[-.]/gu, "")
      .replace(/^0+/u, "");
    return digits.length > 15 || !Number.isFinite(Number(number));
  });
};

/** Which lines go and which come; null when there is no difference. */
export const JsonDiff = ({ after, before }: { readonly before: unknown; readonly after: unknown }) => {
  const parts = diffJson(asObject(before), asObject(after));
  if (parts.every(({ added, removed }) => !added && !removed)) return <p className="hint">It is the same payload.</p>;
  const lines = parts.flatMap(({ added, removed, value }) =>
    value
      .replace(/\n$/u, "")
      .split("\n")
      .map((text) => ({ text, kind: added ? "added" : removed ? "removed" : "same" })),
  );
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached without a mouse.
    <pre className="diff" tabIndex={0} role="region" aria-label="What the edit changes">
      {lines.map(({ kind, text }, index) => (
        <span key={index} className={kind}>
          {kind === "added" ? "+ " : kind === "removed" ? "- " : "  "}
          {text}
          {"\n"}
        </span>
      ))}
    </pre>
  );
};

const asObject = (value: unknown): object | string =>
  typeof value === "object" && value !== null ? value : JSON.stringify(value);
