/** LoRA in GGUF files: a base model's file with an adapter's added to it, as llama.cpp adds them, is the model with the adapter. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it, test } from "vitest";
import { type GgufFile, type GgufTensor, readGguf } from "../../src/formats/gguf.ts";
import { ggufModel } from "../../src/formats/gguf-model.ts";
import { toFloat32 } from "../../src/graph/dtype.ts";
import { add } from "../../src/graph/elementwise.ts";
import { createModel } from "../../src/models/create-model.ts";
import type { Module } from "../../src/nn/module.ts";
import {
  type AdapterConfig,
  alora,
  attach,
  convertToLora,
  encodeGgufAdapter,
  ia3,
  lora,
  saveAdapter,
  saveGgufAdapter,
} from "../../src/peft/index.ts";
import { loadModel } from "../../src/train/load-model.ts";
import { loadWeights } from "../../src/train/load-weights.ts";
import { onEveryDevice } from "../devices.ts";
import { distance, integers, randn } from "../nn/tensors.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const folder = process.env["GGUF_FIXTURES"] ?? join(import.meta.dirname, "../fixtures/gguf");
const models = readdirSync(folder).flatMap((file) =>
  file.endsWith(".gguf") && file !== "blocks.gguf" && file !== "mixtral-old.gguf" ? [file.slice(0, -5)] : [],
);
const open = (name: string) => loadModel(join(folder, `${name}.gguf`));
const inputIds = () => integers([5, 6, 7, 8, 9, 3], [2, 3]);

/** All that an adapter trains, moved. */
function move(model: Module): void {
  model.trainableParameters().forEach((parameter, i) => {
    parameter.assign(add(parameter.stored, randn(parameter.shape, i + 1)));
  });
}

/** The file with α/r·B·A added to its tensors, of an embedding (A·Bᵀ) too. */
async function applied(base: GgufFile, adapter: GgufFile): Promise<GgufFile> {
  const { metadata } = adapter;
  expect(metadata.get("general.type")).toBe("adapter");
  expect(metadata.get("adapter.type")).toBe("lora");
  expect(metadata.get("general.architecture")).toBe(base.metadata.get("general.architecture"));
  const alpha = metadata.get("adapter.lora.alpha") as number;
  const tensors = new Map<string, GgufTensor>(base.tensors);
  const floats = async (tensor: GgufTensor | undefined) => toFloat32(await tensor!.load(), tensor!.dtype);
  for (const [name, a] of adapter.tensors) {
    if (!name.endsWith(".lora_a")) continue;
    const target = name.slice(0, -".lora_a".length);
    const b = adapter.tensors.get(`${target}.lora_b`)!;
    const weight = base.tensors.get(target)!;
    const [rows, columns] = weight.shape as [number, number];
    const isTable = target === "token_embd.weight";
    const r = b.shape[1]!;
    expect([a.shape, b.shape]).toEqual(
      isTable
        ? [
            [rows, r],
            [columns, r],
          ]
        : [
            [r, columns],
            [rows, r],
          ],
    );
    const [A, B, W] = [await floats(a), await floats(b), (await floats(weight)).slice()];
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++)
        for (let k = 0; k < r; k++)
          W[i * columns + j]! += (alpha / r) * (isTable ? A[i * r + k]! * B[j * r + k]! : A[k * columns + j]! * B[i * r + k]!);
    tensors.set(target, { ...weight, dtype: "float32", storedDType: "F32", load: async (from, to) => W.slice(from, to) });
  }
  return { ...base, tensors };
}

/** The logits of a base model with the adapter's file on it, and of the model with its adapter. */
async function both(name: string, config: AdapterConfig, dtype: "float32" | "float16" = "float32") {
  const { model } = await open(name);
  attach(model, config);
  move(model);
  const file = await readGguf(await encodeGgufAdapter(model, { dtype }), "adapter.gguf");
  const read = await ggufModel(await applied(await readGguf(join(folder, `${name}.gguf`)), file));
  const other = createModel(read.config);
  await loadWeights(other, read.checkpoint, {}, { std: () => 0, isNew: () => false });
  const logits = (of: Module) => (of as typeof model).forward({ inputIds: inputIds() }).logits;
  return { file, difference: distance(logits(other), logits(model)) };
}

const attention = ["q_proj", "k_proj", "v_proj", "o_proj"];

