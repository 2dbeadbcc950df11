/**
 * Gemma 3: Gemma 2 with norms of queries and keys instead of soft caps, and a window in five of six layers; the sixth has scaled rotary
 * positions.
 * @see https://arxiv.org/abs/2503.19786
 */
import { sequenceClassifier } from "./family.ts";
import { gemmaDefaults } from "./gemma.ts";
import { Gemma2DecoderLayer } from "./gemma2.ts";
import { type LlamaFamilyMember, llamaCausalLM, llamaFamily } from "./llama.ts";
import { windowedRopes } from "./llama-config.ts";

const gemma3: LlamaFamilyMember = {
  modelType: "gemma3_text",
  defaults: {
    ...gemmaDefaults,
    vocab_size: 262208,
    num_attention_heads: 8,
    num_key_value_heads: 4,
    sliding_window: 4096,
    max_position_embeddings: 131072,
    rope_theta: 1e6,
    rope_local_base_freq: 1e4,
  },
  read(config, { hiddenSize, numHiddenLayers, rope }) {
    config.fixed("use_bidirectional_attention", false);
    config.fixed("attn_logit_softcapping", 0);
    const full = config.count("sliding_window_pattern", 6);
    const windows = config.windows(numHiddenLayers, (i) => (i + 1) % full !== 0);
    return {
      unitOffset: true,
      queryKeyNorm: "head",
      embeddingScale: Math.sqrt(hiddenSize),
      hiddenAct: config.activation("hidden_activation", "gelu_pytorch_tanh"),
      windows,
      layerRopes: windowedRopes(config, windows, rope, "rope_local_base_freq"),
      attentionScale: 1 / Math.sqrt(config.count("query_pre_attn_scalar", 256)),
      logitSoftcap: config.number("final_logit_softcapping", 0),
    };
  },
  layer: (config, index, init) => new Gemma2DecoderLayer(config, index, init),
};

/** A Gemma 3 that predicts the next token. */
export const Gemma3ForCausalLM = llamaCausalLM("Gemma3ForCausalLM", gemma3);

/** A Gemma 3 that classifies texts. */
export const Gemma3TextForSequenceClassification = sequenceClassifier("Gemma3TextForSequenceClassification", llamaFamily(gemma3));
