/**
 * StarCoder2: a Llama with layer norms, biases, an ungated feed-forward part and sliding-window attention.
 * @see https://arxiv.org/abs/2402.19173
 */
import type { Tensor } from "../graph/node.ts";
import { activation } from "../nn/activation.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { type Layer, Module } from "../nn/module.ts";
import { sequenceClassifier, tokenClassifier } from "./family.ts";
import { LlamaAttention, LlamaDecoderLayer, type LlamaFamilyMember, llamaCausalLM, llamaFamily } from "./llama.ts";
import type { LlamaConfig } from "./llama-config.ts";

/** c_proj(act(c_fc(x))). */
class Starcoder2MLP extends Module {
  c_fc: Layer;
  c_proj: Layer;
  readonly #act: (x: Tensor) => Tensor;

  constructor({ hiddenSize: C, intermediateSize, mlpBias: bias, hiddenAct }: LlamaConfig, init: Initializer) {
    super();
    this.c_fc = new Linear(C, intermediateSize, { bias, init, initBias: zeros });
    this.c_proj = new Linear(intermediateSize, C, { bias, init, initBias: zeros });
    this.#act = activation(hiddenAct);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor): Tensor {
    return this.c_proj.forward(this.#act(this.c_fc.forward(x)));
  }
}

const starcoder2: LlamaFamilyMember = {
  modelType: "starcoder2",
  defaults: {
    num_key_value_heads: 2,
    hidden_act: "gelu_pytorch_tanh",
    max_position_embeddings: 4096,
    tie_word_embeddings: true,
  },
  read(config, { numHiddenLayers }) {
    const bias = config.flag("use_bias", true);
    return {
      normType: "layer",
      rmsNormEps: config.number("norm_epsilon", 1e-5),
      attentionBias: bias,
      outputBias: bias,
      mlpBias: bias,
      embeddingDropout: config.probability("embedding_dropout", 0),
      residualDropout: config.probability("residual_dropout", 0),
      windows: config.sameWindows(numHiddenLayers),
    };
  },
  layer: (config, index, init) =>
    new LlamaDecoderLayer(config, new LlamaAttention(config, index, init), new Starcoder2MLP(config, init)),
};

/** A StarCoder2 that predicts the next token. */
export const Starcoder2ForCausalLM = llamaCausalLM("Starcoder2ForCausalLM", starcoder2);

/** A StarCoder2 that classifies texts. */
export const Starcoder2ForSequenceClassification = sequenceClassifier(
  "Starcoder2ForSequenceClassification",
  llamaFamily(starcoder2),
);

/** A StarCoder2 that classifies every token. */
export const Starcoder2ForTokenClassification = tokenClassifier(
  "Starcoder2ForTokenClassification",
  llamaFamily(starcoder2),
  "score",
);
