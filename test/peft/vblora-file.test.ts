/** VB-LoRA's files with mixtures in place of logits. */
import { join } from "node:path";
import { beforeAll, beforeEach, describe, expect, it } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { readSafetensors, type TensorToWrite, writeSafetensors } from "../../src/formats/safetensors.ts";
import { attach, loadAdapter, saveAdapter, vblora } from "../../src/peft/index.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { difference, ids, numbers, SmallModel } from "./small-model.ts";

beforeAll(() => void useDevice(createReference()));
let folder: string;
beforeEach(() => void (folder = temporaryFolder()));

const path = () => join(folder, "adapter_model.safetensors");
const tokens = () => ids(1, 4, 9, 2);
/** A saved adapter on the layer that goes from 6 to 6 values. */
async function saved(numVectors: number, topk: number): Promise<SmallModel> {
  const model = new SmallModel({ vocabulary: 12 });
  const options = { r: 2, numVectors, vectorLength: 3, topk, initLogitsStd: 1, initVectorBankBound: 1 };
  attach(model, vblora({ ...options, saveOnlyTopkWeights: true, targetModules: ["lm_head"] }), { seed: 4 });
  await saveAdapter(model, folder, { saveEmbeddingLayers: false });
  return model;
}
const logits = "base_model.model.lm_head.vblora_logits_A";

/** Changes one tensor of the file. */
async function rewrite(name: string, change: (data: number[]) => number[], last?: number): Promise<void> {
  const { tensors } = await readSafetensors(path());
  const all = new Map<string, TensorToWrite>();
  for (const [key, tensor] of tensors) {
    const data = (await tensor.load()) as Uint8Array;
    const shape = key === name && last ? [...tensor.shape.slice(0, -1), last] : tensor.shape;
    all.set(key, {
      dtype: tensor.dtype,
      shape,
      data: key === name ? new (data.constructor as typeof Uint8Array)(change([...data])) : data,
    });
  }
  await writeSafetensors(path(), all, { format: "pt" });
}

describe("a file with mixtures", () => {
  it.each([
    [5, 2, "U8"],
    [5, 1, "U8"],
    [300, 3, "I16"],
  ])(
    "of a bank of %i, %i at a time, holds %s places and all weights but the last, and gives the same model",
    async (h, k, stored) => {
      const model = await saved(h, k);
      const { tensors } = await readSafetensors(path());
      const facts = [...tensors].map(([name, { storedDType, shape }]) => [name, storedDType, ...shape]);
      expect(facts.sort()).toEqual(
        [
          [`${logits}_topk_indices`, stored, 2, 2, k],
          [`${logits}_topk_weights`, "F32", 2, 2, k - 1],
          [`${logits.replace(/A$/, "B")}_topk_indices`, stored, 4, 2, k],
          [`${logits.replace(/A$/, "B")}_topk_weights`, "F32", 4, 2, k - 1],
          ["base_model.vblora_vector_bank", "F32", h, 3],
        ].sort(),
      );
      const again = new SmallModel({ vocabulary: 12 });
      const { layers } = await loadAdapter(again, folder);
      expect(difference(model.forward(tokens()), again.forward(tokens()))).toBeLessThan(1e-5);
      expect(difference(model.forward(tokens()), new SmallModel({ vocabulary: 12 }).forward(tokens()))).toBeGreaterThan(1e-2);
      const { parameters } = layers.get("lm_head")!.adapters.get("default")!;
      expect(numbers(parameters["A"]!.stored).filter(Number.isFinite).length).toBe(4 * k);
      // what was loaded can be saved again
      await saveAdapter(again, folder, { saveEmbeddingLayers: false });
      const third = new SmallModel({ vocabulary: 12 });
      await loadAdapter(third, folder);
      expect(difference(model.forward(tokens()), third.forward(tokens()))).toBeLessThan(1e-5);
    },
  );

  it("is not trained on", async () => {
    await saved(5, 2);
    const model = new SmallModel({ vocabulary: 12 });
    await expect(loadAdapter(model, folder, { trainable: true })).rejects.toThrow(
      "loadAdapter: the file holds mixtures without their logits (`saveOnlyTopkWeights`), which cannot be trained on. Leave `trainable` out",
    );
    expect(model.trainableParameters().length).toBe(model.parameters().length);
  });

  it("that is broken is refused", async () => {
    await saved(5, 2);
    await rewrite(`${logits}_topk_indices`, (data) => data.map(() => 7));
    const load = () => loadAdapter(new SmallModel({ vocabulary: 12 }), folder);
    await expect(load()).rejects.toThrow(`loadAdapter: ${logits}_topk_indices names vectors that a bank of 5 does not have.`);
    await rewrite(`${logits}_topk_indices`, (data) => data.slice(0, 4), 1);
    await expect(load()).rejects.toThrow(
      `loadAdapter: ${logits}_topk_indices is [2, 2, 1] and its weights [2, 2, 1], which are not mixtures of 2 (\`topk\`).`,
    );
  });
});
