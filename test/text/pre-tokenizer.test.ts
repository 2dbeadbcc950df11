/** The cases of `pre-tokenizers.json` (test/fixtures/generate/gen_pre_tokenizers.py); `PRE_TOKENIZER_CASES` chooses another file. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { libraryTokenizer, type TokenizerDefinition } from "../../src/text/tokenizer-library.ts";

interface Cases {
  readonly cuts: readonly {
    readonly definition: NonNullable<TokenizerDefinition["pre_tokenizer"]>;
    readonly texts: readonly { readonly text: string; readonly pieces: readonly string[] }[];
  }[];
  readonly bytes: readonly { readonly tokens: readonly string[]; readonly text: string }[];
}

const cases = JSON.parse(
  readFileSync(process.env["PRE_TOKENIZER_CASES"] ?? new URL("../fixtures/pre-tokenizers.json", import.meta.url), "utf8"),
) as Cases;

const made = (parts: object) =>
  libraryTokenizer({ model: { type: "BPE", vocab: { a: 0 }, merges: [], unk_token: null }, ...parts }, {});

test.each(cases.cuts.map((each) => [JSON.stringify(each.definition), each] as const))(
  "%s cuts texts",
  (_, { definition, texts }) => {
    const { pre_tokenizer: pre } = made({ pre_tokenizer: definition });
    expect(texts.length).toBeGreaterThan(4);
    for (const { text, pieces } of texts) expect(pre?.pre_tokenize(text), text).toEqual(pieces);
  },
);

test("tokens of bytes become characters, a byte order mark among them", () => {
  const { decoder } = made({ decoder: { type: "Sequence", decoders: [{ type: "ByteFallback" }, { type: "Fuse" }] } });
  expect(cases.bytes.length).toBeGreaterThan(4);
  for (const { tokens, text } of cases.bytes) expect(decoder?.decode_chain(tokens).join(""), tokens.join("")).toBe(text);
});

test("a space that is put in front of each piece is where the piece begins", () => {
  const steps = [
    { type: "Digits", individual_digits: true },
    { type: "ByteLevel", add_prefix_space: true, use_regex: true },
  ];
  const tokenizer = new Tokenizer({
    model: { type: "BPE", vocab: { Ġ: 0, a: 1, 1: 2 }, merges: [] },
    pre_tokenizer: { type: "Sequence", pretokenizers: steps },
  });
  const { ids, offsets } = tokenizer.encodeWithOffsets("a11 a");
  // as tokenizers 0.23 has them
  expect([...ids]).toEqual([0, 1, 0, 2, 0, 2, 0, 1]);
  expect(offsets).toEqual([
    [0, 1],
    [0, 1],
    [1, 2],
    [1, 2],
    [2, 3],
    [2, 3],
    [3, 4],
    [4, 5],
  ]);
});
