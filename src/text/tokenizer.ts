/** Text to token ids and back, for any Hugging Face tokenizer.json; the library's algorithms, with its two slow places mended. */
import { ConfigError, checkOptions, FormatError, isRecord, requireKind, wordJson } from "../errors.ts";
import {
  type ChatMessage,
  type ChatOptions,
  chatTemplates,
  type EncodedChat,
  type RenderedChat,
  renderAnswers,
  renderChat,
} from "./chat-template.ts";
import { type EncodingWithOffsets, OffsetEncoder } from "./offsets.ts";
import {
  type LibraryEncoding,
  type LibraryTokenizer,
  libraryTokenizer,
  Sections,
  type TokenizerDefinition,
} from "./tokenizer-library.ts";

export type { TokenizerDefinition } from "./tokenizer-library.ts";

/** A parsed tokenizer_config.json: names of the special tokens, chat template. */
export type TokenizerConfig = Readonly<Record<string, unknown>>;

const modelTypes = ["BPE", "WordPiece", "Unigram"] as const;

/** A tokenizer of a trained model. Made by `loadTokenizer`. */
export class Tokenizer {
  /** One more than the largest token id: the least number of rows that an embedding needs. */
  readonly vocabularySize: number;
  /** Beginning of text; `undefined` where the tokenizer names none. The same for the others. */
  readonly bosId: number | undefined;
  /** End of text. */
  readonly eosId: number | undefined;
  /** Fills short rows of a batch. */
  readonly padId: number | undefined;
  /** Stands for what the vocabulary cannot say; byte-level tokenizers have none. */
  readonly unknownId: number | undefined;
  /** The Jinja chat template that is used when none is named. */
  readonly chatTemplate: string | undefined;
  /** All chat templates by name. */
  readonly chatTemplates: ReadonlyMap<string, string>;
  /** What the tokenizer was made from, to be written out again. */
  readonly definition: TokenizerDefinition;
  readonly config: TokenizerConfig;
  readonly #library: LibraryTokenizer;
  readonly #sections: Sections;
  #offsets: OffsetEncoder | undefined;

  constructor(definition: TokenizerDefinition, config: TokenizerConfig = {}) {
    checkDefinition(definition);
    this.definition = definition;
    this.config = config;
    try {
      this.#library = libraryTokenizer(definition, config);
      this.#sections = new Sections(this.#library, definition);
    } catch (cause) {
      throw unusable("loadTokenizer", cause);
    }
    this.vocabularySize = largestId(this.#library) + 1;
    this.bosId = this.#specialId("bos_token");
    this.eosId = this.#specialId("eos_token");
    this.padId = this.#specialId("pad_token");
    this.unknownId = this.#specialId("unk_token") ?? this.#library.model.unk_token_id;
    this.chatTemplates = chatTemplates(config);
    this.chatTemplate = this.chatTemplates.get("default");
  }

  /**
   * Token ids of a text. Equal to the Hugging Face library's, at a speed that does not fall with the length.
   *
   * @param options.addSpecialTokens adds what the tokenizer puts around a text (BERT's [CLS] … [SEP], LLaMA's <s>)
   * @throws {FormatError} for a text that the vocabulary cannot say, or a tokenizer.json that contradicts itself
   */
  encode(text: string, options: { addSpecialTokens?: boolean } = {}): Int32Array {
    const { addSpecialTokens = true } = checkOptions("encode", options, { addSpecialTokens: "true or false" });
    requireKind("encode", "a string", { text });
    return this.#fill(() => this.#library.encode(text, { add_special_tokens: addSpecialTokens })).ids;
  }

  /** Token ids of two texts as one input, and which text each token is from (`typeIds`, 0 or 1). */
  encodePair(first: string, second: string): { ids: Int32Array; typeIds: Int32Array } {
    requireKind("encodePair", "a string", { first, second });
    return this.#fill(() => this.#library.encode(first, { text_pair: second, return_token_type_ids: true }));
  }

  /**
   * Token ids of a text and where in it each token is from, in code points. Slower than {@link encode}.
   *
   * @param options.addSpecialTokens adds what the tokenizer puts around a text, at [0, 0]
   * @throws {ConfigError} for a normalizer whose changes cannot be followed
   */
  encodeWithOffsets(text: string, options: { addSpecialTokens?: boolean } = {}): EncodingWithOffsets {
    const { addSpecialTokens = true } = checkOptions("encodeWithOffsets", options, { addSpecialTokens: "true or false" });
    requireKind("encodeWithOffsets", "a string", { text });
    try {
      this.#offsets ??= new OffsetEncoder(this.definition, this.config);
      return this.#offsets.encode(text, addSpecialTokens);
    } catch (cause) {
      throw cause instanceof ConfigError ? cause : unusable("encodeWithOffsets", cause);
    }
  }

  #fill(encode: () => LibraryEncoding): { ids: Int32Array; typeIds: Int32Array } {
    try {
      return this.#sections.fill(encode);
    } catch (cause) {
      throw unusable("encode", cause);
    }
  }

