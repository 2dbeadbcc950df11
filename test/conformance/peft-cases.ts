/** What is traded with PEFT: adapters of every method on small models of several families. */
import { currentDevice, upload } from "../../src/compile/program.ts";
import { add } from "../../src/graph/elementwise.ts";
import type { Module } from "../../src/nn/module.ts";
import {
  type Adapter,
  attach,
  type CombinationType,
  combineAdapters,
  convertToLora,
  lora,
  type MethodName,
  methods,
  setActive,
} from "../../src/peft/index.ts";
import type { AnyMethod, SampledLayer } from "../../src/peft/method.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { drawFrom } from "../arbitrary/adapter.ts";

type Options = NonNullable<Parameters<typeof lora>[0]>;

export type Case = {
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
  const options = { ...sampled(name, { in: 24, out: 24 }), ...possible[name] };
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
  prefix_tuning_answers: { method: "prefixTuning", numVirtualTokens: 3, base: "bert_answers", taskType: "QUESTION_ANS" },
  prompt_tuning_states: { method: "promptTuning", numVirtualTokens: 3, base: "bert_states", taskType: "FEATURE_EXTRACTION" },
  prefix_tuning_t5: { method: "prefixTuning", numVirtualTokens: 3, base: "t5", taskType: "SEQ_2_SEQ_LM" },
};
/** Tasks whose output layer is trained along, or that have none. */
const ofTasks = {
  answers: { r: 2, base: "bert_answers", taskType: "QUESTION_ANS" },
  answers_ia3: { method: "ia3", base: "bert_answers", taskType: "QUESTION_ANS" },
  states: { r: 2, targetModules: "all-linear", base: "bert_states", taskType: "FEATURE_EXTRACTION" },
  states_dora: { method: "dora", r: 2, modulesToSave: ["pooler"], base: "bert_states", taskType: "FEATURE_EXTRACTION" },
} as const;
export const cases: Readonly<Record<string, Options & Case>> = {
  ...Object.fromEntries(Object.entries(prompts).map(([name, item]) => [name, { ...item, unmergeable: true }])),
  ...(ofTasks as object),
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
  qalora_of_one: { method: "qalora", r: 2, qaloraGroupSize: 1, targetModules: qv },
  opt_without_weights_of_norms: { r: 2, targetModules: ["k_proj", "fc1"], base: "opt" },
  gpt2_trained_tokens: { r: 2, targetModules: ["c_attn"], trainableTokenIndices: [3, 7], base: "gpt2" },
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

export const config = {
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
const opt = {
  model_type: "opt",
  architectures: ["OPTForCausalLM"],
  ...{ vocab_size: 37, hidden_size: 24, ffn_dim: 40, num_hidden_layers: 2, num_attention_heads: 4, max_position_embeddings: 64 },
  ...{ word_embed_proj_dim: 24, init_std: 0.2, dropout: 0, enable_bias: false, layer_norm_elementwise_affine: false },
};
const bert_answers = {
  ...bert,
  architectures: ["BertForQuestionAnswering"],
  id2label: { 0: "a", 1: "b" },
  label2id: { a: 0, b: 1 },
};
const bert_states = { ...bert, architectures: ["BertModel"] };
export const bases = {
  opt,
  untied: config,
  tied: { ...config, tie_word_embeddings: true },
  gpt2,
  vit,
  bert,
  bert_answers,
  bert_states,
  t5,
};
export type BaseName = keyof typeof bases;

/** Moves everything that would be trained, so that nothing is at its start. */
export function shake(model: Module, seed: number): void {
  const random = new TorchGenerator(seed);
  for (const parameter of model.trainableParameters())
    parameter.assign(
      add(parameter.stored, upload(currentDevice(), random.normal(parameter.size, 0, 0.1), parameter.shape, "float32")),
    );
}
