/**
 * Laws of adapters that act on whole models: virtual tokens in front of a text, and adapters on whole attention modules. They hold for every
 * registered method that does not change single layers, on a small model of every family that it fits:
 *
 * - a cache changes nothing: text is continued in the same way with and without it;
 * - detach(attach(M)) = M, and disabled(M) = M;
 * - load(save(adapter)) = adapter, as a function of texts;
 * - an adapter that claims to start at zero changes nothing at first;
 * - merging is refused.
 *
 * @see specs of the methods in src/peft/methods
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { currentDevice, downloadSync, upload } from "../../src/compile/program.ts";
import { memoryFolder } from "../../src/formats/writable-folder.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import { createModel } from "../../src/models/create-model.ts";
import type { Seq2SeqLM } from "../../src/models/seq2seq-lm.ts";
import { type Initializer, normal } from "../../src/nn/init.ts";
import type { Module } from "../../src/nn/module.ts";
import { attach, deleteAdapter, detach, disabled, getAdapter, loadAdapter, merge, saveAdapter } from "../../src/peft/index.ts";
import { type AnyMethod, defineMethod } from "../../src/peft/method.ts";
import { methods } from "../../src/peft/method-registry.ts";
import { promptTuning } from "../../src/peft/methods/prompt-tuning.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { complete } from "../../src/train/generation.ts";
import { drawFrom } from "../arbitrary/adapter.ts";
import { onEveryDevice } from "../devices.ts";

const words = 23;

/** A small model of each family; grouped queries, learned positions, relative positions. */
const families = {
  llama: {
    model_type: "llama",
    vocab_size: words,
    hidden_size: 16,
    intermediate_size: 16,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
  },
  gpt2: { model_type: "gpt2", vocab_size: words, n_embd: 12, n_layer: 2, n_head: 3, n_positions: 24 },
  t5: {
    model_type: "t5",
    vocab_size: words,
    d_model: 12,
    d_kv: 4,
    d_ff: 16,
    num_layers: 3,
    num_heads: 3,
    decoder_start_token_id: 0,
    pad_token_id: 0,
  },
} as const;
type Family = keyof typeof families;
type Model = CausalLM | Seq2SeqLM;

const make = (family: Family, seed: number): Model => {
  const init: Initializer = normal({ std: 0.5, generator: new TorchGenerator(seed) });
  return createModel(families[family], { init, task: family === "t5" ? "Seq2SeqLM" : "CausalLM" }).eval() as Model;
};

interface Case {
  readonly seed: number;
  readonly options: readonly number[];
  /** Of the text. */
  readonly length: number;
}
const cases: fc.Arbitrary<Case> = fc.record({
  seed: fc.nat(0xffff),
  options: fc.array(fc.nat(0xff), { minLength: 6, maxLength: 6 }),
  length: fc.integer({ min: 1, max: 6 }),
});

const numbers = (x: Tensor): number[] => Array.from(downloadSync(x) as Float32Array);
const text = ({ seed, length }: Case): Int32Array => new TorchGenerator(seed + 7).randint(length, 1, words);
const ids = (tokens: ArrayLike<number>): Tensor => upload(currentDevice(), Int32Array.from(tokens), [1, tokens.length], "int32");

/** Logits of a text, or of an answer to it. */
const run = (model: Model, item: Case): number[] => {
  const inputIds = ids(text(item));
  const inputs = "answering" in model ? { inputIds, decoderInputIds: ids([0, 3, 4]) } : { inputIds };
  return numbers((model as CausalLM).forward(inputs).logits);
};

const adapted = (method: AnyMethod, model: Model, { options, seed }: Case, name = "default"): void => {
  attach(model, method(method.samples(drawFrom(options), { in: 12, out: 12 }) as object) as never, { seed, name });
};

/** Fills what training would change. */
function shake(model: Module, seed: number): void {
  const random = new TorchGenerator(seed + 1);
  for (const parameter of model.trainableParameters())
    parameter.assign(
      upload(
        currentDevice(),
        random.normal(Math.max(16, parameter.size), 0, 0.7).slice(0, parameter.size),
        parameter.shape,
        "float32",
      ),
    );
}

const close = (got: readonly number[], want: readonly number[], tolerance = 2e-4): void => {
  expect(got.length).toBe(want.length);
  const worst = want.reduce((most, value, i) => Math.max(most, Math.abs(value - got[i]!) / (1 + Math.abs(value))), 0);
  if (!(worst <= tolerance)) throw new Error(`differs by ${worst}`);
};

