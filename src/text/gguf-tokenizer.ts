/**
 * Tokenizers in GGUF files: vocabulary, scores or merges, and the name of a way to split text, as the tokenizer.json that they came
 * from, or as near to it as they say.
 *
 * @see https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp, and transformers' integrations/gguf
 */
import { FormatError, nearestName, wordJson } from "../errors.ts";
import type { GgufFile, GgufValue } from "../formats/gguf.ts";
import { byteLetters } from "./byte-letter.ts";
import { byteLevelDefinition, Tokenizer, type TokenizerConfig } from "./tokenizer.ts";
import type { TokenizerDefinition } from "./tokenizer-library.ts";

/** What the file says of a token. @see enum llama_token_type */
const kinds = { normal: 1, unknown: 2, control: 3, userDefined: 4 } as const;

/** What of the metadata is used. */
interface Vocabulary {
  readonly source: string;
  readonly architecture: string;
  readonly tokens: readonly string[];
  readonly kindOf: (id: number) => number;
  metadata(key: string): GgufValue | undefined;
  /** The list under a key. @throws {FormatError} when it is not one of this type */
  list<T extends "string" | "number">(key: string, type: T): readonly (T extends "string" ? string : number)[] | undefined;
}

/**
 * The tokenizer of a GGUF file, with its chat template.
 *
 * @throws {FormatError} when the file has none, or one of a kind that is not supported, which it then names
 */
export function ggufTokenizer(file: GgufFile): Tokenizer {
  const vocabulary = readVocabulary(file);
  const { tokens, metadata, source } = vocabulary;
  const model = metadata("model");
  const build = typeof model === "string" && Object.hasOwn(builders, model) ? builders[model] : undefined;
  if (!build)
    throw new FormatError(
      `${source} has a tokenizer of the kind ${wordJson(model)}; those that are read: ${Object.keys(builders).join(", ")}.`,
      { operation: "loadTokenizer", expected: Object.keys(builders), got: model },
    );
  const { beginsText, endsText = false, segments = false, ...definition } = build(vocabulary);
  const added = tokens.flatMap((content, id) => {
    const kind = vocabulary.kindOf(id);
    const special = kind === kinds.control || kind === kinds.unknown;
    return special || kind === kinds.userDefined
      ? [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }]
      : [];
  });
  const special = (key: string): string | undefined => {
    const id = metadata(`${key}_token_id`);
    return typeof id === "number" ? tokens[id] : undefined;
  };
  const [bos, eos, cls, sep] = [special("bos"), special("eos"), special("cls"), special("seperator")]; // as it is spelled there
  const around = (flag: string, fallback: boolean, token: string | undefined) =>
    (metadata(flag) ?? fallback) === true && token !== undefined ? [token] : [];
  const template = templateProcessor(
    around("add_bos_token", beginsText, segments ? (cls ?? bos) : bos),
    segments ? around("add_sep_token", true, sep ?? eos) : around("add_eos_token", endsText, eos),
    new Map(tokens.map((token, id) => [token, id])),
    segments,
  );
  const config: Record<string, unknown> = {
    bos_token: bos,
    eos_token: eos,
    unk_token: special("unknown"),
    pad_token: special("padding"),
    ...(segments && { cls_token: cls, sep_token: sep, mask_token: special("mask") }),
    chat_template: chatTemplates(file),
    clean_up_tokenization_spaces: false,
  };
  for (const key in config) if (config[key] === undefined) delete config[key];
  const whole = { ...definition, added_tokens: added, ...(template && { post_processor: template }) };
  return new Tokenizer(whole as TokenizerDefinition, config as TokenizerConfig);
}

function readVocabulary(file: GgufFile): Vocabulary {
  const metadata = (key: string) => file.metadata.get(`tokenizer.ggml.${key}`);
  const fail = (problem: string, got?: unknown) =>
    new FormatError(`${file.source} ${problem}`, { operation: "loadTokenizer", got });
  const list: Vocabulary["list"] = (key, type) => {
    const value = metadata(key);
    if (value === undefined) return undefined;
    if (!Array.isArray(value) || value.some((each) => typeof each !== type))
      throw fail(`has tokenizer.ggml.${key} that is not a list of ${type}s.`, value);
    return value;
  };
  const tokens = list("tokens", "string");
  if (!tokens || tokens.length === 0) throw fail("has no tokenizer (tokenizer.ggml.tokens).");
  const types = list("token_type", "number");
  if (types && types.length !== tokens.length)
    throw fail(`has ${tokens.length} tokens and types of ${types.length}.`, types.length);
  const architecture = file.metadata.get("general.architecture");
  return {
    source: file.source,
    architecture: typeof architecture === "string" ? architecture : "",
    tokens,
    kindOf: (id) => types?.[id] ?? kinds.normal,
    metadata,
    list,
  };
}

