import { describe, expect, test } from "vitest";
import { compile } from "../../src/compile/trace.ts";
import { ConfigError, DTypeError, ShapeError } from "../../src/errors.ts";
import { sliceAxis } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { shiftLabels } from "../../src/models/causal-lm.ts";
import { createModel } from "../../src/models/create-model.ts";
import { LlamaForCausalLM } from "../../src/models/llama.ts";
import { llamaConfig } from "../../src/models/llama-config.ts";
import { crossEntropy } from "../../src/nn/loss.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { onEveryDevice } from "../devices.ts";
import { distance, integers, onReference, tensor, values } from "../nn/tensors.ts";

const json = {
  model_type: "llama",
  vocab_size: 23,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  initializer_range: 0.3,
};

function makeModel(changes: Record<string, unknown> = {}): LlamaForCausalLM {
  manualSeed(1);
  return new LlamaForCausalLM({ ...json, ...changes });
}

const ids = integers.bind(null, [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], [2, 6]);

onEveryDevice(() => {
  describe("LlamaForCausalLM", () => {
    test("names parameters as Hugging Face does; a tied output layer has none of its own", () => {
      const names = [...makeModel({ attention_bias: true }).namedParameters()].map(([name]) => name);
      expect(names.slice(0, 4)).toEqual([
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.k_proj.weight",
      ]);
      expect(names.slice(-2)).toEqual(["model.norm.weight", "lm_head.weight"]);
      expect([...makeModel({ tie_word_embeddings: true }).namedParameters()].map(([name]) => name)).not.toContain(
        "lm_head.weight",
      );
    });

    test("biases that a file asks for are left out where a family has none, as in transformers", () => {
      for (const model_type of ["mistral", "qwen2", "gemma", "phi3"]) {
        const model = createModel({ ...json, model_type, attention_bias: model_type !== "gemma", mlp_bias: true });
        const biases = [...model.namedParameters()].filter(([name]) => name.endsWith("bias"));
        expect(biases.length, model_type).toBe(model_type === "qwen2" ? 6 : 0);
      }
    });

    test("padding on either side changes nothing for the tokens", () => {
      const model = makeModel();
      const plain = model.forward({ inputIds: integers([7, 8, 9], [1, 3]) }).logits;
      const masked = (list: number[], mask: number[]) =>
        model.forward({ inputIds: integers(list, [1, 5]), attentionMask: integers(mask, [1, 5]) }).logits;
      const left = masked([0, 0, 7, 8, 9], [0, 0, 1, 1, 1]);
      const right = masked([7, 8, 9, 0, 0], [1, 1, 1, 0, 0]);
      expect(distance(sliceAxis(left, 1, 2, 5), plain)).toBeLessThan(1e-5);
      expect(distance(sliceAxis(right, 1, 0, 3), plain)).toBeLessThan(1e-5);
    });

    test("positions may be given: those counted from 0 are the default", () => {
      const model = makeModel();
      const inputIds = integers([7, 8, 9], [1, 3]);
      const { logits } = model.forward({ inputIds });
      const at = (positions: number[]) => model.forward({ inputIds, positionIds: integers(positions, [1, 3]) }).logits;
      expect(distance(at([0, 1, 2]), logits)).toBe(0);
      expect(distance(at([5, 6, 7]), logits)).toBeLessThan(1e-4); // rotary positions are relative
      expect(distance(at([0, 2, 4]), logits)).toBeGreaterThan(1e-3);
    });

    test("labels are shifted, targets are not; both give the same loss", () => {
      const model = makeModel();
      const labels = ids();
      const targets = shiftLabels(labels);
      expect(values(targets)).toEqual([1, 4, 1, 5, 9, -100, 6, 5, 3, 5, 8, -100]);
      const { logits, loss } = model.forward({ inputIds: ids(), labels });
      const want = values(crossEntropy(logits, targets))[0]!;
      expect(values(loss!)[0]).toBeCloseTo(want, 5);
      expect(values(model.forward({ inputIds: ids(), targets }).loss!)[0]).toBeCloseTo(want, 5);
    });

    test.each(["compiled", "uncompiled"])("with a cache, piece by piece, it gives what it gives at once; %s", (how) => {
      const model = makeModel();
      const attentionMask = integers([1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1], [2, 6]);
      const want = model.forward({ inputIds: ids(), attentionMask }).logits;
      const cache = model.createCache(2, 8);
      const step = (inputIds: Tensor, mask: Tensor) => model.forward({ inputIds, attentionMask: mask, cache }).logits;
      const run = how === "compiled" ? compile(step) : step;
      for (let round = 0; round < 2; round++) {
        const pieces: [number, number][] = [
          [0, 3],
          [3, 4],
          [4, 6],
        ];
        for (const [from, to] of pieces) {
          const got = run(sliceAxis(ids(), 1, from, to), sliceAxis(attentionMask, 1, from, to));
          for (const row of [0, 1]) {
            if (row === 1 && from === 0) continue; // padding among these
            const part = (x: Tensor) => sliceAxis(x, 0, row, row + 1);
            expect(distance(part(got), part(sliceAxis(want, 1, from, to)))).toBeLessThan(1e-5);
          }
        }
        cache.reset();
      }
    });

    test("logitsToKeep gives the last ones only", () => {
      const model = makeModel();
      const all = model.forward({ inputIds: ids() }).logits;
      expect(distance(model.forward({ inputIds: ids(), logitsToKeep: 2 }).logits, sliceAxis(all, 1, 4, 6))).toBeLessThan(1e-6);
    });

    test("attention dropout acts in training only", () => {
      const model = makeModel({ attention_dropout: 0.5 });
      const run = () => values(model.forward({ inputIds: ids() }).logits);
      expect(run()).toEqual(run());
      model.train();
      expect(run()).not.toEqual(run());
    });
  });
});

