/** Right calls of what needs models, files, texts and adapters; those of the engine are in right-calls.ts. */
import { mkdtempSync } from "node:fs";
import { dirname, join } from "node:path";
import * as formats from "../../src/formats/index.ts";
import * as core from "../../src/index.ts";
import * as models from "../../src/models/index.ts";
import * as nn from "../../src/nn/index.ts";
import * as peft from "../../src/peft/index.ts";
import * as text from "../../src/text/index.ts";
import * as train from "../../src/train/index.ts";
import { answeringConfigs, decoderConfigs, encoderConfigs } from "../models/configs.ts";
import { letterTokenizer, smallDataset, smallModel, smallText } from "../train/small-run.ts";

/** Arguments with which a function works. */
export type RightCall = () => readonly unknown[] | Promise<readonly unknown[]>;

/** The same call for several names. */
export const all = (names: readonly string[], call: RightCall): Readonly<Record<string, RightCall>> =>
  Object.fromEntries(names.map((name) => [name, call]));
/** Names of a group that a pattern picks out. */
export const matching = (group: object, pattern: RegExp): string[] => Object.keys(group).filter((name) => pattern.test(name));

export const matrix = () =>
  core.tensor([
    [2, 1],
    [1, 3],
  ]);
const rows = (...values: number[]) => core.tensor(values, { dtype: "int32" }).reshape([1, values.length]);
const targetModules = ["q_proj", "v_proj"];
/** A small model without an output layer, and a tokenizer. */
const reader = () => ({
  model: models.createModel({ ...config("llama"), vocab_size: 300 }, { task: "FeatureExtraction" }),
  tokenizer: letterTokenizer,
});
/** A small model with adapters of these names. */
const adapted = (names = ["default"], method = peft.lora({ r: 2, targetModules })) => {
  const model = smallModel();
  for (const name of names) peft.attach(model, method, { name });
  return model;
};
const withCartridge = () => adapted(["default"], peft.cartridge({ numVirtualTokens: 2, taskType: "CAUSAL_LM" }) as never);
const folder = () => mkdtempSync(join(process.cwd(), "given-"));
const ggufContent = () => ({
  metadata: new Map<string, formats.GgufEntry>([
    ["general.architecture", "llama"],
    ["n", { uint32: [1, 2] }],
  ]),
  tensors: new Map([["x", { dtype: "float32" as const, shape: [2], data: Float32Array.of(1, 2) }]]),
});
const saved = () => peft.saveAdapter(adapted(), folder());
const savedCartridge = () => peft.saveAdapter(withCartridge(), folder());
const savedModel = async () => {
  const path = folder();
  await train.saveModel(path, new models.LlamaForCausalLM(config("llama")), config("llama"));
  return path;
};
const xlora = async () => {
  const model = smallModel();
  await peft.createXlora(model, { a: await saved() });
  return model;
};
const arrow = async () => {
  const model = smallModel();
  await peft.loadArrow(model, [await saved()], { topK: 1 });
  return model;
};
const calibration = (initLoraWeights: "corda" | "eva" | "lora_ga") => [
  smallModel(),
  peft.lora({ r: 2, targetModules, initLoraWeights }),
  [{ inputIds: rows(1, 2, 3, 4), labels: rows(1, 2, 3, 4) }],
];
const tensors = () => new Map([["x", { dtype: "float32" as const, shape: [2], data: new Float32Array(2) }]]);
const adapterFile = () => ({ schema: formats.loraSchema, config: {}, tensors: tensors() });
const memory = () => formats.memoryFolder();
const savedXlora = async () => {
  const path = folder();
  await peft.saveXlora(await xlora(), path);
  return path;
};
const gguf = join(import.meta.dirname, "../fixtures/gguf/llama.gguf");
const definition = () => text.trainTokenizer([smallText], { vocabularySize: 270 });
const chat = [
  [
    { role: "user", content: "hi" },
    { role: "assistant", content: "ho" },
  ],
];
const chatTemplate = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}";
const tokenizer = () => new text.Tokenizer(definition(), { chat_template: chatTemplate });
const vit = { hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 8, image_size: 4, patch_size: 2 };
const configs: Readonly<Record<string, object>> = { ...decoderConfigs, ...encoderConfigs, ...answeringConfigs, vit };
const config = (type: string) => ({ model_type: type, ...configs[type] });
const writer = () => ({
  model: new models.LlamaForCausalLM({ ...config("llama"), vocab_size: 300 }),
  tokenizer: tokenizer(),
});
const few = { maxNewTokens: 2, temperature: 1 };
/** The function that reads the config of a type; several families share llama's. */
const configName = (type: string) =>
  Object.keys(models).find((each) => each.toLowerCase() === `${type.replace(/[_-]/g, "")}config`);

