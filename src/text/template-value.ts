/**
 * What chat templates compute with: Python's values as JavaScript's, and what Python says of them. None is null, what is undefined
 * is undefined, dictionaries are Maps, lists are arrays, and numbers that Python calls float are {@link Float}.
 *
 * @see https://docs.python.org/3/library/stdtypes.html
 */

/** A number with a fraction in Python's eyes: it is written 1.0 where an integer is 1. */
export class Float {
  readonly value: number;
  constructor(value: number) {
    this.value = value;
  }
}

/** A list that cannot be changed, written with round brackets. */
export class Tuple extends Array<unknown> {}

/** What `namespace()` makes: its names may be set from within loops. */
export class Namespace {
  readonly names = new Map<string, unknown>();
}

/** Arguments by name. */
export type Named = ReadonlyMap<string, unknown>;
/** What a template may call. */
export type Callable = (args: readonly unknown[], named: Named) => unknown;

/** A JavaScript value as templates see it. */
export function toValue(input: unknown): unknown {
  if (typeof input === "number") return Number.isInteger(input) ? input : new Float(input);
  if (Array.isArray(input)) return input.map(toValue);
  if (typeof input === "object" && input !== null)
    return new Map(Object.entries(input).flatMap(([key, value]) => (value === undefined ? [] : [[key, toValue(value)]])));
  if (typeof input === "function") return ((args) => toValue(input(...args))) satisfies Callable;
  return input;
}

/** Python's name of the type. */
export function typeName(value: unknown): string {
  if (value === undefined) return "Undefined";
  if (value === null) return "NoneType";
  if (typeof value === "string") return "str";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "number") return "int";
  if (value instanceof Float) return "float";
  if (value instanceof Tuple) return "tuple";
  if (Array.isArray(value)) return "list";
  if (value instanceof Map) return "dict";
  return typeof value === "function" ? "function" : "object";
}

export function isTrue(value: unknown): boolean {
  if (value instanceof Float) return value.value !== 0;
  if (value instanceof Map) return value.size > 0;
  if (Array.isArray(value)) return value.length > 0;
  return Boolean(value);
}

/** The number that a value is, with True as 1; undefined for what is no number. */
export function numberOf(value: unknown): number | undefined {
  if (value instanceof Float) return value.value;
  return typeof value === "number" || typeof value === "boolean" ? Number(value) : undefined;
}

/** An integer that an argument must be. */
export function integerOf(value: unknown, what: string): number {
  const number = value instanceof Float ? undefined : numberOf(value);
  if (number === undefined) throw new Error(`${what} must be an integer, not ${typeName(value)}`);
  return number;
}

export function textOf(value: unknown, what: string): string {
  if (typeof value !== "string") throw new Error(`${what} must be str, not ${typeName(value)}`);
  return value;
}

/** A float as Python writes it. */
function floatText(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value < 0 ? "-inf" : "inf";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e16)) return value.toExponential().replace(/e([+-])(\d)$/, "e$10$2"); // two digits at least
  const text = Object.is(value, -0) ? "-0" : String(value);
  return text.includes(".") ? text : `${text}.0`;
}

/** `str(value)`, which is what `{{ … }}` writes. */
export function str(value: unknown): string {
  if (typeof value === "string") return value;
  return value === undefined ? "" : repr(value);
}

/** `repr(value)`: texts in quotes. */
export function repr(value: unknown): string {
  if (typeof value === "string") return quoted(value);
  if (value === null) return "None";
  if (value === undefined) return "Undefined";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number") return Number.isInteger(value) ? BigInt(value).toString() : floatText(value);
  if (value instanceof Float) return floatText(value.value);
  if (value instanceof Tuple) return `(${[...value].map(repr).join(", ")}${value.length === 1 ? "," : ""})`;
  if (Array.isArray(value)) return `[${value.map(repr).join(", ")}]`;
  if (value instanceof Map) return `{${[...value].map(([key, each]) => `${repr(key)}: ${repr(each)}`).join(", ")}}`;
  return `<${typeName(value)}>`;
}

const named: Readonly<Record<string, string>> = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" };

function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const body = text.replace(/[\\\p{C}\p{Z}'"]/gu, (letter) => {
    if (letter === quote) return `\\${letter}`;
    if (letter === " " || letter === "'" || letter === '"') return letter;
    const code = letter.codePointAt(0)!;
    const [width, mark] = code < 256 ? [2, "x"] : code < 65536 ? [4, "u"] : [8, "U"];
    return named[letter] ?? `\\${mark}${code.toString(16).padStart(width, "0")}`;
  });
  return quote + body + quote;
}

/** `a == b` */
export function equal(a: unknown, b: unknown): boolean {
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x !== undefined && y !== undefined) return x === y;
  if (a instanceof Tuple !== b instanceof Tuple) return false;
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((each, i) => equal(each, b[i]));
  if (a instanceof Map && b instanceof Map)
    return a.size === b.size && [...a].every(([key, each]) => b.has(key) && equal(each, b.get(key)));
  return a === b;
}

