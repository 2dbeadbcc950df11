/** Learns a byte-level BPE vocabulary from text and writes it as a Hugging Face tokenizer.json. */
import { ConfigError, checkOptions, FormatError, requireKind, under } from "../errors.ts";
import { type FolderTarget, openTarget } from "../formats/writable-folder.ts";
import { byteLetters } from "./byte-letter.ts";
import { byteLevelDefinition, type TokenizerConfig, type TokenizerDefinition } from "./tokenizer.ts";

/** GPT-2's words: a contraction, or letters, digits or signs with the space before them, or a run of white space. */
const words = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

const byteCount = 256;

/**
 * Learns `vocabularySize` tokens: the special tokens, the 256 bytes, and then again and again the neighbours that stand together
 * most often, joined to one token. Equal counts go to the pair with the smaller ids, so that the same text gives the same file.
 *
 * Equal to `BpeTrainer(vocab_size, min_frequency, special_tokens, initial_alphabet=ByteLevel.alphabet())` of the `tokenizers`
 * package, except that pairs in runs of one letter ("aaaa") are counted exactly here.
 *
 * @param texts                  documents; nothing is joined across their borders
 * @param options.vocabularySize at least 256 + the special tokens; a small text may give fewer tokens than asked for
 * @param options.specialTokens  get the ids 0, 1, …
 * @param options.minimumCount   pairs seen less often are not joined
 * @see https://arxiv.org/abs/1508.07909, algorithm 1
 * @example
 * const definition = trainTokenizer(["low lower lowest"], { vocabularySize: 260, specialTokens: ["<|endoftext|>"] });
 * definition.model.merges   // ["l o", "lo w", "Ġ low"]
 */
export function trainTokenizer(
  texts: Iterable<string>,
  options: { vocabularySize: number; specialTokens?: readonly string[]; minimumCount?: number },
): TokenizerDefinition {
  checkOptions("trainTokenizer", options, {
    vocabularySize: "a whole number from 1",
    specialTokens: "a list of strings",
    minimumCount: "a whole number from 1",
  });
  const { vocabularySize, specialTokens = [], minimumCount = 2 } = options;
  const operation = "trainTokenizer";
  requireKind(operation, "a list", { specialTokens });
  checkSizes(vocabularySize, specialTokens, minimumCount);
  requireKind(operation, "a list or another iterable", { texts });
  const letters = byteLetters();
  // Ids follow the order of the letters, not of the bytes, as in every tokenizer.json that Hugging Face's trainer writes.
  const alphabet = [...letters].sort();
  const tokens = [...specialTokens, ...alphabet];
  const idOfByte = letters.map((letter) => specialTokens.length + alphabet.indexOf(letter));
  const corpus = countWords(texts, idOfByte);
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const merges: string[] = [];
  const pairs = new PairCounts(corpus);
  while (tokens.length < vocabularySize) {
    const best = pairs.popMostFrequent();
    if (best === undefined || best.count < minimumCount) break;
    const [left, right] = [tokens[best.left] as string, tokens[best.right] as string];
    const token = left + right;
    const id = ids.get(token) ?? tokens.push(token) - 1; // a special token may be a word of the text
    ids.set(token, id);
    pairs.join(best.left, best.right, id);
    merges.push(`${left} ${right}`);
  }
  return byteLevelDefinition({
    vocab: Object.fromEntries(ids),
    merges,
    specialTokens: specialTokens.map((content, id) => ({ content, id })),
  });
}

/**
 * The tokenizer_config.json that goes with a trained tokenizer.json, as transformers reads it.
 *
 * @param names.maximumLength tokens that the model was made for
 */
