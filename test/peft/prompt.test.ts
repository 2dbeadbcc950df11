/** Virtual tokens on models of several kinds: what is filled in, what they start like, what is refused. */
import { beforeAll, describe, expect, it } from "vitest";
import { currentDevice, downloadSync, upload, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { createModel } from "../../src/models/create-model.ts";
import type { ModelByTask, Task } from "../../src/models/task.ts";
import { normal } from "../../src/nn/init.ts";
import {
  type Adapter,
  attach,
  baseStateDict,
  detach,
  lora,
  prefixTuning,
  promptTuning,
  pTuning,
  setActive,
  setScale,
} from "../../src/peft/index.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";

beforeAll(() => void useDevice(createReference()));

const bert = {
  model_type: "bert",
  vocab_size: 23,
  hidden_size: 12,
  intermediate_size: 16,
  num_hidden_layers: 2,
  num_attention_heads: 3,
  max_position_embeddings: 12,
};
const configs = {
  llama: {
    model_type: "llama",
    vocab_size: 23,
    hidden_size: 16,
    intermediate_size: 16,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
  },
  gpt2: { model_type: "gpt2", vocab_size: 23, n_embd: 12, n_layer: 2, n_head: 3, n_positions: 8 },
  bert: { ...bert, num_labels: 3 },
  vit: {
    model_type: "vit",
    hidden_size: 8,
    intermediate_size: 8,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    image_size: 4,
    patch_size: 2,
  },
} as const;
const make = <T extends Task>(name: keyof typeof configs, task: T) =>
  createModel<T>(configs[name], {
    task,
    init: normal({ std: 0.3, generator: new TorchGenerator(1) }),
  }).eval() as unknown as ModelByTask[T];
const int32 = (values: readonly number[], shape: readonly number[]): Tensor =>
  upload(currentDevice(), Int32Array.from(values), shape, "int32");
const values = (x: Tensor): number[] => Array.from(downloadSync(x) as Float32Array);
const table = (adapter: Adapter, model: { namedParameters(): Iterable<[string, { stored: Tensor }]> }): number[] =>
  values(new Map(model.namedParameters()).get(`prompt_encoder.${adapter.name}.embedding.weight`)!.stored);

describe("a config", () => {
  it("is filled from the model: prefixes are as wide as its keys", () => {
    const filled = (adapter: Adapter) => {
      const { tokenDim, numAttentionHeads, numLayers, numTransformerSubmodules } = adapter.config;
      return [tokenDim, numAttentionHeads, numLayers, numTransformerSubmodules];
    };
    expect(filled(attach(make("llama", "CausalLM"), promptTuning({ numVirtualTokens: 2 })))).toEqual([16, 4, 2, 1]);
    const prefix = attach(make("llama", "CausalLM"), prefixTuning({ numVirtualTokens: 2 }));
    expect(filled(prefix)).toEqual([8, 2, 2, 1]);
    expect(prefix.config["encoderHiddenSize"]).toBe(8);
    expect(filled(attach(make("gpt2", "CausalLM"), pTuning({ numVirtualTokens: 2 })))).toEqual([12, 3, 2, 1]);
  });

  it.each([
    ["without a number of tokens", promptTuning(), "`numVirtualTokens` must be given"],
    [
      "with more tokens than positions",
      promptTuning({ numVirtualTokens: 8 }),
      "8 virtual tokens leave no room: the model has 8 positions",
    ],
    [
      "of a model with other vectors",
      promptTuning({ numVirtualTokens: 2, tokenDim: 7 }),
      "vectors of 7 values, the model has 12",
    ],
    [
      "of a model with other layers",
      prefixTuning({ numVirtualTokens: 2, numLayers: 3 }),
      "3 layers and vectors of 12 values, the model has 2 layers and 12",
    ],
  ])("is refused: %s", (_, config, message) => {
    const model = make("gpt2", "CausalLM");
    const before = [...Object.keys(model), ...baseStateDict(model).keys()];
    expect(() => attach(model, config as never)).toThrow(message);
    expect([...Object.keys(model), ...baseStateDict(model).keys()]).toEqual(before);
  });

  it("is refused by a model that reads no text", () => {
    expect(() => attach(make("vit", "ImageClassification"), promptTuning({ numVirtualTokens: 2 }))).toThrow("reads no text");
  });
});

describe("virtual tokens", () => {
  it("start like the words of a text, repeated or cut", () => {
    for (const [count, words] of [
      [5, [3, 9, 3, 9, 3]],
      [1, [3]],
    ] as const) {
      const model = make("gpt2", "CausalLM");
      const config = promptTuning({
        numVirtualTokens: count,
        promptTuningInit: "TEXT",
        promptTuningInitText: "the whale",
        tokenizerNameOrPath: "x",
      });
      const adapter = attach(model, config, { tokenizer: { encode: () => Int32Array.of(3, 9) } });
      expect(table(adapter, model)).toEqual(values(model.backbone.wordEmbedding.forward(int32(words, [count]))));
    }
    const text = promptTuning({ numVirtualTokens: 2, promptTuningInit: "TEXT", promptTuningInitText: "the whale" });
    expect(() => attach(make("gpt2", "CausalLM"), text)).toThrow("Give attach the model's `tokenizer`");
    expect(() => promptTuning({ numVirtualTokens: 2, promptTuningInit: "TEXT" })).toThrow("`promptTuningInitText` must be given");
  });

  it("act one at a time, beside a change of layers, and have no scale", () => {
    const model = make("llama", "CausalLM");
    attach(model, promptTuning({ numVirtualTokens: 2 }));
    attach(model, prefixTuning({ numVirtualTokens: 3 }), { name: "prefix" });
    attach(model, lora({ r: 2, targetModules: ["q_proj"], initLoraWeights: false }), { name: "layers" });
    expect(() => setActive(model, ["default", "prefix"])).toThrow(
      'the adapters "default" and "prefix" all have a prompt of their own',
    );
    expect(() => setScale(model, 0.5)).toThrow("have no scale");
    const inputIds = int32([1, 2, 3], [1, 3]);
    const lengths = ["default", "prefix", "layers"].map((name) => {
      setActive(model, name);
      return model.forward({ inputIds }).logits.shape[1];
    });
    expect(lengths).toEqual([5, 3, 3]);
    setActive(model, "prefix");
    const prefix = values(model.forward({ inputIds }).logits);
    setActive(model, ["prefix", "layers"]);
    expect(values(model.forward({ inputIds }).logits)).not.toEqual(prefix);
  });

  it("leave room behind them", () => {
    const model = make("gpt2", "CausalLM");
    attach(model, promptTuning({ numVirtualTokens: 3 }));
    expect(model.maxLength).toBe(5);
    detach(model);
    expect(model.maxLength).toBe(8);
  });

  it("are not judged, in whatever way labels come", () => {
    const ids = int32([1, 2, 3, 4, 5, 6], [2, 3]);
    const causal = make("gpt2", "CausalLM");
    attach(causal, promptTuning({ numVirtualTokens: 2 }));
    // the first word, which the last virtual token gives, has no target
    const labels = int32([-100, 2, 3, -100, 5, 6], [2, 3]);
    const shifted = int32([2, 3, -100, 5, 6, -100], [2, 3]);
    expect(values(causal.forward({ inputIds: ids, labels }).loss!)).toEqual(
      values(causal.forward({ inputIds: ids, targets: shifted }).loss!),
    );

    const classes = make("bert", "SequenceClassification");
    const { saved } = attach(classes, promptTuning({ numVirtualTokens: 2, taskType: "SEQ_CLS" }));
    expect([...saved.keys()]).toEqual(["classifier"]);
    const output = classes.forward({
      inputIds: ids,
      tokenTypeIds: ids.mul(0),
      attentionMask: int32([1, 1, 1, 1, 1, 0], [2, 3]),
      labels: int32([0, 1], [2]),
    });
    expect([output.logits.shape, output.loss!.shape]).toEqual([[2, 3], []]);

    const tokens = make("bert", "TokenClassification");
    attach(tokens, promptTuning({ numVirtualTokens: 2, taskType: "TOKEN_CLS" }));
    const each = tokens.forward({ inputIds: ids, labels: int32([0, 1, 2, 0, 1, 2], [2, 3]) });
    expect(each.logits.shape).toEqual([2, 5, 3]);
    expect(Number.isFinite(values(each.loss!)[0])).toBe(true);
  });
});
