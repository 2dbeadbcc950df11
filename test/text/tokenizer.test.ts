import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as huggingFace from "@huggingface/tokenizers";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FormatError } from "../../src/errors.ts";
import { loadTokenizer } from "../../src/text/load-tokenizer.ts";
import { StreamingDecoder, Tokenizer, type TokenizerDefinition } from "../../src/text/tokenizer.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const folder = new URL("../fixtures/tokenizers/", import.meta.url).pathname;
const readJson = (path: string) => JSON.parse(readFileSync(path, "utf8"));
const definitionOf = (name: string): TokenizerDefinition => readJson(`${folder}${name}/tokenizer.json`);
const names = ["bpe_gpt2", "bpe_llama3", "wordpiece_bert", "unigram_t5", "bpe_llama2_byte_fallback"] as const;

interface Cases {
  cases: { text: string; ids: number[]; ids_no_special: number[]; decoded: string; decoded_with_special: string }[];
  pairs?: { a: string; b: string; ids: number[]; type_ids: number[] }[];
}

/** The library without our changes. */
const plain = (definition: object): { encode(text: string, options: object): { ids: number[] } } =>
  // biome-ignore lint/suspicious/noExplicitAny: its declarations are empty under "nodenext"
  new (huggingFace as any).Tokenizer(definition, {});

const words = [
  "the",
  " sea",
  "Ahab",
  " ",
  "  ",
  "\n",
  "\n\n",
  "don't",
  "1851",
  "—",
  "☃",
  "é",
  "日本",
  "<s>",
  "<|endoftext|>",
  "</s>",
];
const someText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 60 }),
  fc.array(fc.constantFrom(...words), { maxLength: 120 }).map((parts) => parts.join("")),
);

it("added tokens that are words of their own are not looked for inside of words", () => {
  const { added_tokens: more, cases } = readJson(new URL("../fixtures/single-word.json", import.meta.url).pathname) as {
    added_tokens: NonNullable<TokenizerDefinition["added_tokens"]>;
    cases: Cases["cases"];
  };
  const definition = definitionOf("bpe_gpt2");
  const tokenizer = new Tokenizer({ ...definition, added_tokens: [...(definition.added_tokens ?? []), ...more] });
  for (const { text, ids } of cases) {
    expect([...tokenizer.encode(text)], text).toEqual(ids);
    expect([...tokenizer.encodeWithOffsets(text).ids], text).toEqual(ids);
  }
});

it("places are told of a text of any length", () => {
  const { offsets } = new Tokenizer(definitionOf("wordpiece_bert")).encodeWithOffsets("a ".repeat(130_000), {
    addSpecialTokens: false,
  });
  expect(offsets).toHaveLength(130_000);
  expect(offsets.at(-1)).toEqual([259_998, 259_999]);
});

