/** Qwen3 MoE: a Qwen3 whose feed-forward parts, or some of them, are mixtures of experts. @see https://arxiv.org/abs/2505.09388 */
import { sequenceClassifier, tokenClassifier } from "./family.ts";
import { gatedMLP, LlamaAttention, LlamaDecoderLayer, type LlamaFamilyMember, llamaCausalLM, llamaFamily } from "./llama.ts";
import { type MixtureConfig, mixture, mixtureLayer, readMixture } from "./mixture.ts";

interface Qwen3MoeConfig extends MixtureConfig {
  /** For each layer, whether its feed-forward part is a mixture. */
  readonly mixes: readonly boolean[];
}

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
    const step = config.count("decoder_sparse_step", 1);
    const plain = config.get("mlp_only_layers") ?? [];
    if (!Array.isArray(plain)) return config.refuse("mlp_only_layers", plain, "must be a list of layers");
    const own: Partial<Qwen3MoeConfig> = {
      ...readMixture(config, llama),
      expertSize: config.count("moe_intermediate_size", 768),
      queryKeyNorm: "head",
      windows: new Array<number>(layers).fill(windowed ? config.count("sliding_window") : 0),
      mixes: Array.from({ length: layers }, (_, i) => !plain.includes(i) && (i + 1) % step === 0),
    };
    return own;
  },
  layer(config, index, init) {
    const attention = new LlamaAttention(config, index, init);
    if ((config as Qwen3MoeConfig).mixes[index]) return mixtureLayer(config, attention, init);
    return new LlamaDecoderLayer(config, attention, gatedMLP(config, init));
  },
};

/** A Qwen3 MoE that gives logits of the next token. */
export const Qwen3MoeForCausalLM = llamaCausalLM("Qwen3MoeForCausalLM", qwen3Moe);

/** A Qwen3 MoE that puts texts into classes. */
export const Qwen3MoeForSequenceClassification = sequenceClassifier("Qwen3MoeForSequenceClassification", llamaFamily(qwen3Moe));

/** A Qwen3 MoE that puts every token into a class. */
export const Qwen3MoeForTokenClassification = tokenClassifier("Qwen3MoeForTokenClassification", llamaFamily(qwen3Moe), "score");
