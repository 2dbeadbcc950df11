/**
 * LFM2: most layers mix a token with the two before it by a gated convolution; the others are grouped-query attention with norms on
 * queries and keys. Convolutions see padding as zero, here even after a bias, so that left padding changes nothing; in transformers it
 * does.
 *
 * @see https://arxiv.org/abs/2511.23404, https://huggingface.co/LiquidAI/LFM2-1.2B
 */
import { add, mul } from "../graph/elementwise.ts";
import { reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { swiglu } from "../nn/mlp.ts";
import { type Layer, Module } from "../nn/module.ts";
import { RMSNorm } from "../nn/norm.ts";
import type { ConfigReader } from "./config-reader.ts";
import type { Pass, Projections, RotaryPass } from "./decoder.ts";
import { type LlamaFamilyMember, llamaCausalLM, RotaryAttention } from "./llama.ts";
import type { LlamaConfig } from "./llama-config.ts";
import { convolvePass, shortConvolution, withoutPadding } from "./short-convolution.ts";

interface Lfm2Config extends LlamaConfig {
  /** Whether each layer is attention; the others are convolutions. */
  readonly attends: readonly boolean[];
  /** Tokens that a convolution sees. */
  readonly convLCache: number;
  readonly convBias: boolean;
}

/** Attention with norms on queries and keys, under the names of LFM2. */
class Lfm2Attention extends RotaryAttention {
  q_proj: Layer;
  k_proj: Layer;
  v_proj: Layer;
  out_proj: Layer;
  readonly q_layernorm: RMSNorm;
  readonly k_layernorm: RMSNorm;

  constructor(config: Lfm2Config, layer: number, init: Initializer) {
    super(config, layer);
    const { hiddenSize: C, numAttentionHeads: H, numKeyValueHeads: G, headDim: D, rmsNormEps: eps } = config;
    const linear = (into: number, out: number) => new Linear(into, out, { bias: false, init });
    this.q_proj = linear(C, H * D);
    this.k_proj = linear(C, G * D);
    this.v_proj = linear(C, G * D);
    this.out_proj = linear(H * D, C);
    this.q_layernorm = new RMSNorm(D, { eps });
    this.k_layernorm = new RMSNorm(D, { eps });
  }

  get o_proj(): Layer {
    return this.out_proj;
  }

  project(x: Tensor): Projections {
    const heads = (layer: Layer) => reshape(layer.forward(x), [...x.shape.slice(0, 2), -1, this.config.headDim]);
    const [q, k] = [this.q_layernorm.forward(heads(this.q_proj)), this.k_layernorm.forward(heads(this.k_proj))];
    return { q, k, v: heads(this.v_proj) };
  }
}

/** out(C ∘ conv(B ∘ x)), where B, C and x are projections of the input. */
class Lfm2ShortConv extends Module {
  conv: Layer;
  in_proj: Layer;
  out_proj: Layer;
  readonly #place: { readonly size: number; readonly layer: number };

  constructor({ hiddenSize: C, convLCache: size, convBias: bias }: Lfm2Config, layer: number, init: Initializer) {
    super();
    const options = { bias, init, initBias: zeros };
    this.conv = shortConvolution(C, size, bias, init);
    this.in_proj = new Linear(C, 3 * C, options);
    this.out_proj = new Linear(C, C, options);
    this.#place = { size, layer };
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: Pass): Tensor {
    const C = x.shape[2] as number;
    const all = this.in_proj.forward(x);
    const [before, behind, inner] = [0, 1, 2].map((i) => sliceAxis(all, 2, i * C, (i + 1) * C)) as [Tensor, Tensor, Tensor];
    const mixed = convolvePass(this.conv, withoutPadding(mul(before, inner), pass), pass, this.#place);
    return this.out_proj.forward(mul(behind, mixed));
  }
}

/** w2(silu(w1(x)) ∘ w3(x)) */
class Lfm2MLP extends Module {
  w1: Layer;
  w3: Layer;
  w2: Layer;

  constructor({ hiddenSize: C, intermediateSize }: LlamaConfig, init: Initializer) {
    super();
    this.w1 = new Linear(C, intermediateSize, { bias: false, init });
    this.w3 = new Linear(C, intermediateSize, { bias: false, init });
    this.w2 = new Linear(intermediateSize, C, { bias: false, init });
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor): Tensor {
    return this.w2.forward(swiglu(this.w1.forward(x), this.w3.forward(x)));
  }
}

/** One block: x + mix(norm(x)), then that + mlp(norm(that)). */
export class Lfm2DecoderLayer extends Module {
  readonly self_attn?: Lfm2Attention;
  readonly conv?: Lfm2ShortConv;
  readonly feed_forward: Lfm2MLP;
  readonly operator_norm: RMSNorm;
  readonly ffn_norm: RMSNorm;

  constructor(config: Lfm2Config, index: number, init: Initializer) {
    super();
    if (config.attends[index]) this.self_attn = new Lfm2Attention(config, index, init);
    else this.conv = new Lfm2ShortConv(config, index, init);
    this.feed_forward = new Lfm2MLP(config, init);
    this.operator_norm = new RMSNorm(config.hiddenSize, { eps: config.rmsNormEps });
    this.ffn_norm = new RMSNorm(config.hiddenSize, { eps: config.rmsNormEps });
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor, pass: RotaryPass): Tensor {
    const mixer = (this.self_attn ?? this.conv) as { forward(x: Tensor, pass: RotaryPass): Tensor };
    const mixed = add(x, mixer.forward(this.operator_norm.forward(x), pass));
    return add(mixed, this.feed_forward.forward(this.ffn_norm.forward(mixed)));
  }
}

/** Which layers are attention: as `layer_types` says, or by their numbers in the older `full_attn_idxs`; all when neither is there. */
function attention(config: ConfigReader, layers: number): readonly boolean[] {
  const indices = config.get("full_attn_idxs");
  const convolves = config.layerKinds(layers, "conv", (i) => Array.isArray(indices) && !indices.includes(i));
  return convolves.map((does) => !does);
}

/** As wide as `intermediate_size` (`block_ff_dim` in older files), or two thirds of it in steps of `block_multiple_of`. */
function innerSize(config: ConfigReader, given: number): number {
  const size = config.count("block_ff_dim", given);
  if (!config.flag("block_auto_adjust_ff_dim", true)) return size;
  const two = Math.trunc((2 * size) / 3);
  if (config.get("block_ffn_dim_multiplier") === undefined) return two;
  const step = config.count("block_multiple_of", 256);
  return step * Math.ceil(Math.trunc(config.number("block_ffn_dim_multiplier", 1) * two) / step);
}

const lfm2: LlamaFamilyMember = {
  modelType: "lfm2",
  parts: { norm: "embedding_norm" },
  isRecurrent: true,
  defaults: {
    intermediate_size: 12288,
    num_key_value_heads: 8,
    max_position_embeddings: 128000,
    pad_token_id: 0,
    rope_theta: 1e6,
    block_ffn_dim_multiplier: 1,
  },
  read(config, { numHiddenLayers, intermediateSize }) {
    const own: Partial<Lfm2Config> = {
      hiddenAct: "silu",
      attentionDropout: 0,
      rmsNormEps: config.number("norm_eps", 1e-5),
      tieWordEmbeddings: config.flag("tie_embedding", config.flag("tie_word_embeddings", true)),
      intermediateSize: innerSize(config, intermediateSize),
      attends: attention(config, numHiddenLayers),
      convLCache: config.count("conv_L_cache", 3),
      convBias: config.flag("conv_bias", false),
    };
    return own;
  },
  layer: (config, index, init) => new Lfm2DecoderLayer(config as Lfm2Config, index, init),
};

/** An LFM2 that predicts the next token. */
export const Lfm2ForCausalLM = llamaCausalLM("Lfm2ForCausalLM", lfm2);
