/**
 * Qwen3-Next, and Qwen3.5 with mixtures of experts: three of four layers are Gated DeltaNets, and feed-forward parts are mixtures of
 * experts plus one shared expert.
 *
 * @see https://huggingface.co/Qwen/Qwen3-Next-80B-A3B-Instruct, https://huggingface.co/Qwen/Qwen3.5-35B-A3B
 */
import type { ConfigReader } from "./config-reader.ts";
import { sequenceClassifier, tokenClassifier } from "./family.ts";
import { FusedDeltaNet, GatedDeltaNet } from "./gated-delta-net.ts";
import { type LlamaFamilyMember, llamaCausalLM, llamaFamily, llamaQuestionAnswerer } from "./llama.ts";
import type { LlamaConfig } from "./llama-config.ts";
import { mixture, mixtureOrMLP, type PartlyMixedConfig, readMixes, readMixture } from "./mixture.ts";
import { pathOfText, type Qwen35Config, Qwen35DecoderLayer, readHybrid } from "./qwen3-5.ts";

const defaults = {
  num_key_value_heads: 2,
  head_dim: 256,
  max_position_embeddings: 32768,
  partial_rotary_factor: 0.25,
  norm_topk_prob: true,
};
const read = (config: ConfigReader, llama: LlamaConfig): Partial<Qwen35Config & PartlyMixedConfig> => ({
  ...readHybrid(config, llama),
  ...readMixture(config, llama),
  ...readMixes(config, llama),
  expertSize: config.count("moe_intermediate_size", 512),
  sharedExpertSize: config.count("shared_expert_intermediate_size", 512),
});
const common = { ...mixture, partialRotary: true, isRecurrent: true, names: { ...mixture.names, pathOf: pathOfText } };
const layerOf =
  (net: typeof FusedDeltaNet | typeof GatedDeltaNet): NonNullable<LlamaFamilyMember["layer"]> =>
  (config, index, init) =>
    new Qwen35DecoderLayer(config as Qwen35Config, index, init, mixtureOrMLP(config, index, init), net);

const qwen3Next: LlamaFamilyMember = {
  ...common,
  modelType: "qwen3_next",
  defaults: { ...defaults, intermediate_size: 5632, num_experts: 512, num_experts_per_tok: 10 },
  read,
  layer: layerOf(FusedDeltaNet),
};

const qwen35Moe: LlamaFamilyMember = {
  ...common,
  modelType: "qwen3_5_moe_text",
  // all feed-forward parts are mixtures
  defaults: { ...defaults, vocab_size: 248320, intermediate_size: 512, num_experts: 256, num_experts_per_tok: 8 },
  read: (config, llama) => ({ ...read(config, llama), normTopkProb: true, mixes: new Array(llama.numHiddenLayers).fill(true) }),
  layer: layerOf(GatedDeltaNet),
};

/** A Qwen3-Next that predicts the next token. */
export const Qwen3NextForCausalLM = llamaCausalLM("Qwen3NextForCausalLM", qwen3Next);

/** A Qwen3-Next that classifies texts. */
export const Qwen3NextForSequenceClassification = sequenceClassifier(
  "Qwen3NextForSequenceClassification",
  llamaFamily(qwen3Next),
);

/** A Qwen3-Next that classifies every token. */
export const Qwen3NextForTokenClassification = tokenClassifier(
  "Qwen3NextForTokenClassification",
  llamaFamily(qwen3Next),
  "score",
);

/** A Qwen3.5 with mixtures of experts that predicts the next token. */
export const Qwen3_5MoeForCausalLM = llamaCausalLM("Qwen3_5MoeForCausalLM", qwen35Moe);

/** A Qwen3-Next that extracts the answer to a question from a text. */
export const Qwen3NextForQuestionAnswering = llamaQuestionAnswerer("Qwen3NextForQuestionAnswering", qwen3Next);