describe.each(names)("%s", (name) => {
  const { cases, pairs = [] }: Cases = readJson(`${folder}${name}/cases.json`);
  const tokenizer = new Tokenizer(definitionOf(name));

  it("encodes and decodes as Hugging Face's tokenizers does", () => {
    for (const { text, ids, ids_no_special, decoded, decoded_with_special } of cases) {
      expect([...tokenizer.encode(text)], text).toEqual(ids);
      expect([...tokenizer.encode(text, { addSpecialTokens: false })], text).toEqual(ids_no_special);
      expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(decoded);
      expect(tokenizer.decode(ids)).toBe(decoded_with_special);
    }
  });

  it("encodes pairs of texts, and says which text a token is from", () => {
    for (const { a, b, ids, type_ids } of pairs) {
      const pair = tokenizer.encodePair(a, b);
      expect([...pair.ids]).toEqual(ids);
      expect([...pair.typeIds]).toEqual(type_ids);
    }
  });

  it("gives the same ids with remembered and cut pieces as the library gives without", () => {
    const library = plain(definitionOf(name));
    fc.assert(
      fc.property(someText, fc.boolean(), (text, addSpecialTokens) => {
        const expected = library.encode(text, { add_special_tokens: addSpecialTokens }).ids;
        expect([...tokenizer.encode(text, { addSpecialTokens })]).toEqual(expected);
      }),
      { numRuns: 150 },
    );
  });

  it("gives the same ids for a long text as the library", () => {
    const book = readFileSync(new URL("../../package-lock.json", import.meta.url), "utf8").slice(0, 30_000);
    expect([...tokenizer.encode(book)]).toEqual(plain(definitionOf(name)).encode(book, {}).ids);
  });

  it("encodes a megabyte in seconds", () => {
    const text = cases.map(({ text }) => text).join(" and so on, and so on;\n");
    const megabyte = text.repeat(Math.ceil(1e6 / text.length));
    const begin = process.cpuUsage(); // not the clock: other programs may have the core
    expect(tokenizer.encode(megabyte).length).toBeGreaterThan(1e5);
    expect(process.cpuUsage(begin).user / 1000).toBeLessThan(10_000); // 0.3 to 0.9 s on an idle core
  });

  it("streams the same text that it decodes at once", () => {
    fc.assert(
      fc.property(someText, (text) => {
        const ids = tokenizer.encode(text, { addSpecialTokens: false });
        const stream = tokenizer.stream();
        const pieces = [...ids].map((id) => stream.push(id));
        // WordPiece closes up punctuation looking at both sides, so that its pieces need not add up to the letter.
        if (name !== "wordpiece_bert") expect(pieces.join("") + stream.flush()).toBe(tokenizer.decode(ids));
      }),
      { numRuns: 100 },
    );
  });

  it("gives nothing for no ids and for ids past the vocabulary", () => {
    expect(tokenizer.decode([])).toBe("");
    expect(tokenizer.decode([tokenizer.vocabularySize + 5])).toBe("");
    expect(tokenizer.tokenOf(tokenizer.vocabularySize - 1)).toBeDefined();
  });
});

describe("StreamingDecoder", () => {
  it("never shows half of a character", () => {
    const tokenizer = new Tokenizer(definitionOf("bpe_gpt2"));
    const ids = tokenizer.encode("a☃é日🐳!");
    const stream = tokenizer.stream();
    const pieces = [...ids].map((id) => stream.push(id));
    expect(pieces.length).toBeGreaterThan(6);
    for (const piece of pieces) expect(piece).not.toContain("\uFFFD");
    expect(pieces.filter((piece) => piece !== "")).toEqual(["a", "☃", "é", "日", "🐳", "!"]);
    expect(stream.flush()).toBe("");
  });

  it("shows at the end what never became a character", () => {
    const bytes = (ids: readonly number[]) => new TextDecoder().decode(Uint8Array.from(ids));
    const stream = new StreamingDecoder(bytes);
    expect([0x61, 0xe2, 0x98].map((id) => stream.push(id))).toEqual(["a", "", ""]);
    expect(stream.flush()).toBe("\uFFFD");
    expect(stream.push(0x62)).toBe("b");
  });

  it("adds up for any bytes", () => {
    const bytes = (ids: readonly number[]) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(ids));
    fc.assert(
      fc.property(fc.array(fc.constantFrom(0x61, 0xe2, 0x98, 0x83, 0xf0, 0x9f, 0x90, 0xb3, 0xff)), (ids) => {
        const stream = new StreamingDecoder(bytes);
        expect(ids.map((id) => stream.push(id)).join("") + stream.flush()).toBe(bytes(ids));
      }),
    );
  });

  it("leaves special tokens out when asked to", () => {
    const tokenizer = new Tokenizer(definitionOf("bpe_gpt2"));
    const end = tokenizer.idOf("<|endoftext|>") as number;
    const stream = tokenizer.stream({ skipSpecialTokens: true });
    const shown = [...tokenizer.encode("sea"), end, ...tokenizer.encode("sky")].map((id) => stream.push(id)).join("");
    expect(shown + stream.flush()).toBe("seasky");
  });
});

