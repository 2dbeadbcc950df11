import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError, FormatError } from "../../src/errors.ts";
import { saveTokenizer, tokenizerConfig, trainTokenizer } from "../../src/text/bpe-trainer.ts";
import { byteLetters } from "../../src/text/byte-letter.ts";
import { loadCorpus } from "../../src/text/corpora.ts";
import { loadTokenizer } from "../../src/text/load-tokenizer.ts";
import { Tokenizer, type TokenizerDefinition } from "../../src/text/tokenizer.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const merges = (definition: TokenizerDefinition) => definition.model["merges"] as string[];
const vocab = (definition: TokenizerDefinition) => definition.model["vocab"] as Record<string, number>;
const proverb = "the sea the sea the whale and the sea; they see the sea, these three whales. ";

/** What a trainer means: count all pairs anew before each join. */
function slowMerges(text: string, count: number): string[] {
  const letters = byteLetters();
  const order = [...letters].sort();
  const spell = (word: string) => Array.from(new TextEncoder().encode(word), (byte) => letters[byte] as string);
  const words = (text.match(/'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu) ?? []).map(spell);
  const found: string[] = [];
  while (new Set(order).size < 256 + count) {
    const counts = new Map<string, number>();
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) {
        const pair = `${word[i]} ${word[i + 1]}`;
        counts.set(pair, (counts.get(pair) ?? 0) + 1);
      }
    }
    const ids = (pair: string) => pair.split(" ").map((token) => order.indexOf(token));
    const first = ([a, n]: [string, number], [b, m]: [string, number]) => {
      const [[a0 = 0, a1 = 0], [b0 = 0, b1 = 0]] = [ids(a), ids(b)];
      return m - n || a0 - b0 || a1 - b1;
    };
    const best = [...counts].sort(first)[0];
    if (best === undefined || best[1] < 2) break;
    const [left = "", right = ""] = best[0].split(" ");
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) if (word[i] === left && word[i + 1] === right) word.splice(i, 2, left + right);
    }
    order.push(left + right);
    found.push(best[0]);
  }
  return found;
}

/** Encodes with nothing but the merges: always the earliest learned one first. */
function encodeWithMerges(definition: TokenizerDefinition, text: string): number[] {
  const letters = byteLetters();
  const rank = new Map(merges(definition).map((merge, i) => [merge, i]));
  const words = text.match(/'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu) ?? [];
  return words.flatMap((word) => {
    const tokens = Array.from(new TextEncoder().encode(word), (byte) => letters[byte] as string);
    for (;;) {
      let best = -1;
      let bestRank = Number.POSITIVE_INFINITY;
      for (let i = 0; i + 1 < tokens.length; i++) {
        const here = rank.get(`${tokens[i]} ${tokens[i + 1]}`) ?? Number.POSITIVE_INFINITY;
        if (here < bestRank) [best, bestRank] = [i, here];
      }
      if (best < 0) return tokens.map((token) => vocab(definition)[token] as number);
      tokens.splice(best, 2, `${tokens[best]}${tokens[best + 1]}`);
    }
  });
}

describe("trainTokenizer", () => {
  it("joins the most frequent pair first, and of equals the one with the smaller ids", () => {
    // low ×1, " low" ×1, "er" in " lower", "est": l-o and o-w stand 3 times, then lo-w 3, then Ġ-low 2, then nothing twice
    expect(merges(trainTokenizer(["low lower lowest"], { vocabularySize: 300 }))).toEqual(["l o", "lo w", "Ġ low", "Ġlow e"]);
    expect(merges(trainTokenizer(["abab"], { vocabularySize: 300 }))).toEqual(["a b"]);
    expect(merges(trainTokenizer(["cb cb ab ab"], { vocabularySize: 257, minimumCount: 1 }))).toEqual(["a b"]);
  });

  it("counts pairs in runs of one letter as they can be joined", () => {
    expect(merges(trainTokenizer(["aaaaaaaa"], { vocabularySize: 300 }))).toEqual(["a a", "aa aa"]);
  });

  it("learns what counting anew before each join learns", () => {
    expect(merges(trainTokenizer([proverb.repeat(3)], { vocabularySize: 300 }))).toEqual(slowMerges(proverb.repeat(3), 44));
    const text = fc.array(fc.constantFrom("a", "b", "c", " ", "é", "\n", "aa", "ab", " a"), { maxLength: 80 });
    fc.assert(
      fc.property(text, (parts) => {
        fc.pre(parts.length > 0);
        const joined = parts.join("");
        expect(merges(trainTokenizer([joined], { vocabularySize: 270 }))).toEqual(slowMerges(joined, 14));
      }),
      { numRuns: 200 },
    );
  });

  it("joins nothing across documents", () => {
    expect(merges(trainTokenizer(["ab", "ab", "ba"], { vocabularySize: 300 }))).toEqual(["a b"]);
  });

  it("keeps to the vocabulary size: special tokens, 256 bytes, merges", () => {
    for (const vocabularySize of [258, 259, 270, 275]) {
      const definition = trainTokenizer([proverb.repeat(2)], { vocabularySize, specialTokens: ["<|endoftext|>", "<|pad|>"] });
      expect(Object.keys(vocab(definition))).toHaveLength(vocabularySize);
      expect(merges(definition)).toHaveLength(vocabularySize - 258);
      expect(new Tokenizer(definition).vocabularySize).toBe(vocabularySize);
      expect(vocab(definition)).toMatchObject({ "<|endoftext|>": 0, "<|pad|>": 1, "!": 2 });
    }
  });

  it("stops early when no pair stands twice", () => {
    expect(new Tokenizer(trainTokenizer(["abc"], { vocabularySize: 1000 })).vocabularySize).toBe(256);
  });

  it("gives no id twice when the text spells a special token", () => {
    const definition = trainTokenizer(["the the the"], { vocabularySize: 262, specialTokens: ["the"] });
    expect(merges(definition)).toEqual(["h e", "t he", "Ġ the"]);
    const ids = Object.values(vocab(definition)).sort((a, b) => a - b);
    expect(ids).toEqual(Array.from({ length: 259 }, (_, id) => id));
    const tokenizer = new Tokenizer(definition);
    expect(tokenizer.decode(tokenizer.encode("the other bathes"))).toBe("the other bathes");
  });

  it("gives the same file for the same text", () => {
    const options = { vocabularySize: 290, specialTokens: ["<|endoftext|>"] };
    expect(JSON.stringify(trainTokenizer([proverb], options))).toBe(JSON.stringify(trainTokenizer([proverb], options)));
  });

  it("makes tokenizers that give every text back, and that the library reads as we do", () => {
    const definition = trainTokenizer([proverb], { vocabularySize: 290, specialTokens: ["<|endoftext|>"] });
    const tokenizer = new Tokenizer(definition);
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: "binary" }), fc.string(), fc.constantFrom(proverb, "\r\n \t")), (text) => {
        const ids = tokenizer.encode(text);
        expect(tokenizer.decode(ids)).toBe(text);
        expect([...ids]).toEqual(encodeWithMerges(definition, text));
      }),
      { numRuns: 300 },
    );
  });

  it("says what is wrong", () => {
    const specialTokens = ["<|endoftext|>"];
    expect(() => trainTokenizer([proverb], { vocabularySize: 256, specialTokens })).toThrow(
      "trainTokenizer: `vocabularySize` (= 256) must be an integer of at least 257. The 256 bytes and 1 special tokens are always in it.",
    );
    expect(() => trainTokenizer([proverb], { vocabularySize: 300.5 })).toThrow(ConfigError);
    expect(() => trainTokenizer([], { vocabularySize: 300 })).toThrow(
      "trainTokenizer: there is no text to learn from. Give at least one text that is not empty.",
    );
    expect(() => trainTokenizer(["", ""], { vocabularySize: 300 })).toThrow(FormatError);
    expect(() => trainTokenizer([proverb], { vocabularySize: 300, specialTokens: ["<s>", "<s>"] })).toThrow(
      'trainTokenizer: special token "<s>" is given twice or has fewer than two characters.',
    );
    expect(() => trainTokenizer([proverb], { vocabularySize: 300, minimumCount: 0 })).toThrow("`minimumCount` (= 0)");
  });
});

