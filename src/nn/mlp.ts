/** Feed-forward parts of transformer blocks. */
import { mul } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { activation } from "./activation.ts";
import type { Initializer } from "./init.ts";
import { Linear } from "./linear.ts";
import { type Layer, Module } from "./module.ts";

export interface GatedMLPOptions {
  /** Name of the activation, as in `hidden_act`. */
  readonly activation?: string;
  readonly bias?: boolean;
  readonly init?: Initializer;
  readonly initBias?: Initializer;
}

/**
 * down(act(gate(x)) ∘ up(x)): SwiGLU with silu, GeGLU with gelu.
 * @see https://arxiv.org/abs/2002.05202
 */
export class GatedMLP extends Module {
  gate_proj: Layer;
  up_proj: Layer;
  down_proj: Layer;
  readonly #act: (x: Tensor) => Tensor;

  constructor(size: number, innerSize: number, { activation: name = "silu", bias = false, ...init }: GatedMLPOptions = {}) {
    super();
    this.gate_proj = new Linear(size, innerSize, { bias, ...init });
    this.up_proj = new Linear(size, innerSize, { bias, ...init });
    this.down_proj = new Linear(innerSize, size, { bias, ...init });
    this.#act = activation(name);
  }

  /** [..., C] → [..., C] */
  forward(x: Tensor): Tensor {
    return this.down_proj.forward(mul(this.#act(this.gate_proj.forward(x)), this.up_proj.forward(x)));
  }
}