/** The most likely words, each found by running the whole text again. */
function withoutCache(model: Model, prompt: Int32Array, count: number): { tokens: number[]; margin: number } {
  const [tokens, margins]: [number[], number[]] = [[], []];
  while (tokens.length < count) {
    const inputs =
      "answering" in model
        ? { inputIds: ids(prompt), decoderInputIds: ids([model.startToken, ...tokens]) }
        : { inputIds: ids([...prompt, ...tokens]) };
    const last = numbers((model as CausalLM).forward(inputs).logits).slice(-words);
    const [first, second] = [...last].sort((a, b) => b - a);
    margins.push(first! - second!);
    tokens.push(last.indexOf(first!));
  }
  return { tokens, margin: Math.min(...margins) };
}

async function checkCache(method: AnyMethod, family: Family, item: Case): Promise<void> {
  const model = make(family, item.seed);
  adapted(method, model, item);
  shake(model, item.seed);
  const prompt = text(item);
  const { tokens, margin } = withoutCache(model, prompt, 3);
  fc.pre(margin > 1e-3);
  expect(await complete(model, [...prompt], { temperature: 0, maxNewTokens: 3, compiled: item.seed % 2 === 0 })).toEqual(tokens);
}

async function checkLife(method: AnyMethod, family: Family, item: Case): Promise<void> {
  const model = make(family, item.seed);
  const before = {
    keys: Object.keys(model),
    paths: [...model.namedParameters()].map(([path]) => path),
    logits: run(model, item),
  };
  adapted(method, model, item);
  const fresh = method.startsAtZero?.(getAdapter(model, "default").config);
  if (fresh) close(run(model, item), before.logits);
  expect(model.trainableParameters().length).toBeGreaterThan(0);
  expect(() => merge(model)).toThrow("is not a change of the weight");
  shake(model, item.seed);
  const with_ = run(model, item);
  expect(with_).not.toEqual(before.logits);
  expect(disabled(model, () => run(model, item))).toEqual(before.logits);
  adapted(method, model, { ...item, seed: item.seed + 1 }, "other");
  expect(run(model, item)).toEqual(with_);

  const folder = memoryFolder();
  await saveAdapter(model, folder);
  deleteAdapter(model, "other");
  expect(run(model, item)).toEqual(with_);
  detach(model);
  expect(run(model, item)).toEqual(before.logits);
  expect(Object.keys(model)).toEqual(before.keys);
  expect([...model.namedParameters()].map(([path]) => path)).toEqual(before.paths);
  await loadAdapter(model, folder, { name: "again" });
  close(run(model, item), with_);
}

/** Every method that acts on whole models, with the families that it fits. */
const wholes = (Object.entries(methods) as [string, AnyMethod][])
  .filter(([, method]) => method.prompt || "attention" in method.layers || "block" in method.layers)
  .flatMap(([name, method]) =>
    (Object.keys(families) as Family[])
      .filter((family) => family !== "t5" || (method.prompt && !method.prompt.judge))
      .map((family) => ({ name, method, family })),
  );

onEveryDevice(() => {
  describe.each(wholes)("$name on $family", ({ method, family }) => {
    test("continues a text with a cache as without", () =>
      fc.assert(
        fc.asyncProperty(cases, (item) => checkCache(method, family, item)),
        { numRuns: 1 },
      ));
    test("is refused by merge, saved and loaded as it is, and leaves no trace", () =>
      fc.assert(
        fc.asyncProperty(cases, (item) => checkLife(method, family, item)),
        { numRuns: 1 },
      ));
  });

  describe("the law catches", () => {
    const caught = (change: object, check: typeof checkLife) => {
      const wrong = defineMethod({ ...promptTuning, ...change } as never) as AnyMethod;
      return expect(
        fc.assert(
          fc.asyncProperty(cases, (item) => check(wrong, "gpt2", item)),
          { numRuns: 3, endOnFailure: true },
        ),
      ).rejects.toThrow();
    };
    test("a claim to change nothing", () => caught({ startsAtZero: () => true }, checkLife));
    test("virtual tokens that forget what was trained", () =>
      caught({ prompt: { ...promptTuning.prompt, encoder: encoderThatForgets } }, checkLife));
  });
});

/** Its table is half as large in the file. */
const encoderThatForgets = (config: { readonly numVirtualTokens: number; readonly tokenDim: number }) => {
  let calls = 0;
  return {
    parameters: { prompt_embeddings: { shape: [config.numVirtualTokens, config.tokenDim] } },
    encode: (p: { readonly prompt_embeddings: Tensor }) => (calls++ % 2 ? p.prompt_embeddings.mul(0.5) : p.prompt_embeddings),
  };
};
