/** Adapters from before transformers 5, in which experts have layers of their own, against the same changes in the checkpoint. */
import { expect, test } from "vitest";
import type { ModelSource } from "../../src/formats/model-source.ts";
import type { TensorToWrite } from "../../src/formats/safetensors.ts";
import { openCheckpoint, writeCheckpoint } from "../../src/formats/sharded.ts";
import { memoryFolder } from "../../src/formats/writable-folder.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import { createModel } from "../../src/models/create-model.ts";
import { normal } from "../../src/nn/init.ts";
import { loadAdapter, saveAdapter } from "../../src/peft/index.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { loadModel, saveModel } from "../../src/train/load-model.ts";
import { decoderConfigs } from "../models/configs.ts";
import { distance, integers, onReference } from "../nn/tensors.ts";

type Tensors = Map<string, TensorToWrite>;

/** A checkpoint, an adapter whose layers are those that `targets` meant before, and the checkpoint with the adapter in its weights. */
async function before(type: string, targets: RegExp, config: object = {}) {
  manualSeed(3);
  const json = { model_type: type, ...decoderConfigs[type], num_hidden_layers: 2 };
  const model = createModel(json, { init: normal({ std: 0.3 }) });
  const [base, merged, adapter] = [memoryFolder(), memoryFolder(), memoryFolder()];
  for (const folder of [base, merged]) await saveModel(folder, model, json);
  const [r, alpha, random] = [2, 3, new TorchGenerator(5)];
  const scale = "use_rslora" in config ? alpha / Math.sqrt(r) : alpha / r;
  const [tensors, changed]: [Tensors, Tensors] = [new Map(), new Map()];
  for (const [name, stored] of (await openCheckpoint(base)).tensors) {
    const path = name.slice(0, -".weight".length);
    const weight = Float32Array.from(await stored.load());
    const [out, into] = stored.shape as [number, number];
    if (targets.test(path)) {
      const [A, B] = [random.normal(r * into, 0, 0.3), random.normal(out * r, 0, 0.3)];
      const key = (leaf: string) => `base_model.model.${path}.lora_${leaf}.weight`;
      tensors.set(key("A"), { dtype: "float32", shape: [r, into], data: A });
      tensors.set(key("B"), { dtype: "float32", shape: [out, r], data: B });
      for (let i = 0; i < weight.length; i++)
        for (let k = 0; k < r; k++) weight[i]! += scale * B[Math.floor(i / into) * r + k]! * A[k * into + (i % into)]!;
    }
    changed.set(name, { dtype: "float32", shape: stored.shape, data: weight });
  }
  await writeCheckpoint(merged, changed);
  const target_modules = [...new Set([...tensors.keys()].map((key) => key.split(".").at(-3)))];
  const said = JSON.stringify({ peft_type: "LORA", r, lora_alpha: alpha, target_modules, ...config });
  const write = (of: Tensors) =>
    writeCheckpoint(adapter, of, { name: "adapter_model", files: new Map([["adapter_config.json", said]]) });
  await write(tensors);
  return { base, merged, adapter, write, tensors };
}

/** What the adapter does beside the weights, and in them. */
async function bothWays(base: ModelSource, merged: ModelSource, adapter: ModelSource) {
  const inputIds = integers([3, 1, 4, 1, 5, 9], [1, 6]);
  const [plain, want] = [await loadModel(base), await loadModel(merged)].map(({ model }) => model.eval());
  const logits = (model: typeof plain) => (model as CausalLM).forward({ inputIds }).logits;
  const [without, changed] = [logits(plain), logits(want)];
  expect(distance(without, changed)).toBeGreaterThan(1e-3);
  const { config } = await loadAdapter(plain as CausalLM, adapter);
  expect(distance(logits(plain), changed)).toBeLessThan(1e-5);
  return { config, model: plain as CausalLM };
}

onReference("adapters of single experts", () => {
  test.each(["mixtral", "qwen3_moe", "olmoe"])("of %s are what they were, and so is what is saved of them", async (type) => {
    const { base, merged, adapter } = await before(type, /experts|gate$|q_proj|mlp\.\w+$/);
    const { config, model } = await bothWays(base, merged, adapter);
    expect(config).toMatchObject({ rankPattern: { ".*\\.gate_up_proj": 4 }, alphaPattern: { ".*\\.gate_up_proj": 6 } });
    const today = memoryFolder();
    await saveAdapter(model, today);
    await bothWays(base, merged, today);
  });

  test.each([
    ["down alone", /w2$/, {}],
    ["gate and up alone, at s = α/√r", /w[13]$/, { use_rslora: true }],
    ["one of the two", /w3$/, {}],
    ["some experts of some layers", /layers\.1.*\.experts\.[02]\.w[12]$/, {}],
    ["chosen by a pattern", /experts\.1\.\w+$|q_proj$/, { target_modules: ".*(experts\\.1\\.\\w+|q_proj)" }],
    ["with dropout, which does nothing now", /w2$/, { lora_dropout: 0.1 }],
  ])("%s", async (_, targets, options) => {
    const { base, merged, adapter } = await before("mixtral", targets, options);
    await bothWays(base, merged, adapter);
  });

  test.each([
    ["other methods", { use_dora: true }, {}, "use_dora"],
    ["starts that have changed the weights", { init_lora_weights: "pissa" }, {}, 'the start "pissa"'],
    ["other scales of some", { alpha_pattern: { "experts.1.w2": 8 } }, {}, "experts.1.w2 has r = 2 and lora_alpha = 8"],
    ["dropout where training goes on", { lora_dropout: 0.1 }, { trainable: true }, "lora_dropout (= 0.1)"],
  ])("are refused by name: %s", async (_, config, options, message) => {
    const { base, adapter } = await before("mixtral", /w2$/, config);
    const { model } = await loadModel(base);
    await expect(loadAdapter(model, adapter, options)).rejects.toThrow(message);
  });

  test("are refused by name: a half of an adapter", async () => {
    const { base, adapter, write, tensors } = await before("mixtral", /w2$/);
    const name = "model.layers.0.block_sparse_moe.experts.2.w2";
    tensors.delete(`base_model.model.${name}.lora_B.weight`);
    await write(tensors);
    await expect(loadAdapter((await loadModel(base)).model, adapter)).rejects.toThrow(`${name} has lora_A.weight`);
  });
});
