/** Feed-forward parts of transformer blocks. */
import { withVjp } from "../autograd/custom.ts";
import { checkOptions, requireKind, under } from "../errors.ts";
import { add, mul, sub } from "../graph/elementwise.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import { sigmoid, silu } from "../tensor/math.ts";
import { activation } from "./activation.ts";
import type { Initializer } from "./init.ts";
import { Linear } from "./linear.ts";
import { type Layer, Module } from "./module.ts";

/** Activation and start of a gated feed-forward part. */
export interface GatedMLPOptions {
  /** Name of the activation, as in `hidden_act`. */
  readonly activation?: string;
  readonly bias?: boolean;
  readonly init?: Initializer;
  readonly initBias?: Initializer;
}

/**
 * silu(gate) ∘ up. The derivative computes σ(gate) again and both gradients from it: one pass that reads g, gate and up,
 * with nothing kept from the forward pass.
 *
 * @param gate [..., F]
 * @param up   [..., F]
 */
export const swiglu: (gate: Tensor, up: Tensor) => Tensor = withVjp(
  (gate, up) => {
    requireTensors("swiglu", { gate, up });
    return under("swiglu", () => mul(silu(gate!), up!));
  },
  (g, _, gate, up) => {
    const s = sigmoid(gate!);
    const activated = mul(gate!, s);
    // silu′ = σ + silu·(1 − σ)
    const slope = add(s, mul(activated, sub(number(s, 1), s)));
    return [mul(mul(g, up!), slope), mul(g, activated)];
  },
);

/** act(gate) ∘ up. @param name the activation's, as in `hidden_act` */
export function gating(name: string): (gate: Tensor, up: Tensor) => Tensor {
  const act = activation(name);
  return act === silu ? swiglu : (gate, up) => mul(act(gate), up);
}

/**
 * down(act(gate(x)) ∘ up(x)): SwiGLU with silu, GeGLU with gelu.
 * @see https://arxiv.org/abs/2002.05202
 */
export class GatedMLP extends Module {
  gate_proj: Layer;
  up_proj: Layer;
  down_proj: Layer;
  readonly #gated: (gate: Tensor, up: Tensor) => Tensor;

  constructor(size: number, innerSize: number, options: GatedMLPOptions = {}) {
    super();
    const {
      activation: name = "silu",
      bias = false,
      ...init
    } = checkOptions("GatedMLP", options, {
      activation: "a string",
      bias: "true or false",
      init: "a function",
      initBias: "a function",
    });
    requireKind("GatedMLP", "a whole number from 1", { size, innerSize });
    this.gate_proj = new Linear(size, innerSize, { bias, ...init });
    this.up_proj = new Linear(size, innerSize, { bias, ...init });
    this.down_proj = new Linear(innerSize, size, { bias, ...init });
    this.#gated = under("GatedMLP", () => gating(name));
  }

  /** [..., C] → [..., C] */
  forward(x: Tensor): Tensor {
    return this.down_proj.forward(this.#gated(this.gate_proj.forward(x), this.up_proj.forward(x)));
  }
}
