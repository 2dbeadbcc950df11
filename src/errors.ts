/** The errors that people meet: one class by what the caller can do about it, one sentence each. */

/** The named parts of an error, so that tests and tools need not parse the sentence. */
export interface ErrorFields {
  readonly operation: string;
  readonly expected?: unknown;
  readonly got?: unknown;
  readonly hint?: string;
}

/** Base of every error that lorikeet throws on purpose: `operation: what is wrong. The way out.` */
export class LorikeetError extends Error {
  readonly operation: string;
  /** The middle of the sentence: without the operation and the way out. */
  readonly problem: string;
  readonly expected: unknown;
  readonly got: unknown;
  readonly hint: string | undefined;

  constructor(problem: string, fields: ErrorFields) {
    requireKind(new.target.name, "an object", { fields });
    super(oneLine(`${fields.operation}: ${problem}${fields.hint === undefined ? "" : ` ${fields.hint}`}`));
    this.name = new.target.name;
    this.operation = fields.operation;
    this.problem = problem;
    this.expected = fields.expected;
    this.got = fields.got;
    this.hint = fields.hint;
  }
}

/** Names that a sentence quotes may come from any file: what would break the line, or the terminal, is escaped. */
const oneLine = (sentence: string): string =>
  sentence.replace(/[\p{Cc}\u2028\u2029]/gu, (unit) =>
    unit === "\n" ? "\\n" : `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );

/** Sizes or axes do not fit together. */
export class ShapeError extends LorikeetError {}
/** The element type is not one that the operation takes. */
export class DTypeError extends LorikeetError {}
/** Memory was given back before this use. */
export class DisposedError extends LorikeetError {}
/** A device cannot do what was asked of it. */
export class DeviceError extends LorikeetError {}
/** A file or text is not what its format says. */
export class FormatError extends LorikeetError {}
/** An option or configuration key is wrong. */
export class ConfigError extends LorikeetError {}

/** Words a shape: `[2, 3]`. */
export function wordShape(shape: readonly number[]): string {
  return `[${shape.join(", ")}]`;
}

/** `a string`, `an object`, `null`, …: what something is, for messages. */
export function wordType(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (Array.isArray(value)) return "a list";
  if (typeof value !== "object") return `a ${typeof value}`;
  const name = value.constructor === Object ? "" : value.constructor?.name;
  return name ? `a ${name}` : "an object";
}

/** Why an import failed, without the place within this package from which it was tried. */
export const wordImport = (cause: unknown): string =>
  (cause instanceof Error ? cause.message : String(cause)).split("\n")[0]!.replace(/ imported (from|by) .*$/, "");

/** A number, string or boolean as it would be written, anything else as what it is. */
export const wordArgument = (value: unknown): string =>
  typeof value === "string" ? JSON.stringify(value) : /^(number|boolean)$/.test(typeof value) ? String(value) : wordType(value);

/** `error` under the name that the caller knows: a wrong shape found by the addition that `sub` is made of is reported as `sub`'s. */
export function renamed(error: unknown, operation: string): unknown {
  if (!(error instanceof LorikeetError) || error.operation === operation) return error;
  const { problem, message, expected, got, hint, stack } = error;
  const made = error.constructor as new (problem: string, fields: ErrorFields) => LorikeetError;
  const next = new made(problem, { operation, expected, got, ...(hint !== undefined && { hint }) });
  if (stack) next.stack = stack.replace(message, next.message);
  return next;
}

/**
 * Runs `body`, which may be asynchronous: what it is made of is refused under the name that the caller knows. Where it runs functions of
 * the caller's, which speak for themselves, `parts` are what it is made of.
 */
export function under<T>(operation: string, body: () => T, parts?: readonly string[]): T {
  const refuse = (error: unknown): never => {
    const own = !parts || (error instanceof LorikeetError && parts.includes(error.operation));
    throw own ? renamed(error, operation) : error;
  };
  try {
    const result = body();
    return result instanceof Promise ? (result.catch(refuse) as T) : result;
  } catch (error) {
    return refuse(error);
  }
}

/** What a check throws where it refuses, or `null` where it does not. */
export function refusalOf(check: () => void): ConfigError | null {
  try {
    check();
    return null;
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
}

/** An object that is no list. */
export const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const from = (least: number, value: unknown) => Number.isFinite(value) && (value as number) >= least;

/** What arguments and options must be, in the words of messages. */
const kinds = {
  "a string": (value) => typeof value === "string",
  "true or false": (value) => typeof value === "boolean",
  "a number": (value) => typeof value === "number" && !Number.isNaN(value),
  "a finite number": Number.isFinite,
  "a number from 0": (value) => from(0, value),
  "a number above 0": (value) => from(0, value) && value !== 0,
  "a number up to 0": (value) => Number.isFinite(value) && (value as number) <= 0,
  "a number from 0 to 1": (value) => from(0, value) && (value as number) <= 1,
  "a number above 0, or Infinity": (value) => typeof value === "number" && value > 0,
  "a number above 0, or null": (value) => value === null || (from(0, value) && value !== 0),
  "a number above 0 up to 1": (value) => from(0, value) && value !== 0 && (value as number) <= 1,
  "a number from 0 below 1": (value) => from(0, value) && (value as number) < 1,
  "a whole number": Number.isSafeInteger,
  "a whole number from 0": (value) => Number.isSafeInteger(value) && from(0, value),
  "a whole number from 1": (value) => Number.isSafeInteger(value) && from(1, value),
  "a whole number from 1, or Infinity": (value) =>
    value === Number.POSITIVE_INFINITY || (Number.isSafeInteger(value) && from(1, value)),
  "a whole number from 0 below 2³²": (value) => Number.isSafeInteger(value) && from(0, value) && (value as number) < 2 ** 32,
  "a whole number from 0 to 100": (value) => Number.isSafeInteger(value) && from(0, value) && (value as number) <= 100,
  "a whole number from 0 below 2³¹": (value) => Number.isSafeInteger(value) && from(0, value) && (value as number) < 2 ** 31,
  "a whole number from 1 below 2³¹": (value) => Number.isSafeInteger(value) && from(1, value) && (value as number) < 2 ** 31,
  "a whole number, or a list of them": (value) => [value].flat().every(Number.isSafeInteger),
  "an AbortSignal": (value) => typeof (value as Partial<AbortSignal> | null)?.throwIfAborted === "function",
  "a number or a list": (value) => typeof value === "number" || Array.isArray(value),
  "a number, a string or a list": (value) => typeof value === "string" || typeof value === "number" || Array.isArray(value),
  "a function": (value) => typeof value === "function",
  "an object": isRecord,
  "a list": Array.isArray,
  "a list or another iterable": (value) =>
    typeof (value as Partial<Iterable<unknown>> | null)?.[Symbol.iterator] === "function" && typeof value !== "string",
  "a list of strings": (value) => Array.isArray(value) && value.every((item) => typeof item === "string"),
  "a list of numbers": (value) =>
    Array.isArray(value) ? value.every((item) => typeof item === "number") : ArrayBuffer.isView(value) && "length" in value,
  "two numbers": (value) => Array.isArray(value) && value.length === 2 && value.every(Number.isFinite),
  "a Map": (value) => value instanceof Map,
  "a Float32Array": (value) => value instanceof Float32Array,
  "a Uint8Array": (value) => value instanceof Uint8Array,
} as const satisfies Record<string, (value: unknown) => boolean>;
type Kind = keyof typeof kinds;

/** What an option may be: of a kind, made by a class, one of these words; `null` where its function looks at it itself. */
export type Rule = Kind | (abstract new (...args: never) => unknown) | readonly string[] | null;
type NumberKind = Exclude<Extract<Kind, `a number${string}` | `a ${string} number${string}`>, `a list${string}`>;
type RuleOf<Value> = [Value] extends [boolean]
  ? "true or false"
  : [Value] extends [number]
    ? NumberKind
    : [Value] extends [(...args: never) => unknown]
      ? "a function"
      : Rule;
/** A rule for each option: whoever adds one says what it may be. */
export type Rules<Options> = { readonly [Name in keyof Options]-?: RuleOf<NonNullable<Options[Name]>> };

/**
 * What only a caller without types can pass is refused where it comes in, by the name of the argument.
 *
 * @throws {ConfigError} when one of these is not of the kind
 */
export function requireKind(operation: string, kind: Kind, given: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(given))
    if (!kinds[kind](value))
      throw new ConfigError(`\`${name}\` is ${wordArgument(value)}, not ${kind}.`, { operation, expected: kind, got: value });
}

