/** Arrow in folders: PEFT reads ours, we read PEFT's. Needs a Python with peft; see peft.conformance.ts. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { currentDevice, downloadSync, upload, useDevice } from "../../src/compile/program.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { readSafetensors, writeSafetensors } from "../../src/formats/safetensors.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import { createModel } from "../../src/models/create-model.ts";
import { normal } from "../../src/nn/init.ts";
import { attach, loadArrow, lora, saveAdapter, saveArrow } from "../../src/peft/index.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { loadModel, saveModel } from "../../src/train/load-model.ts";
import { pythonSide } from "./python.ts";

const folder = mkdtempSync(join(tmpdir(), "lorikeet-mixture-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (...path: string[]) => join(folder, ...path);

const config = {
  ...{ model_type: "llama", architectures: ["LlamaForCausalLM"], vocab_size: 29, hidden_size: 16, intermediate_size: 24 },
  ...{ num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, tie_word_embeddings: false },
};
const ids = Int32Array.from({ length: 14 }, (_, i) => (i * i * 5 + 2) % config.vocab_size);
const shape = [2, 7];
const fresh = async (): Promise<CausalLM> => (await loadModel(at("base"))).model.eval();
const logits = (model: CausalLM): number[] =>
  Array.from(downloadSync(model.forward({ inputIds: upload(currentDevice(), ids, shape, "int32") }).logits));
const expectClose = (got: readonly number[], want: ArrayLike<number>) => {
  expect(got.length).toBe(want.length);
  expect(Math.max(...got.map((value, i) => Math.abs(value - want[i]!)))).toBeLessThan(1e-4);
};

let ours: number[];
let theirs: ArrayLike<number>;
beforeAll(async () => {
  useDevice(createWasm({ threads: 1 }));
  const init = normal({ std: 0.3, generator: new TorchGenerator(3) });
  await saveModel(at("base"), createModel(config, { task: "CausalLM", init }), config);
  await writeSafetensors(at("ids.safetensors"), { input_ids: { dtype: "int32", shape, data: ids } });
  for (const [seed, name] of ["a", "b", "c", "d", "e"].entries()) {
    const model = await fresh();
    attach(model, lora({ r: 2, loraAlpha: 3 + seed, targetModules: ["q_proj", "down_proj"], initLoraWeights: false }), { seed });
    await saveAdapter(model, at(name));
  }
  const model = await fresh();
  const general = [at("d"), at("e")];
  await loadArrow(model, [at("a"), at("b"), at("c")], { topK: 2, routerTemperature: 0.7, general, seed: 8 });
  ours = logits(model);
  await saveArrow(model, at("ours"));
  await pythonSide("mixture", folder);
  theirs = (await (await readSafetensors(at("ours.safetensors"))).tensors.get("logits")!.load()) as Float32Array;
});

test("PEFT makes the mixture that we saved, and computes the same", () => expectClose(ours, theirs));

test.each([
  ["theirs", {}],
  ["later", { useGks: false }], // what is general is out of the files by then
])("we read what PEFT saved: %s", async (name, options) => {
  const model = await fresh();
  await loadArrow(model, at(name), options);
  expectClose(logits(model), theirs);
});

test("both write the same keys and config", async () => {
  for (const name of ["arrow_router", "task_2", "gks_1"]) {
    const read = async (whose: string) => {
      const text = JSON.parse(readFileSync(at(whose, name, "adapter_config.json"), "utf8"));
      const { tensors } = await readSafetensors(at(whose, name, "adapter_model.safetensors"));
      const { peft_version: _, auto_mapping: __, base_model_name_or_path: ___, ...rest } = text;
      return [
        { ...rest, target_modules: [...rest.target_modules].sort() },
        [...tensors].map(([key, tensor]) => [key, ...tensor.shape]).sort(),
      ];
    };
    expect(await read("ours")).toEqual(await read("theirs"));
  }
});
