/**
 * Files of adapters and models are interchangeable with Hugging Face's peft and transformers: what one side writes the other
 * reads, with the same logits beside the weights, disabled and merged. See peft_side.py for the other side.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { currentDevice, downloadSync, upload, useDevice } from "../../src/compile/program.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { defaultAdapterName } from "../../src/formats/peft-adapter.ts";
import { readSafetensors, writeSafetensors } from "../../src/formats/safetensors.ts";
import { add } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import { LlamaForCausalLM } from "../../src/models/llama.ts";
import {
  attach,
  disabled,
  loadAdapter,
  type lora,
  type MethodName,
  merge,
  mergeAndUnload,
  methods,
  saveAdapter,
  unmerge,
} from "../../src/peft/index.ts";
import { type AnyMethod, toFileConfig } from "../../src/peft/method.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { loadModel, saveModel } from "../../src/train/load-model.ts";
import { drawFrom } from "../arbitrary/adapter.ts";

type Options = NonNullable<Parameters<typeof lora>[0]>;

type Case = {
  readonly base?: string;
  readonly adapterName?: string;
  readonly method?: MethodName;
  readonly saveEmbeddingLayers?: boolean;
  /** PEFT adds a tied adapter twice to the one weight that it merges into, so that its merged model is another. */
  readonly mergedTwice?: true;
};

const qv = ["q_proj", "v_proj"];
/** Where PEFT on the CPU cannot do what is drawn: its butterflies need a CUDA kernel, and tokens are rows of embeddings. */
const possible: Readonly<Partial<Record<MethodName, object>>> = {
  boft: { boftBlockSize: 4, boftNButterflyFactor: 1 },
  trainableTokens: { targetModules: ["embed_tokens"] },
};
/** Every other method that is registered and can be merged, with options that it samples for the laws. */
const ofMethods = Object.entries(methods)
  .filter(([name, { layers }]) => name !== "lora" && Object.values(layers as AnyMethod["layers"]).every(({ delta }) => delta))
  .map(([name, method]) => {
    const options = (method as AnyMethod).samples(drawFrom([5, 3, 7, 2, 11]), { in: 24, out: 12 });
    return [name, { ...options, targetModules: qv, ...possible[name as MethodName], method: name as MethodName }] as const;
  });
const cases: Readonly<Record<string, Options & Case>> = {
  ...Object.fromEntries(ofMethods),
  plain: { r: 3, loraAlpha: 6, targetModules: qv },
  all_linear: { r: 2, targetModules: "all-linear", loraDropout: 0.1 },
  default_targets: { r: 2 },
  named: { r: 2, targetModules: qv, adapterName: "whale" },
  rslora: { r: 4, loraAlpha: 6, useRslora: true, targetModules: qv },
  gaussian: { r: 2, initLoraWeights: "gaussian", targetModules: qv },
  bias_all: { r: 2, bias: "all", targetModules: ["q_proj"] },
  bias_lora_only: { r: 2, bias: "lora_only", targetModules: ["k_proj", "gate_proj"] },
  lora_bias: { r: 2, loraAlpha: 5, loraBias: true, targetModules: qv },
  patterns: {
    r: 2,
    loraAlpha: 4,
    targetModules: [...qv, "up_proj"],
    rankPattern: { v_proj: 4, "layers.1.mlp.up_proj": 3 },
    alphaPattern: { "layers.0.self_attn.q_proj": 9, up_proj: 2.5 },
  },
  modules_to_save: { r: 2, targetModules: qv, modulesToSave: ["lm_head", "norm"] },
  block_to_save: {
    r: 2,
    targetModules: ["o_proj"],
    layersToTransform: [1],
    modulesToSave: ["layers.0.self_attn", "layers.0.mlp"],
  },
  bias_and_modules_to_save: { r: 2, targetModules: ["q_proj"], bias: "all", modulesToSave: ["k_proj"] },
  embedding: { r: 2, targetModules: ["embed_tokens", "q_proj"] },
  lm_head: { r: 2, targetModules: ["lm_head", "q_proj"] },
  pattern_of_targets: { r: 2, targetModules: ".*layers\\.1.*(q|up)_proj" },
  excluded: { r: 2, targetModules: [...qv, "down_proj"], excludeModules: ["layers.0.self_attn.q_proj"] },
  layers: { r: 2, targetModules: qv, layersToTransform: [1], layersPattern: "layers" },
  tied_embedding: { r: 2, targetModules: ["embed_tokens"], base: "tied" },
  tied_modules_to_save: { r: 2, targetModules: qv, modulesToSave: ["lm_head"], base: "tied" },
  trained_tokens: { r: 2, targetModules: qv, trainableTokenIndices: [30, 4] },
  trained_tokens_of_both: { r: 2, targetModules: qv, trainableTokenIndices: { embed_tokens: [3], lm_head: [9, 5] } },
  tied_trained_tokens: { r: 2, targetModules: qv, trainableTokenIndices: [30, 4], base: "tied" },
  tied_trained_tokens_of_both: {
    r: 2,
    targetModules: qv,
    trainableTokenIndices: { embed_tokens: [30, 4], lm_head: [30, 4] },
    base: "tied",
  },
  tied_tokens: { method: "trainableTokens", tokenIndices: [30, 4], base: "tied" } as object,
  tying_targets: { r: 2, targetModules: ["embed_tokens", "q_proj"], ensureWeightTying: true, base: "tied", mergedTwice: true },
  tying_head: { r: 2, targetModules: ["lm_head", "q_proj"], ensureWeightTying: true, base: "tied", mergedTwice: true },
  tying_pattern: { r: 2, targetModules: ".*(lm_head|q_proj)", ensureWeightTying: true, base: "tied", mergedTwice: true },
  tying_modules_to_save: { r: 2, targetModules: qv, modulesToSave: ["lm_head"], ensureWeightTying: true, base: "tied" },
  parameters: { r: 2, loraAlpha: 5, targetModules: [], targetParameters: ["q_proj.weight", "mlp.down_proj.weight"] },
  embeddings_saved: { r: 2, targetModules: qv, saveEmbeddingLayers: true },
  embeddings_saved_tied: { r: 2, targetModules: qv, saveEmbeddingLayers: true, base: "tied" },
  embeddings_not_saved: { r: 2, targetModules: ["embed_tokens", "lm_head"], saveEmbeddingLayers: false },
};