/** Texts by code points, which UTF-16 units are not in the order of. */
function compareTexts(a: string, b: string): number {
  const [x, y] = [[...a], [...b]];
  for (let i = 0; i < Math.min(x.length, y.length); i++) if (x[i] !== y[i]) return x[i]!.codePointAt(0)! - y[i]!.codePointAt(0)!;
  return x.length - y.length;
}

/** Less than 0 where `a < b`. */
export function compare(a: unknown, b: unknown, sign = "<"): number {
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x !== undefined && y !== undefined) return x - y;
  if (typeof a === "string" && typeof b === "string") return compareTexts(a, b);
  if (Array.isArray(a) && Array.isArray(b)) {
    const at = a.findIndex((each, i) => i >= b.length || !equal(each, b[i]));
    return at < 0 || at >= b.length ? a.length - b.length : compare(a[at], b[at], sign);
  }
  throw new Error(`'${sign}' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`);
}

/** What a loop goes over. */
export function iterate(value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  if (typeof value === "string") return [...value];
  if (value instanceof Map) return [...value.keys()];
  if (value === undefined) return [];
  throw new Error(`'${typeName(value)}' object is not iterable`);
}

/** `item in container` */
export function contains(container: unknown, item: unknown): boolean {
  if (typeof container !== "string") return iterate(container).some((each) => equal(each, item));
  return container.includes(textOf(item, "'in <string>' requires string as left operand, which"));
}

export function lengthOf(value: unknown): number {
  if (numberOf(value) !== undefined || value === null || typeof value === "function")
    throw new Error(`object of type '${typeName(value)}' has no len()`);
  return iterate(value).length;
}

/** `value[start:stop:step]` */
export function sliceOf(value: unknown, bounds: readonly unknown[]): unknown {
  const items = typeof value === "string" ? [...value] : value;
  if (!Array.isArray(items)) {
    if (items === undefined) return undefined;
    throw new Error(`'${typeName(value)}' object is not subscriptable by a slice`);
  }
  const [start, stop, given] = bounds.map((bound) =>
    bound === null || bound === undefined ? undefined : integerOf(bound, "slice indices"),
  );
  const step = given ?? 1;
  if (step === 0) throw new Error("slice step cannot be zero");
  const { length } = items;
  const [least, most] = step > 0 ? [0, length] : [-1, length - 1];
  const place = (bound: number) => Math.min(most, Math.max(least, bound < 0 ? bound + length : bound));
  const from = start === undefined ? (step > 0 ? 0 : length - 1) : place(start);
  const to = stop === undefined ? (step > 0 ? length : -1) : place(stop);
  const found: unknown[] = value instanceof Tuple ? new Tuple() : [];
  for (let i = from; step > 0 ? i < to : i > to; i += step) found.push(items[i]);
  return typeof value === "string" ? found.join("") : found;
}

/** How `tojson` writes. */
export interface JsonStyle {
  readonly indent?: string | undefined;
  readonly separators: readonly [item: string, key: string];
  readonly ascii: boolean;
  readonly sorted: boolean;
}

/** Python's `json.dumps`. */
export function json(value: unknown, style: JsonStyle, depth = 0): string {
  const text = (each: string): string => {
    // lone surrogates stay as they are, unlike in JSON.stringify
    const plain = `"${each.replace(/["\\]|[^ -\uffff]/g, (letter) => JSON.stringify(letter).slice(1, -1))}"`;
    return style.ascii ? plain.replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`) : plain;
  };
  if (typeof value === "string") return text(value);
  if (value === null) return "null";
  if (typeof value === "boolean") return String(value);
  if (value instanceof Float && !Number.isFinite(value.value))
    return Number.isNaN(value.value) ? "NaN" : value.value < 0 ? "-Infinity" : "Infinity";
  if (numberOf(value) !== undefined) return repr(value);
  const [item, colon] = style.separators;
  const line = style.indent === undefined ? "" : `\n${style.indent.repeat(depth)}`;
  const around = (open: string, parts: readonly string[], close: string): string =>
    parts.length === 0
      ? open + close
      : `${open}${line && line + style.indent}${parts.join(item + (line && line + style.indent))}${line}${close}`;
  if (Array.isArray(value))
    return around(
      "[",
      Array.from(value, (each) => json(each, style, depth + 1)),
      "]",
    );
  if (!(value instanceof Map)) throw new Error(`Object of type ${typeName(value)} is not JSON serializable`);
  const entries = [...value];
  if (style.sorted) entries.sort(([a], [b]) => compare(a, b));
  const key = (each: unknown) => text(typeof each === "string" ? each : json(each, style));
  return around(
    "{",
    entries.map(([each, of]) => `${key(each)}${colon}${json(of, style, depth + 1)}`),
    "}",
  );
}
