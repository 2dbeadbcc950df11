/** Layer normalisation with separate weights for each head, which some models apply to queries and keys. */
import { mul } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { ones } from "../nn/init.ts";
import { Module, Parameter } from "../nn/module.ts";
import { layerNorm } from "../nn/norm.ts";

/** Without biases. */
export class HeadNorm extends Module {
  /** [H, D] */
  readonly weight: Parameter;
  readonly #eps: number;

  constructor(heads: number, headDim: number, eps: number) {
    super();
    this.weight = Parameter.from(ones([heads, headDim]), [heads, headDim]);
    this.#eps = eps;
  }

  /** [B, T, H, D] → [B, T, H, D] */
  forward(x: Tensor): Tensor {
    return mul(layerNorm(x, null, null, { eps: this.#eps }), this.weight.value);
  }
}