onEveryDevice(() => {
  describe("an adapter's GGUF file", () => {
    test.each(models)("on %s is the adapter", async (name) => {
      const targetModules = /moe|mixtral/.test(name) ? attention : "all-linear";
      const { difference, file } = await both(name, lora({ r: 2, loraAlpha: 3, targetModules }));
      expect(difference).toBeLessThan(2e-5);
      expect(file.tensors.size).toBeGreaterThanOrEqual(8);
    });

    it("has every layer's own rank and scale, also of rsLoRA and of an alpha of 0", async () => {
      const patterns = { rankPattern: { k_proj: 3 }, alphaPattern: { "0.self_attn.q_proj": 5 }, targetModules: attention };
      expect((await both("llama", lora({ r: 2, ...patterns }))).difference).toBeLessThan(2e-5);
      expect((await both("llama", lora({ r: 2, useRslora: true, ...patterns }))).difference).toBeLessThan(2e-5);
      expect((await both("llama", lora({ r: 2, loraAlpha: 0, ...patterns }))).difference).toBeLessThan(2e-5);
      const plain = await both("llama", lora({ r: 4, loraAlpha: 8, targetModules: ["v_proj"] }));
      expect(plain.file.metadata.get("adapter.lora.alpha")).toBe(8);
    });

    it("is made for the weights before a start that changed them", async () => {
      const { model } = await open("llama");
      const before = model.forward({ inputIds: inputIds() }).logits.realize();
      attach(model, lora({ r: 2, initLoraWeights: "pissa", targetModules: attention }));
      const file = await readGguf(await encodeGgufAdapter(model), "adapter.gguf");
      const read = await ggufModel(await applied(await readGguf(join(folder, "llama.gguf")), file));
      const other = createModel(read.config);
      await loadWeights(other, read.checkpoint, {}, { std: () => 0, isNew: () => false });
      const { logits } = (other as typeof model).forward({ inputIds: inputIds() });
      expect(distance(logits, before)).toBeLessThan(2e-5);
    });

    it("takes an embedding that the output layer does not share, and halves", async () => {
      const [name] = await Promise.all(
        models.map(async (each) => ((await readGguf(join(folder, `${each}.gguf`))).tensors.has("output.weight") ? [each] : [])),
      ).then((found) => found.flat());
      const config = lora({ r: 2, targetModules: ["embed_tokens", "v_proj"] });
      expect((await both(name!, config)).difference).toBeLessThan(2e-5);
      const { file, difference } = await both(name!, config, "float16");
      expect([...file.tensors.values()].every(({ type }) => type === "F16")).toBe(true);
      expect(difference).toBeLessThan(0.05);
    });
  });
});

describe("saveGgufAdapter", () => {
  it("writes what encodeGgufAdapter gives, with the words of an aLoRA", async () => {
    const out = temporaryFolder();
    const { model } = await open("qwen2");
    attach(model, alora({ r: 2, targetModules: ["q_proj"], aloraInvocationTokens: [7, 3] }));
    await saveGgufAdapter(model, join(out, "adapter.gguf"));
    const { metadata } = await readGguf(join(out, "adapter.gguf"));
    expect(metadata.get("adapter.alora.invocation_tokens")).toEqual([7, 3]);
    await saveAdapter(model, out);
  });

  it.each<[string, AdapterConfig, string, string]>([
    ["llama", ia3({ targetModules: ["k_proj"], feedforwardModules: [] }), "is IA3 and not plain LoRA", "convertToLora"],
    ["qwen2", lora({ targetModules: ["q_proj"], loraBias: true }), "has biases (`loraBias`)", "no place for"],
    ["qwen2", lora({ targetModules: ["q_proj"], bias: "lora_only" }), 'trains biases (`bias` "lora_only")', "no place for"],
    ["llama", lora({ targetModules: ["q_proj"], modulesToSave: ["norm"] }), "has modules of its own", "no place for"],
    ["qwen3moe", lora({ targetModules: ["gate_proj", "up_proj"] }), "mlp.experts", "excludeModules"],
  ])("refuses on %s what such files cannot hold: %#", async (name, config, problem, way) => {
    const { model } = await open(name);
    attach(model, config);
    const refusal = encodeGgufAdapter(model);
    await expect(refusal).rejects.toThrow(problem);
    await expect(refusal).rejects.toThrow(way);
  });

  it("takes what convertToLora has made of another method", async () => {
    const { model } = await open("llama");
    attach(model, ia3({ targetModules: ["k_proj"], feedforwardModules: [] }));
    move(model);
    convertToLora(model, { adapter: "default", energy: 1, name: "as-lora" });
    expect((await readGguf(await encodeGgufAdapter(model, { name: "as-lora" }))).tensors.has("blk.0.attn_k.weight.lora_a")).toBe(
      true,
    );
  });
});
