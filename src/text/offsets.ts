/**
 * Where in a text each token is from. The library gives tokens only; here its pieces are followed through the text as the
 * normalizer left it, whose characters know where they come from (aligned-text.ts).
 */
import { type AlignedText, aligned, normalize, prepended, type Span, slice } from "./aligned-text.ts";
import { byteLetters } from "./byte-letter.ts";
import { type LibraryTokenizer, libraryTokenizer, type TokenizerDefinition } from "./tokenizer-library.ts";

/** A text as tokens that know their place. */
export interface EncodingWithOffsets {
  readonly ids: Int32Array;
  /** As they are written in the vocabulary; what it cannot say is given as it stands. */
  readonly tokens: readonly string[];
  /** From and to in code points of the text; [0, 0] for tokens that were put around it. */
  readonly offsets: readonly Span[];
}

interface Placed {
  readonly token: string;
  readonly id: number;
  readonly span: Span;
}

const byteToken = /^<0x([0-9A-F]{2})>$/;

/** Encodes with offsets. Its library is one of its own, whose model gives tokens piece by piece. */
export class OffsetEncoder {
  readonly #library: LibraryTokenizer;
  readonly #definition: TokenizerDefinition;
  readonly #byteLevel: boolean;

  constructor(definition: TokenizerDefinition, config: object) {
    this.#library = libraryTokenizer(definition, config);
    this.#definition = definition;
    const { pre_tokenizer: pre } = definition;
    this.#byteLevel = [pre, ...(pre?.pretokenizers ?? [])].some((step) => step?.type === "ByteLevel");
  }

  encode(text: string, addSpecialTokens: boolean): EncodingWithOffsets {
    const placed = this.#trimmed([...this.#sections(text)]);
    const all = addSpecialTokens ? this.#around(placed) : placed;
    return {
      ids: Int32Array.from(all, ({ id }) => id),
      tokens: all.map(({ token }) => token),
      offsets: all.map(({ span }) => span),
    };
  }

  /** Text between added tokens, and those tokens. */
  *#sections(text: string): Generator<Placed> {
    const { splitter_unnormalized: splitter, added_tokens_map: added, normalizer } = this.#library;
    const sections = splitter.split(text);
    let start = 0;
    let skipped = 0; // characters that the token before takes with it
    for (const [i, section] of sections.entries()) {
      const length = [...section].length;
      const token = added.get(section);
      const next = added.get(sections[i + 1] ?? "");
      if (token) {
        const before = token.lstrip && i > 0 ? spacesAtEnd(sections[i - 1] as string) : 0;
        skipped = token.rstrip && i + 1 < sections.length ? spacesAtStart(sections[i + 1] as string) : 0;
        yield { token: token.content, id: token.id, span: [start - before, start + length + skipped] };
      } else {
        const end = next?.lstrip ? length - spacesAtEnd(section) : length;
        const kept = slice(aligned(section, start), skipped, Math.max(skipped, end));
        const followed = normalize(kept, this.#definition["normalizer"] as never);
        const original = kept.characters.join("");
        const normal = normalizer && original !== "" ? inStep(followed, normalizer.normalize(original)) : followed;
        yield* this.#normalizedSections(normal, i);
        skipped = 0;
      }
      start += length;
    }
  }

