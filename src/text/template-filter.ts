/**
 * Filters and tests of chat templates.
 *
 * @see https://jinja.palletsprojects.com/en/stable/templates/#list-of-builtin-filters
 */
import { roundHalfEven } from "../graph/dtype.ts";
import { attribute, capitalise, item, percent, replaced, splitLines, strip } from "./template-method.ts";
import {
  type Callable,
  compare,
  contains,
  equal,
  Float,
  integerOf,
  isTrue,
  iterate,
  json,
  lengthOf,
  type Named,
  numberOf,
  str,
  Tuple,
  textOf,
} from "./template-value.ts";

/** Arguments of a filter by place or name. */
class Given {
  readonly args: readonly unknown[];
  readonly named: Named;
  constructor(args: readonly unknown[], named: Named) {
    this.args = args;
    this.named = named;
  }
  get(at: number, name: string): unknown {
    return at < this.args.length ? this.args[at] : this.named.get(name);
  }
  integer(at: number, name: string, otherwise: number): number {
    return integerOf(this.get(at, name) ?? otherwise, name);
  }
  has(at: number, name: string): boolean {
    return isTrue(this.get(at, name));
  }
}

type Filter = (value: unknown, given: Given) => unknown;

/** `a.b.0` of a value. */
function path(value: unknown, keys: unknown): unknown {
  if (typeof keys === "number") return item(value, keys);
  return String(keys)
    .split(".")
    .reduce((of, key) => item(of, /^\d+$/.test(key) ? Number(key) : key), value);
}

/** The value that items are compared by: texts without regard to capitals, unless asked for. */
function keyed(given: Given, [caseAt, attributeAt]: readonly [number, number]): (value: unknown) => unknown {
  const [exact, name] = [given.has(caseAt, "case_sensitive"), given.get(attributeAt, "attribute")];
  return (value) => {
    const key = name === undefined || name === null ? value : path(value, name);
    return !exact && typeof key === "string" ? key.toLowerCase() : key;
  };
}

function extreme(value: unknown, given: Given, sign: 1 | -1): unknown {
  const key = keyed(given, [0, 1]);
  const [first, ...rest] = iterate(value);
  return rest.reduce((best, each) => (sign * compare(key(each), key(best)) > 0 ? each : best), first);
}

/** Items for which a test, or their being true, comes out as `wanted`; of the items or of one of their attributes. */
const chosen =
  (wanted: boolean, byAttribute: boolean): Filter =>
  (value, { args, named }) => {
    const [name, ...rest] = byAttribute ? args.slice(1) : args;
    const test = name === undefined ? isTrue : (each: unknown) => applyTest(textOf(name, "a test's name"), each, rest);
    if (named.size) throw new Error("filters that choose take no arguments by name");
    return iterate(value).filter((each) => test(byAttribute ? path(each, args[0]) : each) === wanted);
  };

