/**
 * Checkpoints with weights as codes beside their scales: what transformers and the packages that made them read from them is what we read.
 * The folders are made by test/fixtures/coded/make.py; LORIKEET_CODED names others.
 */
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { currentDevice, downloadSync, upload } from "../../src/compile/program.ts";
import { widenCodes } from "../../src/formats/coded-checkpoint.ts";
import { readSafetensors, type StoredTensor, type TensorToWrite, writeSafetensors } from "../../src/formats/safetensors.ts";
import { openCheckpoint } from "../../src/formats/sharded.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import { attach, lora, mergeAndUnload } from "../../src/peft/index.ts";
import { loadModel, saveModel } from "../../src/train/index.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const root = process.env["LORIKEET_CODED"] ?? join(import.meta.dirname, "../fixtures/coded");
const kinds = readdirSync(root).filter((name) => !name.endsWith(".py") && !name.startsWith("_"));
const scratch = temporaryFolder();

const read = (folder: string, file: string) => JSON.parse(readFileSync(join(folder, file), "utf8"));
const logitsOf = (model: CausalLM, ids: readonly (readonly number[])[]): number[] => {
  const inputIds = upload(currentDevice(), Int32Array.from(ids.flat()), [ids.length, ids[0]!.length], "int32");
  return [...downloadSync(model.forward({ inputIds }).logits)];
};
const farthest = (a: readonly number[], b: readonly number[]): number => {
  expect(a.length).toBe(b.length);
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);
};
const downProjection = "model.layers.0.mlp.down_proj.weight";
const parameterOf = (model: CausalLM) => new Map(model.namedParameters()).get(downProjection)!;

describe.each(kinds)("%s", (kind) => {
  const folder = join(root, kind);
  const { ids, logits, step = 1, down_proj: weight } = read(folder, "expected.json");

  test("gives the weights and the logits that transformers gives", async () => {
    const { model } = await loadModel(folder);
    const values = [...downloadSync(parameterOf(model).stored)].filter((_, i) => i % step === 0);
    expect(farthest(values, weight)).toBeLessThan(1e-6);
    expect(farthest(logitsOf(model, ids), logits)).toBeLessThan(2e-5);
  });

  test("is read in parts as it is at once", async () => {
    const checkpoint = await widenCodes(await openCheckpoint(folder), read(folder, "config.json"));
    const tensor = checkpoint.get(downProjection);
    const all = [...(await tensor.load())];
    for (const [from, to] of [
      [0, 1],
      [5, 41],
      [100, all.length],
    ] as const)
      expect([...(await tensor.load(from, to))]).toEqual(all.slice(from, to));
  });

  test("is written as plain weights, with what adapters have merged", async () => {
    const { model, config } = await loadModel(folder);
    attach(model, lora({ r: 2, targetModules: ["q_proj", "down_proj"], initLoraWeights: false }));
    const adapted = logitsOf(model, ids);
    expect(farthest(adapted, logits)).toBeGreaterThan(1e-2);
    mergeAndUnload(model);
    const out = join(scratch, kind);
    await saveModel(out, model, config);
    for (const key of ["quantization_config", "quantization"]) expect(read(out, "config.json")[key]).toBeUndefined();
    const { model: again } = await loadModel(out);
    expect(farthest(logitsOf(again, ids), adapted)).toBeLessThan(1e-4);
  });
});

test("other forms: halves, and codes of bitsandbytes, which config.json then speaks of alone", async () => {
  const folder = join(root, "fp8-blocks");
  const { model: half } = await loadModel(folder, { dtype: "bfloat16" });
  expect(parameterOf(half).dtype).toBe("bfloat16");
  const { model, config } = await loadModel(folder, { quantise: { type: "nf4" } });
  const out = join(scratch, "codes");
  await saveModel(out, model, config);
  const written = read(out, "config.json").quantization_config;
  expect(written.quant_method).toBe("bitsandbytes");
  expect(written.weight_block_size).toBeUndefined();
  expect(logitsOf((await loadModel(out)).model, [[1, 2]])).toEqual(logitsOf(model, [[1, 2]]));
});

describe("wrong checkpoints", () => {
  const folder = join(root, "fp8-blocks");
  const scale = `${downProjection}_scale_inv`;
  const floats = (shape: readonly number[]): TensorToWrite => ({
    dtype: "float32",
    shape,
    data: new Float32Array(shape.reduce((size, side) => size * side, 1)),
  });
  test.each([
    ["no scales", { [scale]: null }, {}, /is F8_E4M3, but has no scales/],
    ["scales of no blocks", { [scale]: floats([3, 5]) }, {}, /\[16, 24\] and has scales of \[3, 5\]: no blocks of one size/],
    ["scales of three axes", { [scale]: floats([2, 3, 1]) }, {}, /no blocks of one size/],
    ["scales of a float", { [downProjection]: floats([16, 24]) }, {}, /is \[16, 24\] F32 and has scales/],
    ["too many zeros", { [`${downProjection}_zero_point`]: floats([7]) }, {}, /zero points of \[7\]/],
    ["scales of nothing", { "model.layers.0.mlp.dwn.weight_scale_inv": floats([]) }, {}, /is not a parameter of this model/],
    [
      "sparse codes",
      {},
      { quant_method: "compressed-tensors", format: "marlin-24" },
      /"compressed-tensors" "marlin-24" are not read/,
    ],
    [
      "a group's form",
      {},
      { quant_method: "compressed-tensors", config_groups: { a: { format: "mxfp6-pack-quantized" } } },
      /mxfp6/,
    ],
    ["another method", {}, { quant_method: "hqq" }, /quantised as "hqq" are not read\. Take the checkpoint without/],
    ["another version", {}, { quant_method: "awq", version: "gemv" }, /quantised as "awq" "gemv" are not read/],
  ] as const)("%s", async (name, change, quantization, message) => {
    const { tensors } = await readSafetensors(join(folder, "model.safetensors"));
    const next = new Map<string, TensorToWrite | StoredTensor>(tensors);
    for (const [path, tensor] of Object.entries(change as Record<string, TensorToWrite | null>))
      if (tensor === null) next.delete(path);
      else next.set(path, tensor);
    const out = mkdtempSync(join(scratch, name.replaceAll(" ", "-")));
    await writeSafetensors(join(out, "model.safetensors"), next);
    const config = read(folder, "config.json");
    config.quantization_config = { ...config.quantization_config, ...quantization };
    writeFileSync(join(out, "config.json"), JSON.stringify(config));
    await expect(loadModel(out)).rejects.toThrow(message);
  });
});
