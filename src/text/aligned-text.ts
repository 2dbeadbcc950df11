/**
 * Text that is changed step by step while every character remembers what it was made from, as Hugging Face's tokenizers keep it:
 * a character that is put in belongs to its neighbour, one that several were joined to belongs to the first of them.
 *
 * @see https://github.com/huggingface/tokenizers/blob/main/tokenizers/src/tokenizer/normalizer.rs
 */
import { ConfigError, wordJson } from "../errors.ts";
import { library } from "./tokenizer-library.ts";

/** From and to in code points of the original text. */
export type Span = readonly [from: number, to: number];

/** Characters (code points) and where they are from. */
export interface AlignedText {
  readonly characters: readonly string[];
  readonly spans: readonly Span[];
}

/** A part of a tokenizer.json. */
interface Step {
  readonly type: string;
  readonly [key: string]: unknown;
}

/** The text from code point `start` of the original on, unchanged. */
export const aligned = (text: string, start = 0): AlignedText => {
  const characters = [...text];
  return { characters, spans: characters.map((_, i) => [start + i, start + i + 1]) };
};

/** The characters from `from` up to `to`. */
export const slice = ({ characters, spans }: AlignedText, from: number, to?: number): AlignedText => ({
  characters: characters.slice(from, to),
  spans: spans.slice(from, to),
});

/** Each character as the characters that `change` makes of it, which may be none. */
function each({ characters, spans }: AlignedText, change: (character: string) => string): AlignedText {
  const out: [string, Span][] = [];
  characters.forEach((character, i) => {
    for (const made of change(character)) out.push([made, spans[i] as Span]);
  });
  return { characters: out.map(([character]) => character), spans: out.map(([, span]) => span) };
}

/** Decomposes every character and joins what belongs together; what was joined belongs to the first. */
function normalized(text: AlignedText, form: "NFC" | "NFD" | "NFKC" | "NFKD"): AlignedText {
  const apart = each(text, (character) => character.normalize(form.includes("K") ? "NFKD" : "NFD"));
  const characters = [...apart.characters.join("").normalize(form)];
  if (!form.endsWith("C")) return { characters, spans: apart.spans };
  let at = 0;
  const spans = characters.map((character) => {
    const span = apart.spans[at] as Span;
    at += [...character.normalize("NFD")].length;
    return span;
  });
  return { characters, spans };
}

const isChinese = (character: string): boolean => {
  const code = character.codePointAt(0) as number;
  const ranges = [[0x4e00, 0x9fff], [0x3400, 0x4dbf], [0x20000, 0x2a6df], [0x2a700, 0x2b73f], [0x2b740, 0x2b81f], [0x2b920, 0x2ceaf], [0xf900, 0xfaff], [0x2f800, 0x2fa1f]]; // biome-ignore format: a table
  return ranges.some(([from, to]) => code >= (from as number) && code <= (to as number));
};

function bert(text: AlignedText, step: Step): AlignedText {
  const { clean_text = true, handle_chinese_chars = true, lowercase = true } = step;
  let result = text;
  if (clean_text)
    result = each(result, (character) =>
      /[\t\n\r\p{Zs}]/u.test(character) ? " " : /[\0\uFFFD\p{Cc}\p{Cf}\p{Co}\p{Cs}]/u.test(character) ? "" : character,
    );
  if (handle_chinese_chars) result = each(result, (character) => (isChinese(character) ? ` ${character} ` : character));
  if (step["strip_accents"] ?? lowercase) result = withoutAccents(normalized(result, "NFD"));
  return lowercase ? each(result, (character) => character.toLowerCase()) : result;
}

const withoutAccents = (text: AlignedText): AlignedText =>
  each(text, (character) => (/\p{Mn}/u.test(character) ? "" : character));

/** A pattern of a tokenizer.json: a text or a regular expression. */
function patternOf(step: Step): RegExp {
  const { String: text, Regex: regex } = step["pattern"] as { String?: string; Regex?: string };
  return text === undefined ? new RegExp(regex as string, "gu") : new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gu");
}

function replaced(text: AlignedText, step: Step): AlignedText {
  const out: [string, Span][] = [];
  const { characters, spans } = text;
  const whole = characters.join("");
  let unit = 0;
  let at = 0;
  const keepTo = (end: number) => {
    for (; unit < end; at++) {
      out.push([characters[at] as string, spans[at] as Span]);
      unit += (characters[at] as string).length;
    }
  };
  for (const match of whole.matchAll(patternOf(step))) {
    keepTo(match.index);
    at += [...match[0]].length;
    unit += match[0].length;
    const span = spans[Math.max(0, at - 1)];
    for (const character of String(step["content"])) if (span) out.push([character, span]);
  }
  keepTo(whole.length);
  return { characters: out.map(([character]) => character), spans: out.map(([, span]) => span) };
}

function stripped(text: AlignedText, step: Step): AlignedText {
  const isSpace = (character: string | undefined) => character !== undefined && /\s/.test(character);
  let [from, to] = [0, text.characters.length];
  if (step["strip_left"] !== false) while (from < to && isSpace(text.characters[from])) from++;
  if (step["strip_right"] !== false) while (to > from && isSpace(text.characters[to - 1])) to--;
  return slice(text, from, to);
}

/** Puts `content` before the text; it belongs to the first character. */
export const prepended = ({ characters, spans }: AlignedText, content: string): AlignedText =>
  characters.length === 0
    ? { characters, spans }
    : { characters: [...content, ...characters], spans: [...Array.from(content, () => spans[0] as Span), ...spans] };

const steps: Readonly<Record<string, (text: AlignedText, step: Step) => AlignedText>> = {
  NFC: (text) => normalized(text, "NFC"),
  NFD: (text) => normalized(text, "NFD"),
  NFKC: (text) => normalized(text, "NFKC"),
  NFKD: (text) => normalized(text, "NFKD"),
  Lowercase: (text) => each(text, (character) => character.toLowerCase()),
  StripAccents: withoutAccents,
  BertNormalizer: bert,
  Prepend: (text, step) => prepended(text, String(step["prepend"])),
  Replace: replaced,
  Strip: stripped,
  Sequence: (text, step) => (step["normalizers"] as readonly Step[]).reduce(normalize, text),
  // SentencePiece's own table is NFKC for what is common; the library knows its exceptions
  Precompiled: (text, step) => {
    const whole = new library.PrecompiledNormalizer(step);
    return each(normalized(text, "NFC"), (character) => whole.normalize(character));
  },
};

/**
 * What the normalizer of a tokenizer.json makes of a text.
 *
 * @throws {ConfigError} for a kind whose alignment is not known
 */
export function normalize(text: AlignedText, step: Step | null | undefined): AlignedText {
  if (!step) return text;
  const change = Object.hasOwn(steps, step.type) ? steps[step.type] : undefined;
  if (!change)
    throw new ConfigError(`offsets are not known for a normalizer of the kind ${wordJson(step.type)}.`, {
      operation: "encodeWithOffsets",
      expected: Object.keys(steps),
      got: step.type,
    });
  return change(text, step);
}
