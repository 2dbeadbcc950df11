/** Methods and attributes of values in chat templates: those of Python's texts, lists and dictionaries that change nothing. */
import {
  type Callable,
  equal,
  integerOf,
  iterate,
  type Named,
  Namespace,
  numberOf,
  repr,
  str,
  Tuple,
  textOf,
  typeName,
} from "./template-value.ts";

/** What Python takes for white space; JavaScript's `\s` is another set. */
const space = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const [firstWord, lastWord] = [new RegExp(`^[^${space}]+`), new RegExp(`[^${space}]+$`)];
const [spacesBefore, spacesBehind] = [new RegExp(`^[${space}]+`), new RegExp(`[${space}]+$`)];

/** Without what stands at its ends: white space, or the letters of `chars`. */
export function strip(text: string, chars: unknown, ends: "both" | "left" | "right"): string {
  if (chars === undefined || chars === null) {
    const after = ends === "right" ? text : text.replace(spacesBefore, "");
    return ends === "left" ? after : after.replace(spacesBehind, "");
  }
  const set = new Set(textOf(chars, "strip arg"));
  const letters = [...text];
  let [from, to] = [0, letters.length];
  if (ends !== "right") while (from < to && set.has(letters[from]!)) from++;
  if (ends !== "left") while (to > from && set.has(letters[to - 1]!)) to--;
  return letters.slice(from, to).join("");
}

/** The first letter of each word large, the others small; a word is what has no letter before it. */
const title = (text: string): string => text.replace(/\p{L}[\p{L}\p{M}]*/gu, (word) => capitalise(word));

export function capitalise(text: string): string {
  const [first = "", ...rest] = text;
  return first.toUpperCase() + rest.join("").toLowerCase();
}

const lineEnds = "\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029";
const lines = new RegExp(`[^${lineEnds}]*(?:\\r\\n|[${lineEnds}])|[^${lineEnds}]+$`, "g");
const lineEnd = new RegExp(`(?:\\r\\n|[${lineEnds}])$`);

/** Lines as Python's `splitlines` has them. */
export const splitLines = (text: string, keep = false): string[] =>
  Array.from(text.match(lines) ?? [], (line) => (keep ? line : line.replace(lineEnd, "")));

/** At most `most` parts are cut off, from the left or the right; all where it is negative. */
function split(text: string, separator: unknown, most: number, fromRight: boolean): string[] {
  const limit = most < 0 ? Number.POSITIVE_INFINITY : most;
  if (separator === undefined || separator === null) {
    const parts: string[] = [];
    const [side, word] = fromRight ? (["right", lastWord] as const) : (["left", firstWord] as const);
    let rest = strip(text, undefined, side);
    for (let found = word.exec(rest); found && parts.length < limit; found = word.exec(rest)) {
      parts.push(found[0]);
      rest = strip(fromRight ? rest.slice(0, found.index) : rest.slice(found[0].length), undefined, side);
    }
    if (rest !== "") parts.push(rest);
    return fromRight ? parts.reverse() : parts;
  }
  const mark = textOf(separator, "sep");
  if (mark === "") throw new Error("empty separator");
  const parts = text.split(mark);
  if (parts.length - 1 <= limit) return parts;
  return fromRight
    ? [parts.slice(0, parts.length - limit).join(mark), ...parts.slice(parts.length - limit)]
    : [...parts.slice(0, limit), parts.slice(limit).join(mark)];
}

/** Old for new, at most so many times. */
export function replaced(text: string, old: string, by: string, most: number): string {
  const parts = old === "" ? ["", ...text, ""] : text.split(old);
  const cuts = most < 0 ? parts.length - 1 : Math.min(most, parts.length - 1);
  return parts.map((part, i) => (i === 0 ? part : (i <= cuts ? by : old) + part)).join("");
}

/** `{}`, `{0}` and `{name}` in a text, without formats of their own. */
function formatted(text: string, args: readonly unknown[], named: Named): string {
  let next = 0;
  return text.replace(/\{\{|\}\}|\{([^{}]*)\}/g, (whole, key: string | undefined) => {
    if (key === undefined) return whole.charAt(0);
    if (!/^\w*$/.test(key)) throw new Error(`the format ${whole} is not known`);
    if (key !== "" && !/^\d+$/.test(key)) {
      if (!named.has(key)) throw new Error(`'${key}'`);
      return str(named.get(key));
    }
    const at = key === "" ? next++ : Number(key);
    if (at >= args.length) throw new Error(`Replacement index ${at} out of range for positional args tuple`);
    return str(args[at]);
  });
}