describe("loadTokenizer", () => {
  const scratch = () => temporaryFolder();

  it("takes a folder, a path and a parsed file", async () => {
    const path = `${folder}bpe_gpt2`;
    const text = "the whale";
    const expected = [...new Tokenizer(definitionOf("bpe_gpt2")).encode(text)];
    for (const source of [path, `${path}/tokenizer.json`, definitionOf("bpe_gpt2")]) {
      expect([...(await loadTokenizer(source)).encode(text)]).toEqual(expected);
    }
  });

  it("reads the special tokens from the files beside it", async () => {
    const path = scratch();
    writeFileSync(join(path, "tokenizer.json"), JSON.stringify(definitionOf("bpe_llama2_byte_fallback")));
    writeFileSync(join(path, "special_tokens_map.json"), JSON.stringify({ bos_token: { content: "<s>" }, pad_token: "<unk>" }));
    writeFileSync(join(path, "tokenizer_config.json"), JSON.stringify({ eos_token: "</s>", chat_template: "{{ x }}" }));
    const tokenizer = await loadTokenizer(path);
    const { bosId, eosId, padId, unknownId, chatTemplate } = tokenizer;
    expect({ bosId, eosId, padId, unknownId, chatTemplate }).toEqual({
      bosId: 1,
      eosId: 2,
      padId: 0,
      unknownId: 0,
      chatTemplate: "{{ x }}",
    });
  });

  it("takes GPT-2's vocab.json and merges.txt", async () => {
    const path = scratch();
    for (const file of ["vocab.json", "merges.txt"]) writeFileSync(join(path, file), readFileSync(`${folder}bpe_gpt2/${file}`));
    const tokenizer = await loadTokenizer(path);
    const { cases }: Cases = readJson(`${folder}bpe_gpt2/cases.json`);
    for (const { text, ids } of cases) expect([...tokenizer.encode(text)]).toEqual(ids);
    expect([tokenizer.bosId, tokenizer.eosId, tokenizer.padId]).toEqual([0, 0, undefined]);
  });

  it("says what is wrong with a path", async () => {
    const path = scratch();
    const message = (source: string) => loadTokenizer(source).catch((error: unknown) => String(error));
    expect(await message(`${path}/none`)).toBe(
      `ConfigError: loadTokenizer: cannot read "${path}/none": it does not exist. Check the spelling, or the folder that a relative path starts from.`,
    );
    expect(await message(path)).toContain(`loadTokenizer: there is no tokenizer.json in "${path}". AutoTokenizer`);
    writeFileSync(join(path, "tokenizer.json"), "{ not json");
    expect(await message(path)).toMatch(/loadTokenizer: .*tokenizer\.json is not JSON: /);
    writeFileSync(join(path, "tokenizer.json"), "version https://git-lfs.github.com/spec/v1\n");
    expect(await message(path)).toContain("is not JSON: it is a Git LFS pointer, not the file.");
    writeFileSync(join(path, "tokenizer.json"), "{}");
    expect(await message(path)).toContain("loadTokenizer: the tokenizer has no `model`. Give the content of a tokenizer.json;");
  });

  it("names the model types that it knows", async () => {
    const wrong = { model: { type: "WordLevel", vocab: { a: 0 } } };
    await expect(loadTokenizer(wrong)).rejects.toThrow(
      'loadTokenizer: model type "WordLevel" is not one of BPE, WordPiece, Unigram.',
    );
    await expect(loadTokenizer(wrong)).rejects.toBeInstanceOf(FormatError);
    const strange = { ...definitionOf("bpe_gpt2"), pre_tokenizer: { type: "Telepathy" } };
    await expect(loadTokenizer(strange)).rejects.toThrow("the tokenizer cannot be used: Unknown PreTokenizer type: Telepathy.");
  });

  it("says which word a vocabulary without unknown token cannot write", async () => {
    const split = { type: "WhitespaceSplit" };
    const model = { type: "WordPiece", vocab: { sea: 0, sky: 1 }, continuing_subword_prefix: "##" };
    const tokenizer = await loadTokenizer({ model, pre_tokenizer: split });
    expect([...tokenizer.encode("sea sky sea")]).toEqual([0, 1, 0]);
    expect(() => tokenizer.encode("sea whale")).toThrow(
      'encode: "whale" is not in the vocabulary, and the tokenizer names no unknown token. Use a tokenizer that covers all bytes',
    );
    expect([...tokenizer.encode("sky")], "an error leaves nothing behind").toEqual([1]);
  });
});
