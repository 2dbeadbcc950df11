/** The Hugging Face library as it is used here, and what makes it fast on long texts. */
import * as huggingFace from "@huggingface/tokenizers";
import { FormatError } from "../errors.ts";
import { byteLevelWords, cutAsDefined, knownToLibrary, type PreTokenizer, type PreTokenizerDefinition } from "./pre-tokenizer.ts";

/** A parsed tokenizer.json: only what is read here is named. */
export interface TokenizerDefinition {
  readonly model: { readonly type?: string; readonly [key: string]: unknown };
  readonly added_tokens?: readonly AddedTokenDefinition[];
  readonly pre_tokenizer?: PreTokenizerDefinition | null;
  readonly [key: string]: unknown;
}

interface AddedTokenDefinition {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
  /** Is not looked for inside of words. */
  readonly single_word?: boolean;
}

/** What is used of the library; its own declarations leave out file extensions, so that under "nodenext" they are empty. */
interface Library {
  readonly Tokenizer: new (definition: object, config: object) => LibraryTokenizer;
  readonly ByteLevelPreTokenizer: new (definition: object) => PreTokenizer;
  readonly SequencePreTokenizer: new (definition: object) => PreTokenizer;
  readonly PrecompiledNormalizer: new (definition: object) => { normalize(text: string): string };
}

/** A tokenizer of the library. */
export interface LibraryTokenizer {
  readonly model: LibraryModel;
  readonly normalizer: { normalize(text: string): string } | null;
  readonly pre_tokenizer: PreTokenizer | null;
  readonly decoder: Decoder | null;
  /** Puts tokens around those of a text. */
  readonly post_processor:
    | ((tokens: readonly string[], pair: readonly string[] | null, special: boolean) => { readonly tokens: string[] })
    | null;
  /** Cut a text at added tokens, before and after it is normalized. */
  readonly splitter_unnormalized: Splitter;
  readonly splitter_normalized: Splitter;
  readonly added_tokens_map: ReadonlyMap<string, AddedToken>;
  encode(text: string, options: object): LibraryEncoding;
  decode(ids: readonly number[], options: object): string;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
  get_vocab(): Map<string, number>;
}

interface Decoder {
  /** Of those that turn bytes into characters. */
  text_decoder?: { decode(bytes: Uint8Array): string };
  readonly decoders?: readonly (Decoder | null)[];
  decode_chain(tokens: readonly string[]): string[];
}

interface Splitter {
  /** Added tokens and what lies between them; together the text. */
  split(text: string): string[];
}

/** A token that is looked for in the text itself. */
interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
}

/** What the library makes of a text. */
export interface LibraryEncoding {
  readonly tokens: readonly string[];
  readonly ids: readonly (number | undefined)[];
  readonly token_type_ids?: readonly number[];
}

interface LibraryModel {
  encode(pieces: readonly string[]): string[];
  readonly tokens_to_ids: ReadonlyMap<string, number>;
  readonly unk_token_id?: number;
  readonly unk_token?: string;
  readonly fuse_unk: boolean;
}

/** The library, with the types that it means to have. */
export const library = huggingFace as unknown as Library;

/** A tokenizer of the library; parts that the definition leaves out do nothing. */
export function libraryTokenizer(definition: TokenizerDefinition, config: object): LibraryTokenizer {
  const parts = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, added_tokens: [] };
  const pre = knownToLibrary(definition.pre_tokenizer ?? null);
  const tokenizer = new library.Tokenizer({ ...parts, ...definition, pre_tokenizer: pre }, config);
  cutAsDefined(tokenizer.pre_tokenizer, pre);
  keepByteOrderMark(tokenizer.decoder);
  const added = new Map(definition.added_tokens?.map((token) => [token.content, token.single_word === true]));
  if ([...added.values()].includes(true))
    for (const splitter of [tokenizer.splitter_unnormalized, tokenizer.splitter_normalized]) keepWordsWhole(splitter, added);
  return tokenizer;
}

