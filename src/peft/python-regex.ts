/** Regular expressions in Python's spelling, as adapter configs hold them. What JavaScript cannot mean is refused. */
import { ConfigError } from "../errors.ts";

/** @returns a pattern that matches whole texts, as `re.fullmatch` */
export function fullMatch(pattern: string, operation: string, option: string): (text: string) => boolean {
  const { source, flags } = translate(pattern, operation, option);
  const regex = new RegExp(`(?<![^])(?:${source})(?![^])`, flags);
  return (text) => regex.test(text);
}

/** @returns a pattern that matches within texts, as `re.search` */
export function searchMatch(pattern: string, operation: string, option: string): (text: string) => boolean {
  const { source, flags } = translate(pattern, operation, option);
  const regex = new RegExp(source, flags);
  return (text) => regex.test(text);
}

/** The pattern that matches just this text, in Python's spelling: `re.escape`. */
export const literal = (text: string): string => text.replace(/[()[\]{}?*+\-|^$\\.&~# \t\n\r\v\f]/g, "\\$&");

/** A pattern as a part of a larger one, in JavaScript's spelling. */
export function translate(pattern: string, operation: string, option: string): { source: string; flags: string } {
  const refuse = (what: string, hint = "Write it without, or list the modules."): never => {
    throw new ConfigError(`\`${option}\` (= ${JSON.stringify(pattern)}) ${what}.`, { operation, got: pattern, hint });
  };
  let flags = "";
  let rest = pattern;
  const global = /^\(\?([aiLmsux]+)\)/.exec(rest);
  if (global) {
    for (const flag of global[1]!) {
      if (flag === "x" || flag === "L") refuse(`has the flag "${flag}", which JavaScript does not know`);
      if (flag !== "a" && flag !== "u") flags += flag;
    }
    rest = rest.slice(global[0].length);
  }
  let source = "";
  for (let at = 0; at < rest.length; ) {
    for (const [token, meaning] of tokens) {
      token.lastIndex = at;
      const match = token.exec(rest);
      if (match === null) continue;
      if (typeof meaning === "object") refuse(meaning.refused);
      else source += meaning(match);
      at += match[0].length;
      break;
    }
  }
  try {
    new RegExp(source, flags);
  } catch {
    refuse("is not a regular expression", "Check brackets and repetitions.");
  }
  return { source, flags };
}

type Meaning = ((match: RegExpExecArray) => string) | { readonly refused: string };

/** Where the two languages differ, tried in this order at every place; the last one is everything that means the same in both. */
const tokens: readonly (readonly [RegExp, Meaning])[] = [
  [/\\A/y, () => "(?<![^])"],
  [/\\Z/y, () => "(?![^])"],
  [/\\N\{|\\U|\\g/y, { refused: "has an escape that is not translated" }],
  [/\\[\s\S]/y, ([whole]) => whole],
  // a ] that comes first in a set stands for itself; nothing else in a set needs translating
  [/\[(\^?)(\]?)((?:\\[\s\S]|[^\]\\])*)\]/y, ([, not, bracket, rest]) => `[${not}${bracket ? "\\]" : ""}${rest}]`],
  [/\(\?P<(\w+)>/y, ([, name]) => `(?<${name}>`],
  [/\(\?P=(\w+)\)/y, ([, name]) => `\\k<${name}>`],
  [/\(\?#[^)]*\)/y, () => ""],
  [/\(\?[aiLmsux-]+[:)]/y, { refused: "has flags inside, which JavaScript only knows for the whole" }],
  [/\(\?>/y, { refused: "has an atomic group (?>…), which JavaScript does not know" }],
  [/\(\?\(/y, { refused: "has a condition (?(…)…), which JavaScript does not know" }],
  [/\(\?<(?![=!])/y, { refused: "names a group in JavaScript's way; Python writes (?P<name>…)" }],
  [/(?:[*+?]|\{\d*,?\d*\})\+/y, { refused: "has a possessive repetition, which JavaScript does not know" }],
  [/\{,(\d+)\}/y, ([, most]) => `{0,${most}}`],
  [/[\s\S]/y, ([whole]) => whole],
];