/**
 * An option that must be given is given, and is what its rule says.
 *
 * @throws {ConfigError} when it is not
 */
export function requireOption(operation: string, rule: Rule, name: string, value: unknown): void {
  if (rule === null) return;
  const fits =
    typeof rule === "string"
      ? kinds[rule](value)
      : typeof rule === "function"
        ? value instanceof rule
        : rule.includes(value as string);
  if (fits) return;
  const expected =
    typeof rule === "string"
      ? rule
      : typeof rule === "function"
        ? `a ${rule.name}`
        : rule.map((word) => `"${word}"`).join(" or ");
  throw new ConfigError(`\`${name}\` (= ${wordArgument(value)}) must be ${expected}.`, { operation, expected, got: value });
}

/**
 * An options object holds nothing but what `rules` allow; what is `undefined` counts as not given.
 * @returns the options
 * @throws {ConfigError} for another key, for a value that its rule forbids, and for something that is no object
 */
export function checkOptions<Options extends object>(operation: string, options: Options, rules: Rules<Options>): Options {
  if (!isRecord(options))
    throw new ConfigError(`options are an object, got ${wordArgument(options)}.`, {
      operation,
      got: options,
      hint: `Write { ${Object.keys(rules).join(", ")} }.`,
    });
  for (const key in options) {
    const rule = Object.hasOwn(rules, key) ? (rules as Readonly<Record<string, Rule>>)[key] : undefined;
    const value = options[key];
    if (rule !== undefined) {
      if (value !== undefined) requireOption(operation, rule, key, value);
      continue;
    }
    const known = Object.keys(rules);
    const near = nearestName(key, known);
    throw new ConfigError(`\`${key}\` is not an option.`, {
      operation,
      expected: known,
      got: key,
      hint: near ? `Did you mean \`${near}\`?` : `There are ${known.join(", ")}.`,
    });
  }
  return options;
}

/** A value of a file or an option as a sentence may quote it: its JSON, cut after so many characters. */
export function wordJson(value: unknown, most = 200): string {
  let text: string;
  try {
    text = JSON.stringify(value) ?? "nothing";
  } catch {
    return "a value nested too deeply to be shown"; // a hostile file may hold more brackets than the stack holds calls
  }
  return text.length > most ? `${text.slice(0, most)}…` : text;
}

/** The name among `candidates` that `name` most likely meant, or `undefined` when none is near, or it is too long to be a name. */
export function nearestName(name: string, candidates: Iterable<string>): string | undefined {
  if (name.length > 200) return undefined; // comparing takes the product of the lengths
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(name.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (previous[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(substitution, (previous[j] as number) + 1, (row[j - 1] as number) + 1));
    }
    previous = row;
  }
  return previous[b.length] as number;
}
