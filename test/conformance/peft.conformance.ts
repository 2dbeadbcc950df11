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
import { createModel } from "../../src/models/registry.ts";
import { type Task, taskOf } from "../../src/models/task.ts";
import { ViTForImageClassification } from "../../src/models/vit.ts";
import type { Module } from "../../src/nn/module.ts";
import {
  type Adapter,
  adapterNames,
  attach,
  type CombinationType,
  combineAdapters,
  convertToLora,
  deleteAdapter,
  disabled,
  loadAdapter,
  lora,
  type MethodName,
  merge,
  mergeAndUnload,
  methods,
  saveAdapter,
  setActive,
  unmerge,
} from "../../src/peft/index.ts";
import type { AnyMethod, SampledLayer } from "../../src/peft/method.ts";
import { toFileConfig } from "../../src/peft/method-config.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { complete } from "../../src/train/generation.ts";
import { loadModel, saveModel } from "../../src/train/load-model.ts";
import { drawFrom } from "../arbitrary/adapter.ts";

type Options = NonNullable<Parameters<typeof lora>[0]>;

type Case = {
  readonly base?: string;
  readonly adapterName?: string;
  readonly method?: MethodName;
  readonly saveEmbeddingLayers?: boolean;
  /** It is no change of the weights, so there is no merged model. */
  readonly unmergeable?: true;
  /** PEFT adds a tied adapter twice to the one weight that it merges into, so that its merged model is another. */
  readonly mergedTwice?: true;
  /** PEFT computes with a basis of its own in place of the file's, so that it misreads files from other libraries of linear algebra. */
  readonly ownBasis?: true;
  /** Made of others, which are taken off again. */
  readonly made?: (model: Module, name: string) => Adapter;
};

/** Of two LoRAs on different layers. */
const combinedBy =
  (type: CombinationType) =>
  (model: Module, name: string): Adapter => {
    const first = lora({ r: 2, loraAlpha: 6, targetModules: ["q_proj", "embed_tokens"], taskType: "CAUSAL_LM" });
    attach(model, first, { name: "a", seed: 1 });
    attach(model, lora({ r: 2, loraAlpha: 3, useRslora: true, targetModules: ["q_proj", "up_proj"] }), { name: "b", seed: 2 });
    setActive(model, ["a", "b"]);
    shake(model, 3);
    const options = { adapters: ["a", "b"], weights: [0.8, -0.5], density: 0.6, seed: 4 };
    return combineAdapters(model, { ...options, type, name, trainable: true });
  };
/** Of another method. */
const converted = (model: Module, name: string): Adapter => {
  const feedforwardModules = ["down_proj"];
  attach(model, methods.ia3({ targetModules: ["q_proj", "down_proj"], feedforwardModules, taskType: "CAUSAL_LM" }), {
    name: "a",
  });
  shake(model, 3);
  return convertToLora(model, { adapter: "a", energy: 0.9, name, trainable: true });
};

const qv = ["q_proj", "v_proj"];
/**
 * Where PEFT on the CPU cannot do what is drawn, or nothing is: its butterflies need a CUDA kernel, tokens are rows of embeddings,
 * and OFT on a convolution is no change of the weight, so that the laws do not try it.
 */
const possible: Readonly<Partial<Record<MethodName, object>>> = {
  boft: { boftBlockSize: 4, boftNButterflyFactor: 1 },
  trainableTokens: { targetModules: ["embed_tokens"] },
  oft: { oftBlockSize: 8 },
  frod: { ownBasis: true },
};
const mergeable = (Object.entries(methods) as [MethodName, AnyMethod][]).filter(
  ([, { layers, schema }]) => "target_modules" in schema.keys && Object.values(layers).every(({ delta }) => delta),
);
/** Options that a method samples for the laws, on a layer of such sizes. */
const sampled = (name: MethodName, layer: SampledLayer) => ({
  ...(methods[name] as AnyMethod).samples(drawFrom([5, 3, 7, 2, 11]), layer),
  method: name,
});
/** Every other method that is registered and can be merged; QA-LoRA PEFT has on layers of GPTQ codes alone. */
const ofMethods = mergeable
  .filter(([name]) => name !== "lora" && name !== "qalora")
  .map(([name]) => [name, { ...sampled(name, { in: 24, out: 12 }), targetModules: qv, ...possible[name] }] as const);