const config = {
  model_type: "llama",
  architectures: ["LlamaForCausalLM"],
  vocab_size: 37,
  hidden_size: 24,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  attention_bias: true,
  mlp_bias: true,
  initializer_range: 0.2,
  rms_norm_eps: 1e-5,
  max_position_embeddings: 64,
  tie_word_embeddings: false,
};
const bases = { untied: config, tied: { ...config, tie_word_embeddings: true } };

const folder = mkdtempSync(join(tmpdir(), "lorikeet-conformance-"));
const ids = Int32Array.from({ length: 18 }, (_, i) => (i * i * 7 + 3) % config.vocab_size);
const shape = [2, 9];
const inputIds = () => upload(currentDevice(), ids, shape, "int32");

/** Logits of the model as it is, without its adapters, and with them in its weights. */
function threeWays(model: CausalLM): Record<string, Float32Array> {
  const logits = () => downloadSync(model.forward({ inputIds: inputIds() }).logits) as Float32Array;
  const found = { beside: logits(), disabled: disabled(model, logits) };
  merge(model);
  const merged = logits();
  unmerge(model);
  return { ...found, merged };
}

/** Moves everything that would be trained, so that nothing is at its start. */
function shake(model: CausalLM, seed: number): void {
  const random = new TorchGenerator(seed);
  for (const parameter of model.trainableParameters())
    parameter.assign(
      add(parameter.stored, upload(currentDevice(), random.normal(parameter.size, 0, 0.1), parameter.shape, "float32")),
    );
}

const freshBase = async (base = "untied"): Promise<CausalLM> => (await loadModel(join(folder, base))).model.eval();
const logitsIn = async (...path: string[]) => {
  const { tensors } = await readSafetensors(join(folder, ...path));
  return new Map(await Promise.all([...tensors].map(async ([name, tensor]) => [name, await tensor.load()] as const)));
};
const files = (name: string, adapter: string) => ({
  config: JSON.parse(readFileSync(join(folder, name, adapter, "adapter_config.json"), "utf8")),
  tensors: readSafetensors(join(folder, name, adapter, "adapter_model.safetensors")),
});

function expectClose(what: string, got: ArrayLike<number>, want: ArrayLike<number> | undefined): void {
  expect(got.length, what).toBe(want?.length);
  const worst = Array.from(got).reduce((most, value, i) => Math.max(most, Math.abs(value - (want as Tensor["shape"])[i]!)), 0);
  expect(worst, `${what}: largest difference`).toBeLessThan(1e-4);
}

/** What is said when an adapter tears tied weights apart, as it does here on purpose. */
const withoutTying = (warnings: readonly string[]) =>
  warnings.filter((warning) => !warning.includes("`ensureWeightTying` would"));

const ours = new Map<string, Record<string, Float32Array>>();
const adapterFolder = ({ adapterName }: { readonly adapterName?: string }) =>
  adapterName === undefined ? "ours" : `ours/${adapterName}`;