/** Tokens of bytes become characters; the library drops a byte order mark among them. */
function keepByteOrderMark(decoder: Decoder | null): void {
  for (const each of decoder?.decoders ?? []) keepByteOrderMark(each);
  if (decoder?.text_decoder) decoder.text_decoder = new TextDecoder("utf-8", { ignoreBOM: true });
}

// what \w means to Hugging Face's tokenizers
const wordEnd = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u;
const wordStart = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;

/**
 * The library does not look at `single_word`: what it has cut out of a word goes back into its neighbours.
 *
 * @param added whether each of the tokens is a word of its own, by content
 */
function keepWordsWhole(splitter: Splitter, added: ReadonlyMap<string, boolean>): void {
  const split = splitter.split.bind(splitter);
  splitter.split = (text) => {
    const sections: string[] = [];
    let isOpen = false; // the last section is text that may go on
    let end = 0;
    for (const piece of split(text)) {
      const before = text.slice(Math.max(0, end - 2), end);
      end += piece.length;
      const isInWord = added.get(piece) === true && (wordEnd.test(before) || wordStart.test(text.slice(end, end + 2)));
      const isText = isInWord || !added.has(piece);
      if (isText && isOpen) sections.push(sections.pop() + piece);
      else sections.push(piece);
      isOpen = isText;
    }
    return sections;
  };
}

const longPiece = 64; // characters
const memorySize = 1 << 17; // pieces
/** Stands in the library's list of tokens for the tokens of one section: the text between two special tokens. */
const marker = "\0section";

/**
 * Makes the library fast on long texts without changing what it computes.
 *
 * It encodes every occurrence of every word anew and copies lists of tokens (1.6 s a megabyte), and takes the whole text as one
 * word where there is no pre-tokenizer (9 s and 4 GB a megabyte; Unigram overflows the stack). Here the ids of a piece are
 * remembered, bytes are mapped to letters only for pieces not seen before, long pieces are cut where no token of the vocabulary
 * can reach across, and ids are collected beside the library, which sees one marker for each section of text.
 */
export class Sections {
  readonly #model: LibraryModel;
  #ids = new Int32Array(1024);
  #ends: number[] = [];