  /** Added tokens that are looked for in normalized text. */
  *#normalizedSections(text: AlignedText, section: number): Generator<Placed> {
    const { splitter_normalized: splitter, added_tokens_map: added } = this.#library;
    let at = 0;
    for (const part of splitter.split(text.characters.join(""))) {
      const end = at + [...part].length;
      const token = added.get(part);
      if (token) yield { token: part, id: token.id, span: [text.spans[at]![0], text.spans[end - 1]![1]] };
      else yield* this.#pieces(slice(text, at, end), part, section);
      at = end;
    }
  }

  /** The pieces of a section, one after the other; what the pre-tokenizer leaves out is passed over. */
  *#pieces(text: AlignedText, whole: string, section: number): Generator<Placed> {
    const { pre_tokenizer: pre, model } = this.#library;
    const pieces = pre ? pre.pre_tokenize(whole, { section_index: section }) : [whole];
    const units = this.#byteLevel ? asBytes(text) : text;
    let rest = units;
    if (pieces[0]?.startsWith("▁") && units.characters[0] !== "▁" && units.characters[0] !== " ") rest = prepended(units, "▁");
    if (this.#byteLevel && pieces[0]?.startsWith("Ġ") && units.characters[0] !== "Ġ") rest = prepended(units, "Ġ");
    const characters = rest.characters.map((character) => (character === " " && !this.#byteLevel ? "▁" : character));
    let at = 0;
    for (const piece of pieces) {
      const letters = [...piece];
      const wanted = letters[0] === " " ? "▁" : letters[0];
      // a space that the pre-tokenizer puts in front of each of its pieces is in no text
      if (this.#byteLevel && at > 0 && wanted === "Ġ" && characters[at] !== "Ġ" && characters[at] === letters[1]) {
        const own = prepended(slice(rest, at, at + letters.length - 1), "Ġ");
        yield* this.#tokens(model.encode([piece]), own);
        at += letters.length - 1;
        continue;
      }
      while (at < characters.length && characters[at] !== wanted) at++;
      yield* this.#tokens(model.encode([piece]), slice(rest, at, at + letters.length));
      at += letters.length;
    }
  }

  /** The tokens of one piece, each with as many characters as it stands for. */
  #tokens(tokens: readonly string[], piece: AlignedText): Placed[] {
    const { model } = this.#library;
    const { continuing_subword_prefix: prefix, end_of_word_suffix: suffix } = this.#definition.model as WordMarks;
    const placed: Placed[] = [];
    let at = 0;
    let bytes = 0; // of the character at `at` that tokens of one byte have said
    tokens.forEach((token, i) => {
      const found = model.tokens_to_ids.get(token);
      const id = found ?? model.unk_token_id ?? -1;
      const [, hex] = byteToken.exec(token) ?? [];
      const first = piece.spans[at]?.[0] ?? piece.spans.at(-1)?.[1] ?? 0;
      if (hex !== undefined && this.#definition.model["byte_fallback"] === true) {
        placed.push({ token, id, span: piece.spans[at] as Span });
        if (++bytes === new TextEncoder().encode(piece.characters[at]).length) [at, bytes] = [at + 1, 0];
        return;
      }
      let length = [...token].length;
      if (prefix && i > 0 && token.startsWith(prefix)) length -= [...prefix].length;
      if (suffix && token.endsWith(suffix)) length -= [...suffix].length;
      // a word that is not known is one token; else tokens stand for one character
      if (token === model.unk_token)
        length =
          this.#definition.model.type === "WordPiece"
            ? piece.characters.length
            : unknownLength(piece, at, tokens[i + 1], tokens.length);
      const last = piece.spans[Math.max(at, at + length - 1)] ?? piece.spans.at(-1);
      at += length;
      const before = placed.at(-1);
      if (id === model.unk_token_id && before?.id === id && model.fuse_unk && this.#definition.model.type !== "WordPiece")
        placed[placed.length - 1] = {
          token: found === undefined ? before.token + token : token,
          id,
          span: [before.span[0], last?.[1] ?? first],
        };
      else placed.push({ token, id, span: [first, Math.max(first, last?.[1] ?? first)] });
    });
    return placed;
  }

  /** A byte-level processor may take spaces out of the offsets. */
  #trimmed(placed: Placed[]): Placed[] {
    const processor = this.#definition["post_processor"] as Processor | null | undefined;
    const steps = [processor, ...(processor?.processors ?? [])];
    const step = steps.find((each) => each?.type === "ByteLevel" || each?.type === "RobertaProcessing");
    if (!step || step.trim_offsets === false) return placed;
    const isSpace = (letter: string) => letter === "Ġ" || /\s/.test(letter);
    return placed.map((each, i) => {
      const letters = [...each.token];
      let leading = letters.findIndex((letter) => !isSpace(letter));
      if (leading < 0) leading = letters.length;
      const trailing = letters.length - (letters.findLastIndex((letter) => !isSpace(letter)) + 1);
      let [from, to] = each.span;
      if (leading > 0 && (i === 0 || from === 0) && step.add_prefix_space !== false) leading--;
      from = Math.min(from + leading, to);
      if (trailing > 0 && to >= trailing) to = Math.max(to - trailing, from);
      return { ...each, span: [from, to] };
    });
  }

  /** With the tokens that the tokenizer puts around a text. */
  #around(placed: readonly Placed[]): Placed[] {
    const { post_processor: processor, added_tokens_map: added, model } = this.#library;
    if (!processor) return [...placed];
    const marks = new Map(placed.map((each, i) => [`\0${i}`, each]));
    const { tokens } = processor([...marks.keys()], null, true);
    return tokens.map((token) => {
      const id = added.get(token)?.id ?? model.tokens_to_ids.get(token) ?? -1;
      return marks.get(token) ?? { token, id, span: [0, 0] };
    });
  }
}

/** What marks tokens within a word. */
interface WordMarks {
  readonly continuing_subword_prefix?: string | null;
  readonly end_of_word_suffix?: string | null;
}

/** The same text as the library writes it, where that differs by a few characters, as it does for rare signs. */
function inStep(text: AlignedText, wanted: string): AlignedText {
  if (text.characters.join("") === wanted) return text;
  let at = 0;
  const characters = [...wanted];
  const spans = characters.map((character): Span => {
    const found = text.characters.indexOf(character, at);
    if (found >= 0 && found - at <= 4) at = found + 1;
    return text.spans[Math.max(0, at - 1)] ?? [0, 0];
  });
  return { characters, spans };
}

interface Processor {
  readonly type: string;
  readonly trim_offsets?: boolean;
  readonly add_prefix_space?: boolean;
  readonly processors?: readonly Processor[];
}

const spacesAtStart = (text: string): number => [...text].length - [...text.trimStart()].length;
const spacesAtEnd = (text: string): number => [...text].length - [...text.trimEnd()].length;

let letters: readonly string[] | undefined;

/** The letters that stand for a text's bytes, each from the character whose byte it is. */
function asBytes({ characters, spans }: AlignedText): AlignedText {
  const out: [string, Span][] = [];
  const encoder = new TextEncoder();
  letters ??= byteLetters();
  for (const [i, character] of characters.entries())
    for (const byte of encoder.encode(character)) out.push([letters[byte] as string, spans[i] as Span]);
  return { characters: out.map(([letter]) => letter), spans: out.map(([, span]) => span) };
}

/** Characters up to where the next token begins. */
function unknownLength({ characters }: AlignedText, at: number, next: string | undefined, count: number): number {
  if (count === 1) return characters.length - at;
  if (next === undefined) return characters.length - at;
  const letters = [...next];
  for (let to = at + 1; to < characters.length; to++)
    if (letters.every((letter, i) => characters[to + i] === letter)) return to - at;
  return 1;
}
