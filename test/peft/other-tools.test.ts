/** Adapters as other tools than PEFT write them: mlx-lm's, whose logits are those of test/fixtures/mlx/make.py; configs of Unsloth and of PEFT's first releases. */
import { cpSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import "../../src/devices/choose.ts";
import { currentDevice, downloadSync, upload } from "../../src/compile/program.ts";
import { type TensorToWrite, writeSafetensors } from "../../src/formats/safetensors.ts";
import { attach, loadAdapter, lora, saveAdapter } from "../../src/peft/index.ts";
import { loadModel } from "../../src/train/load-model.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const here = join(import.meta.dirname, "../fixtures/mlx");
const scratch = temporaryFolder();
const read = (folder: string, file: string) => JSON.parse(readFileSync(join(folder, file), "utf8"));
const baseModel = async () => (await loadModel(join(here, "base"))).model;
const logitsOf = (model: Awaited<ReturnType<typeof baseModel>>, ids: readonly (readonly number[])[]): number[] => {
  const inputIds = upload(currentDevice(), Int32Array.from(ids.flat()), [ids.length, ids[0]!.length], "int32");
  return [...downloadSync(model.forward({ inputIds }).logits)];
};
const farthest = (a: readonly number[], b: readonly number[]) => Math.max(...a.map((value, i) => Math.abs(value - b[i]!)));

describe.each(["lora", "dora"])("%s of mlx-lm", (kind) => {
  const { ids, logits } = read(join(here, kind), "expected.json");

  test("changes the logits as it does there, and is written as PEFT's", async () => {
    const model = await baseModel();
    expect(farthest(logitsOf(model, ids), logits)).toBeGreaterThan(1e-2);
    await loadAdapter(model, join(here, kind));
    expect(farthest(logitsOf(model, ids), logits)).toBeLessThan(1e-4);
    const folder = await saveAdapter(model, join(scratch, kind));
    const again = await baseModel();
    await loadAdapter(again, folder);
    expect(logitsOf(again, ids)).toEqual(logitsOf(model, ids));
  });

  test.each([
    ["fine_tune_type", "full", /training of kind "full"\. Write the whole model with mlx_lm\.fuse/],
    ["lora_parameters", { rank: 3 }, /has no `scale`/],
    ["lora_parameters", { rank: 4, scale: 1 }, /speaks of rank 4, the file has \[4,/],
  ])("%s of %o is refused", async (key, value, message) => {
    const folder = mkdtempSync(join(scratch, "wrong-"));
    cpSync(join(here, kind), folder, { recursive: true });
    writeFileSync(join(folder, "adapter_config.json"), JSON.stringify({ ...read(folder, "adapter_config.json"), [key]: value }));
    await expect(loadAdapter(await baseModel(), folder)).rejects.toThrow(message);
  });
});

test("experts of mlx-lm, and tensors that are no adapter's, are refused by name", async () => {
  const with3 = async (name: string, shape: readonly number[]) => {
    const folder = mkdtempSync(join(scratch, "odd-"));
    cpSync(join(here, "lora"), folder, { recursive: true });
    const data = new Float32Array(shape.reduce((a, b) => a * b));
    await writeSafetensors(
      join(folder, "adapters.safetensors"),
      new Map<string, TensorToWrite>([[name, { dtype: "float32", shape, data }]]),
    );
    return loadAdapter(await baseModel(), folder);
  };
  await expect(with3("model.layers.0.mlp.switch_mlp.up_proj.lora_a", [2, 3, 4])).rejects.toThrow(
    "[2, 3, 4] beside it; experts are not read",
  );
  await expect(with3("model.norm.weight", [4])).rejects.toThrow('"model.norm.weight" beside it, which is no part of LoRA');
});

/** What Unsloth chooses layers by, where a model might see images, too. */
const unsloth =
  "(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2).*?)|(?:\\bmodel\\.layers\\.[\\d]{1,}\\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\\.(?:(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2)))";
test.each([
  ["Unsloth", { target_modules: unsloth, auto_mapping: { base_model_class: "LlamaForCausalLM", unsloth_fixed: true } }, 0],
  ["PEFT 0.2", { enable_lora: null, merge_weights: false, target_modules: ["k_proj", "q_proj", "v_proj"] }, 2],
])("a config of %s", async (_, changes, warnings) => {
  const model = await baseModel();
  attach(model, lora({ r: 2, targetModules: ["q_proj", "k_proj", "v_proj"], initLoraWeights: false }));
  const folder = await saveAdapter(model, mkdtempSync(join(scratch, "other-")));
  writeFileSync(join(folder, "adapter_config.json"), JSON.stringify({ peft_type: "LORA", r: 2, lora_alpha: 8, ...changes }));
  const again = await baseModel();
  const adapter = await loadAdapter(again, folder);
  expect(adapter.warnings).toHaveLength(warnings);
  expect(logitsOf(again, [[1, 2]])).toEqual(logitsOf(model, [[1, 2]]));
});