export function tokenizerConfig(names: {
  bosToken?: string;
  eosToken?: string;
  padToken?: string;
  maximumLength?: number;
}): TokenizerConfig {
  checkOptions("tokenizerConfig", names, {
    bosToken: "a string",
    eosToken: "a string",
    padToken: "a string",
    maximumLength: "a number above 0",
  });
  return {
    tokenizer_class: "PreTrainedTokenizerFast",
    clean_up_tokenization_spaces: false,
    add_prefix_space: false,
    ...(names.bosToken === undefined ? {} : { bos_token: names.bosToken }),
    ...(names.eosToken === undefined ? {} : { eos_token: names.eosToken }),
    ...(names.padToken === undefined ? {} : { pad_token: names.padToken }),
    ...(names.maximumLength === undefined ? {} : { model_max_length: names.maximumLength }),
  };
}

/**
 * Writes tokenizer.json and tokenizer_config.json into a folder, which is made when absent.
 *
 * @throws {ConfigError} when the folder cannot be written; nothing is half-written then
 */
export async function saveTokenizer(
  folder: FolderTarget,
  tokenizer: { definition: TokenizerDefinition; config: TokenizerConfig },
): Promise<void> {
  requireKind("saveTokenizer", "an object", { tokenizer });
  requireKind("saveTokenizer", "an object", { definition: tokenizer.definition, config: tokenizer.config });
  const target = await openTarget(folder, "saveTokenizer");
  const files = new Map([
    ["tokenizer.json", `${JSON.stringify(tokenizer.definition, null, 1)}\n`],
    ["tokenizer_config.json", `${JSON.stringify(tokenizer.config, null, 2)}\n`],
  ]);
  await under("saveTokenizer", () => target.write(files));
}

function checkSizes(vocabularySize: number, specialTokens: readonly string[], minimumCount: number): void {
  const operation = "trainTokenizer";
  const least = byteCount + specialTokens.length;
  if (!Number.isInteger(vocabularySize) || vocabularySize < least) {
    throw new ConfigError(`\`vocabularySize\` (= ${vocabularySize}) must be an integer of at least ${least}.`, {
      operation,
      expected: least,
      got: vocabularySize,
      hint: `The 256 bytes and ${specialTokens.length} special tokens are always in it.`,
    });
  }
  const wrong = specialTokens.find((token, i) => token.length < 2 || specialTokens.indexOf(token) !== i);
  if (wrong !== undefined) {
    throw new ConfigError(`special token "${wrong}" is given twice or has fewer than two characters.`, { operation, got: wrong });
  }
  if (!(minimumCount >= 1)) {
    throw new ConfigError(`\`minimumCount\` (= ${minimumCount}) must be at least 1.`, { operation, got: minimumCount });
  }
}

/** Different words as token ids, and how often each stands in the texts. */
interface WordCounts {
  readonly words: number[][];
  readonly counts: readonly number[];
}

