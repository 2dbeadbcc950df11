/** Gated DeltaNet: a layer that mixes tokens through a state of fixed size instead of attention. */
import { concatenate } from "../graph/composite.ts";
import { add, exp, mul, neg } from "../graph/elementwise.ts";
import { reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import { activation } from "../nn/activation.ts";
import { gatedDeltaRule } from "../nn/delta-rule.ts";
import { type Initializer, ones } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { swiglu } from "../nn/mlp.ts";
import { type Layer, Module, Parameter } from "../nn/module.ts";
import { RMSNorm, rmsNorm } from "../nn/norm.ts";
import { sigmoid, softplus } from "../tensor/math.ts";
import type { Pass } from "./decoder.ts";
import { convolvePass, shortConvolution, withoutPadding } from "./short-convolution.ts";

/** Sizes of the layer. */
export interface DeltaNetConfig {
  readonly hiddenSize: number;
  readonly hiddenAct: string;
  readonly rmsNormEps: number;
  /** Tokens that the convolution sees. */
  readonly linearConvKernelDim: number;
  readonly linearKeyHeadDim: number;
  readonly linearValueHeadDim: number;
  readonly linearNumKeyHeads: number;
  readonly linearNumValueHeads: number;
}

/** What the layer makes of its input. */
export interface DeltaProjections {
  /** [B, T, keys + keys + values]: queries, keys and values of all heads. */
  readonly mixed: Tensor;
  /** [B, T, values] */
  readonly z: Tensor;
  /** [B, T, H] */
  readonly b: Tensor;
  /** [B, T, H] */
  readonly a: Tensor;
}

/**
 * Queries, keys and values go through a short convolution and an activation; queries and keys are brought to length 1; what the
 * memory gives for a query is normalised and gated. Cache: the convolution's last inputs and the memory. How the input is projected
 * is a subclass's.
 *
 * @see https://arxiv.org/abs/2412.06464, §3.4
 */
export abstract class DeltaNet extends Module {
  readonly dt_bias: Parameter;
  readonly A_log: Parameter;
  conv1d: Layer;
  readonly norm: RMSNorm;
  out_proj: Layer;
  readonly #config: DeltaNetConfig;
  readonly #layer: number;

  /** @param layer its number, for the cache */
  constructor(config: DeltaNetConfig, layer: number, init: Initializer) {
    super();
    const { hiddenSize: C, linearNumValueHeads: H } = config;
    const { keys, values } = widths(config);
    this.dt_bias = Parameter.from(ones([H]), [H]);
    // the memory fades by e^-A a token and more: from 0.01 to 16, spread over the heads where transformers draws
    const fading = Float32Array.from({ length: H }, (_, head) => Math.log(0.01 + (15.99 * (head + 0.5)) / H));
    this.A_log = Parameter.from(fading, [H]);
    this.conv1d = shortConvolution(2 * keys + values, config.linearConvKernelDim, false, init);
    this.norm = new RMSNorm(config.linearValueHeadDim, { eps: config.rmsNormEps });
    this.out_proj = new Linear(values, C, { bias: false, init });
    this.#config = config;
    this.#layer = layer;
  }

  abstract project(x: Tensor): DeltaProjections;

  /** [B, T, C] → [B, T, C] */
  forward(input: Tensor, pass: Pass): Tensor {
    const { hiddenAct, linearConvKernelDim: size, linearKeyHeadDim: K, linearValueHeadDim: V } = this.#config;
    const { keys, values } = widths(this.#config);
    const [B, T] = input.shape as [number, number];
    const x = withoutPadding(input, pass);
    const { mixed: projected, z, b, a } = this.project(x);
    const mixed = convolvePass(this.conv1d, projected, pass, { size, layer: this.#layer });
    const active = activation(hiddenAct)(mixed);
    const part = (from: number, to: number, head: number) => reshape(sliceAxis(active, 2, from, to), [B, T, -1, head]);
    // x / √(Σx² + 1e-6) is the norm by the mean over √K
    const unit = (y: Tensor, scale: number) => mul(rmsNorm(y, null, { eps: 1e-6 / K }), number(y, scale / Math.sqrt(K)));
    const q = unit(part(0, keys, K), 1 / Math.sqrt(K));
    const k = unit(part(keys, 2 * keys, K), 1);
    const v = part(2 * keys, 2 * keys + values, V);
    const decay = neg(mul(exp(this.A_log.value), softplus(add(a, this.dt_bias.value))));
    const y = this.#remember(pass, v, (state) => gatedDeltaRule(q, k, v, decay, sigmoid(b), state));
    const gate = reshape(z, y.shape);
    return this.out_proj.forward(reshape(swiglu(gate, this.norm.forward(y)), [B, T, values]));
  }

  /** Runs the rule from what the cache remembers, and leaves there what is to be remembered. */
  #remember(
    { update, layer = this.#layer }: Pass,
    v: Tensor,
    rule: (options: { readonly state?: Tensor }) => { readonly output: Tensor; readonly state: Tensor },
  ): Tensor {
    if (!update) return rule({}).output;
    const { linearKeyHeadDim: K, linearValueHeadDim: V } = this.#config;
    let output = v;
    update.renew(`delta rule ${layer}`, [v.shape[2] as number, K, V], (kept) => {
      const after = rule({ state: kept });
      output = after.output;
      return after.state;
    });
    return output;
  }
}

/** Each projection for itself. */
export class GatedDeltaNet extends DeltaNet {
  in_proj_qkv: Layer;
  in_proj_z: Layer;
  in_proj_b: Layer;
  in_proj_a: Layer;

  constructor(config: DeltaNetConfig, layer: number, init: Initializer) {
    super(config, layer, init);
    const { keys, values } = widths(config);
    const linear = (out: number) => new Linear(config.hiddenSize, out, { bias: false, init });
    this.in_proj_qkv = linear(2 * keys + values);
    this.in_proj_z = linear(values);
    this.in_proj_b = linear(config.linearNumValueHeads);
    this.in_proj_a = linear(config.linearNumValueHeads);
  }

  project(x: Tensor): DeltaProjections {
    const [mixed, z] = [this.in_proj_qkv.forward(x), this.in_proj_z.forward(x)];
    return { mixed, z, b: this.in_proj_b.forward(x), a: this.in_proj_a.forward(x) };
  }
}

/** Two projections, in each of which lie, one key head behind the other, its query, key, values and gates. */
export class FusedDeltaNet extends DeltaNet {
  in_proj_qkvz: Layer;
  in_proj_ba: Layer;
  readonly #sizes: readonly [heads: number, key: number, values: number, gates: number];

  constructor(config: DeltaNetConfig, layer: number, init: Initializer) {
    super(config, layer, init);
    const { hiddenSize: C, linearNumKeyHeads: G, linearNumValueHeads: H, linearKeyHeadDim, linearValueHeadDim } = config;
    const { keys, values } = widths(config);
    this.in_proj_qkvz = new Linear(C, 2 * keys + 2 * values, { bias: false, init });
    this.in_proj_ba = new Linear(C, 2 * H, { bias: false, init });
    this.#sizes = [G, linearKeyHeadDim, (H / G) * linearValueHeadDim, H / G];
  }

  project(x: Tensor): DeltaProjections {
    const [G, K, V, R] = this.#sizes;
    const [B, T] = x.shape as [number, number];
    const parts = (y: Tensor, sizes: readonly number[]) => {
      const heads = reshape(y, [B, T, G, -1]);
      const ends = sizes.map((_, i) => sizes.slice(0, i + 1).reduce((a, b) => a + b));
      return sizes.map((size, i) => reshape(sliceAxis(heads, 3, ends[i]! - size, ends[i]!), [B, T, G * size]));
    };
    const [q, k, v, z] = parts(this.in_proj_qkvz.forward(x), [K, K, V, V]) as [Tensor, Tensor, Tensor, Tensor];
    const [b, a] = parts(this.in_proj_ba.forward(x), [R, R]) as [Tensor, Tensor];
    return { mixed: concatenate([q, k, v], 2), z, b, a };
  }
}

/** Of all heads of keys, and of values. */
const widths = (config: DeltaNetConfig): { readonly keys: number; readonly values: number } => ({
  keys: config.linearNumKeyHeads * config.linearKeyHeadDim,
  values: config.linearNumValueHeads * config.linearValueHeadDim,
});
