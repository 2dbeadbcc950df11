/** Vectors in place of words, and keys and values in front of a text: what prompt and prefix tuning stand on. */
import { expect, test } from "vitest";
import { compile } from "../../src/compile/trace.ts";
import { ConfigError, DTypeError, ShapeError } from "../../src/errors.ts";
import { add, mul } from "../../src/graph/elementwise.ts";
import { permute, sliceAxis } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { reduceSum } from "../../src/graph/reduction.ts";
import { constant } from "../../src/graph/source.ts";
import type { KeyValueCache } from "../../src/models/cache.ts";
import type { Backbone, CausalLM, PastLayer } from "../../src/models/causal-lm.ts";
import type { ConfigJson } from "../../src/models/config-reader.ts";
import { createModel } from "../../src/models/create-model.ts";
import type { Seq2SeqLM } from "../../src/models/seq2seq-lm.ts";
import type { Task } from "../../src/models/task.ts";
import { normal } from "../../src/nn/init.ts";
import { type Module, Parameter } from "../../src/nn/module.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import { attach, prefixTuning, promptTuning } from "../../src/peft/index.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { distance, integers, onReference, randn, values } from "../nn/tensors.ts";
import { answeringConfigs, decoderConfigs, encoderConfigs, t5Config } from "./configs.ts";

type Reader = Module & {
  readonly backbone: Backbone;
  forward(inputs: Readonly<Record<string, unknown>>): { readonly logits: Tensor };
};

function made<Model = Reader>(type: string, json: ConfigJson, task?: Task): Model {
  manualSeed(1);
  const model = createModel({ model_type: type, ...json }, { init: normal({ std: 0.3 }), ...(task && { task }) });
  return model as unknown as Model;
}

const row = (list: readonly number[]) => integers([...list], [1, list.length]);
// none of padding in any of the models
const tokens = [3, 7, 4, 7, 5, 9];

let drawings = 0;
const drawn = (shape: readonly number[]) => {
  const x = randn(shape, ++drawings);
  return Parameter.from(Float32Array.from(values(x)), shape);
};

/** Keys and values of all layers, while `body` runs with a cache that keeps nothing. */
function seenBy(body: (cache: KeyValueCache) => unknown): PastLayer[] {
  const past: PastLayer[] = [];
  const byHead = (x: Tensor) => permute(x, [0, 2, 1, 3]);
  const append = (mask: Tensor) => ({
    mask,
    offset: constant(0, [], "int32"),
    positions: integers([0, 1, 2, 3, 4, 5].slice(0, mask.shape[1]), mask.shape),
    writes: [],
    write(layer: number, keys: Tensor, values: Tensor) {
      past[layer] = { keys: byHead(keys), values: byHead(values) };
      return { keys, values };
    },
    commit: () => undefined,
  });
  body({ batch: 1, size: 6, reach: { value: 6 }, append } as unknown as KeyValueCache);
  return past;
}

