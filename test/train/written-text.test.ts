/** Text piece by piece, and where it ends: with the tokenizers of the fixtures and a model that writes what it is told. */
import fc from "fast-check";
import { expect, test } from "vitest";
import type { Tensor } from "../../src/graph/node.ts";
import { KeyValueCache } from "../../src/models/cache.ts";
import type { CausalLM, CausalLMInputs, CausalLMOutput } from "../../src/models/causal-lm.ts";
import { Embedding } from "../../src/nn/embedding.ts";
import { Module } from "../../src/nn/module.ts";
import { loadTokenizer } from "../../src/text/load-tokenizer.ts";
import type { Tokenizer } from "../../src/text/tokenizer.ts";
import { completeText, generateText } from "../../src/train/generation.ts";
import { onReference, tensor } from "../nn/tensors.ts";

const sizes = { modelType: "scripted", width: 1, layers: 0, heads: 1, headDim: 1 };

/** Writes the tokens of a list, one after the other. */
class Scripted extends Module implements CausalLM {
  readonly #script: readonly number[];
  readonly #vocabulary: number;
  #step = 0;

  constructor(script: readonly number[], vocabulary: number) {
    super();
    this.#script = script;
    this.#vocabulary = vocabulary;
  }

  get backbone() {
    return { sizes, wordEmbedding: new Embedding(1, 1) };
  }

  forward(_: CausalLMInputs): CausalLMOutput {
    const row = new Array<number>(this.#vocabulary).fill(0);
    row[this.#script[this.#step++]!] = 1;
    const logits: Tensor = tensor(row, [1, 1, row.length]);
    return { logits, hiddenStates: [] };
  }

  createCache(batch: number, size: number): KeyValueCache {
    return new KeyValueCache(sizes, batch, size);
  }
}

const folder = (name: string) => new URL(`../fixtures/tokenizers/${name}`, import.meta.url).pathname;

async function written(
  tokenizer: Tokenizer,
  prompt: readonly number[],
  script: readonly number[],
  stopStrings: readonly string[],
) {
  const model = new Scripted(script, tokenizer.vocabularySize);
  const options = { maxNewTokens: script.length, stopStrings, compiled: false };
  const [tokens, texts]: [number[], string[]] = [[], []];
  for await (const { token, text } of generateText({ model, tokenizer }, prompt, options)) {
    tokens.push(token);
    texts.push(text);
  }
  return { tokens, text: texts.join(""), texts };
}

const plain = { skipSpecialTokens: true };

onReference("text", () => {
  test.each(["bpe_gpt2", "bpe_llama3", "bpe_llama2_byte_fallback", "unigram_t5"])(
    "of %s: pieces are the decoded whole, and it ends with the first stop string, wherever tokens end",
    async (name) => {
      const tokenizer = await loadTokenizer(folder(name));
      const token = fc.integer({ min: 0, max: tokenizer.vocabularySize - 1 });
      const text = fc.oneof(
        fc.array(token, { minLength: 1, maxLength: 12 }),
        fc.string({ unit: "grapheme", minLength: 1, maxLength: 12 }).map((s) => [...tokenizer.encode(`${s}a`)]),
      );
      await fc.assert(
        fc.asyncProperty(text, text, fc.nat(), fc.integer({ min: 1, max: 4 }), async (prompt, script, from, size) => {
          const [before, all] = [tokenizer.decode(prompt, plain), tokenizer.decode([...prompt, ...script], plain)];
          fc.pre(all.startsWith(before) && !before.endsWith("\uFFFD"));
          const own = all.slice(before.length);
          const whole = await written(tokenizer, prompt, script, []);
          expect(whole.text).toBe(own);
          expect(whole.tokens).toEqual(script);
          // a stop string out of the text, which may begin in the prompt
          const at = Math.max(0, before.length - size + 1) + (own.length ? from % own.length : 0);
          const string = all.slice(at, at + size);
          fc.pre(string.length > 0 && at + size > before.length && !string.includes("\uFFFD"));
          const first = all.indexOf(string, Math.max(0, before.length - string.length + 1));
          // one that the end of the text has cut may lie in the prompt as a whole, which stops nothing
          const end = first < 0 ? all.length : first + string.length;
          const stopped = await written(tokenizer, prompt, script, ["\uE000never", string]);
          expect(before + stopped.text).toBe(all.slice(0, end));
          // one token less does not have it
          const less = tokenizer.decode([...prompt, ...stopped.tokens.slice(0, -1)], plain).replace(/\uFFFD+$/, "");
          expect(less.indexOf(string, Math.max(0, before.length - string.length + 1))).toBe(-1);
        }),
        { numRuns: 25 },
      );
    },
  );

  test("the first of several stop strings ends it, though another one is longer", async () => {
    const tokenizer = await loadTokenizer(folder("bpe_gpt2"));
    const [prompt, script] = [tokenizer.encode("Once"), tokenizer.encode(" upon a time. Then")];
    const text = async (...stops: string[]) => (await written(tokenizer, [...prompt], [...script], stops)).text;
    expect(await text("a t", "upon")).toBe(" upon");
    expect(await text("ime. Th", "e.")).toBe(" upon a time.");
    expect(await text("ce u")).toBe(" u"); // begins in the prompt
    expect(await text("Once")).toBe(" upon a time. Then"); // was there before
  });

  test("bytes that never become a character show at the end; prompts may be texts, defaults come from the model", async () => {
    const tokenizer = await loadTokenizer(folder("bpe_gpt2"));
    const bytes = [...tokenizer.encode("é", { addSpecialTokens: false })];
    const half = bytes.length > 1 ? bytes.slice(0, 1) : [...tokenizer.encode("\u{1F9A9}")].slice(0, 1);
    const { texts } = await written(tokenizer, [...tokenizer.encode("a")], [...tokenizer.encode(" b"), ...half], []);
    expect(texts.at(-1)).toBe("\uFFFD");
    const script = [...tokenizer.encode(" one two three")];
    const model = new Scripted(script, tokenizer.vocabularySize);
    const generation = { maxNewTokens: script.length, stopStrings: ["wo"], compiled: false };
    expect(await completeText({ model, tokenizer, generation }, "zero")).toBe(" one two");
  });
});