  constructor({ model, pre_tokenizer }: LibraryTokenizer, definition: TokenizerDefinition) {
    this.#model = model;
    const raw = rawPieces(knownToLibrary(definition.pre_tokenizer ?? null));
    if (raw !== undefined && pre_tokenizer !== null) pre_tokenizer.pre_tokenize = raw;
    const letters = new library.ByteLevelPreTokenizer({ use_regex: false, add_prefix_space: false });
    const cut = cutter(definition.model);
    const tokensOf = model.encode.bind(model);
    const encodePart = remember((part) => tokensOf([part]).map((token) => this.#idOf(token, part)));
    const encodePiece = remember((piece) => {
      const text = raw === undefined ? piece : (letters.pre_tokenize_text(piece)[0] as string);
      const parts = cut === undefined || text.length <= longPiece ? [text] : cut(text);
      const ids = parts.flatMap(encodePart);
      const unknown = model.unk_token_id;
      return model.fuse_unk ? ids.filter((id, i) => id !== unknown || ids[i - 1] !== unknown) : ids;
    });
    model.encode = (pieces) => {
      let end = this.#ends.at(-1) ?? 0;
      for (const piece of pieces) {
        const ids = encodePiece(piece);
        if (end + ids.length > this.#ids.length) this.#grow(end + ids.length);
        for (let i = 0; i < ids.length; i++) this.#ids[end++] = ids[i]!;
      }
      this.#ends.push(end);
      return [marker];
    };
  }

  /** Runs the library and puts the collected ids in the place of its markers. */
  fill(encode: () => LibraryEncoding): { ids: Int32Array; typeIds: Int32Array } {
    try {
      const { tokens, ids: given, token_type_ids: types = [] } = encode();
      const markers = tokens.reduce((count, token) => count + (token === marker ? 1 : 0), 0);
      const ids = new Int32Array(tokens.length - markers + (this.#ends.at(-1) ?? 0));
      const typeIds = new Int32Array(ids.length);
      let at = 0;
      let section = 0;
      tokens.forEach((token, i) => {
        const begin = at;
        if (token === marker) {
          const collected = this.#ids.subarray(this.#ends[section - 1] ?? 0, this.#ends[section]);
          ids.set(collected, at);
          at += collected.length;
          section++;
        } else ids[at++] = given[i] ?? this.#idOf(token);
        typeIds.fill(types[i] ?? 0, begin, at);
      });
      return { ids, typeIds };
    } finally {
      this.#ends = [];
      if (this.#ids.length > 1 << 20) this.#ids = new Int32Array(1024);
    }
  }

  #idOf(token: string | undefined, text = token): number {
    const id = (token === undefined ? undefined : this.#model.tokens_to_ids.get(token)) ?? this.#model.unk_token_id;
    if (id !== undefined) return id;
    throw new FormatError(`"${text}" is not in the vocabulary, and the tokenizer names no unknown token.`, {
      operation: "encode",
      got: text,
      hint: "Use a tokenizer that covers all bytes, or leave this out of the text.",
    });
  }

  #grow(size: number): void {
    const larger = new Int32Array(Math.max(size, 2 * this.#ids.length));
    larger.set(this.#ids);
    this.#ids = larger;
  }
}

function remember(encode: (piece: string) => number[]): (piece: string) => number[] {
  const memory = new Map<string, number[]>();
  return (piece) => {
    let ids = memory.get(piece);
    if (ids === undefined) {
      ids = encode(piece);
      if (memory.size >= memorySize) memory.clear();
      if (piece.length <= longPiece) memory.set(piece, ids);
    }
    return ids;
  };
}

/** The pre-tokenizer without its last stage, the mapping of bytes to letters, where it is built so. */
function rawPieces(definition: PreTokenizerDefinition | null): ((text: string) => string[]) | undefined {
  const stages = definition?.type === "Sequence" ? (definition.pretokenizers ?? []) : definition === null ? [] : [definition];
  const before = stages.slice(0, -1);
  const last = stages.at(-1);
  // A prefix space is for the start of the text, not for each piece.
  if (last?.type !== "ByteLevel" || last.add_prefix_space === true) return undefined;
  if (before.some((stage) => stage.type === "ByteLevel")) return undefined;
  const sequence = before.length === 0 ? undefined : new library.SequencePreTokenizer({ pretokenizers: before });
  cutAsDefined(sequence ?? null, { type: "Sequence", pretokenizers: before });
  const wordsOf = (text: string): string[] => (last.use_regex === false ? [text] : (text.match(byteLevelWords) ?? []));
  return sequence === undefined ? wordsOf : (text) => sequence.pre_tokenize_text(text).flatMap(wordsOf);
}

/**
 * Cuts a piece wherever two neighbouring characters are neighbours in no token of the vocabulary: no merge and no longer token
 * can reach across, so the parts encode as the whole does.
 */
function cutter(model: TokenizerDefinition["model"]): ((piece: string) => string[]) | undefined {
  // Word ends and beginnings are marked, and the parts would each get a mark.
  if (
    model.type === "WordPiece" ||
    model["end_of_word_suffix"] ||
    model["continuing_subword_suffix"] ||
    model["continuing_subword_prefix"]
  )
    return undefined;
  let neighbours: Set<string> | undefined;
  return (piece) => {
    neighbours ??= neighboursOf(model["vocab"]);
    const parts: string[] = [];
    let part = "";
    let previous = "";
    for (const character of piece) {
      if (previous !== "" && !neighbours.has(previous + character)) {
        parts.push(part);
        part = "";
      }
      part += character;
      previous = character;
    }
    parts.push(part);
    return parts;
  };
}

function neighboursOf(vocab: unknown): Set<string> {
  const tokens = Array.isArray(vocab) ? vocab.map((entry) => String(entry[0])) : Object.keys(vocab as object);
  const neighbours = new Set<string>();
  for (const token of tokens) {
    let previous = "";
    for (const character of token) {
      if (previous !== "") neighbours.add(previous + character);
      previous = character;
    }
  }
  return neighbours;
}
