/** A small model that reads the text along with the one that it is on. */
import { beforeAll, describe, expect, it } from "vitest";
import { currentDevice, downloadSync, upload, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import { createModel } from "../../src/models/create-model.ts";
import type { Task } from "../../src/models/task.ts";
import { normal } from "../../src/nn/init.ts";
import { crossEntropy } from "../../src/nn/loss.ts";
import { attach, lora, renameAdapter, setActive, shadow } from "../../src/peft/index.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";

beforeAll(() => void useDevice(createReference()));

const llama = {
  ...{ model_type: "llama", vocab_size: 23, hidden_size: 12, intermediate_size: 16 },
  ...{ num_hidden_layers: 3, num_attention_heads: 3, num_key_value_heads: 3 },
};
const make = (config: { readonly model_type: string } = llama, task: Task = "CausalLM") =>
  createModel(config, { task, init: normal({ std: 0.5, generator: new TorchGenerator(1) }) }).eval() as unknown as CausalLM;
const int32 = (values: readonly number[]): Tensor =>
  upload(currentDevice(), Int32Array.from(values), [1, values.length], "int32");
const values = (x: Tensor): number[] => Array.from(downloadSync(x) as Float32Array);
const inputs = () => ({ inputIds: int32([3, 4, 5, 6]), labels: int32([3, 4, 5, 6]) });
const trainable = (model: CausalLM) => [...model.namedParameters()].filter(([, { requiresGrad }]) => requiresGrad);

describe("a shadow", () => {
  it("adds its own loss, by the model's output layer, to the model's", () => {
    const model = make();
    const plain = values(model.forward(inputs()).loss!)[0]!;
    attach(model, shadow({ r: 2, auxiliaryLossWeight: 0.25 }));
    const alone = make({ ...llama, num_hidden_layers: 1 } as typeof llama);
    const own = new Map([...alone.namedParameters()]);
    const mine = new Map([...model.namedParameters()].map(([path, parameter]) => [path, parameter]));
    for (const [path, parameter] of mine) {
      const [, inner] = /shadow_backbone\.default\.(.*)$/.exec(path) ?? [];
      if (inner) own.get(`model.${inner}`)!.assign(parameter.stored);
    }
    const shared = ["model.embed_tokens.weight", "lm_head.weight"];
    for (const path of shared) own.get(path)!.assign(mine.get(path)!.stored);
    const { logits } = alone.forward({ inputIds: int32([3, 4, 5, 6]) });
    const auxiliary = values(crossEntropy(logits, int32([4, 5, 6, -100])))[0]!;
    expect(values(model.forward(inputs()).loss!)[0]).toBeCloseTo(plain + 0.25 * auxiliary, 5);
    expect(model.forward({ inputIds: int32([3]) }).loss).toBeUndefined();
  });

  it("has no words of its own while it reads the model's, and has them and a projection where it is narrower", () => {
    const model = make();
    attach(model, shadow({ r: 2 }));
    const names = (of: CausalLM) => trainable(of).map(([path]) => path);
    expect(names(model).some((path) => path.includes("embed_tokens"))).toBe(false);
    const narrow = make();
    attach(narrow, shadow({ r: 2, shadowHiddenSize: 6 }));
    const found = new Map(trainable(narrow).map(([path, { shape }]) => [path.replace(/^.*\.shadow_/, ""), shape]));
    expect(found.get("backbone.default.embed_tokens.weight")).toEqual([23, 6]);
    expect(found.get("projection.default.weight")).toEqual([12, 6]);
    values(narrow.forward(inputs()).logits);
  });

  it("acts in the blocks that are named, is called otherwise, and makes way for other adapters", () => {
    const model = make();
    const before = values(model.forward(inputs()).logits);
    attach(model, shadow({ r: 2, initWeights: false, shadowAlpha: 1, targetModules: ["layers.0", "layers.2"] }));
    const after = values(model.forward(inputs()).logits);
    expect(after).not.toEqual(before);
    renameAdapter(model, "default", "other");
    expect(trainable(model).every(([path]) => path.includes(".other."))).toBe(true);
    expect(values(model.forward(inputs()).logits)).toEqual(after);
    attach(model, shadow({ r: 2, initWeights: false, targetModules: ["layers.1"] }), { name: "second", seed: 2 });
    expect(values(model.forward(inputs()).logits)).toEqual(after);
    setActive(model, "second");
    expect(values(model.forward(inputs()).logits)).not.toEqual(after);
    expect(() => attach(model, lora({ r: 1, targetModules: ["q_proj"] }), { name: "third" })).toThrow(
      /as a whole by one adapter/,
    );
  });

  it("is refused where it cannot be", () => {
    const t5 = { model_type: "t5", vocab_size: 23, d_model: 12, d_kv: 4, d_ff: 16, num_layers: 1, num_heads: 3 };
    expect(() => attach(make(t5, "Seq2SeqLM"), shadow({ targetModules: ["block.0"] }))).toThrow(/cannot adapt/);
    expect(() => attach(make(llama, "SequenceClassification"), shadow())).toThrow(/is not a causal language model/);
    expect(() => shadow({ taskType: "SEQ_CLS" })).toThrow(/not implemented/);
    expect(() => shadow({ shadowModel: "some/other" })).toThrow(/shadowModel.*not implemented/s);
  });
});
