/** Experts in checkpoints: one by one under the names of each family, or all in one tensor. */
import { expect, test } from "vitest";
import { FormatError, ShapeError } from "../../src/errors.ts";
import type { TensorToWrite } from "../../src/formats/safetensors.ts";
import { openCheckpoint, writeCheckpoint } from "../../src/formats/sharded.ts";
import { memoryFolder } from "../../src/formats/writable-folder.ts";
import type { ConfigJson } from "../../src/models/config-reader.ts";
import { createModel } from "../../src/models/create-model.ts";
import { normal } from "../../src/nn/init.ts";
import { attach, lora } from "../../src/peft/index.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { loadModel, saveModel } from "../../src/train/load-model.ts";
import { decoderConfigs } from "../models/configs.ts";
import { distance, integers, onReference, values } from "../nn/tensors.ts";

const mixtures = ["mixtral", "olmoe", "qwen3_moe"];

async function saved(type: string, changes: ConfigJson = {}) {
  manualSeed(3);
  const config: ConfigJson = { model_type: type, ...decoderConfigs[type], num_hidden_layers: 2, ...changes };
  const model = createModel(config, { init: normal({ std: 0.3 }) });
  const folder = memoryFolder();
  await saveModel(folder, model, config);
  const tensors = async (): Promise<Map<string, TensorToWrite>> => new Map((await openCheckpoint(folder)).tensors);
  return { model, folder, config, tensors };
}

onReference("experts in checkpoints", () => {
  test.each(mixtures)("%s is written expert by expert, and read so and in one tensor", async (type) => {
    const { model, folder, tensors } = await saved(type);
    const want = new Map([...model.namedParameters()].map(([path, { stored }]) => [path, values(stored)]));
    const read = async () => {
      const { model: loaded } = await loadModel(folder);
      return new Map([...loaded.namedParameters()].map(([path, { stored }]) => [path, values(stored)]));
    };
    const written = await tensors();
    expect([...written.keys()].filter((name) => /\.experts\.2\.(w1|gate_proj)\.weight$/.test(name))).not.toEqual([]);
    expect([...written.keys()].some((name) => name.endsWith("gate_up_proj"))).toBe(false);
    expect(await read()).toEqual(want);
    const fused = new Map([...written].filter(([name]) => !name.includes(".experts.")));
    for (const [path, { shape, stored }] of model.namedParameters())
      if (path.includes(".experts.")) fused.set(path, { dtype: "float32", shape, data: Float32Array.from(values(stored)) });
    await writeCheckpoint(folder, fused);
    expect(await read()).toEqual(want);
  });

  test("norms of each head are written one by one, and read so, one alone, too", async () => {
    const { model, folder, tensors } = await saved("stablelm", { num_key_value_heads: 1 });
    const written = await tensors();
    for (const norm of ["q_layernorm.norms.3", "k_layernorm.norms.0"])
      expect(written.get(`model.layers.1.self_attn.${norm}.weight`)?.shape).toEqual([4]);
    const { model: loaded } = await loadModel(folder);
    expect(loaded.parameters().map(({ stored }) => values(stored))).toEqual(
      model.parameters().map(({ stored }) => values(stored)),
    );
  });

  test("an expert that is missing, or has another shape, is named as the checkpoint calls it", async () => {
    const { folder, tensors } = await saved("mixtral");
    const name = "model.layers.1.block_sparse_moe.experts.2.w3.weight";
    const whole = await tensors();
    await writeCheckpoint(folder, new Map([...whole].filter(([each]) => each !== name)));
    await expect(loadModel(folder)).rejects.toThrow(FormatError);
    await expect(loadModel(folder)).rejects.toThrow(`lacks "${name}"`);
    await writeCheckpoint(
      folder,
      new Map([...whole, [name, { dtype: "float32", shape: [24, 15], data: new Float32Array(360) }]]),
    );
    await expect(loadModel(folder)).rejects.toThrow(ShapeError);
    await expect(loadModel(folder)).rejects.toThrow(`"${name}" is [24, 15]`);
  });

  test("experts are kept in 16 bits where that is asked, and an adapter lies on them", async () => {
    const { model, folder } = await saved("mixtral");
    const { model: loaded } = await loadModel(folder, { dtype: "bfloat16" });
    expect(new Map(loaded.namedParameters()).get("model.layers.0.mlp.experts.gate_up_proj")!.dtype).toBe("bfloat16");
    const inputIds = integers([3, 1, 4, 1, 5], [1, 5]);
    const { logits } = loaded.forward({ inputIds });
    expect(distance(logits, model.forward({ inputIds }).logits)).toBeLessThan(0.1);
    attach(loaded, lora({ r: 2, targetModules: "all-linear" }));
    expect(distance(loaded.forward({ inputIds }).logits, logits)).toBeLessThan(1e-5);
  });

  test("experts of several dtypes are read", async () => {
    const { model, folder, tensors } = await saved("olmoe");
    const name = "model.layers.0.mlp.experts.1.up_proj.weight";
    const whole = await tensors();
    const half = { dtype: "bfloat16", shape: whole.get(name)!.shape, data: new Uint16Array(24 * 16).fill(0x3fc0) } as const;
    await writeCheckpoint(folder, new Map([...whole, [name, half]]));
    const { model: loaded } = await loadModel(folder);
    const path = "model.layers.0.mlp.experts.gate_up_proj";
    const at = (of: typeof model) => values(new Map(of.namedParameters()).get(path)!.stored);
    const want = at(model);
    want.fill(1.5, (2 * 1 + 1) * 24 * 16, (2 * 1 + 2) * 24 * 16);
    expect(at(loaded)).toEqual(want);
  });
});
