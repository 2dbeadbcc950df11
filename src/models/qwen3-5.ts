/**
 * Qwen3.5: three of four layers are Gated DeltaNets; every fourth is gated attention with rotary positions on a part of each head.
 *
 * @see https://huggingface.co/Qwen/Qwen3.5-0.8B
 */
import { add } from "../graph/elementwise.ts";
import { reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import type { Layer } from "../nn/module.ts";
import { RMSNorm } from "../nn/norm.ts";
import type { ConfigReader } from "./config-reader.ts";
import type { Projections, RotaryPass } from "./decoder.ts";
import { sequenceClassifier } from "./family.ts";
import { type DeltaNet, type DeltaNetConfig, type FusedDeltaNet, GatedDeltaNet } from "./gated-delta-net.ts";
import {
  type Block,
  DecoderLayer,
  gatedMLP,
  type LlamaFamilyMember,
  llamaCausalLM,
  llamaFamily,
  RotaryAttention,
} from "./llama.ts";
import type { LlamaConfig } from "./llama-config.ts";

/** A model of Gated DeltaNets and attention. */
export interface Qwen35Config extends LlamaConfig, DeltaNetConfig {
  /** Whether each layer is attention; the others are Gated DeltaNets. */
  readonly attends: readonly boolean[];
}

/** Attention with norms on queries and keys, whose heads are multiplied by σ of a gate beside the query. */
class Qwen35Attention extends RotaryAttention {
  q_proj: Layer;
  k_proj: Layer;
  v_proj: Layer;
  o_proj: Layer;
  readonly q_norm: RMSNorm;
  readonly k_norm: RMSNorm;

  constructor(config: Qwen35Config, layer: number, init: Initializer) {
    super(config, layer);
    const { hiddenSize: C, numAttentionHeads: H, numKeyValueHeads: G, headDim: D, attentionBias: bias } = config;
    const linear = (into: number, out: number) => new Linear(into, out, { bias, init, initBias: zeros });
    this.q_proj = linear(C, 2 * H * D);
    this.k_proj = linear(C, G * D);
    this.v_proj = linear(C, G * D);
    this.o_proj = linear(H * D, C);
    this.q_norm = norm(config, D);
    this.k_norm = norm(config, D);
  }

  project(x: Tensor): Projections {
    const D = this.config.headDim;
    const heads = (layer: Layer, size: number) => reshape(layer.forward(x), [...x.shape.slice(0, 2), -1, size]);
    const both = heads(this.q_proj, 2 * D);
    return {
      q: this.q_norm.forward(sliceAxis(both, 3, 0, D)),
      k: this.k_norm.forward(heads(this.k_proj, D)),
      v: heads(this.v_proj, D),
      gate: sliceAxis(both, 3, D, 2 * D),
    };
  }
}

const norm = (config: LlamaConfig, size: number): RMSNorm => new RMSNorm(size, { eps: config.rmsNormEps, unitOffset: true });

/** One block: x + mix(norm(x)), then that + mlp(norm(that)). */
export class Qwen35DecoderLayer extends DecoderLayer {
  readonly self_attn?: Qwen35Attention;
  readonly linear_attn?: DeltaNet;
  readonly mlp: Block;
  readonly input_layernorm: RMSNorm;
  readonly post_attention_layernorm: RMSNorm;

  constructor(
    config: Qwen35Config,
    index: number,
    init: Initializer,
    mlp: Block,
    Net: typeof GatedDeltaNet | typeof FusedDeltaNet,
  ) {
    super();
    if (config.attends[index]) this.self_attn = new Qwen35Attention(config, index, init);
    else this.linear_attn = new Net(config, index, init);
    this.mlp = mlp;
    this.input_layernorm = norm(config, config.hiddenSize);
    this.post_attention_layernorm = norm(config, config.hiddenSize);
  }

  forward(x: Tensor, pass: RotaryPass): Tensor {
    const mixer = (this.self_attn ?? this.linear_attn) as Qwen35Attention | DeltaNet;
    const mixed = add(x, mixer.forward(this.input_layernorm.forward(x), pass));
    return add(mixed, this.mlp.forward(this.post_attention_layernorm.forward(mixed), pass));
  }
}

/** What all models of Gated DeltaNets say of them. @throws {ConfigError} for heads that do not go together */
export function readHybrid(config: ConfigReader, { numHiddenLayers }: LlamaConfig): Partial<Qwen35Config> {
  config.fixed("attn_output_gate", true);
  const every = config.count("full_attention_interval", 4);
  const [keyHeads, valueHeads] = [config.count("linear_num_key_heads", 16), config.count("linear_num_value_heads", 32)];
  if (valueHeads % keyHeads !== 0)
    config.refuse("linear_num_value_heads", valueHeads, `must be a multiple of linear_num_key_heads (= ${keyHeads})`);
  return {
    unitOffset: true,
    attends: config.layerKinds(numHiddenLayers, "linear_attention", (i) => (i + 1) % every !== 0).map((isLinear) => !isLinear),
    linearConvKernelDim: config.count("linear_conv_kernel_dim", 4),
    linearKeyHeadDim: config.count("linear_key_head_dim", 128),
    linearValueHeadDim: config.count("linear_value_head_dim", 128),
    linearNumKeyHeads: keyHeads,
    linearNumValueHeads: valueHeads,
  };
}

/** The path of what a checkpoint calls so: one of what reads images, too, has more in it, and the text's part under a name of its own. */
export const pathOfText = (path: string): string | null =>
  /^model\.(visual|mtp)\./.test(path) ? null : path.replace(/^model\.language_model\./, "model.");

const qwen35: LlamaFamilyMember = {
  modelType: "qwen3_5_text",
  partialRotary: true,
  isRecurrent: true,
  defaults: {
    vocab_size: 248320,
    num_key_value_heads: 4,
    head_dim: 256,
    max_position_embeddings: 32768,
    partial_rotary_factor: 0.25,
  },
  names: { pathOf: pathOfText },
  read: readHybrid,
  layer: (config, index, init) =>
    new Qwen35DecoderLayer(config as Qwen35Config, index, init, gatedMLP(config, init), GatedDeltaNet),
};

/** A Qwen3.5 that predicts the next token. */
export const Qwen3_5ForCausalLM = llamaCausalLM("Qwen3_5ForCausalLM", qwen35);

/** A Qwen3.5 that classifies texts. */
export const Qwen3_5TextForSequenceClassification = sequenceClassifier(
  "Qwen3_5TextForSequenceClassification",
  llamaFamily(qwen35),
);