/** Those that PEFT lets adapt GPT-2's layers, which keep their weights the other way round. */
const turned: readonly MethodName[] = [
  "lora",
  "dora",
  "adalora",
  "ia3",
  "vera",
  "fourierft",
  "hira",
  "gralora",
  "vblora",
  "waveft",
  "tinylora",
  "unilora",
  "frod",
];
const onTurned = turned.map((name) => {
  // PEFT corrects `fan_in_fan_out` in what it saves, but not HiRA's
  const options = { ...sampled(name, { in: 24, out: 24 }), ...possible[name], ...(name === "hira" ? { fanInFanOut: true } : {}) };
  return [`gpt2_${name}`, { ...options, targetModules: ["c_attn", "mlp.c_proj"], base: "gpt2" }] as const;
});
/** Those that adapt convolutions, on the one that makes vectors of the patches of an image. */
const onPatches = mergeable
  .filter(([, { layers }]) => "conv2d" in layers)
  .map(([name]) => {
    const options = { ...sampled(name, { in: 48, out: 24, groups: 1, places: 16 }), ...possible[name] };
    return [`patches_${name}`, { ...options, targetModules: ["projection"], base: "vit" }] as const;
  });
/** Virtual tokens, adapters on whole attentions, and others that are no change of the weight. */
const prompts: Readonly<Record<string, object>> = {
  adaption_prompt: { method: "adaptionPrompt", adapterLen: 3, adapterLayers: 1 },
  adaption_prompt_gpt2: { method: "adaptionPrompt", adapterLen: 2, adapterLayers: 2, base: "gpt2" },
  prompt_tuning: { method: "promptTuning", numVirtualTokens: 4 },
  prompt_tuning_words: { method: "promptTuning", numVirtualTokens: 4, promptTuningInit: "SAMPLE_VOCAB", base: "gpt2" },
  prompt_tuning_bert: {
    method: "promptTuning",
    numVirtualTokens: 3,
    base: "bert",
    taskType: "SEQ_CLS",
  },
  prompt_tuning_t5: { method: "promptTuning", numVirtualTokens: 3, base: "t5", taskType: "SEQ_2_SEQ_LM" },
  p_tuning: { method: "pTuning", numVirtualTokens: 4, encoderHiddenSize: 7 },
  p_tuning_lstm: {
    method: "pTuning",
    numVirtualTokens: 4,
    encoderHiddenSize: 5,
    encoderReparameterizationType: "LSTM",
    base: "gpt2",
  },
  p_tuning_t5: { method: "pTuning", numVirtualTokens: 2, base: "t5", taskType: "SEQ_2_SEQ_LM" },
  prefix_tuning: { method: "prefixTuning", numVirtualTokens: 4 },
  prefix_tuning_gpt2: { method: "prefixTuning", numVirtualTokens: 3, prefixProjection: true, encoderHiddenSize: 6, base: "gpt2" },
  multitask_prompt: { method: "multitaskPrompt", numVirtualTokens: 3, numRanks: 2 },
  multitask_prompt_t5: { method: "multitaskPrompt", numVirtualTokens: 2, base: "t5", taskType: "SEQ_2_SEQ_LM" },
  cartridge: { method: "cartridge", numVirtualTokens: 4, numFrozenTokens: 2 },
  cartridge_gpt2: { method: "cartridge", numVirtualTokens: 3, numFrozenTokens: 0, base: "gpt2" },
  cpt: { method: "cpt", cptTokenIds: [5, 9, 30, 2, 8], cptTokensTypeMask: [1, 2, 3, 4, 4], optProjectionEpsilon: 3 },
  poly: { method: "poly", r: 3, nSkills: 2, nSplits: 2, targetModules: qv },
  shadow: {
    method: "shadow",
    r: 3,
    shadowNumHiddenLayers: 2,
    shadowHiddenSize: 16,
    shadowIntermediateSize: 20,
    shadowDropout: 0,
  },
  shadow_gpt2: { method: "shadow", r: 3, updateHiddenSize: 5, shadowDropout: 0, base: "gpt2" },
  prefix_tuning_t5: { method: "prefixTuning", numVirtualTokens: 3, base: "t5", taskType: "SEQ_2_SEQ_LM" },
};
const cases: Readonly<Record<string, Options & Case>> = {
  ...Object.fromEntries(Object.entries(prompts).map(([name, item]) => [name, { ...item, unmergeable: true }])),
  ...Object.fromEntries([...ofMethods, ...onTurned, ...onPatches]),
  lily: { method: "lily", r: 3, strideA: 2, numB: 3, targetModules: ["q_proj", "v_proj", "up_proj"], unmergeable: true },
  combined_cat: { made: combinedBy("cat") },
  combined_dare_ties: { made: combinedBy("dare_ties") },
  combined_ties_svd: { made: combinedBy("ties_svd") },
  converted: { made: converted },
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
const gpt2 = {
  model_type: "gpt2",
  architectures: ["GPT2LMHeadModel"],
  ...{ vocab_size: 37, n_embd: 24, n_layer: 2, n_head: 4, n_positions: 64, initializer_range: 0.2 },
};
const vit = {
  model_type: "vit",
  architectures: ["ViTForImageClassification"],
  ...{ hidden_size: 24, intermediate_size: 40, num_hidden_layers: 1, num_attention_heads: 4, initializer_range: 0.2 },
  ...{ image_size: 8, patch_size: 4, num_channels: 3, id2label: { 0: "a", 1: "b", 2: "c" }, label2id: { a: 0, b: 1, c: 2 } },
};
const bert = {
  model_type: "bert",
  architectures: ["BertForSequenceClassification"],
  ...{
    vocab_size: 37,
    hidden_size: 24,
    intermediate_size: 40,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    initializer_range: 0.2,
  },
  ...{ max_position_embeddings: 64, id2label: vit.id2label, label2id: vit.label2id },
};
const t5 = {
  model_type: "t5",
  architectures: ["T5ForConditionalGeneration"],
  ...{ vocab_size: 37, d_model: 24, d_kv: 6, d_ff: 40, num_layers: 3, num_heads: 4, decoder_start_token_id: 0, pad_token_id: 0 },
};
const bases = { untied: config, tied: { ...config, tie_word_embeddings: true }, gpt2, vit, bert, t5 };
type BaseName = keyof typeof bases;

const folder = mkdtempSync(join(tmpdir(), "lorikeet-conformance-"));
const ids = Int32Array.from({ length: 18 }, (_, i) => (i * i * 7 + 3) % config.vocab_size);
const pixels = Float32Array.from({ length: 2 * 3 * 8 * 8 }, (_, i) => Math.sin(i * 1.7));
const shapes = { ids: [2, 9], pixels: [2, 3, 8, 8] };
const isImage = (model: Module) => model instanceof ViTForImageClassification;
/** Logits of a model of texts or of images. */
const logitsOf = (model: Module): Float32Array => {
  const inputs = isImage(model)
    ? { pixelValues: upload(currentDevice(), pixels, shapes.pixels, "float32") }
    : {
        inputIds: upload(currentDevice(), ids, shapes.ids, "int32"),
        ...("answering" in model ? { labels: upload(currentDevice(), ids, shapes.ids, "int32") } : {}),
      };
  return downloadSync((model as CausalLM).forward(inputs as { inputIds: Tensor }).logits) as Float32Array;
};

/** Logits of the model as it is, without its adapters, and with them in its weights. */
function threeWays(model: Module, { unmergeable }: Case): Record<string, Float32Array> {
  const logits = () => logitsOf(model);
  const found = { beside: logits(), disabled: disabled(model, logits) };
  if (unmergeable) return found;
  merge(model);
  const merged = logits();
  unmerge(model);
  return { ...found, merged };
}

/** Moves everything that would be trained, so that nothing is at its start. */
function shake(model: Module, seed: number): void {
  const random = new TorchGenerator(seed);
  for (const parameter of model.trainableParameters())
    parameter.assign(
      add(parameter.stored, upload(currentDevice(), random.normal(parameter.size, 0, 0.1), parameter.shape, "float32")),
    );
}

const taskOfBase = (base: string): Task => taskOf(bases[base as BaseName].architectures[0]!)!;
const freshBase = async (base = "untied"): Promise<Module> =>
  (await loadModel(join(folder, base), { task: taskOfBase(base) })).model.eval();
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
const written = new Map<string, number[]>();
/** Cases whose generated text is compared, too: PEFT's generation knows of virtual tokens. */
const writes = ({ unmergeable, base }: Case): boolean => unmergeable === true && base !== "bert" && base !== "t5";
const adapterFolder = ({ adapterName }: { readonly adapterName?: string }) =>
  adapterName === undefined ? "ours" : `ours/${adapterName}`;

beforeAll(async () => {
  useDevice(createWasm({ threads: 1 }));
  for (const [name, json] of Object.entries(bases)) {
    manualSeed(name.length);
    const model = createModel(json, { task: taskOfBase(name) });
    shake(model, 1); // biases, too, which start at zero
    await saveModel(join(folder, name), model, json);
  }
  const label = { dtype: "int32", shape: [2], data: Int32Array.of(2, 0) } as const;
  await writeSafetensors(join(folder, "texts.safetensors"), {
    input_ids: { dtype: "int32", shape: shapes.ids, data: ids },
    labels: { dtype: "int32", shape: shapes.ids, data: ids },
  });
  await writeSafetensors(join(folder, "images.safetensors"), {
    pixel_values: { dtype: "float32", shape: shapes.pixels, data: pixels },
    labels: label,
  });
  for (const [name, labels] of [
    ["bert", label],
    ["t5", { dtype: "int32", shape: shapes.ids, data: ids }],
  ] as const)
    await writeSafetensors(join(folder, `${name}.safetensors`), {
      input_ids: { dtype: "int32", shape: shapes.ids, data: ids },
      labels,
    });
  const list: object[] = [];
  for (const [i, [name, item]] of Object.entries(cases).entries()) {
    const { base = "untied", adapterName = defaultAdapterName, method: key = "lora", unmergeable = false, ...rest } = item;
    const { saveEmbeddingLayers = "auto", mergedTwice: _, ownBasis: __, made, ...options } = rest;
    const method: AnyMethod = methods[key];
    const model = await freshBase(base);
    const configured = method({ ...(isImage(model) ? {} : { taskType: "CAUSAL_LM" }), ...options });
    const adapter = made ? made(model, adapterName) : attach(model, configured, { name: adapterName, seed: i });
    if (made) {
      setActive(model, adapterName);
      for (const other of adapterNames(model)) if (other !== adapterName) deleteAdapter(model, other);
    } else shake(model, i);
    ours.set(name, threeWays(model, item));
    if (writes(item))
      written.set(name, await complete(model as CausalLM, [...ids.subarray(0, 4)], { temperature: 0, maxNewTokens: 6 }));
    await saveAdapter(model, join(folder, name, "ours"), { name: adapterName, saveEmbeddingLayers });
    if (!unmergeable) {
      mergeAndUnload(model);
      await saveModel(join(folder, name, "merged"), model, bases[base as BaseName]);
    }
    const full = toFileConfig(method.schema, made ? adapter.config : configured.config);
    const given = Object.entries(full).filter(
      ([, value]) => value !== null && !["peft_type", "peft_version", "inference_mode"].includes(String(value)),
    );
    const { peftType: type } = method;
    list.push({
      name,
      base,
      inputs: isImage(model) ? "images" : base === "bert" || base === "t5" ? base : "texts",
      merges: !unmergeable,
      writes: writes(item),
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
      if (!options.ownBasis && (what !== "merged" || !options.mergedTwice)) expectClose(what, logits, theirs.get(what));
    expect(JSON.parse(readFileSync(join(folder, name, "notes.json"), "utf8"))).toEqual([]);
    if (writes(options)) expect(written.get(name)).toEqual([...theirs.get("written")!]);
  });

  test.skipIf(options.unmergeable)("transformers reads the merged model that we saved", async () => {
    const theirs = await logitsIn(name, "read.safetensors");
    expectClose("merged", ours.get(name)!["merged"]!, theirs.get("saved_merged"));
  });

  test("we read PEFT's after a step of training, and compute the same", async () => {
    const model = await freshBase(options.base);
    const { warnings } = await loadAdapter(model, join(folder, name, "theirs"));
    expect(withoutTying(warnings)).toEqual([]);
    const theirs = await logitsIn(name, "theirs.safetensors");
    const got = threeWays(model, options);
    for (const [what, logits] of Object.entries(got))
      if (what !== "merged" || !options.mergedTwice) expectClose(what, logits, theirs.get(what));
    expect(got["beside"], "the adapter does something").not.toEqual(logitsOf(await freshBase(options.base)));
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
    // PEFT lists the output layer of a classifier that it adds as often as it passes by
    const sorted = (value: unknown) => (Array.isArray(value) ? [...new Set(value)].sort() : value);
    const plain = ({ config: read }: typeof mine) =>
      Object.fromEntries(
        Object.entries(read)
          // without a task PEFT notes the model's class, which ours has not
          .filter(([key]) => key !== "base_model_name_or_path" && (read["task_type"] !== null || key !== "auto_mapping"))
          .map(([key, value]) => [key, sorted(value)]),
      );
    expect(plain(mine)).toEqual(plain(theirs));
  });
});