function countWords(texts: Iterable<string>, idOfByte: readonly number[]): WordCounts {
  const counts = new Map<string, number>();
  for (const text of texts) {
    requireKind("trainTokenizer", "a string", { text });
    for (const word of text.match(words) ?? []) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  if (counts.size === 0) {
    throw new FormatError("there is no text to learn from.", {
      operation: "trainTokenizer",
      hint: "Give at least one text that is not empty.",
    });
  }
  const encoder = new TextEncoder();
  return {
    words: Array.from(counts.keys(), (word) => Array.from(encoder.encode(word), (byte) => idOfByte[byte] as number)),
    counts: [...counts.values()],
  };
}

/** Two ids in one number; ids stay below 2²⁶, so that the key is exact and keys order as pairs do. */
const pairBase = 2 ** 26;

/**
 * How often each pair of neighbours stands in the texts, kept up to date while pairs are joined.
 * A join touches only the words that hold the pair. The heap keeps old entries: one whose count has gone down since is put back
 * with its true count when it comes to the top. A count only goes up for pairs with the token just joined, which are put in anew.
 */
class PairCounts {
  readonly #corpus: WordCounts;
  readonly #counts = new Map<number, number>();
  /** Words that hold a pair, or did. */
  readonly #places = new Map<number, number[]>();
  readonly #heap = new PairHeap();

  constructor(corpus: WordCounts) {
    this.#corpus = corpus;
    corpus.words.forEach((word, i) => {
      this.#count(word, i, 1);
    });
    for (const [pair, count] of this.#counts) this.#heap.push(count, pair);
  }

  popMostFrequent(): { left: number; right: number; count: number } | undefined {
    for (;;) {
      const top = this.#heap.pop();
      if (top === undefined) return undefined;
      const count = this.#counts.get(top.pair) ?? 0;
      if (count === top.count) return { left: Math.floor(top.pair / pairBase), right: top.pair % pairBase, count };
      if (count > 0) this.#heap.push(count, top.pair);
    }
  }

  /** Puts token `joined` for every `left` `right`, leftmost first. */
  join(left: number, right: number, joined: number): void {
    const pair = left * pairBase + right;
    for (const i of this.#places.get(pair) ?? []) {
      const word = this.#corpus.words[i] as number[];
      this.#count(word, i, -1);
      let length = 0;
      for (let at = 0; at < word.length; at++) {
        const found = word[at] === left && word[at + 1] === right;
        word[length++] = found ? joined : (word[at] as number);
        if (found) at++;
      }
      word.length = length;
      this.#count(word, i, 1, joined);
    }
    this.#places.delete(pair);
    for (const fresh of this.#fresh) this.#heap.push(this.#counts.get(fresh) ?? 0, fresh);
    this.#fresh.clear();
  }

  /** Pairs with the token of the running join: theirs are the counts that may have gone up. */
  readonly #fresh = new Set<number>();

  #count(word: readonly number[], place: number, sign: 1 | -1, joined = -1): void {
    const change = sign * (this.#corpus.counts[place] as number);
    for (let at = 0; at + 1 < word.length; at++) {
      const [left, right] = [word[at] as number, word[at + 1] as number];
      const pair = left * pairBase + right;
      this.#counts.set(pair, (this.#counts.get(pair) ?? 0) + change);
      if (sign < 0) continue;
      if (left === joined || right === joined) this.#fresh.add(pair);
      else if (joined >= 0) continue; // an old pair: the word is among its places already
      const places = this.#places.get(pair);
      if (places === undefined) this.#places.set(pair, [place]);
      else if (places.at(-1) !== place) places.push(place);
    }
  }
}

/** A binary heap: the larger count first, then the smaller pair. */
class PairHeap {
  readonly #counts: number[] = [];
  readonly #pairs: number[] = [];

  push(count: number, pair: number): void {
    let at = this.#counts.length;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#before(count, pair, parent)) break;
      this.#move(parent, at);
      at = parent;
    }
    this.#counts[at] = count;
    this.#pairs[at] = pair;
  }

  pop(): { count: number; pair: number } | undefined {
    const [count, pair] = [this.#counts[0], this.#pairs[0]];
    const [lastCount, lastPair] = [this.#counts.pop(), this.#pairs.pop()];
    if (count === undefined || pair === undefined || lastCount === undefined || lastPair === undefined) return undefined;
    const size = this.#counts.length;
    if (size === 0) return { count, pair };
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= size) break;
      if (child + 1 < size && this.#before(this.#counts[child + 1]!, this.#pairs[child + 1]!, child)) child++;
      if (this.#before(lastCount, lastPair, child)) break;
      this.#move(child, at);
      at = child;
    }
    this.#counts[at] = lastCount;
    this.#pairs[at] = lastPair;
    return { count, pair };
  }

  #before(count: number, pair: number, at: number): boolean {
    return count === this.#counts[at]! ? pair < this.#pairs[at]! : count > this.#counts[at]!;
  }

  #move(from: number, to: number): void {
    this.#counts[to] = this.#counts[from]!;
    this.#pairs[to] = this.#pairs[from]!;
  }
}