/** One template, or several by name. */
function chatTemplates({ metadata }: GgufFile): unknown {
  const one = metadata.get("tokenizer.chat_template");
  const named = [...metadata].flatMap(([key, template]) => {
    const [, name] = /^tokenizer\.chat_template\.(.+)$/.exec(key) ?? [];
    return name === undefined ? [] : [{ name, template }];
  });
  if (named.length === 0) return typeof one === "string" ? one : undefined;
  return typeof one === "string" ? [{ name: "default", template: one }, ...named] : named;
}

/** Puts tokens before and behind every text. @param segments whether of two texts only the first has those before */
function templateProcessor(
  before: readonly string[],
  after: readonly string[],
  ids: ReadonlyMap<string, number>,
  segments: boolean,
) {
  if (before.length + after.length === 0) return undefined;
  const sequence = (id: "A" | "B", type_id: number) => [
    ...(segments && id === "B" ? [] : before).map((token) => ({ SpecialToken: { id: token, type_id } })),
    { Sequence: { id, type_id } },
    ...after.map((token) => ({ SpecialToken: { id: token, type_id } })),
  ];
  const named = [...before, ...after].map((token) => [token, { id: token, ids: [ids.get(token)], tokens: [token] }] as const);
  return {
    type: "TemplateProcessing",
    single: sequence("A", 0),
    pair: [...sequence("A", 0), ...sequence("B", 1)],
    special_tokens: Object.fromEntries(named),
  };
}

/** A definition without its special tokens, whether a text begins or ends with one where the file does not say, and whether they part texts as BERT's. */
type Built = TokenizerDefinition & { readonly beginsText: boolean; readonly endsText?: true; readonly segments?: true };

/** By `tokenizer.ggml.model`. */
const builders: Readonly<Record<string, (vocabulary: Vocabulary) => Built>> = {
  llama: sentencePiece,
  gpt2: byteLevel,
  bert: wordPiece,
  t5: unigram,
};

/** SentencePiece's Unigram, of T5. Spaces are ▁; a table says how letters are normalised. */
function unigram({ source, tokens, list, metadata }: Vocabulary): Built {
  const [scores, table] = [list("scores", "number"), list("precompiled_charsmap", "number")];
  if (scores?.length !== tokens.length)
    throw new FormatError(`${source} has ${tokens.length} tokens and ${scores?.length ?? 0} scores.`, {
      operation: "loadTokenizer",
      got: scores?.length,
    });
  const charsmap = table && btoa(Array.from(table, (byte) => String.fromCharCode(byte & 255)).join(""));
  const prepend_scheme = metadata("add_space_prefix") === false ? "never" : "always";
  const metaspace = { type: "Metaspace", replacement: "▁", prepend_scheme, split: true };
  const pretokenizers = [{ type: "WhitespaceSplit" }, metaspace];
  const unknown = metadata("unknown_token_id") ?? tokens.indexOf("<unk>");
  return {
    normalizer: charsmap ? { type: "Precompiled", precompiled_charsmap: charsmap } : null,
    pre_tokenizer: metadata("remove_extra_whitespaces") === false ? metaspace : { type: "Sequence", pretokenizers },
    decoder: metaspace,
    model: {
      type: "Unigram",
      unk_id: unknown as number,
      byte_fallback: false,
      vocab: tokens.map((token, id) => [token, scores[id] as number]),
    },
    beginsText: false,
    endsText: true,
  };
}

/**
 * BERT's WordPiece. In the file ▁ begins a word, and what goes on inside of one has no mark; tokens in brackets are as they are. The
 * file does not say whether letters are made small: they are when the vocabulary has no others.
 */
