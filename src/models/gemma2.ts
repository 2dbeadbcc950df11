/**
 * Gemma 2: Gemma with norms after attention and feed-forward part too, a window in every other layer, and soft caps on attention
 * scores and logits.
 * @see https://arxiv.org/abs/2408.00118
 */
import { add } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import type { Initializer } from "../nn/init.ts";
import type { Layer } from "../nn/module.ts";
import { RMSNorm } from "../nn/norm.ts";
import type { RotaryPass } from "./decoder.ts";
import { sequenceClassifier, tokenClassifier } from "./family.ts";
import { gemmaDefaults } from "./gemma.ts";
import { DecoderLayer, gatedMLP, LlamaAttention, type LlamaFamilyMember, llamaCausalLM, llamaFamily } from "./llama.ts";
import type { LlamaConfig } from "./llama-config.ts";

/** One block: x + norm(attention(norm(x))), then that + norm(mlp(norm(that))). */
export class Gemma2DecoderLayer extends DecoderLayer {
  readonly self_attn: LlamaAttention;
  readonly mlp: Layer;
  readonly input_layernorm: RMSNorm;
  readonly post_attention_layernorm: RMSNorm;
  readonly pre_feedforward_layernorm: RMSNorm;
  readonly post_feedforward_layernorm: RMSNorm;

  constructor(config: LlamaConfig, index: number, init: Initializer) {
    super();
    const norm = () => new RMSNorm(config.hiddenSize, { eps: config.rmsNormEps, unitOffset: true });
    this.self_attn = new LlamaAttention(config, index, init);
    this.mlp = gatedMLP(config, init);
    this.input_layernorm = norm();
    this.post_attention_layernorm = norm();
    this.pre_feedforward_layernorm = norm();
    this.post_feedforward_layernorm = norm();
  }

  forward(x: Tensor, pass: RotaryPass): Tensor {
    const attended = this.self_attn.forward(this.input_layernorm.forward(x), pass);
    const between = add(x, this.post_attention_layernorm.forward(attended));
    const fed = this.mlp.forward(this.pre_feedforward_layernorm.forward(between));
    return add(between, this.post_feedforward_layernorm.forward(fed));
  }
}

const gemma2: LlamaFamilyMember = {
  modelType: "gemma2",
  defaults: {
    ...gemmaDefaults,
    num_key_value_heads: 4,
    sliding_window: 4096,
    attn_logit_softcapping: 50,
    final_logit_softcapping: 30,
  },
  read(config, { hiddenSize, numHiddenLayers }) {
    config.fixed("use_bidirectional_attention", false);
    return {
      unitOffset: true,
      embeddingScale: Math.sqrt(hiddenSize),
      hiddenAct: config.activation("hidden_activation", "gelu_pytorch_tanh"),
      windows: config.windows(numHiddenLayers, (i) => i % 2 === 0),
      attentionScale: 1 / Math.sqrt(config.count("query_pre_attn_scalar", 256)),
      attentionSoftcap: config.number("attn_logit_softcapping", 0),
      logitSoftcap: config.number("final_logit_softcapping", 0),
    };
  },
  layer: (config, index, init) => new Gemma2DecoderLayer(config, index, init),
};

/** A Gemma 2 that predicts the next token. */
export const Gemma2ForCausalLM = llamaCausalLM("Gemma2ForCausalLM", gemma2);

/** A Gemma 2 that classifies texts. */
export const Gemma2ForSequenceClassification = sequenceClassifier("Gemma2ForSequenceClassification", llamaFamily(gemma2));

/** A Gemma 2 that classifies every token. */
export const Gemma2ForTokenClassification = tokenClassifier("Gemma2ForTokenClassification", llamaFamily(gemma2), "score");