onReference("virtual tokens", () => {
  const readers: readonly (readonly [string, ConfigJson, Task | undefined])[] = [
    ...Object.entries(decoderConfigs).map(([type, json]) => [type, json, undefined] as const),
    ...Object.entries(encoderConfigs).map(([type, json]) => [type, json, "SequenceClassification"] as const),
    ["gpt2", { ...decoderConfigs["gpt2"], pad_token_id: 0 }, "SequenceClassification"],
    ...Object.entries(answeringConfigs).map(([type, json]) => [type, json, "Seq2SeqLM"] as const),
  ];
  test.each(readers)("%s reads the vectors of words as it reads the words", (type, json, task) => {
    const model = made(type, json, task);
    const inputIds = row(tokens);
    const more = type in answeringConfigs ? { decoderInputIds: row([7, 8]) } : {};
    const inputsEmbeds = model.backbone.wordEmbedding.forward(inputIds);
    expect(distance(model.forward({ inputsEmbeds, ...more }).logits, model.forward({ inputIds, ...more }).logits)).toBe(0);
    if (!(type in answeringConfigs)) return;
    const decoderInputsEmbeds = model.backbone.wordEmbedding.forward(more.decoderInputIds!);
    expect(distance(model.forward({ inputIds, decoderInputsEmbeds }).logits, model.forward({ inputIds, ...more }).logits)).toBe(
      0,
    );
  });

  const recurrent = ["lfm2", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"];
  test.each(recurrent)("%s has no use for keys and values in front, and says so", (type) => {
    const model = made<CausalLM & Reader>(type, decoderConfigs[type]!);
    const { layers, heads, headDim } = model.backbone.sizes;
    const part = { keys: randn([1, heads, 2, headDim]), values: randn([1, heads, 2, headDim]) };
    const told = `layers of ${type} carry a recurrent state, which keys and values of virtual tokens cannot replace.`;
    expect(() => model.forward({ inputIds: row(tokens), past: new Array(layers).fill(part) })).toThrow(`${type}: ${told}`);
    expect(() => attach(model, prefixTuning({ numVirtualTokens: 2 }))).toThrow(`attach: ${told}`);
    attach(model, promptTuning({ numVirtualTokens: 2, tokenizerNameOrPath: null }));
    const { logits } = model.forward({ inputIds: row(tokens) });
    const want = sliceAxis(logits, 1, 2, 8);
    const cache = model.createCache(1, 8);
    for (let again = 0; again < 2; again++) {
      cache.reset();
      expect(distance(model.forward({ inputIds: row(tokens), cache }).logits, want)).toBeLessThan(1e-5);
    }
  });

  const attending = Object.keys(decoderConfigs).filter((type) => !recurrent.includes(type));
  test.each(attending)("%s sees keys and values in front as if their tokens were there", (type) => {
    const model = made<CausalLM & Reader>(type, decoderConfigs[type]!);
    const want = sliceAxis(model.forward({ inputIds: row(tokens) }).logits, 1, 2, 6);
    const past = seenBy((cache) => model.forward({ inputIds: row(tokens.slice(0, 2)), cache }));
    const rest = row(tokens.slice(2));
    expect(distance(model.forward({ inputIds: rest, past }).logits, want)).toBeLessThan(1e-5);
    expect(distance(model.forward({ inputIds: rest, past, attentionMask: row([1, 1, 1, 1]) }).logits, want)).toBeLessThan(1e-5);
    const [given, begun] = [model.createCache(1, 8), model.createCache(1, 8)];
    expect(distance(model.forward({ inputIds: rest, past, cache: given }).logits, want)).toBeLessThan(1e-5);
    begun.begin(past);
    expect(distance(model.forward({ inputIds: rest, cache: begun }).logits, want)).toBeLessThan(1e-5);
    const next = [given, begun].map((cache) => model.forward({ inputIds: row([2]), cache }).logits);
    expect(distance(next[0]!, next[1]!)).toBeLessThan(1e-6);
    expect(distance(next[0]!, sliceAxis(model.forward({ inputIds: row([...tokens, 2]) }).logits, 1, 6, 7))).toBeLessThan(1e-5);
  });

  test("padding between virtual tokens and the text is not seen and has no position", () => {
    const model = made<CausalLM>("llama", decoderConfigs["llama"]!);
    const past = seenBy((cache) => model.forward({ inputIds: row([3, 1]), cache }));
    const plain = model.forward({ inputIds: row([4, 5]), past }).logits;
    const padded = model.forward({ inputIds: row([0, 0, 4, 5]), past, attentionMask: row([0, 0, 1, 1]) }).logits;
    expect(distance(sliceAxis(padded, 1, 2, 4), plain)).toBeLessThan(1e-5);
  });

  test("T5's decoder sees keys and values in front as if their tokens were there", () => {
    const model = made("t5", t5Config, "Seq2SeqLM");
    const inputIds = row([4, 5, 6]);
    const want = sliceAxis(model.forward({ inputIds, decoderInputIds: row(tokens) }).logits, 1, 2, 6);
    const writer = (model as unknown as Seq2SeqLM).answering(1, 3);
    writer.read({ inputIds });
    const past = seenBy((cache) => writer.forward({ inputIds: row(tokens.slice(0, 2)), cache }));
    const rest = { decoderInputIds: row(tokens.slice(2)), past };
    expect(distance(model.forward({ inputIds, ...rest }).logits, want)).toBeLessThan(1e-5);
    expect(distance(model.forward({ inputIds, ...rest, decoderAttentionMask: row([1, 1, 1, 1]) }).logits, want)).toBeLessThan(
      1e-5,
    );
  });

  test.each(["llama", "gpt2"])("%s: the loss has a derivative with respect to keys, values and vectors", (type) => {
    const model = made<CausalLM & { backbone: Backbone }>(type, decoderConfigs[type]!);
    const { layers, heads, headDim, width } = model.backbone.sizes;
    const inputsEmbeds = drawn([1, 3, width]);
    const keys = Array.from({ length: layers }, () => drawn([1, heads, 2, headDim]));
    const loss = (change?: { readonly of: Parameter; readonly by: Tensor }) => {
      const value = (x: Parameter) => (change?.of === x ? add(x.value, change.by) : x.value);
      const past = keys.map((key) => ({ keys: value(key), values: value(key) }));
      return model.forward({ inputsEmbeds: value(inputsEmbeds), past, labels: row([1, 2, 3]) }).loss!;
    };
    const all = [inputsEmbeds, ...keys];
    const gradients = gradientsOf(loss(), all);
    for (const of of all) {
      const direction = randn(of.shape);
      const step = 1e-2;
      const at = (h: number) => values(loss({ of, by: mul(direction, constant(h, [], "float32")) }))[0]!;
      const slope = values(reduceSum(mul(gradients.get(of)!, direction), [...of.shape.keys()]))[0]!;
      expect(slope).toBeCloseTo((at(step) - at(-step)) / (2 * step), 3);
      expect(Math.abs(slope)).toBeGreaterThan(1e-3);
    }
  });

  test("a compiled step with a cache goes on behind virtual tokens", () => {
    const model = made<CausalLM>("gpt2", decoderConfigs["gpt2"]!);
    const past = seenBy((cache) => model.forward({ inputIds: row([3, 1]), cache }));
    const cache = model.createCache(1, 8);
    cache.begin(past);
    const step = compile((inputIds: Tensor) => model.forward({ inputIds, cache }).logits);
    const want = model.forward({ inputIds: row([3, 1, 4, 5]) }).logits;
    for (const [i, token] of [4, 5].entries())
      expect(distance(step(row([token])), sliceAxis(want, 1, 2 + i, 3 + i))).toBeLessThan(1e-5);
    step.dispose();
  });

  test("what does not fit is refused by name", () => {
    const model = made<CausalLM>("llama", decoderConfigs["llama"]!);
    const [inputIds, vectors] = [row([1, 2]), randn([1, 2, 16])];
    const part = { keys: randn([1, 2, 3, 4]), values: randn([1, 2, 3, 4]) };
    const refused = (inputs: object, kind: unknown, message: string) => {
      expect(() => model.forward(inputs as never)).toThrow(message);
      expect(() => model.forward(inputs as never)).toThrow(kind as never);
    };
    refused({}, ConfigError, "llama: neither `inputIds` nor `inputsEmbeds` are given. Give one of them.");
    refused({ inputIds, inputsEmbeds: vectors }, ConfigError, "llama: both `inputIds` and `inputsEmbeds` are given.");
    refused({ inputsEmbeds: randn([1, 2, 5]) }, ShapeError, "`inputsEmbeds` is [1, 2, 5], it should be [batch, time, 16].");
    refused({ inputsEmbeds: integers([1], [1, 1, 1]) }, ShapeError, "it should be [batch, time, 16]");
    refused({ inputsEmbeds: constant(1, [1, 1, 16], "int32") }, DTypeError, "`inputsEmbeds` holds vectors, got int32.");
    refused({ inputsEmbeds: vectors, labels: row([1]) }, ShapeError, "`labels` is [1, 1], `inputsEmbeds` is [1, 2, 16].");
    refused({ inputIds, past: [part] }, ShapeError, "`past` is of 1 layers, the model has 2.");
    refused(
      { inputIds, past: [part, { ...part, values: randn([1, 2, 2, 4]) }] },
      ShapeError,
      "the values of `past` in layer 1 are [1, 2, 2, 4], not [1, 2, 3, 4].",
    );
    expect(() => model.createCache(1, 8).begin([part])).toThrow("a past of 1 times [1, 2, 3, 4] does not fit.");
    const distil = made("distilbert", encoderConfigs.distilbert, "MaskedLM");
    const own = { keys: randn([1, 3, 1, 4]), values: randn([1, 3, 1, 4]) };
    expect(() => distil.forward({ inputIds, past: [own, own] })).toThrow("this model does not take `past`.");
    const short = made<CausalLM>("gpt2", decoderConfigs["gpt2"]!);
    const long = { keys: randn([1, 4, 15, 4]), values: randn([1, 4, 15, 4]) };
    expect(() => short.forward({ inputIds, past: [long, long] })).toThrow("17 tokens are more than the 16 positions");
  });
});
