/** BERT's tokenizer in a GGUF file, as llama.cpp's converter writes it, is the one that it was made of. */
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