onReference("what is refused", () => {
  test("ids, masks and labels that do not fit", () => {
    const model = makeModel();
    const inputIds = ids();
    expect(() => model.forward({ inputIds: integers([1, 2]) })).toThrow("llama: `inputIds` is [2], it should be [batch, time].");
    expect(() => model.forward({ inputIds: integers([], [1, 0]) })).toThrow("llama: `inputIds` [1, 0] holds no token.");
    expect(() => model.forward({ inputIds, labels: integers([1], [1, 1]) })).toThrow(ShapeError);
    expect(() => model.forward({ inputIds, labels: integers([1], [1, 1]) })).toThrow(
      "llama: `labels` is [1, 1], `inputIds` is [2, 6].",
    );
    expect(() => model.forward({ inputIds: tensor([1, 2], [1, 2]) })).toThrow(DTypeError);
    expect(() => model.forward({ inputIds, labels: inputIds, logitsToKeep: 1 })).toThrow(
      "llama: `logitsToKeep` leaves out logits that the loss needs.",
    );
    expect(() => model.forward({ inputIds, cache: model.createCache(2, 4) })).toThrow(
      "KeyValueCache: [2, 6] tokens do not fit a cache of [2, 4].",
    );
  });

  const refused = (changes: Record<string, unknown>) => expect(() => llamaConfig({ ...json, ...changes }));

  test.each([
    [{ hidden_size: undefined }, "llama: `hidden_size` is missing from the configuration."],
    [{ hidden_size: -4 }, "llama: `hidden_size` (= -4) must be a positive integer."],
    [{ model_type: "gpt2" }, 'llama: `model_type` (= "gpt2") must be "llama" here.'],
    [{ num_key_value_heads: 3 }, "llama: `num_key_value_heads` (= 3) must divide num_attention_heads (= 4)."],
    [{ num_attention_heads: 3, num_key_value_heads: 3 }, "must divide hidden_size (= 16). Or give head_dim."],
    [{ head_dim: 5 }, "llama: `head_dim` (= 5) must be even, for rotary embedding."],
    [{ hidden_act: "silly" }, 'activation: there is no activation "silly". Did you mean "silu"?'],
    [{ attention_dropout: 1 }, "llama: `attention_dropout` (= 1) must be below 1."],
    [{ mlp_bias: "yes" }, 'llama: `mlp_bias` (= "yes") must be true or false.'],
    [{ rms_norm_eps: "small" }, 'llama: `rms_norm_eps` (= "small") must be a number from 0.'],
    [{ hidden_act: 3 }, "llama: `hidden_act` (= 3) must be a string."],
    [{ quantization_config: { bits: 4 } }, 'weights quantised as {"bits":4} are not read. Take the checkpoint without'],
    [{ rope_scaling: { type: "proportional", factor: 2 } }, 'llama: rope type "proportional" is not supported.'],
    [{ rope_scaling: { rope_type: "linear" } }, 'llama: `factor` (= null) must be at least 1 for rope type "linear".'],
    [{ rope_scaling: { rope_type: "llama3", factor: 8 } }, '`low_freq_factor` (= null) must be above 0 for rope type "llama3".'],
    [{ rope_parameters: 5 }, "llama: `rope_parameters` (= 5) must be an object."],
    [{ partial_rotary_factor: 0.5 }, "llama: `partial_rotary_factor` (= 0.5) must be 1 for llama."],
  ])("%o", (changes, message) => {
    refused(changes).toThrow(ConfigError);
    refused(changes).toThrow(message);
  });

  test("model types and architectures that there are not", () => {
    expect(() => createModel({ ...json, model_type: "lama" })).toThrow(
      'createModel: `model_type` (= "lama") is not supported. Did you mean "llama"?',
    );
    expect(() => createModel({ ...json, architectures: ["LlamaForMaskedLM"] })).toThrow(
      'architecture "LlamaForMaskedLM" of llama is not supported. There are LlamaForCausalLM, LlamaForQuestionAnswering, LlamaForSequenceClassification, LlamaForTokenClassification.',
    );
  });
});

describe("llamaConfig", () => {
  test("reads older and newer keys alike", () => {
    const scaled = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 32 };
    const older = llamaConfig({ ...json, rope_theta: 5e5, rope_scaling: { type: "llama3", ...scaled } });
    const newer = llamaConfig({ ...json, rope_parameters: { rope_type: "llama3", rope_theta: 5e5, ...scaled } });
    expect(older).toEqual(newer);
    expect(newer.rope).toMatchObject({ ropeType: "llama3", ropeTheta: 5e5, factor: 8 });
    const both = { rope_parameters: { rope_type: "default", rope_theta: 7 } };
    expect(llamaConfig({ ...json, ...both, rope_scaling: { type: "linear", factor: 2 } }).rope.factor).toBe(2);
    expect(llamaConfig({ ...json, ...both, rope_scaling: {} }).rope.ropeTheta).toBe(7);
    expect(llamaConfig({ ...json, rope_scaling: null }).rope).toEqual({ ropeType: "default", ropeTheta: 10000 });
  });
});