/** `text % values`: %s, %d, %r, %f and %i with width and precision. */
export function percent(text: string, values: readonly unknown[], named?: ReadonlyMap<unknown, unknown>): string {
  let next = 0;
  const result = text.replace(
    /%(?:\((\w+)\))?([-+0 ]*)(\d*)(?:\.(\d+))?([a-zA-Z%])/g,
    (whole, key, flags: string, width: string, digits, kind) => {
      if (kind === "%") return "%";
      if (key === undefined && next >= values.length) throw new Error("not enough arguments for format string");
      const value = key === undefined ? values[next++] : named?.get(key);
      const number = numberOf(value);
      let body: string;
      if (kind === "s" || kind === "r")
        body = (kind === "s" ? str(value) : repr(value)).slice(0, digits === undefined ? undefined : Number(digits));
      else if (number === undefined) throw new Error(`%${kind} format: a real number is required, not ${typeName(value)}`);
      else if (kind === "d" || kind === "i") body = String(Math.trunc(number));
      else if (kind === "f") body = number.toFixed(digits === undefined ? 6 : Number(digits));
      else if (kind === "x") body = Math.trunc(number).toString(16);
      else throw new Error(`unsupported format ${whole}`);
      if (number !== undefined && number >= 0 && flags.includes("+")) body = `+${body}`;
      const fill = flags.includes("0") && number !== undefined ? "0" : " ";
      return flags.includes("-") ? body.padEnd(Number(width)) : body.padStart(Number(width), fill);
    },
  );
  if (next < values.length && named === undefined) throw new Error("not all arguments converted during string formatting");
  return result;
}

/** Where one text is in another, in code points from `start` to `stop`; −1 where it is not. */
function find(text: string, args: readonly unknown[], last = false): number {
  const letters = [...text];
  const bound = (value: unknown, otherwise: number) => {
    const at = value === undefined || value === null ? otherwise : integerOf(value, "slice indices");
    return Math.min(letters.length, Math.max(0, at < 0 ? at + letters.length : at));
  };
  const [from, to] = [bound(args[1], 0), bound(args[2], letters.length)];
  const part = letters.slice(from, to).join("");
  const sought = textOf(args[0], "argument");
  const at = last ? part.lastIndexOf(sought) : part.indexOf(sought);
  return at < 0 || from > to ? -1 : from + [...part.slice(0, at)].length;
}

const found = (at: number): number => {
  if (at < 0) throw new Error("substring not found");
  return at;
};

/** Whether a text begins or ends with one of several. */
function hasEnd(text: string, args: readonly unknown[], test: (text: string, end: string) => boolean): boolean {
  const ends = Array.isArray(args[0]) ? args[0] : [args[0]];
  const letters = args.length > 1 ? [...text].slice(integerOf(args[1], "start"), args[2] as number | undefined).join("") : text;
  return ends.some((end) => test(letters, textOf(end, "first arg")));
}

function partition(text: string, mark: string, at: number): Tuple {
  return at < 0 ? Tuple.from([text, "", ""]) : Tuple.from([text.slice(0, at), mark, text.slice(at + mark.length)]);
}

function padded(text: string, width: number, fill: string, where: "left" | "right" | "both"): string {
  const missing = Math.max(0, width - [...text].length);
  const left = where === "left" ? missing : where === "right" ? 0 : (missing >> 1) + (missing & width & 1);
  return fill.repeat(left) + text + fill.repeat(missing - left);
}
const fillOf = (value: unknown): string => (value === undefined ? " " : textOf(value, "the fill character"));

/** Every character is of the class, and there is one. */
const all = (text: string, kind: RegExp): boolean => kind.test(text);

type Method = (text: string, args: readonly unknown[], named: Named) => unknown;
const most = (args: readonly unknown[], named: Named, key: string, at: number): number =>
  integerOf(args[at] ?? named.get(key) ?? -1, key);