function wordPiece({ tokens, kindOf, metadata }: Vocabulary): Built {
  const isWhole = (token: string, id: number) => kindOf(id) === kinds.control || /^\[.*\]$/.test(token);
  const spelled = (token: string, id: number) =>
    isWhole(token, id) ? token : token.startsWith("▁") ? token.slice(1) : `##${token}`;
  const unknown = metadata("unknown_token_id");
  const lowercase = tokens.every((token, id) => isWhole(token, id) || token === token.toLowerCase());
  return {
    normalizer: { type: "BertNormalizer", clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase },
    pre_tokenizer: { type: "BertPreTokenizer" },
    decoder: { type: "WordPiece", prefix: "##", cleanup: true },
    model: {
      type: "WordPiece",
      unk_token: (typeof unknown === "number" ? tokens[unknown] : undefined) ?? "[UNK]",
      continuing_subword_prefix: "##",
      max_input_chars_per_word: 100,
      vocab: Object.fromEntries(tokens.map((token, id) => [spelled(token, id), id])),
    },
    beginsText: true,
    segments: true,
  };
}

/** SentencePiece's BPE: spaces are ▁, what the vocabulary lacks is written in tokens of one byte. */
function sentencePiece(vocabulary: Vocabulary): Built {
  const { architecture, metadata } = vocabulary;
  const gemma = architecture.startsWith("gemma");
  // several spaces are one token in Gemma, spelled with real spaces in the file
  const tokens = vocabulary.tokens.map((token) => (gemma && /^ +$/.test(token) ? "▁".repeat(token.length) : token));
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const scores = vocabulary.list("scores", "number");
  const listed = vocabulary.list("merges", "string");
  if (!listed && scores?.length !== tokens.length)
    throw new FormatError(`${vocabulary.source} has ${tokens.length} tokens and ${scores?.length ?? 0} scores.`, {
      operation: "loadTokenizer",
      got: scores?.length,
    });
  // the order of Gemma's merges is that of its tokens
  const merges = listed ?? impliedMerges(tokens, gemma ? tokens.map((_, id) => -id) : (scores as readonly number[]));
  const unknown = metadata("unknown_token_id");
  const prefix = !gemma && metadata("add_space_prefix") !== false;
  const spaces = { type: "Replace", pattern: { String: " " }, content: "▁" };
  const prepend = { type: "Prepend", prepend: "▁" };
  const metaspace = { type: "Metaspace", replacement: "▁", prepend_scheme: prefix ? "first" : "never", split: false };
  const parts = gemma
    ? {
        normalizer: spaces,
        pre_tokenizer: { type: "Split", pattern: { String: " " }, behavior: "MergedWithPrevious", invert: false },
      }
    : architecture === "phi3" && prefix
      ? { normalizer: { type: "Sequence", normalizers: [prepend, spaces] }, pre_tokenizer: null }
      : { normalizer: null, pre_tokenizer: metaspace };
  const decoders = [
    { type: "Replace", pattern: { String: "▁" }, content: " " },
    { type: "ByteFallback" },
    { type: "Fuse" },
    ...(prefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
  ];
  return {
    ...parts,
    decoder: { type: "Sequence", decoders },
    model: {
      type: "BPE",
      unk_token: typeof unknown === "number" ? (tokens[unknown] ?? null) : null,
      fuse_unk: true,
      byte_fallback: true,
      vocab,
      merges,
    },
    beginsText: true,
  };
}

/**
 * The merges that a vocabulary with scores implies: every way to make a token of two others, the best token first; of equal
 * ones that with the longer beginning.
 */
function impliedMerges(tokens: readonly string[], scores: readonly number[]): [string, string][] {
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const found: { readonly pair: [string, string]; readonly score: number; readonly lengths: readonly [number, number] }[] = [];
  tokens.forEach((token, id) => {
    const letters = [...token];
    const ways = [];
    for (let cut = 1; cut < letters.length; cut++) {
      const [left, right] = [letters.slice(0, cut).join(""), letters.slice(cut).join("")];
      if (ids.has(left) && ids.has(right)) ways.push({ left, right, cut });
    }
    ways.sort((a, b) => ids.get(a.left)! - ids.get(b.left)! || ids.get(a.right)! - ids.get(b.right)!);
    for (const { left, right, cut } of ways)
      found.push({ pair: [left, right], score: scores[id]!, lengths: [cut, letters.length - cut] });
  });
  found.sort((a, b) => b.score - a.score || b.lengths[0] - a.lengths[0] || b.lengths[1] - a.lengths[1]);
  return found.map(({ pair }) => pair);
}

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const cased = (ending: string) =>
  `[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+${ending}|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*${ending}`;
const spacesAndEnds = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/** A letter sequence, so many digits, other signs. */
const words = (digits: string) =>
  `${contractions}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${spacesAndEnds}`;

/** Ways to split a text before the merges, by `tokenizer.ggml.pre`. */
interface Splitting {
  /** Applied one after the other; GPT-2's own way when absent. */
  readonly pattern?: string;
  readonly digits?: true;
  readonly normalizer?: "NFC";
  /** A text that is a token is that token, whatever the merges give. */
  readonly whole?: true;
  readonly beginsText?: true;
}

const llama3: Splitting = { pattern: words("\\p{N}{1,3}"), whole: true, beginsText: true };
const qwen2: Splitting = { pattern: words("\\p{N}"), normalizer: "NFC" };
const tekken: Splitting = {
  pattern: `${cased("")}|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${spacesAndEnds}`,
  whole: true,
  beginsText: true,
};
const gpt4o: Splitting = {
  pattern: `${cased(`${contractions}?`)}|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${spacesAndEnds}`,
};
const singleDigits: Splitting = { digits: true };

const splittings: Readonly<Record<string, Splitting>> = {
  default: {},
  "gpt-2": {},
  "phi-2": {},
  olmo: {},
  "jina-es": {},
  "jina-de": {},
  mpt: {},
  trillion: {},
  mellum: {},
  "a.x-4.0": {},
  "llama-bpe": llama3,
  llama3,
  "llama-v3": llama3,
  falcon3: llama3,
  pixtral: llama3,
  "midm-2.0": llama3,
  dbrx: { pattern: llama3.pattern! },
  "smaug-bpe": { pattern: llama3.pattern! },
  lfm2: llama3,
  qwen2,
  "deepseek-r1-qwen": qwen2,
  megrez: qwen2,
  kormo: qwen2,
  stablelm2: { pattern: qwen2.pattern! },
  hunyuan: { pattern: qwen2.pattern! },
  tekken,
  "gpt-4o": gpt4o,
  llama4: gpt4o,
  smollm: singleDigits,
  starcoder: singleDigits,
  refact: singleDigits,
  "command-r": singleDigits,
  codeshell: singleDigits,
  exaone: singleDigits,
};

/** Byte-level BPE. */
function byteLevel(vocabulary: Vocabulary): Built {
  const { source, metadata } = vocabulary;
  const name = metadata("pre") ?? "default";
  const splitting = typeof name === "string" && Object.hasOwn(splittings, name) ? splittings[name] : undefined;
  if (!splitting) {
    const near = typeof name === "string" ? nearestName(name, Object.keys(splittings)) : undefined;
    throw new FormatError(`${source} splits text in a way that is not known, ${wordJson(name)} (tokenizer.ggml.pre).`, {
      operation: "loadTokenizer",
      expected: Object.keys(splittings),
      got: name,
      hint: near ? `The nearest is "${near}".` : "Give the tokenizer.json of the model's own folder.",
    });
  }
  const merges = vocabulary.list("merges", "string");
  if (!merges) throw new FormatError(`${source} has no tokenizer.ggml.merges.`, { operation: "loadTokenizer" });
  const letters = byteLetters();
  const alphabet = new Set(letters);
  const spelled = (token: string, id: number): string =>
    vocabulary.kindOf(id) !== kinds.normal || [...token].every((letter) => alphabet.has(letter))
      ? token
      : Array.from(new TextEncoder().encode(token), (byte) => letters[byte]).join("");
  const vocab = Object.fromEntries(vocabulary.tokens.map((token, id) => [spelled(token, id), id]));
  const { pattern, digits, normalizer, whole, beginsText = false } = splitting;
  const bytes = { type: "ByteLevel", add_prefix_space: metadata("add_space_prefix") === true, trim_offsets: true };
  const before = [
    ...(pattern ? [{ type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false }] : []),
    ...(digits ? [{ type: "Digits", individual_digits: true }] : []),
  ];
  const last = { ...bytes, use_regex: pattern === undefined };
  const base = byteLevelDefinition({ vocab, merges, specialTokens: [] });
  return {
    ...base,
    normalizer: normalizer ? { type: normalizer } : null,
    pre_tokenizer: before.length ? { type: "Sequence", pretokenizers: [...before, last] } : last,
    model: { ...base.model, ignore_merges: whole === true },
    beginsText,
  };
}