export const callsOfModels: Readonly<Record<string, RightCall>> = {
  // models
  ...Object.fromEntries(
    Object.entries(models.models).flatMap(([type, classes]) =>
      Object.keys(classes).map((name): [string, RightCall] => [name, () => [config(type), { init: nn.init.zeros }]]),
    ),
  ),
  ...Object.fromEntries(
    Object.keys(configs).flatMap((type): [string, RightCall][] => {
      const name = configName(type);
      return name === undefined ? [] : [[name, () => [config(type)]]];
    }),
  ),
  createModel: () => [config("llama"), { init: nn.init.zeros, task: "CausalLM" }],
  KeyValueCache: () => [{ layers: 1, heads: 1, headDim: 2 }, 1, 4],
  taskOf: () => ["LlamaForCausalLM"],
  // files
  diskFolder: async () => [folder(), "openSource"],
  filesFolder: () => [{ "a.txt": Uint8Array.of(1) }, "openSource"],
  encodeAdapter: () => [adapterFile()],
  writeAdapter: () => [memory(), adapterFile()],
  readAdapter: async () => [await saved(), [formats.loraSchema], {}],
  listAdapters: async () => [await saved()],
  formatAdapterConfig: () => [formats.loraSchema, { r: 2 }],
  parseAdapterConfig: () => [formats.formatAdapterConfig(formats.loraSchema, {}), [formats.loraSchema], "a.json"],
  encodeSafetensors: () => [tensors(), { format: "pt" }],
  readSafetensors: () => [formats.encodeSafetensors(tensors()), "bytes"],
  writeSafetensors: () => [join(folder(), "a.safetensors"), tensors(), { format: "pt" }],
  writeCheckpoint: () => [memory(), tensors(), { name: "model", maxShardBytes: 100 }],
  openCheckpoint: async () => [await savedModel(), { name: "model" }],
  openSharded: () => [
    JSON.stringify({ weight_map: { x: "a.safetensors" } }),
    () => formats.readSafetensors(formats.encodeSafetensors(tensors())),
    "index",
  ],
  readGguf: () => [gguf, "name"],
  encodeGguf: () => [ggufContent()],
  writeGguf: () => [join(folder(), "a.gguf"), ggufContent()],
  openGguf: async () => [await formats.diskFolder(dirname(gguf), "openGguf"), "llama.gguf"],
  ggufModel: async () => [await formats.readGguf(gguf)],
  handleFolder: () => [{ name: "picked", async *entries() {}, async removeEntry() {} }, "picked"],
  isHubId: () => ["owner/name"],
  openSource: async () => [folder(), "openSource", {}],
  writeFileAtomically: () => [join(folder(), "a"), "text"],
  writeFolderAtomically: () => [folder(), new Map([["a", "text"]])],
  // texts
  BatchSampler: () => [smallDataset(), { batchSize: 2, seed: 1, epochs: 1 }],
  StreamingDecoder: () => [() => ""],
  TextDataset: () => [{ window: 2, stride: 2, seed: 0, trainTokens: new Int32Array(8), heldOutTokens: new Int32Array(0) }],
  Tokenizer: () => [definition(), {}],
  chatDataset: () => [chat, tokenizer(), { window: 2, stride: 2, heldOut: 0, seed: 0 }],
  conversationsFromJsonl: () => [JSON.stringify({ messages: chat[0] }), "name"],
  loadCorpus: () => ["moby-dick"],
  loadTokenizer: () => [definition(), { config: {} }],
  saveTokenizer: () => [memory(), { definition: definition(), config: {} }],
  textDataset: () => [{ text: smallText }, letterTokenizer, { window: 8, stride: 8, heldOut: 0.1, seed: 0 }],
  textsFromJsonl: () => ['{"text": "a"}', { key: "text", name: "lines" }],
  tokenizerConfig: () => [{ eosToken: "</s>", maximumLength: 8 }],
  trainTokenizer: () => [[smallText], { vocabularySize: 270, specialTokens: ["</s>"], minimumCount: 2 }],
  // adapters
  ...all(Object.keys(peft.methods), () => [{}]),
  adalora: () => [{ totalStep: 10 }],
  adaptionPrompt: () => [{ adapterLen: 2, adapterLayers: 1 }],
  alora: () => [{ aloraInvocationTokens: [1] }],
  cpt: () => [{ cptTokenIds: [1, 2], cptTokensTypeMask: [1, 2] }],
  LoraFA: () => [adapted(), { lr: 0.1, weightDecay: 0 }],
  ...all(["getAdapter", "deleteAdapter", "setActive", "merge", "mergeAndUnload"], () => [adapted(), "default"]),
  ...all(
    [...["activeAdapters", "adapterNames", "adapterPenalty", "baseStateDict", "beginSchedules", "detach", "trainableReport"]],
    () => [adapted()],
  ),
  ...all(["prepareForKbitTraining", "unmerge", "mergeRefusal"], () => [adapted()]),
  attach: () => [smallModel(), peft.lora({ r: 2, targetModules }), { name: "a", seed: 1, trainable: true }],
  calibrateCorda: () => calibration("corda"),
  calibrateEva: () => calibration("eva"),
  calibrateLoraGa: () => calibration("lora_ga"),
  checkMethod: () => [peft.lora, { cases: 1, seed: 1 }],
  combineAdapters: () => [
    adapted(["a", "b"]),
    { adapters: ["a", "b"], weights: [1, 1], type: "linear", name: "c", density: 0.5, seed: 1 },
  ],
  composeCartridges: async () => [[await savedCartridge(), await savedCartridge()], memory()],
  configSchema: () => ["MINE", "mine_", { r: peft.key(8, peft.kind.integer(1)) }],
  "peft.key": () => [8, peft.kind.integer(1)],
  convertToLora: () => [adapted(), { adapter: "default", rank: 1, name: "b", trainable: true }],
  inspectAdapter: () => [adapted(), { adapter: "default", energy: 0.9, intruders: true, topK: 2, thresholdEpsilon: 0.5 }],
  compareAdapters: () => [adapted(["a", "b"]), "a", "b"],
  createXlora: async () => [smallModel(), { a: await saved() }, {}, { seed: 1 }],
  loadXlora: async () => [smallModel(), await savedXlora(), {}],
  saveXlora: async () => [await xlora(), memory(), { baseModel: "mine" }],
  xloraScalings: async () => [await xlora(), { inputIds: rows(1, 2) }],
  loadArrow: async () => [smallModel(), [await saved()], { topK: 1, routerTemperature: 1, seed: 0 }],
  saveArrow: async () => [await arrow(), memory(), { baseModel: "mine" }],
  defineMethod: () => [{ ...peft.methods.lora }],
  registerMethod: () => [peft.methods.lora],
  ...all(["disabled", "mergeDifference"], () => {
    const model = adapted();
    return [model, () => model.forward({ inputIds: rows(1, 2) }).logits];
  }),
  exampleTokens: () => [letterTokenizer, [{ input: "a", answer: "b" }]],
  hotSwap: async () => [adapted(), await saved(), { name: "default" }],
  prepareHotSwap: () => [adapted(), { rank: 4, name: "default" }],
  initializeKvPrefixFromText: () => [withCartridge(), letterTokenizer, "a whale", { useChatTemplate: false, name: "default" }],
  initializeKvPrefixFromTokens: () => [withCartridge(), [1, 2, 3], { name: "default" }],
  linearChange: () => [{ parameters: () => ({}), delta: () => matrix() }],
  loadAdapter: async () => [smallModel(), await saved(), { name: "a", trainable: true }],
  encodeGgufAdapter: () => [adapted(), { name: "default", dtype: "float16" }],
  saveGgufAdapter: () => [adapted(), join(folder(), "a.gguf"), { name: "default", dtype: "float16" }],
  saveAdapter: () => [adapted(), memory(), { name: "default", baseModel: "mine" }],
  loraPlusGroups: () => [adapted(), { lr: 0.1, ratio: 16, weightDecay: 0 }],
  product: () => [2, 0.5],
  times: () => [matrix(), 2],
  quantise: () => [smallModel(), { type: "nf4", blockSize: 64, doubleQuantise: false, skip: [] }],
  readSourceTasks: async () => [join(await saved(), "adapter_model.safetensors"), {}],
  renameAdapter: () => [adapted(), "default", "b"],
  replaceLoraWeightsLoftq: async () => {
    const { model } = await train.loadModel(await savedModel(), { quantise: { type: "nf4", blockSize: 32 } });
    peft.attach(model, peft.lora({ r: 2, targetModules }));
    return [model, await savedModel(), { name: "default" }];
  },
  riemannian: () => [adapted(), new Map(), { reg: 0.1 }],
  setScale: () => [adapted(), 0.5, { name: "default" }],
  switchMerged: () => [adapted(["a", "b"]), ["a"], { maxError: 1 }],
  withAdapters: () => [adapted(), ["default"], () => 1],
  withTasks: () => [adapted(["default"], peft.poly({ r: 2, targetModules }) as never), [0], () => 1],
  choice: () => ["a", "b"],
  ...all(["kind.integer", "float"], () => [1]),
  // training
  Evaluator: () => [smallModel()],
  saveCheckpoint: () => ["checkpoint.safetensors", { model: smallModel() }, { step: 1 }],
  encodeCheckpoint: () => [{ model: smallModel() }, { step: 1 }],
  loadCheckpoint: async () => [await train.encodeCheckpoint({ model: smallModel() }), { model: smallModel() }],
  Trainer: () => [smallModel(), smallDataset(), { steps: 1, batchSize: 2, learningRate: 0.1, clipNorm: 1, seed: 1 }],
  ...all(["finetune", "finetuning"], () => [
    smallModel(),
    smallDataset(),
    { steps: 1, batchSize: 2, learningRate: 0.1, warmupSteps: 1, evaluateEvery: 1 },
  ]),
  compareMethods: () => [
    smallModel(),
    smallDataset(),
    [{ name: "a", config: peft.lora({ r: 2, targetModules }), learningRate: 0.1 }],
    { steps: 1, batchSize: 2, warmupSteps: 1, evaluateEvery: 1, evaluationTokens: 8 },
  ],
  embed: () => [reader(), ["the whale"], { pooling: "mean", maxLength: 4, normalise: false, batchSize: 1, prompt: "a" }],
  similarity: () => [reader(), core.tensor([[1, 2]]), core.tensor([[3, 4]])],
  PairModel: () => [reader().model, { pooling: "last", scale: 5 }],
  pairDataset: () => [[["who", "the whale"]], reader(), { maxLength: 4, heldOut: 0, seed: 0 }],
  evaluate: () => [smallModel(), smallDataset(), { batchSize: 2, maxTokens: 8 }],
  ...all(["generate", "complete"], () => [smallModel(), [1, 2], few]),
  ...all(["generateBatch", "completeBatch"], () => [smallModel(), [[1, 2], [3]], few]),
  ...all(["generateText", "completeText"], () => [writer(), "the whale", few]),
  generationOptions: () => [{ do_sample: true, temperature: 0.5 }, {}],
  loadModel: async () => [await savedModel(), { dtype: "float32", task: "CausalLM" }],
  saveModel: () => [memory(), smallModel(), config("llama"), { dtype: "float32", maxShardBytes: 1e6 }],
  processLogits: () => [[1, 2, 3], { temperature: 0.5, topK: 2, topP: 0.9 }, { tokens: [1] }],
  sampleToken: () => [[1, 2, 3], { temperature: 0.5 }, 0.5, { tokens: [1] }],
  tensorDataset: () => [{ labels: { values: new Int32Array(8), shape: [4, 2] } }, { heldOut: 0.25, seed: 0 }],
};