beforeAll(async () => {
  useDevice(createWasm({ threads: 1 }));
  for (const [name, json] of Object.entries(bases)) {
    manualSeed(name.length);
    const model = new LlamaForCausalLM(json);
    shake(model, 1); // biases, too, which start at zero
    await saveModel(join(folder, name), model, json);
  }
  await writeSafetensors(join(folder, "inputs.safetensors"), { input_ids: { dtype: "int32", shape, data: ids } });
  const list: object[] = [];
  for (const [i, [name, item]] of Object.entries(cases).entries()) {
    const { base = "untied", adapterName = defaultAdapterName, method: key = "lora", ...rest } = item;
    const { saveEmbeddingLayers = "auto", mergedTwice: _, ...options } = rest;
    const method: AnyMethod = methods[key];
    const configured = method({ ...options, taskType: "CAUSAL_LM" });
    const model = await freshBase(base);
    const adapter = attach(model, configured, { name: adapterName, seed: i });
    shake(model, i);
    ours.set(name, threeWays(model));
    await saveAdapter(model, join(folder, name, "ours"), { name: adapterName, saveEmbeddingLayers });
    mergeAndUnload(model);
    await saveModel(join(folder, name, "merged"), model, bases[base as keyof typeof bases]);
    const full = toFileConfig(method.schema, configured.config);
    const given = Object.entries(full).filter(
      ([, value]) => value !== null && !["peft_type", "peft_version", "inference_mode"].includes(String(value)),
    );
    const { peftType: type } = method;
    list.push({
      name,
      base,
      type,
      adapter: join(name, adapterFolder(item)),
      config: Object.fromEntries(given),
      saveEmbeddingLayers,
    });
    expect(withoutTying(adapter.warnings)).toEqual([]);
  }
  writeFileSync(join(folder, "cases.json"), JSON.stringify(list));
  const python = process.env["LORIKEET_PYTHON"] ?? "python3";
  const run = spawnSync(python, [join(import.meta.dirname, "peft_side.py"), folder], { encoding: "utf8" });
  if (run.status !== 0) throw new Error(`${python} failed:\n${run.stderr}`);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.each(Object.entries(cases))("an adapter: %s", (name, options) => {
  test("PEFT reads ours, without missing keys, and computes the same", async () => {
    const theirs = await logitsIn(name, "read.safetensors");
    for (const [what, logits] of Object.entries(ours.get(name)!))
      if (what !== "merged" || !options.mergedTwice) expectClose(what, logits, theirs.get(what));
    expect(JSON.parse(readFileSync(join(folder, name, "notes.json"), "utf8"))).toEqual([]);
  });

  test("transformers reads the merged model that we saved", async () => {
    const theirs = await logitsIn(name, "read.safetensors");
    expectClose("merged", ours.get(name)!["merged"]!, theirs.get("saved_merged"));
  });

  test("we read PEFT's after a step of training, and compute the same", async () => {
    const model = await freshBase(options.base);
    const { warnings } = await loadAdapter(model, join(folder, name, "theirs"));
    expect(withoutTying(warnings)).toEqual([]);
    const theirs = await logitsIn(name, "theirs.safetensors");
    const got = threeWays(model);
    for (const [what, logits] of Object.entries(got))
      if (what !== "merged" || !options.mergedTwice) expectClose(what, logits, theirs.get(what));
    const base = downloadSync((await freshBase(options.base)).forward({ inputIds: inputIds() }).logits) as Float32Array;
    expect(got["beside"], "the adapter does something").not.toEqual(base);
  });

  test("both write the same keys, shapes and config", async () => {
    const [mine, theirs] = [files(name, adapterFolder(options)), files(name, "theirs")];
    const shapes = async ({ tensors }: typeof mine) =>
      Object.fromEntries(
        [...(await tensors).tensors]
          // with `bias: "all"` PEFT writes biases of modules to save twice more, under names that it does not read
          .filter(([key]) => !/\.(modules_to_save|original_module)\./.test(key))
          .map(([key, tensor]) => [key, [tensor.storedDType, ...tensor.shape]]),
      );
    expect(await shapes(mine)).toEqual(await shapes(theirs));
    const sorted = (value: unknown) => (Array.isArray(value) ? [...value].sort() : value);
    const plain = ({ config: read }: typeof mine) =>
      Object.fromEntries(
        Object.entries(read)
          .filter(([key]) => key !== "base_model_name_or_path")
          .map(([key, value]) => [key, sorted(value)]),
      );
    expect(plain(mine)).toEqual(plain(theirs));
  });
});
