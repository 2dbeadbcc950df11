/** OLMoE: a Llama with norms over all queries and all keys of a token and with mixtures of experts. @see https://arxiv.org/abs/2409.02060 */
import type { Tensor } from "../graph/node.ts";
import { clamp } from "../tensor/math.ts";
import type { Projections } from "./decoder.ts";
import { LlamaAttention, type LlamaFamilyMember, llamaCausalLM } from "./llama.ts";
import { type MixtureConfig, mixture, mixtureLayer, readMixture } from "./mixture.ts";

interface OlmoeConfig extends MixtureConfig {
  /** What queries, keys and values are kept within on both sides. */
  readonly clipQkv: number;
}

/** Attention whose queries, keys and values are clipped. */
class OlmoeAttention extends LlamaAttention {
  override project(x: Tensor): Projections {
    const { clipQkv } = this.config as OlmoeConfig;
    const { q, k, v } = super.project(x);
    const clipped = (y: Tensor) => (clipQkv === Number.POSITIVE_INFINITY ? y : clamp(y, { min: -clipQkv, max: clipQkv }));
    return { q: clipped(q), k: clipped(k), v: clipped(v) };
  }
}

const olmoe: LlamaFamilyMember = {
  ...mixture,
  modelType: "olmoe",
  defaults: {
    intermediate_size: 2048,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
    pad_token_id: 1,
    num_experts: 64,
    num_experts_per_tok: 8,
    router_aux_loss_coef: 0.01,
  },
  read(config, llama) {
    const own: Partial<OlmoeConfig> = {
      ...readMixture(config, llama),
      queryKeyNorm: "token",
      clipQkv: config.get("clip_qkv") === undefined ? Number.POSITIVE_INFINITY : config.number("clip_qkv", 0),
    };
    return own;
  },
  layer: (config, index, init) => mixtureLayer(config, new OlmoeAttention(config, index, init), init),
};

/** An OLMoE that predicts the next token. */
export const OlmoeForCausalLM = llamaCausalLM("OlmoeForCausalLM", olmoe);