  /**
   * The text of token ids. Ids without a token, as in the padded rows of an embedding, give nothing.
   *
   * @param options.skipSpecialTokens leaves out end-of-text and the like
   */
  decode(ids: ArrayLike<number>, options: { skipSpecialTokens?: boolean } = {}): string {
    const { skipSpecialTokens = false } = checkOptions("decode", options, { skipSpecialTokens: "true or false" });
    requireKind("decode", "a list of numbers", { ids });
    const known = Array.from(ids).filter((id) => this.#library.id_to_token(id) !== undefined);
    if (known.length === 0) return "";
    try {
      return this.#library.decode(known, {
        skip_special_tokens: skipSpecialTokens,
        clean_up_tokenization_spaces: this.config["clean_up_tokenization_spaces"] === true,
      });
    } catch (cause) {
      throw unusable("decode", cause);
    }
  }

  /** Decodes tokens one at a time, as generation makes them. */
  stream(options: { skipSpecialTokens?: boolean } = {}): StreamingDecoder {
    return new StreamingDecoder((ids) => this.decode(ids, options));
  }

  /** The id of one token as it is written in the vocabulary, such as `"<|endoftext|>"`. */
  idOf(token: string): number | undefined {
    return this.#library.token_to_id(token);
  }

  /** The token of an id as it is written in the vocabulary, such as `"Ġthe"`. */
  tokenOf(id: number): string | undefined {
    return this.#library.id_to_token(id);
  }

  /**
   * Messages as the model was trained to read them.
   *
   * @throws {ConfigError} when the tokenizer has no such template, or the template refuses the messages
   * @throws {FormatError} when the template itself is broken
   * @example
   * tokenizer.applyChatTemplate([{ role: "user", content: "Call me." }], { addGenerationPrompt: true })
   */
  applyChatTemplate(messages: readonly ChatMessage[], options: ChatOptions = {}): string {
    return this.#render(messages, options).text;
  }

  /**
   * The same as tokens, with the places where the assistant speaks: between `{% generation %}` and `{% endgeneration %}` where
   * the template has them, else what each of its messages adds to the text before it. A token that begins before counts.
   */
  encodeChat(messages: readonly ChatMessage[], options: ChatOptions = {}): EncodedChat {
    requireKind("encodeChat", "an object", { options });
    const render = (some: readonly ChatMessage[], addGenerationPrompt: boolean) =>
      this.#render(some, { ...options, addGenerationPrompt });
    const { text, answers } = renderAnswers(render, messages, options.addGenerationPrompt ?? false);
    const { ids, offsets } = this.encodeWithOffsets(text, { addSpecialTokens: false });
    const places = answers.map(([from, to]) => [[...text.slice(0, from)].length, [...text.slice(0, to)].length] as const);
    const assistantMask = Uint8Array.from(offsets, ([from, to]) =>
      places.some(([begin, end]) => from < end && to > begin) ? 1 : 0,
    );
    return { ids, assistantMask };
  }

  #render(messages: readonly ChatMessage[], options: ChatOptions): RenderedChat {
    const special = Object.keys(this.config).flatMap((key) => {
      const name = key.endsWith("_token") ? this.#specialToken(key) : undefined;
      return name === undefined ? [] : [[key, name] as const];
    });
    return renderChat(this.chatTemplates, Object.fromEntries(special), messages, options);
  }

  #specialToken(key: string): string | undefined {
    const entry = this.config[key];
    const name = isRecord(entry) ? entry["content"] : entry;
    return typeof name === "string" ? name : undefined;
  }

  #specialId(key: string): number | undefined {
    const name = this.#specialToken(key);
    return name === undefined ? undefined : this.idOf(name);
  }
}

/**
 * Turns a growing list of tokens into text that never ends inside a character.
 * All pieces together are the text of all tokens: push(a) + push(b) + flush() = decode([a, b]).
 */
