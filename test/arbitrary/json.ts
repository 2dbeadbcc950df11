/** Files that somebody has tampered with: a good JSON document with one or a few of its values taken out or replaced. */
import fc from "fast-check";

/** Values that programs trip over. */
const odd = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.constantFrom<unknown>(null, true, false, 0, -1, 1.5, 1e308, -0, 2 ** 53, "", "x", [], {}, [[]], [null]),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom<unknown>(
      "__proto__",
      "constructor",
      "toString",
      "NaN",
      "a\nb",
      "\u0000",
      "\ud800",
      "(",
      "*",
      "x".repeat(300),
    ),
  },
  { weight: 1, arbitrary: fc.jsonValue({ maxDepth: 2 }) },
);

interface Change {
  /** Which of the document's places, counted from the outside in; taken modulo their number. */
  readonly place: number;
  readonly kind: "replace" | "delete" | "add";
  readonly value: unknown;
  readonly key: string;
}

const changes: fc.Arbitrary<readonly Change[]> = fc.array(
  fc.record({
    place: fc.nat(0xffffff),
    kind: fc.constantFrom("replace", "replace", "delete", "add"),
    value: odd,
    key: fc.constantFrom("__proto__", "constructor", "length", "x", "0"),
  }),
  { minLength: 1, maxLength: 3 },
);

/** The text of `document` after random changes. */
export const tampered = (document: unknown): fc.Arbitrary<string> =>
  changes.map((list) => list.reduce((text, change) => apply(JSON.parse(text), change), JSON.stringify(document)));

function apply(document: unknown, { place, kind, value, key }: Change): string {
  const places: [holder: Record<string, unknown>, key: string][] = [];
  const visit = (node: unknown): void => {
    if (typeof node !== "object" || node === null) return;
    for (const name of Object.keys(node)) {
      places.push([node as Record<string, unknown>, name]);
      visit((node as Record<string, unknown>)[name]);
    }
  };
  visit(document);
  const chosen = places[place % Math.max(1, places.length)];
  if (!chosen) return JSON.stringify(value) ?? "null";
  const [holder, name] = chosen;
  if (kind === "delete") delete holder[name];
  else
    Object.defineProperty(holder, kind === "add" && !Array.isArray(holder) ? key : name, {
      value,
      enumerable: true,
      configurable: true,
      writable: true,
    });
  return JSON.stringify(document) ?? "null";
}
