/**
 * Qwen2 MoE: a Qwen2 in which some or all feed-forward parts are mixtures of experts plus one shared expert.
 * @see https://arxiv.org/abs/2407.10671
 */
import { questionAnswerer, sequenceClassifier, tokenClassifier } from "./family.ts";
import { LlamaAttention, LlamaDecoderLayer, type LlamaFamilyMember, llamaCausalLM, llamaFamily } from "./llama.ts";
import { mixture, mixtureOrMLP, type PartlyMixedConfig, readMixes, readMixture } from "./mixture.ts";
import { qwenDefaults } from "./qwen2.ts";

const qwen2Moe: LlamaFamilyMember = {
  ...mixture,
  modelType: "qwen2_moe",
  defaults: {
    ...qwenDefaults,
    num_key_value_heads: 16,
    intermediate_size: 5632,
    num_experts: 60,
    num_experts_per_tok: 4,
  },
  read(config, llama) {
    const { numHiddenLayers: layers } = llama;
    const isWindowed = config.flag("use_sliding_window", false) && config.get("sliding_window") !== undefined;
    const last = config.number("max_window_layers", layers);
    const own: Partial<PartlyMixedConfig> = {
      ...readMixture(config, llama),
      ...readMixes(config, llama),
      expertSize: config.count("moe_intermediate_size", 1408),
      sharedExpertSize: config.count("shared_expert_intermediate_size", 5632),
      attentionBias: config.flag("qkv_bias", true),
      outputBias: false,
      windows: isWindowed ? config.windows(layers, (i) => i % 2 === 0 && i < last) : new Array<number>(layers).fill(0),
    };
    return own;
  },
  layer: (config, index, init) =>
    new LlamaDecoderLayer(config, new LlamaAttention(config, index, init), mixtureOrMLP(config, index, init)),
};

/** A Qwen2 MoE that predicts the next token. */
export const Qwen2MoeForCausalLM = llamaCausalLM("Qwen2MoeForCausalLM", qwen2Moe);

/** A Qwen2 MoE that classifies texts. */
export const Qwen2MoeForSequenceClassification = sequenceClassifier("Qwen2MoeForSequenceClassification", llamaFamily(qwen2Moe));

/** A Qwen2 MoE that classifies every token. */
export const Qwen2MoeForTokenClassification = tokenClassifier("Qwen2MoeForTokenClassification", llamaFamily(qwen2Moe), "score");

/** A Qwen2 MoE that extracts the answer to a question from a text. */
export const Qwen2MoeForQuestionAnswering = questionAnswerer("Qwen2MoeForQuestionAnswering", llamaFamily(qwen2Moe), {
  countsPadding: true,
});
