/** Qwen3 MoE: a Qwen3 in which some or all feed-forward parts are mixtures of experts. @see https://arxiv.org/abs/2505.09388 */
import { sequenceClassifier, tokenClassifier } from "./family.ts";
import {
  LlamaAttention,
  LlamaDecoderLayer,
  type LlamaFamilyMember,
  llamaCausalLM,
  llamaFamily,
  llamaQuestionAnswerer,
} from "./llama.ts";
import { mixture, mixtureOrMLP, type PartlyMixedConfig, readMixes, readMixture } from "./mixture.ts";

const qwen3Moe: LlamaFamilyMember = {
  ...mixture,
  modelType: "qwen3_moe",
  defaults: {
    num_key_value_heads: 4,
    max_position_embeddings: 32768,
    sliding_window: 4096,
    intermediate_size: 6144,
    num_experts: 128,
    num_experts_per_tok: 8,
  },
  read(config, llama) {
    const { numHiddenLayers: layers } = llama;
    const windowed = config.flag("use_sliding_window", false) && config.get("sliding_window") !== undefined;
    const own: Partial<PartlyMixedConfig> = {
      ...readMixture(config, llama),
      ...readMixes(config, llama),
      expertSize: config.count("moe_intermediate_size", 768),
      queryKeyNorm: "head",
      windows: new Array<number>(layers).fill(windowed ? config.count("sliding_window") : 0),
    };
    return own;
  },
  layer: (config, index, init) =>
    new LlamaDecoderLayer(config, new LlamaAttention(config, index, init), mixtureOrMLP(config, index, init)),
};

/** A Qwen3 MoE that predicts the next token. */
export const Qwen3MoeForCausalLM = llamaCausalLM("Qwen3MoeForCausalLM", qwen3Moe);

/** A Qwen3 MoE that classifies texts. */
export const Qwen3MoeForSequenceClassification = sequenceClassifier("Qwen3MoeForSequenceClassification", llamaFamily(qwen3Moe));

/** A Qwen3 MoE that classifies every token. */
export const Qwen3MoeForTokenClassification = tokenClassifier("Qwen3MoeForTokenClassification", llamaFamily(qwen3Moe), "score");

/** A Qwen3 MoE that extracts the answer to a question from a text. */
export const Qwen3MoeForQuestionAnswering = llamaQuestionAnswerer("Qwen3MoeForQuestionAnswering", qwen3Moe);
