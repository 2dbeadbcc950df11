/**
 * gpt-oss: mixtures of experts with biases and a bounded SwiGLU; heads have sinks, which take attention from all tokens, and every other
 * layer has a window.
 *
 * @see https://arxiv.org/abs/2508.10925; https://arxiv.org/abs/2309.17453 for sinks
 */
import { add, mul } from "../graph/elementwise.ts";
import { slice } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import type { Initializer } from "../nn/init.ts";
import { Parameter } from "../nn/module.ts";
import { clamp, sigmoid } from "../tensor/math.ts";
import { sequenceClassifier, tokenClassifier } from "./family.ts";
import { LlamaAttention, LlamaDecoderLayer, type LlamaFamilyMember, llamaCausalLM, llamaFamily } from "./llama.ts";
import type { LlamaConfig } from "./llama-config.ts";
import { type MixtureConfig, mixture, readMixture, SparseMoeBlock } from "./mixture.ts";

/** The settings of gpt-oss. */
interface GptOssConfig extends MixtureConfig {
  /** What the gate of an expert is multiplied by inside of σ. */
  readonly swigluAlpha: number;
  /** Above what gates, and ± what the values beside them, are cut off. */
  readonly swigluLimit: number;
}

class GptOssAttention extends LlamaAttention {
  override readonly sinks: Parameter;

  constructor(config: LlamaConfig, layer: number, init: Initializer) {
    super(config, layer, init);
    this.sinks = Parameter.from(init([config.numAttentionHeads]), [config.numAttentionHeads]);
  }
}

/** (up + 1) ∘ gate ∘ σ(α·gate), both bounded before; gate and up take turns in [n, m, 2F]. */
const boundedSwiglu =
  ({ swigluAlpha: alpha, swigluLimit: limit }: GptOssConfig) =>
  (inner: Tensor): Tensor => {
    const every = (first: 0 | 1) => slice(inner, [0, 0, first], inner.shape, [1, 1, 2]);
    const of = (value: number) => number(inner, value);
    const gate = clamp(every(0), { max: limit });
    const up = clamp(every(1), { min: -limit, max: limit });
    return mul(add(up, of(1)), mul(gate, sigmoid(mul(gate, of(alpha)))));
  };

const gptOss: LlamaFamilyMember = {
  ...mixture,
  modelType: "gpt_oss",
  defaults: {
    num_hidden_layers: 36,
    num_local_experts: 128,
    num_experts_per_tok: 4,
    vocab_size: 201088,
    hidden_size: 2880,
    intermediate_size: 2880,
    head_dim: 64,
    num_attention_heads: 64,
    num_key_value_heads: 8,
    sliding_window: 128,
    max_position_embeddings: 131072,
    rms_norm_eps: 1e-5,
    attention_bias: true,
    rope_theta: 150000,
    rope_parameters: { rope_type: "yarn", factor: 32, original_max_position_embeddings: 4096, truncate: false },
  },
  read(config, llama) {
    const own: Partial<GptOssConfig> = {
      ...readMixture(config, llama),
      normTopkProb: true,
      windows: config.windows(llama.numHiddenLayers, (i) => i % 2 === 0),
      swigluAlpha: config.number("swiglu_alpha", 1.702),
      swigluLimit: config.number("swiglu_limit", 7),
    };
    return own;
  },
  layer(config, index, init) {
    const style = { isTransposed: true, hasBias: true, gated: boundedSwiglu(config as GptOssConfig) };
    const mixed = new SparseMoeBlock(config as MixtureConfig, init, "router", style);
    return new LlamaDecoderLayer(config, new GptOssAttention(config, index, init), mixed);
  },
  names: {},
};

/** A gpt-oss that gives logits of the next token. */
export const GptOssForCausalLM = llamaCausalLM("GptOssForCausalLM", gptOss);

/** A gpt-oss that puts texts into classes. */
export const GptOssForSequenceClassification = sequenceClassifier("GptOssForSequenceClassification", llamaFamily(gptOss));

/** A gpt-oss that puts every token into a class. */
export const GptOssForTokenClassification = tokenClassifier("GptOssForTokenClassification", llamaFamily(gptOss), "score");
