/** The tokenizers of BERT and T5 in a GGUF file, as llama.cpp's converter writes them, are those that they were made of. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { GgufValue } from "../../src/formats/gguf.ts";
import { ggufTokenizer } from "../../src/text/gguf-tokenizer.ts";

const folder = join(import.meta.dirname, "../fixtures/tokenizers/wordpiece_bert");
const read = (file: string) => JSON.parse(readFileSync(join(folder, file), "utf8"));
const { added_tokens: added, model } = read("tokenizer.json");
const control = new Set<string>(added.map(({ content }: { content: string }) => content));

/** What `BertModel.set_vocab` of convert_hf_to_gguf writes of a vocabulary. */
function written(vocab: Readonly<Record<string, number>>, more: Readonly<Record<string, GgufValue>> = {}) {
  const tokens = Object.entries(vocab).sort(([, a], [, b]) => a - b);
  const phantom = (token: string) => (control.has(token) ? token : token.startsWith("##") ? token.slice(2) : `▁${token}`);
  const metadata = new Map<string, GgufValue>(
    Object.entries({
      "general.architecture": "bert",
      "tokenizer.ggml.model": "bert",
      "tokenizer.ggml.tokens": tokens.map(([token]) => phantom(token)),
      "tokenizer.ggml.token_type": tokens.map(([token]) => (control.has(token) ? 3 : 1)),
      "tokenizer.ggml.unknown_token_id": vocab["[UNK]"]!,
      "tokenizer.ggml.seperator_token_id": vocab["[SEP]"]!,
      "tokenizer.ggml.padding_token_id": vocab["[PAD]"]!,
      "tokenizer.ggml.cls_token_id": vocab["[CLS]"]!,
      "tokenizer.ggml.mask_token_id": vocab["[MASK]"]!,
      ...more,
    }),
  );
  return ggufTokenizer({ source: "bert.gguf", version: 3, metadata, tensors: new Map() });
}

describe("WordPiece", () => {
  test.each(read("cases.json").cases as { text: string; ids: number[]; ids_no_special: number[]; decoded: string }[])(
    "reads $text as the tokenizers library does",
    ({ text, ids, ids_no_special: plain, decoded }) => {
      const tokenizer = written(model.vocab);
      expect([...tokenizer.encode(text)]).toEqual(ids);
      expect([...tokenizer.encode(text, { addSpecialTokens: false })]).toEqual(plain);
      expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(decoded);
    },
  );

  test("has small letters only where the vocabulary has no others", () => {
    const cased = written({ ...model.vocab, Hello: Object.keys(model.vocab).length });
    expect([...cased.encode("Hello", { addSpecialTokens: false })]).toEqual([Object.keys(model.vocab).length]);
    const small = written(model.vocab);
    expect(small.encode("HELLO")).toEqual(small.encode("hello"));
  });

  test("names its special tokens, and leaves out those that the file does not want", () => {
    expect(written(model.vocab).config).toMatchObject({ cls_token: "[CLS]", sep_token: "[SEP]", mask_token: "[MASK]" });
    const bare = written(model.vocab, { "tokenizer.ggml.add_bos_token": false, "tokenizer.ggml.add_sep_token": false });
    expect(bare.encode("hello")).toEqual(bare.encode("hello", { addSpecialTokens: false }));
  });
});

describe("Unigram", () => {
  const t5 = join(folder, "../unigram_t5");
  const original = JSON.parse(readFileSync(join(t5, "tokenizer.json"), "utf8"));
  const vocab: [string, number][] = original.model.vocab;
  const specials = original.added_tokens.map(({ id }: { id: number }) => id);
  /** What `T5Model.set_vocab` of convert_hf_to_gguf writes. */
  const file = (more: Readonly<Record<string, GgufValue>> = {}) => {
    const entries: Record<string, GgufValue> = {
      "general.architecture": "t5",
      "tokenizer.ggml.model": "t5",
      "tokenizer.ggml.tokens": vocab.map(([token]) => token),
      "tokenizer.ggml.scores": vocab.map(([, score]) => score),
      "tokenizer.ggml.token_type": vocab.map((_, id) => (id === 2 ? 2 : specials.includes(id) ? 3 : 1)),
      "tokenizer.ggml.add_space_prefix": true,
      "tokenizer.ggml.remove_extra_whitespaces": false,
      "tokenizer.ggml.eos_token_id": 1,
      "tokenizer.ggml.unknown_token_id": 2,
      "tokenizer.ggml.padding_token_id": 0,
      ...more,
    };
    return ggufTokenizer({ source: "t5.gguf", version: 3, metadata: new Map(Object.entries(entries)), tensors: new Map() });
  };
  const cases: { text: string; ids: number[]; decoded: string }[] = JSON.parse(
    readFileSync(join(t5, "cases.json"), "utf8"),
  ).cases;

  // the original normalises by NFKC, of which a file without a table knows nothing
  test.each(cases.filter(({ text }) => text === text.normalize("NFKC")))(
    "reads $text as the tokenizers library does",
    ({ text, ids, decoded }) => {
      expect([...file().encode(text)]).toEqual(ids);
      expect(file().decode(ids, { skipSpecialTokens: true })).toBe(decoded);
    },
  );

  test("has one space between words, and letters as the table says", () => {
    const clean = file({ "tokenizer.ggml.remove_extra_whitespaces": true, "tokenizer.ggml.precompiled_charsmap": [4, 0, -1, 0] });
    // by tokenizers with WhitespaceSplit before its Metaspace
    expect([...clean.encode("  Hello   world ")]).toEqual([3, 2, 8, 78, 22, 37, 75, 30, 5, 1]);
    expect([...clean.encode("the sea,\n\tthe  land")]).toEqual([19, 24, 8, 9, 10, 19, 82, 18, 5, 1]);
    expect(clean.encode("ｔｈｅ ﬁn")).toEqual(clean.encode("the fin"));
  });

  test("needs a score for each token", () => {
    expect(() => file({ "tokenizer.ggml.scores": [1] })).toThrow(`t5.gguf has ${vocab.length} tokens and 1 scores.`);
  });
});
