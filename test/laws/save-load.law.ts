/**
 * Loading restores what was saved: load(save(adapter)) = adapter, with parameters bit for bit, the config key for key, and the same
 * output. Names in the file are PEFT's: `base_model.model.<path>.<key>`, where the key begins with the method's prefix.
 *
 * @see https://huggingface.co/docs/peft/developer_guides/checkpoint
 */
import { basename } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { memoryFolder } from "../../src/formats/writable-folder.ts";
import { loadAdapter, saveAdapter } from "../../src/peft/index.ts";
import type { LayerKind } from "../../src/peft/layer-kind.ts";
import { type AnyMethod, fileOf } from "../../src/peft/method.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import {
  type AdapterCase,
  adaptations,
  adapterCases,
  buildAdapted,
  buildLayer,
  layerAdapters,
  mutant,
  nameOf,
  numbers,
  runsOf,
  shake,
} from "../arbitrary/adapter.ts";
import { onEveryDevice } from "../devices.ts";

export async function checkSaveLoad(method: AnyMethod, kind: LayerKind, item: AdapterCase): Promise<void> {
  const built = buildAdapted(method, kind, item);
  shake(built, item.seed);
  for (const [i, adapter] of built.adapters.entries()) {
    const name = nameOf(i);
    // in memory: a disk takes longer to be sure of its files than all else here
    const folder = memoryFolder();
    await saveAdapter(built.model, folder, { name });
    const files = Object.fromEntries([...folder.contents].map(([path, bytes]) => [basename(path), bytes]));
    const { tensors } = await readSafetensors(files["adapter_model.safetensors"]!);
    const sharedKeys = Object.keys(adapter.shared).map((key) => `base_model.${fileOf(method.shared!.files, key)}`);
    for (const [key, { dtype }] of tensors) {
      const own = key.startsWith(`base_model.model.layer.${method.schema.prefix}`);
      expect(own || sharedKeys.includes(key), key).toBe(true);
      expect(key).not.toContain(name);
      expect(["float32", "int32"]).toContain(dtype);
    }
    const again = buildLayer(kind, item);
    const loaded = await loadAdapter(again.model, { files }, { name: "again" });
    expect(loaded.warnings).toEqual([]);
    const plain = ({ config }: typeof loaded) => ({ ...config, inferenceMode: true });
    expect(plain(loaded)).toEqual(plain(adapter));
    const [want, got] = [layerAdapters(adapter)[0]!, layerAdapters(loaded)[0]!];
    expect(got.config["r"]).toEqual(want.config["r"]);
    expect(Object.keys(got.parameters)).toEqual(Object.keys(want.parameters));
    const [theirs, ours] = [want, got].map(({ parameters, shared }) => ({ ...shared, ...parameters }));
    for (const [key, parameter] of Object.entries(theirs!))
      expect(numbers(ours![key]!.stored), key).toEqual(numbers(parameter.stored));
    expect(again.model.trainableParameters()).toEqual([]);
  }
}

onEveryDevice((device) => {
  describe.each(adaptations)("$name on $kind", ({ method, kind }) => {
    test("loading a saved adapter gives it back", async () => {
      await fc.assert(
        fc.asyncProperty(adapterCases(), (item) => checkSaveLoad(method, kind, item)),
        { numRuns: runsOf(15, device) },
      );
    });
  });

  describe.each(["linear", "embedding", "conv2d"] as const)("on %s the law catches", (kind) => {
    const { A, B } = lora.layers[kind]!.files as { A: string; B: string };
    const caught = (wrong: AnyMethod) =>
      expect(
        fc.assert(
          fc.asyncProperty(adapterCases(), (item) => checkSaveLoad(wrong, kind, item)),
          { numRuns: 15, endOnFailure: true },
        ),
      ).rejects.toThrow();

    test("names that are swapped", () => caught(mutant(lora, kind, { files: { A: B, B: A } })));
    test("a name that is not PEFT's", () => caught(mutant(lora, kind, { files: { A, B: "B.weight" } })));
  });
});
