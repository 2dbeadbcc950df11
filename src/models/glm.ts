/**
 * GLM-4: a Llama with one layer for both halves of the gated feed-forward part, and interleaved rotary positions on half of each head. In
 * the newer one (`glm4`) norms follow attention and feed-forward part too.
 *
 * @see https://arxiv.org/abs/2406.12793, https://huggingface.co/zai-org/GLM-4-9B-0414
 */
import { add } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import type { Initializer } from "../nn/init.ts";
import type { Layer } from "../nn/module.ts";
import type { RotaryPass } from "./decoder.ts";
import { sequenceClassifier, tokenClassifier } from "./family.ts";
import {
  DecoderLayer,
  LlamaAttention,
  LlamaDecoderLayer,
  type LlamaFamilyMember,
  llamaCausalLM,
  llamaFamily,
  norm,
} from "./llama.ts";
import type { LlamaConfig } from "./llama-config.ts";
import { Phi3MLP } from "./phi3.ts";

/** One block: x + norm(attention(norm(x))), then that + norm(mlp(norm(that))). */
class Glm4DecoderLayer extends DecoderLayer {
  readonly self_attn: LlamaAttention;
  readonly mlp: Layer;
  readonly input_layernorm;
  readonly post_attention_layernorm;
  readonly post_self_attn_layernorm;
  readonly post_mlp_layernorm;

  constructor(config: LlamaConfig, index: number, init: Initializer) {
    super();
    this.self_attn = new LlamaAttention(config, index, init);
    this.mlp = new Phi3MLP(config, init);
    this.input_layernorm = norm(config, config.hiddenSize);
    this.post_attention_layernorm = norm(config, config.hiddenSize);
    this.post_self_attn_layernorm = norm(config, config.hiddenSize);
    this.post_mlp_layernorm = norm(config, config.hiddenSize);
  }

  forward(x: Tensor, pass: RotaryPass): Tensor {
    const attended = this.self_attn.forward(this.input_layernorm.forward(x), pass);
    const between = add(x, this.post_self_attn_layernorm.forward(attended));
    const fed = this.mlp.forward(this.post_attention_layernorm.forward(between));
    return add(between, this.post_mlp_layernorm.forward(fed));
  }
}

const glm: LlamaFamilyMember = {
  modelType: "glm",
  partialRotary: true,
  defaults: {
    num_key_value_heads: 2,
    head_dim: 128,
    max_position_embeddings: 131072,
    rms_norm_eps: 1.5625e-7,
    partial_rotary_factor: 0.5,
    attention_bias: true,
    pad_token_id: 151329,
  },
  read: () => ({ rotaryPairs: "interleaved", outputBias: false }),
  layer: (config, index, init) =>
    new LlamaDecoderLayer(config, new LlamaAttention(config, index, init), new Phi3MLP(config, init)),
};

const glm4: LlamaFamilyMember = {
  ...glm,
  modelType: "glm4",
  layer: (config, index, init) => new Glm4DecoderLayer(config, index, init),
};

/** A GLM that predicts the next token. */
export const GlmForCausalLM = llamaCausalLM("GlmForCausalLM", glm);

/** A GLM that classifies texts. */
export const GlmForSequenceClassification = sequenceClassifier("GlmForSequenceClassification", llamaFamily(glm));

/** A GLM that classifies every token. */
export const GlmForTokenClassification = tokenClassifier("GlmForTokenClassification", llamaFamily(glm), "score");

/** A GLM-4 (0414) that predicts the next token. */
export const Glm4ForCausalLM = llamaCausalLM("Glm4ForCausalLM", glm4);

/** A GLM-4 (0414) that classifies texts. */
export const Glm4ForSequenceClassification = sequenceClassifier("Glm4ForSequenceClassification", llamaFamily(glm4));

/** A GLM-4 (0414) that classifies every token. */
export const Glm4ForTokenClassification = tokenClassifier("Glm4ForTokenClassification", llamaFamily(glm4), "score");
