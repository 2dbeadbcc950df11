/** Small configs of all types of models, for tests. */
import type { ConfigJson } from "../../src/models/config-reader.ts";

const llamaLike = {
  vocab_size: 23,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 4,
};
const { head_dim, ...phiLike } = llamaLike;
const { num_key_value_heads, ...neoxLike } = phiLike;
export const longrope = { rope_type: "longrope", short_factor: [1, 2], long_factor: [3, 4], original_max_position_embeddings: 8 };

const hybrid = {
  ...llamaLike,
  layer_types: ["linear_attention", "full_attention"],
  partial_rotary_factor: 0.5,
  linear_num_key_heads: 1,
  linear_num_value_heads: 2,
  linear_key_head_dim: 4,
  linear_value_head_dim: 6,
};
const routed = { num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 6, shared_expert_intermediate_size: 5 };

/** A small config of each type that continues a text. */
export const decoderConfigs: Readonly<Record<string, ConfigJson>> = {
  bloom: { vocab_size: 23, hidden_size: 12, n_layer: 2, n_head: 3 },
  cohere: { ...phiLike, use_qk_norm: true },
  cohere2: { ...phiLike, sliding_window: 3, sliding_window_pattern: 2 },
  falcon: { ...neoxLike, num_attention_heads: 6, hidden_size: 12, num_kv_heads: 2, new_decoder_architecture: true },
  gemma: llamaLike,
  gemma2: { ...llamaLike, sliding_window: 3 },
  gemma3_text: { ...llamaLike, sliding_window: 3, sliding_window_pattern: 2 },
  glm: llamaLike,
  glm4: llamaLike,
  gpt2: { vocab_size: 23, n_embd: 16, n_layer: 2, n_head: 4, n_positions: 16 },
  gptj: { vocab_size: 23, n_embd: 16, n_layer: 2, n_head: 2, rotary_dim: 4, n_positions: 16 },
  gpt_neo: { vocab_size: 23, hidden_size: 16, num_layers: 2, num_heads: 4, max_position_embeddings: 16, window_size: 3 },
  gpt_neox: { ...neoxLike, rotary_pct: 0.5 },
  gpt_oss: {
    ...llamaLike,
    num_local_experts: 4,
    num_experts_per_tok: 2,
    sliding_window: 3,
    swiglu_limit: 0.5,
    max_position_embeddings: 64,
  },
  granite: { ...phiLike, embedding_multiplier: 3, residual_multiplier: 0.6, attention_multiplier: 0.3, logits_scaling: 2 },
  lfm2: { ...phiLike, layer_types: ["conv", "full_attention"], block_multiple_of: 8 },
  llama: llamaLike,
  ministral3: { ...llamaLike, rope_parameters: { original_max_position_embeddings: 5, llama_4_scaling_beta: 0.5 } },
  mistral: { ...llamaLike, sliding_window: 3 },
  mixtral: { ...phiLike, num_local_experts: 3, sliding_window: 3, output_router_logits: true },
  olmo2: phiLike,
  olmo3: { ...phiLike, sliding_window: 3, layer_types: ["sliding_attention", "full_attention"] },
  olmoe: { ...phiLike, num_experts: 4, num_experts_per_tok: 3, clip_qkv: 2 },
  opt: { ...neoxLike, ffn_dim: 24, max_position_embeddings: 16, dropout: 0 },
  phi: phiLike,
  phi3: { ...phiLike, rope_scaling: longrope },
  qwen2: { ...phiLike, use_sliding_window: true, sliding_window: 3, max_window_layers: 1 },
  qwen3: llamaLike,
  qwen3_moe: { ...llamaLike, num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 6, mlp_only_layers: [0] },
  qwen3_5_text: hybrid,
  qwen3_5_moe_text: { ...hybrid, ...routed },
  qwen3_next: { ...hybrid, ...routed, mlp_only_layers: [0] },
  qwen2_moe: { ...phiLike, ...routed, use_sliding_window: true, sliding_window: 3 },
  granitemoe: { ...phiLike, num_local_experts: 3, residual_multiplier: 0.6, attention_multiplier: 0.3, logits_scaling: 2 },
  smollm3: { ...phiLike, no_rope_layer_interval: 2 },
  stablelm: { ...phiLike, partial_rotary_factor: 0.5, qk_layernorm: true, use_parallel_residual: true },
  starcoder2: { ...phiLike, sliding_window: 3 },
};

const sizes = { hidden_size: 12, intermediate_size: 16, num_hidden_layers: 2, num_attention_heads: 3, initializer_range: 0.3 };
const bert = { vocab_size: 23, max_position_embeddings: 8, ...sizes };

/** A small config of each type that reads a text at once. */
export const encoderConfigs = {
  albert: { ...bert, embedding_size: 8, num_hidden_layers: 3, num_hidden_groups: 2 },
  bert,
  camembert: { ...bert, pad_token_id: 0 },
  "deberta-v2": {
    ...bert,
    relative_attention: true,
    pos_att_type: "p2c|c2p",
    share_att_key: true,
    position_buckets: 4,
    position_biased_input: false,
    norm_rel_ebd: "layer_norm",
  },
  distilbert: { vocab_size: 23, dim: 12, hidden_dim: 16, n_layers: 2, n_heads: 3, max_position_embeddings: 8 },
  electra: { ...bert, embedding_size: 8 },
  mpnet: { ...bert, max_position_embeddings: 10 },
  modernbert: { vocab_size: 23, ...sizes, local_attention: 4, pad_token_id: 0 },
  roberta: { ...bert, pad_token_id: 0 },
  "xlm-roberta": { ...bert, pad_token_id: 0 },
};

export const t5Config = { model_type: "t5", vocab_size: 23, d_model: 12, d_kv: 4, d_ff: 16, num_layers: 2, num_heads: 3 };
const bart = {
  ...{ vocab_size: 23, d_model: 12, encoder_layers: 2, decoder_layers: 2, encoder_ffn_dim: 16, decoder_ffn_dim: 10 },
  ...{ encoder_attention_heads: 3, decoder_attention_heads: 2, max_position_embeddings: 12, decoder_start_token_id: 2 },
};

/** A small config of each type that answers a text with a text. */
export const answeringConfigs: Readonly<Record<string, ConfigJson>> = {
  bart,
  mbart: { ...bart, scale_embedding: true },
  t5: t5Config,
  mt5: { ...t5Config, model_type: "mt5" },
  umt5: { ...t5Config, model_type: "umt5" },
};
