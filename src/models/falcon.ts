/**
 * Falcon: attention and feed-forward part in parallel or in sequence, after one layer norm or two; multi-query or grouped-query attention;
 * rotary positions, or linear biases (ALiBi).
 *
 * @see https://arxiv.org/abs/2311.16867
 */
import { add, cast, mul } from "../graph/elementwise.ts";
import { reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import { activation } from "../nn/activation.ts";
import { dropout } from "../nn/dropout.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { type Layer, Module } from "../nn/module.ts";
import { alibi } from "./alibi.ts";
import type { ConfigReader } from "./config-reader.ts";
import type { Projections, RotaryPass } from "./decoder.ts";
import { questionAnswerer, sequenceClassifier, tokenClassifier } from "./family.ts";
import { type LlamaFamilyMember, llamaCausalLM, llamaFamily, norm, RotaryAttention } from "./llama.ts";
import type { LlamaConfig } from "./llama-config.ts";

/** What Falcon and BLOOM have beyond Llama. */
export interface FalconConfig extends LlamaConfig {
  /** Whether scores fall with the distance, in the place of positions. */
  readonly alibi: boolean;
  /** With `parallelResidual`: whether each part has a norm of its own. */
  readonly twoNorms: boolean;
  /** Whether what the parts add is added to what comes out of their norms. */
  readonly residualIsNormed: boolean;
  /** On what the attention adds where the parts are not beside each other; `residualDropout` is behind both. */
  readonly betweenDropout: number;
}

/** Attention with one layer for queries, keys and values: of each head of keys its queries, the key and the value, then of the next. */
class FalconAttention extends RotaryAttention {
  query_key_value: Layer;
  dense: Layer;

  constructor(config: LlamaConfig, layer: number, init: Initializer) {
    super(config, layer);
    const { hiddenSize: C, numKeyValueHeads: G, headDim: D, attentionBias, outputBias } = config;
    this.query_key_value = new Linear(C, C + 2 * G * D, { bias: attentionBias, init, initBias: zeros });
    this.dense = new Linear(C, C, { bias: outputBias, init, initBias: zeros });
  }

  get o_proj(): Layer {
    return this.dense;
  }

  project(x: Tensor): Projections {
    const { numAttentionHeads: H, numKeyValueHeads: G, headDim: D } = this.config;
    const [B, T] = x.shape as [number, number, number];
    const share = H / G;
    const groups = reshape(this.query_key_value.forward(x), [B, T, G, share + 2, D]);
    const part = (from: number, to: number) => reshape(sliceAxis(groups, 3, from, to), [B, T, G * (to - from), D]);
    return { q: part(0, share), k: part(share, share + 1), v: part(share + 1, share + 2) };
  }
}

/** dense_4h_to_h(act(dense_h_to_4h(x))). */
class FalconMLP extends Module {
  dense_h_to_4h: Layer;
  dense_4h_to_h: Layer;
  readonly #act: (x: Tensor) => Tensor;

  constructor({ hiddenSize: C, intermediateSize, mlpBias: bias, hiddenAct }: LlamaConfig, init: Initializer) {
    super();
    this.dense_h_to_4h = new Linear(C, intermediateSize, { bias, init, initBias: zeros });
    this.dense_4h_to_h = new Linear(intermediateSize, C, { bias, init, initBias: zeros });
    this.#act = activation(hiddenAct);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor): Tensor {
    return this.dense_4h_to_h.forward(this.#act(this.dense_h_to_4h.forward(x)));
  }
}

/** One block: x + attention(norm(x)) + mlp(norm(x)), or the feed-forward part after the attention. */
export class FalconDecoderLayer extends Module {
  readonly input_layernorm?: Layer;
  readonly post_attention_layernorm?: Layer;
  readonly ln_attn?: Layer;
  readonly ln_mlp?: Layer;
  readonly self_attention: FalconAttention;
  readonly mlp: FalconMLP;
  readonly #config: FalconConfig;

  constructor(config: FalconConfig, index: number, init: Initializer) {
    super();
    const made = () => norm(config, config.hiddenSize);
    this.#config = config;
    if (config.twoNorms) {
      this.ln_attn = made();
      this.ln_mlp = made();
    } else this.input_layernorm = made();
    if (!config.parallelResidual) this.post_attention_layernorm = made();
    this.self_attention = new FalconAttention(config, index, init);
    this.mlp = new FalconMLP(config, init);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: RotaryPass): Tensor {
    const { residualDropout, betweenDropout, residualIsNormed } = this.#config;
    const plus = (residual: Tensor, y: Tensor, p: number) => add(residual, dropout(y, this.training ? p : 0));
    const normed = ((this.ln_attn ?? this.input_layernorm) as Layer).forward(x);
    const attended = this.self_attention.forward(normed, pass);
    if (!this.post_attention_layernorm)
      return plus(x, add(this.mlp.forward(this.ln_mlp?.forward(x) ?? normed), attended), residualDropout);
    const between = plus(residualIsNormed ? normed : x, attended, betweenDropout);
    const second = this.post_attention_layernorm.forward(between);
    return plus(residualIsNormed ? second : between, this.mlp.forward(second), residualDropout);
  }
}

/** What Falcon and BLOOM have in common. */
export const falconLike = {
  parts: { model: "transformer", embedding: "word_embeddings", layers: "h", norm: "ln_f" },
  trainsPadding: true,
  widening: 4,
  layer: (config: LlamaConfig, index: number, init: Initializer) => new FalconDecoderLayer(config as FalconConfig, index, init),
} as const;

/** Through 16 bits, as the slopes of Falcon's biases went in training. */
const rounded = (x: Tensor): Tensor => cast(cast(x, "bfloat16"), "float32");

function heads(config: ConfigReader, isNew: boolean, all: number): number {
  if (isNew) return config.keyValueHeads("num_kv_heads", "num_attention_heads");
  return config.flag("multi_query", true) ? 1 : all;
}

const falcon: LlamaFamilyMember = {
  ...falconLike,
  modelType: "falcon",
  keys: { hidden_size: "n_embed", intermediate_size: "ffn_hidden_size", hidden_act: "activation" },
  defaults: { activation: "gelu", hidden_dropout: 0, tie_word_embeddings: true },
  read(config, { numAttentionHeads, numHiddenLayers, attentionDropout }) {
    const [isNew, isParallel] = [config.flag("new_decoder_architecture", false), config.flag("parallel_attn", true)];
    if (isNew && !isParallel) config.refuse("parallel_attn", false, "must be true with new_decoder_architecture");
    const norms = config.count("num_ln_in_parallel_attn", isNew ? 2 : 1);
    if (norms > (isNew ? 2 : 1)) config.refuse("num_ln_in_parallel_attn", norms, `must be ${isNew ? "1 or 2" : "1"} here`);
    const bias = config.flag("bias", false);
    const isAlibi = config.flag("alibi", false);
    const own: Partial<FalconConfig> = {
      normType: "layer",
      rmsNormEps: config.number("layer_norm_epsilon", 1e-5),
      numKeyValueHeads: heads(config, isNew, numAttentionHeads),
      attentionBias: bias,
      outputBias: bias,
      mlpBias: bias,
      // transformers drops weights only where there are biases
      attentionDropout: isAlibi ? attentionDropout : 0,
      residualDropout: config.probability("hidden_dropout", 0),
      betweenDropout: attentionDropout,
      residualIsNormed: false,
      parallelResidual: isParallel,
      twoNorms: norms === 2,
      alibi: isAlibi,
      layerRopes: isAlibi ? new Array<null>(numHiddenLayers).fill(null) : [],
    };
    return own;
  },
  scoreBias(config, { attention: { keyMask } }, keys) {
    if (!(config as FalconConfig).alibi) return undefined;
    const bias = alibi(config.numAttentionHeads, keyMask?.shape[1] ?? keys, keyMask, rounded);
    return mul(bias, number(bias, config.attentionScale));
  },
};

/** A Falcon that predicts the next token. */
export const FalconForCausalLM = llamaCausalLM("FalconForCausalLM", falcon);

/** A Falcon that classifies texts. */
export const FalconForSequenceClassification = sequenceClassifier("FalconForSequenceClassification", llamaFamily(falcon));

/** A Falcon that classifies every token. */
export const FalconForTokenClassification = tokenClassifier("FalconForTokenClassification", llamaFamily(falcon), "classifier");

/** A Falcon that extracts the answer to a question from a text. */
export const FalconForQuestionAnswering = questionAnswerer("FalconForQuestionAnswering", llamaFamily(falcon), {
  countsPadding: true,
});