describe("saveTokenizer", () => {
  it("writes a folder that loads", async () => {
    const folder = join(temporaryFolder(), "new", "model");
    const definition = trainTokenizer([proverb], { vocabularySize: 270, specialTokens: ["<|endoftext|>", "<|pad|>"] });
    const config = tokenizerConfig({
      bosToken: "<|endoftext|>",
      eosToken: "<|endoftext|>",
      padToken: "<|pad|>",
      maximumLength: 256,
    });
    await saveTokenizer(folder, { definition, config });
    const tokenizer = await loadTokenizer(folder);
    expect([tokenizer.bosId, tokenizer.eosId, tokenizer.padId, tokenizer.unknownId]).toEqual([0, 0, 1, undefined]);
    expect(tokenizer.config["model_max_length"]).toBe(256);
    expect([...tokenizer.encode(proverb)]).toEqual([...new Tokenizer(definition).encode(proverb)]);
  });
});

describe("the tokenizer of the tiny model", () => {
  const folder = new URL("../../models/tiny/", import.meta.url).pathname;
  it("knows 2048 tokens and gives text back", async () => {
    const tokenizer = await loadTokenizer(folder);
    expect([tokenizer.vocabularySize, tokenizer.bosId, tokenizer.eosId, tokenizer.padId]).toEqual([2048, 0, 0, 1]);
    // The same ids as the Python package `tokenizers` 0.23.3 gives for this file.
    expect([...tokenizer.encode("Call me Ishmael.")]).toEqual(ishmael);
    expect(tokenizer.decode(tokenizer.encode("Call me Ishmael—☃"))).toBe("Call me Ishmael—☃");
  });

  it("is what the training speeches give", async () => {
    const { train } = await loadCorpus("state-of-the-union");
    const texts = train.map(({ text }) => text);
    const definition = trainTokenizer(texts, { vocabularySize: 2048, specialTokens: ["<|endoftext|>", "<|pad|>"] });
    expect(definition).toEqual(JSON.parse(readFileSync(`${folder}tokenizer.json`, "utf8")));
  });
});

const ishmael = [36, 490, 482, 320, 84, 73, 78, 66, 849, 15];