const escapes: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&#39;", '"': "&#34;" };
const forHtml = (value: unknown): string => str(value).replace(/[&<>'"]/g, (letter) => escapes[letter]!);

function toFloat(value: unknown, otherwise: unknown): unknown {
  const number = numberOf(value);
  if (number !== undefined) return new Float(number);
  const text = typeof value === "string" ? strip(value, undefined, "both").replace(/(?<=\d)_(?=\d)/g, "") : "";
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? new Float(Number(text)) : otherwise;
}

const filters: Readonly<Record<string, Filter>> = {
  abs: (value) => (value instanceof Float ? new Float(Math.abs(value.value)) : Math.abs(integerOf(value, "abs"))),
  attr: (value, given) => attribute(value, textOf(given.get(0, "name"), "name")),
  batch(value, given) {
    const [size, fill] = [given.integer(0, "linecount", 0), given.get(1, "fill_with")];
    const items = iterate(value);
    const rows = Array.from({ length: Math.ceil(items.length / size) }, (_, i) => items.slice(i * size, (i + 1) * size));
    return rows.map((row) => (fill === undefined || fill === null ? row : [...row, ...Array(size - row.length).fill(fill)]));
  },
  capitalize: (value) => capitalise(str(value)),
  center: (value, given) => (attribute(str(value), "center") as Callable)([given.integer(0, "width", 80)], new Map()),
  default(value, given) {
    const otherwise = given.get(0, "default_value") ?? "";
    return value === undefined || (given.has(1, "boolean") && !isTrue(value)) ? otherwise : value;
  },
  dictsort(value, given) {
    if (!(value instanceof Map)) throw new Error("dictsort needs a dictionary");
    const at = (given.get(1, "by") ?? "key") === "value" ? 1 : 0;
    const plain = (each: unknown) => (typeof each === "string" && !given.has(0, "case_sensitive") ? each.toLowerCase() : each);
    const sign = given.has(2, "reverse") ? -1 : 1;
    return Array.from(value, (entry) => Tuple.from(entry)).sort((a, b) => sign * compare(plain(a[at]), plain(b[at])));
  },
  escape: forHtml,
  first: (value) => iterate(value)[0],
  float: (value, given) => toFloat(value, given.get(0, "default") ?? new Float(0)),
  format: (value, { args, named }) => percent(str(value), args, named.size ? named : undefined),
  groupby(value, given) {
    const [name, otherwise] = [given.get(0, "attribute"), given.get(1, "default")];
    const plain = (each: unknown) => (typeof each === "string" && !given.has(2, "case_sensitive") ? each.toLowerCase() : each);
    const items = iterate(value).map((each) => [path(each, name) ?? otherwise, each] as const);
    const groups: { readonly key: unknown; readonly members: unknown[] }[] = [];
    for (const [key, each] of items.sort(([a], [b]) => compare(plain(a), plain(b)))) {
      const last = groups.at(-1);
      if (last && equal(plain(last.key), plain(key))) last.members.push(each);
      else groups.push({ key, members: [each] });
    }
    return groups.map(({ key, members }) => Tuple.from([key, members]));
  },
  indent(value, given) {
    const width = given.get(0, "width") ?? 4;
    const space = typeof width === "string" ? width : " ".repeat(integerOf(width, "width"));
    const lines = splitLines(`${str(value)}\n`);
    const blank = given.has(2, "blank");
    const rest = lines.map((line, i) => (i > 0 && (line !== "" || blank) ? space + line : line)).join("\n");
    return given.has(1, "first") ? space + rest : rest;
  },
  int(value, given) {
    const number = toFloat(value, undefined) as Float | undefined;
    return number === undefined ? (given.get(0, "default") ?? 0) : Math.trunc(number.value) + 0;
  },
  items(value) {
    if (value === undefined) return [];
    if (!(value instanceof Map)) throw new Error("Can only get item pairs from a mapping.");
    return Array.from(value, (entry) => Tuple.from(entry));
  },
  join(value, given) {
    const name = given.get(1, "attribute");
    const parts = iterate(value).map((each) => str(name === undefined || name === null ? each : path(each, name)));
    return parts.join(str(given.get(0, "d") ?? ""));
  },
  last: (value) => iterate(value).at(-1),
  length: lengthOf,
  list: (value) => [...iterate(value)],
  lower: (value) => str(value).toLowerCase(),
  map(value, given) {
    const name = given.named.get("attribute");
    const otherwise = given.named.get("default");
    if (name !== undefined) return iterate(value).map((each) => path(each, name) ?? otherwise);
    const [filter, ...args] = given.args;
    return iterate(value).map((each) => applyFilter(textOf(filter, "a filter's name"), each, args, given.named));
  },
  max: (value, given) => extreme(value, given, 1),
  min: (value, given) => extreme(value, given, -1),
  reject: chosen(false, false),
  rejectattr: chosen(false, true),
  replace(value, given) {
    const [old, by] = [str(given.get(0, "old")), str(given.get(1, "new"))];
    return replaced(str(value), old, by, given.integer(2, "count", -1));
  },
  reverse: (value) => (typeof value === "string" ? [...value].reverse().join("") : [...iterate(value)].reverse()),
  round(value, given) {
    const number = numberOf(value);
    if (number === undefined) throw new Error("round needs a number");
    const scale = 10 ** given.integer(0, "precision", 0);
    const method = given.get(1, "method") ?? "common";
    if (method === "common")
      return new Float(
        scale === 1
          ? roundHalfEven(number)
          : scale > 1
            ? Number(number.toFixed(Math.log10(scale)))
            : roundHalfEven(number * scale) / scale,
      );
    return new Float((method === "ceil" ? Math.ceil(number * scale) : Math.floor(number * scale)) / scale);
  },
  safe: (value) => str(value),
  select: chosen(true, false),
  selectattr: chosen(true, true),
  slice(value, given) {
    const [count, fill] = [given.integer(0, "slices", 1), given.get(1, "fill_with")];
    const items = iterate(value);
    const [each, longer] = [Math.floor(items.length / count), items.length % count];
    return Array.from({ length: count }, (_, i) => {
      const row = items.slice(i * each + Math.min(i, longer), (i + 1) * each + Math.min(i + 1, longer));
      return fill !== undefined && fill !== null && i >= longer ? [...row, fill] : row;
    });
  },
  sort(value, given) {
    const key = keyed(given, [1, 2]);
    const sign = given.has(0, "reverse") ? -1 : 1;
    return [...iterate(value)].sort((a, b) => sign * compare(key(a), key(b)));
  },
  string: str,
  sum(value, given) {
    const name = given.get(0, "attribute");
    const start = given.get(1, "start") ?? 0;
    const items = [start, ...iterate(value).map((each) => (name === undefined || name === null ? each : path(each, name)))];
    const total = items.reduce<number>((sum, each) => sum + (numberOf(each) ?? Number.NaN), 0);
    if (Number.isNaN(total)) throw new Error("sum needs numbers");
    return items.some((each) => each instanceof Float) ? new Float(total) : total;
  },
  title: (value) =>
    str(value)
      .split(/([-\s({[<]+)/)
      .map(capitalise)
      .join(""),
  tojson(value, given) {
    const indent = given.get(1, "indent");
    const separators = given.get(2, "separators");
    const [between, colon] = separators === undefined || separators === null ? [] : iterate(separators);
    return json(value, {
      ascii: given.has(0, "ensure_ascii"),
      indent:
        indent === undefined || indent === null
          ? undefined
          : typeof indent === "string"
            ? indent
            : " ".repeat(Math.max(0, integerOf(indent, "indent"))),
      separators: [str(between ?? (indent === undefined || indent === null ? ", " : ",")), str(colon ?? ": ")],
      sorted: given.has(3, "sort_keys"),
    });
  },
  trim: (value, given) => strip(str(value), given.get(0, "chars"), "both"),
  truncate(value, given) {
    const letters = [...str(value)];
    const length = given.integer(0, "length", 255);
    const end = str(given.get(2, "end") ?? "...");
    if (letters.length <= length + given.integer(3, "leeway", 5)) return str(value);
    const kept = letters.slice(0, length - [...end].length).join("");
    const word = kept.lastIndexOf(" ");
    return (given.has(1, "killwords") || word < 0 ? kept : kept.slice(0, word)) + end;
  },
  unique(value, given) {
    const key = keyed(given, [0, 1]);
    const seen: unknown[] = [];
    return iterate(value).filter((each) => {
      const of = key(each);
      return !seen.some((other) => equal(other, of)) && seen.push(of);
    });
  },
  upper: (value) => str(value).toUpperCase(),
  urlencode: (value) =>
    encodeURIComponent(str(value))
      .replace(/%2F/g, "/")
      .replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`),
  wordcount: (value) => str(value).match(/[\p{L}\p{N}_]+/gu)?.length ?? 0,
};
const aliases: Readonly<Record<string, string>> = { d: "default", e: "escape", forceescape: "escape", count: "length" };

/** `value | name(args)` @throws {Error} for a filter that there is not, or one that cannot be used on this value */
export function applyFilter(name: string, value: unknown, args: readonly unknown[], named: Named): unknown {
  const [, test, not] = /^is ((not )?.*)$/.exec(name) ?? []; // how template-syntax.ts writes a test with arguments
  if (test !== undefined) return applyTest(not ? test.slice(4) : test, value, args) === !not;
  const known = aliases[name] ?? name;
  const filter = Object.hasOwn(filters, known) ? filters[known] : undefined;
  if (!filter) throw new Error(`No filter named '${name}'`);
  return filter(value, new Given(args, named));
}

const isFloat = (value: unknown): boolean => value instanceof Float;
const isInteger = (value: unknown): boolean => typeof value === "number";
const divides = (value: unknown, by: unknown): boolean => integerOf(value, "value") % integerOf(by, "value") === 0;
const isText = (value: unknown): value is string => typeof value === "string";

const tests: Readonly<Record<string, (value: unknown, args: readonly unknown[]) => boolean>> = {
  boolean: (value) => typeof value === "boolean",
  callable: (value) => typeof value === "function",
  defined: (value) => value !== undefined,
  divisibleby: (value, [by]) => divides(value, by),
  eq: (value, [other]) => equal(value, other),
  escaped: () => false,
  even: (value) => divides(value, 2),
  false: (value) => value === false,
  filter: (value) => isText(value) && Object.hasOwn(filters, aliases[value] ?? value),
  float: isFloat,
  ge: (value, [other]) => compare(value, other, ">=") >= 0,
  gt: (value, [other]) => compare(value, other, ">") > 0,
  in: (value, [container]) => contains(container, value),
  integer: isInteger,
  iterable: (value) => value === undefined || isText(value) || Array.isArray(value) || value instanceof Map,
  le: (value, [other]) => compare(value, other, "<=") <= 0,
  lower: (value) => str(value) === str(value).toLowerCase() && str(value) !== str(value).toUpperCase(),
  lt: (value, [other]) => compare(value, other, "<") < 0,
  mapping: (value) => value instanceof Map,
  ne: (value, [other]) => !equal(value, other),
  none: (value) => value === null,
  number: (value) => numberOf(value) !== undefined,
  odd: (value) => !divides(value, 2),
  sameas: (value, [other]) => value === other,
  sequence: (value) => value === undefined || isText(value) || Array.isArray(value) || value instanceof Map,
  string: isText,
  test: (value) => isText(value) && Object.hasOwn(tests, otherNames[value] ?? value),
  true: (value) => value === true,
  undefined: (value) => value === undefined,
  upper: (value) => str(value) === str(value).toUpperCase() && str(value) !== str(value).toLowerCase(),
};
const otherNames: Readonly<Record<string, string>> = {
  ...{ "==": "eq", equalto: "eq", "!=": "ne", "<": "lt", lessthan: "lt", "<=": "le" },
  ...{ ">": "gt", greaterthan: "gt", ">=": "ge" },
};

/** `value is name(args)` @throws {Error} for a test that there is not */
export function applyTest(name: string, value: unknown, args: readonly unknown[]): boolean {
  const known = otherNames[name] ?? name;
  const test = Object.hasOwn(tests, known) ? tests[known] : undefined;
  if (!test) throw new Error(`No test named '${name}'`);
  return test(value, args);
}

/** `range(…)` @throws {Error} for a step of 0, or more numbers than a template may ask for */
export const range: Callable = (args) => {
  const numbers = args.map((each) => integerOf(each, "range() argument"));
  const [start, stop, step] = numbers.length > 1 ? [numbers[0]!, numbers[1]!, numbers[2] ?? 1] : [0, numbers[0] ?? 0, 1];
  if (step === 0) throw new Error("range() arg 3 must not be zero");
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (length > 100000) throw new Error("Range too big. The sandbox blocks ranges larger than 100000.");
  return Array.from({ length }, (_, i) => start + i * step);
};

/** A dictionary of pairs or other dictionaries, and of what is given by name. */
export const dict: Callable = ([entries], named) => {
  const pairs = entries instanceof Map ? [...entries] : entries === undefined ? [] : iterate(entries).map(iterate);
  return new Map<unknown, unknown>([...pairs.map(([key, value]) => [key, value] as const), ...named]);
};