export class StreamingDecoder {
  readonly #decode: (ids: readonly number[]) => string;
  /** Tokens that are still decoded together: the last finished piece, for its influence on spaces, and what came after. */
  #window: number[] = [];
  #finished = 0;
  #emitted = 0;

  constructor(decode: (ids: readonly number[]) => string) {
    this.#decode = decode;
  }

  /** The text that is certain once `id` has come; often empty in the middle of a character. */
  push(id: number): string {
    this.#window.push(id);
    const text = this.#decode(this.#window);
    // The replacement character at the end may be the first bytes of a character whose rest is in the next token.
    const certain = text.endsWith("\uFFFD") ? text.length - 1 : text.length;
    const piece = text.slice(this.#emitted, certain);
    this.#emitted = Math.max(this.#emitted, certain);
    if (certain === text.length && piece !== "") {
      this.#window = this.#window.slice(this.#finished);
      this.#finished = this.#window.length;
      this.#emitted = this.#decode(this.#window).length;
    }
    return piece;
  }

  /** The rest when no more tokens come: bytes that never became a character show as U+FFFD. */
  flush(): string {
    const piece = this.#decode(this.#window).slice(this.#emitted);
    this.#window = [];
    this.#finished = 0;
    this.#emitted = 0;
    return piece;
  }
}

/** The tokenizer.json of a byte-level BPE with GPT-2's way of splitting words. */
export function byteLevelDefinition(parts: {
  vocab: Readonly<Record<string, number>>;
  merges: readonly string[];
  specialTokens: readonly { content: string; id: number }[];
}): TokenizerDefinition {
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: parts.specialTokens.map(({ content, id }) => {
      return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
    }),
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: { type: "ByteLevel", add_prefix_space: true, trim_offsets: false, use_regex: true },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: parts.vocab,
      merges: parts.merges,
    },
  };
}

function checkDefinition(definition: TokenizerDefinition): void {
  if (!isRecord(definition) || !isRecord(definition.model)) {
    throw new FormatError("the tokenizer has no `model`.", {
      operation: "loadTokenizer",
      got: definition,
      hint: "Give the content of a tokenizer.json; tokenizer_config.json and config.json do not hold the vocabulary.",
    });
  }
  for (const part of ["normalizer", "pre_tokenizer", "post_processor", "decoder"]) {
    const value = definition[part];
    if (value === undefined || value === null || (isRecord(value) && typeof value["type"] === "string")) continue;
    throw new FormatError(`\`${part}\` is neither null nor an object with a type.`, { operation: "loadTokenizer", got: value });
  }
  const { added_tokens: added = [], model } = definition;
  const known = (x: unknown) => isRecord(x) && isId(x["id"]) && typeof x["content"] === "string";
  if (!Array.isArray(added) || !added.every(known))
    throw new FormatError("`added_tokens` is not a list of tokens with an id and a content.", {
      operation: "loadTokenizer",
      got: added,
    });
  const { type, vocab } = model;
  if (
    !(Array.isArray(vocab)
      ? vocab.every((entry) => Array.isArray(entry) && typeof entry[0] === "string")
      : isRecord(vocab) && Object.values(vocab).every(isId))
  )
    throw new FormatError("the `vocab` of the model is not a map from tokens to ids.", { operation: "loadTokenizer" });
  if (type !== undefined && !modelTypes.some((known) => known === type)) {
    throw new FormatError(`model type ${wordJson(type)} is not one of ${modelTypes.join(", ")}.`, {
      operation: "loadTokenizer",
      expected: modelTypes,
      got: type,
    });
  }
}

const isId = (x: unknown): boolean => Number.isInteger(x) && (x as number) >= 0 && (x as number) < 2 ** 31;

/** What the library stumbled over, which is most often a part of tokenizer.json that is missing or of another kind. */
function unusable(operation: string, cause: unknown): FormatError {
  if (cause instanceof FormatError) return cause;
  const said = (cause instanceof Error ? cause.message : String(cause)).slice(0, 200).replace(/\.$/, "");
  const reason = cause instanceof TypeError ? `a part of tokenizer.json is missing or of another kind (${said})` : said;
  return new FormatError(`the tokenizer cannot be used: ${reason}.`, { operation, got: cause });
}

function largestId(library: LibraryTokenizer): number {
  let largest = -1;
  for (const id of library.get_vocab().values()) largest = Math.max(largest, id);
  return largest;
}