/** Of texts. */
const textMethods: Readonly<Record<string, Method>> = {
  upper: (text) => text.toUpperCase(),
  lower: (text) => text.toLowerCase(),
  casefold: (text) => text.toLowerCase().replaceAll("ß", "ss"),
  swapcase: (text) => Array.from(text, (c) => (c === c.toUpperCase() ? c.toLowerCase() : c.toUpperCase())).join(""),
  title,
  capitalize: capitalise,
  strip: (text, [chars]) => strip(text, chars, "both"),
  lstrip: (text, [chars]) => strip(text, chars, "left"),
  rstrip: (text, [chars]) => strip(text, chars, "right"),
  split: (text, args, named) => split(text, args[0] ?? named.get("sep"), most(args, named, "maxsplit", 1), false),
  rsplit: (text, args, named) => split(text, args[0] ?? named.get("sep"), most(args, named, "maxsplit", 1), true),
  splitlines: (text, [keep], named) => splitLines(text, Boolean(keep ?? named.get("keepends"))),
  startswith: (text, args) => hasEnd(text, args, (whole, end) => whole.startsWith(end)),
  endswith: (text, args) => hasEnd(text, args, (whole, end) => whole.endsWith(end)),
  replace: (text, args, named) =>
    replaced(
      text,
      textOf(args[0], "replace() argument 1"),
      textOf(args[1], "replace() argument 2"),
      most(args, named, "count", 2),
    ),
  find: (text, args) => find(text, args),
  rfind: (text, args) => find(text, args, true),
  index: (text, args) => found(find(text, args)),
  rindex: (text, args) => found(find(text, args, true)),
  count: (text, [part]) => (part === "" ? [...text].length + 1 : text.split(textOf(part, "argument")).length - 1),
  join: (text, [parts]) =>
    iterate(parts)
      .map((part, i) => textOf(part, `sequence item ${i}`))
      .join(text),
  format: formatted,
  partition: (text, [mark]) => partition(text, textOf(mark, "sep"), text.indexOf(mark as string)),
  rpartition: (text, [mark]) => {
    const at = text.lastIndexOf(textOf(mark, "sep"));
    return at < 0 ? Tuple.from(["", "", text]) : partition(text, mark as string, at);
  },
  removeprefix: (text, [end]) => (text.startsWith(textOf(end, "argument")) ? text.slice((end as string).length) : text),
  removesuffix: (text, [end]) =>
    end !== "" && text.endsWith(textOf(end, "argument")) ? text.slice(0, -(end as string).length) : text,
  zfill: (text, [width]) =>
    text.replace(
      /^([+-]?)(.*)$/s,
      (_, sign: string, rest: string) => sign + padded(rest, integerOf(width, "width") - sign.length, "0", "left"),
    ),
  center: (text, [width, fill]) => padded(text, integerOf(width, "width"), fillOf(fill), "both"),
  ljust: (text, [width, fill]) => padded(text, integerOf(width, "width"), fillOf(fill), "right"),
  rjust: (text, [width, fill]) => padded(text, integerOf(width, "width"), fillOf(fill), "left"),
  isdigit: (text) => all(text, /^[\p{Nd}²³¹⁰⁴-⁹₀-₉]+$/u),
  isdecimal: (text) => all(text, /^\p{Nd}+$/u),
  isnumeric: (text) => all(text, /^\p{N}+$/u),
  isalpha: (text) => all(text, /^\p{L}+$/u),
  isalnum: (text) => all(text, /^[\p{L}\p{N}]+$/u),
  isspace: (text) => all(text, new RegExp(`^[${space}]+$`)),
  isupper: (text) => text === text.toUpperCase() && text !== text.toLowerCase(),
  islower: (text) => text === text.toLowerCase() && text !== text.toUpperCase(),
  istitle: (text) => text === title(text) && /\p{L}/u.test(text),
};

const mapMethods: Readonly<Record<string, (map: ReadonlyMap<unknown, unknown>, args: readonly unknown[]) => unknown>> = {
  get: (map, [key, otherwise = null]) => (map.has(key) ? map.get(key) : otherwise),
  items: (map) => Array.from(map, (entry) => Tuple.from(entry)),
  keys: (map) => [...map.keys()],
  values: (map) => [...map.values()],
  copy: (map) => new Map(map),
};

const listMethods: Readonly<Record<string, (list: readonly unknown[], args: readonly unknown[]) => unknown>> = {
  index: (list, [item]) => {
    const at = list.findIndex((each) => equal(each, item));
    if (at < 0) throw new Error(`${repr(item)} is not in list`);
    return at;
  },
  count: (list, [item]) => list.filter((each) => equal(each, item)).length,
  copy: (list) => [...list],
};

/** Methods that change a value, which transformers' templates may not call. */
const changing: Readonly<Record<string, readonly string[]>> = {
  list: ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"],
  dict: ["clear", "pop", "popitem", "setdefault", "update"],
};

/** `value.name`; undefined where there is none. @throws {Error} where it would change the value */
export function attribute(value: unknown, name: string): unknown {
  if (changing[typeName(value)]?.includes(name) || name.startsWith("__"))
    throw new Error(`access to attribute '${name}' of '${typeName(value)}' object is unsafe.`);
  const method = <T>(methods: Readonly<Record<string, (of: T, args: readonly unknown[], named: Named) => unknown>>, of: T) => {
    const own = Object.hasOwn(methods, name) ? methods[name] : undefined;
    return own && (((args, named) => own(of, args, named)) satisfies Callable);
  };
  if (typeof value === "string") return method(textMethods, value);
  if (value instanceof Namespace) return value.names.get(name);
  if (value instanceof Map) return method(mapMethods, value) ?? value.get(name);
  return Array.isArray(value) ? method(listMethods, value) : undefined;
}

/** `value[key]`; undefined where there is none. */
export function item(value: unknown, key: unknown): unknown {
  if (value instanceof Map && value.has(key)) return value.get(key);
  if (typeof key === "string") return attribute(value, key);
  if (typeof key !== "number") return undefined;
  if (typeof value === "string") return [...value].at(key);
  return Array.isArray(value) ? value.at(key) : undefined;
}
