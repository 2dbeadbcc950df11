/**
 * Cutting a text into pieces as Hugging Face's tokenizers (Rust) do, where the library that is used here does otherwise: it knows letters,
 * digits and spaces by JavaScript's `\w`, `\d` and `\s`, and matches that are joined to their neighbours not at all.
 *
 * @see https://github.com/huggingface/tokenizers/tree/main/tokenizers/src/pre_tokenizers
 */

/** One of the tokenizer.json's: only what is read here is named. */
export interface PreTokenizerDefinition {
  readonly type: string;
  readonly use_regex?: boolean;
  readonly add_prefix_space?: boolean;
  readonly individual_digits?: boolean;
  readonly pattern?: { readonly String?: string; readonly Regex?: string };
  readonly behavior?: string;
  readonly invert?: boolean;
  readonly delimiter?: string;
  readonly pretokenizers?: readonly PreTokenizerDefinition[];
  readonly [key: string]: unknown;
}

/** One of the library's. */
export interface PreTokenizer {
  pre_tokenize(text: string, options?: { readonly section_index: number }): string[];
  pre_tokenize_text(text: string): string[];
  /** Of those that have one. */
  pattern?: RegExp | null;
  /** Of a sequence. */
  readonly tokenizers?: readonly (PreTokenizer | null)[];
}

const space = "\\p{White_Space}";
const word = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}";
const mark = "\\p{P}\\u0021-\\u002F\\u003A-\\u0040\\u005B-\\u0060\\u007B-\\u007E";

/** What byte-level tokenizers take for a word. */
export const byteLevelWords =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

interface Part {
  readonly text: string;
  readonly isMatch: boolean;
}

/** Whether a part goes into the piece of the part before it. */
const joins: Readonly<Record<string, (before: Part, part: Part) => boolean>> = {
  Isolated: () => false,
  Contiguous: (before, part) => before.isMatch === part.isMatch,
  MergedWithPrevious: (before, part) => part.isMatch && !before.isMatch,
  MergedWithNext: (before, part) => before.isMatch && !part.isMatch,
};

type Cut = (text: string) => string[];

/** Cuts at what `pattern` finds; `behavior` says what becomes of that. @param invert cuts at what lies between instead */
function cutAt(pattern: RegExp, behavior = "Isolated", invert = false): Cut {
  const join = joins[behavior];
  return (text) => {
    const parts: Part[] = [];
    const add = (from: number, to: number, isFound: boolean) => {
      if (to > from) parts.push({ text: text.slice(from, to), isMatch: isFound !== invert });
    };
    let end = 0;
    for (const { 0: found, index } of text.matchAll(pattern)) {
      add(end, index, false);
      end = index + found.length;
      add(index, end, true);
    }
    add(end, text.length, false);
    if (behavior === "Removed" || !join) return parts.flatMap((part) => (part.isMatch ? [] : [part.text]));
    const pieces: string[] = [];
    parts.forEach((part, i) => {
      const before = parts[i - 1];
      if (before && join(before, part)) pieces[pieces.length - 1] += part.text;
      else pieces.push(part.text);
    });
    return pieces;
  };
}

/** Keeps what a class of characters makes up and drops the rest. */
const keep = (pattern: string): Cut => cutAt(new RegExp(pattern, "gu"), "Removed", true);

const literal = (text: string): RegExp => new RegExp(text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"), "gu");

/** By type, how a text is cut, where that is not as the library does it. */
const cuts: Readonly<Record<string, (definition: PreTokenizerDefinition, own: PreTokenizer) => Cut | undefined>> = {
  Whitespace: () => keep(`[${word}]+|[^${word}${space}]+`),
  WhitespaceSplit: () => keep(`[^${space}]+`),
  BertPreTokenizer: () => keep(`[^${space}${mark}]+|[${mark}]`),
  Digits: ({ individual_digits: alone }) => cutAt(/\p{N}/gu, alone ? "Isolated" : "Contiguous"),
  Punctuation: ({ behavior }) => cutAt(new RegExp(`[${mark}]`, "gu"), behavior),
  Split: ({ pattern, behavior, invert }, own) => {
    const found = pattern?.String === undefined ? own.pattern : literal(pattern.String);
    return found ? cutAt(found, behavior, invert) : undefined;
  },
};

/** The definition with types that the library does not know as others that it does. */
export function knownToLibrary(definition: PreTokenizerDefinition | null): PreTokenizerDefinition | null {
  if (definition?.type === "CharDelimiterSplit")
    return { type: "Split", pattern: { String: definition.delimiter ?? " " }, behavior: "Removed", invert: false };
  if (!Array.isArray(definition?.pretokenizers)) return definition;
  return { ...definition, pretokenizers: definition.pretokenizers.map((each) => knownToLibrary(each) as PreTokenizerDefinition) };
}

/** Changes one of the library's, and those within it, to cut as Hugging Face's do. @param definition what it was made from */
export function cutAsDefined(pre: PreTokenizer | null, definition: PreTokenizerDefinition | null): void {
  if (!pre || !definition) return;
  if (definition.type === "ByteLevel") pre.pattern = byteLevelWords;
  const cut = Object.hasOwn(cuts, definition.type) ? cuts[definition.type]?.(definition, pre) : undefined;
  if (cut) pre.pre_tokenize_text = cut;
  definition.pretokenizers?.forEach((each, i) => {
    cutAsDefined(pre.tokenizers?.[i] ?? null, each);
  });
}
