/** Normalisation over the last axis. Composed of row-wise operations, so that each pass over the data is one program. */
import { checkOptions, requireKind, ShapeError, wordShape } from "../errors.ts";
import { requireFloat } from "../graph/dtype.ts";
import { add, mul, recip, sqrt, sub } from "../graph/elementwise.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { reduceSum } from "../graph/reduction.ts";
import { number } from "../graph/source.ts";
import { ones, zeros } from "./init.ts";
import { Module, Parameter } from "./module.ts";

function checkWidth(operation: string, x: Tensor, weight: Tensor | null, name = "weight"): void {
  requireTensors(operation, weight ? { x, [name]: weight } : { x });
  requireFloat(operation, x.dtype);
  if (x.rank === 0) throw new ShapeError("needs at least one axis.", { operation, got: x.shape });
  const width = x.shape[x.rank - 1];
  if (weight && (weight.rank !== 1 || weight.shape[0] !== width))
    throw new ShapeError(`\`${name}\` is ${wordShape(weight.shape)}, the last axis of x has ${width} values.`, {
      operation,
      expected: [width],
      got: weight.shape,
    });
}

const meanLast = (x: Tensor): Tensor => mul(reduceSum(x, [x.rank - 1]), number(x, 1 / (x.shape[x.rank - 1] as number)));

/**
 * Root-mean-square normalisation: y = x / √(mean(x²) + ε) · w, over the last axis.
 *
 * @param x      [..., C]
 * @param weight [C], multiplies after normalising; `null` for none
 * @param options.eps added inside the root; LLaMA uses 1e-5, Gemma 1e-6
 * @param options.unitOffset multiplies by 1 + w instead of w, as Gemma does
 * @returns      [..., C]
 * @throws {ShapeError} when `weight` is not [C]
 * @see https://arxiv.org/abs/1910.07467, eq. 4
 */
export function rmsNorm(
  x: Tensor,
  weight: Tensor | null,
  options: { readonly eps?: number; readonly unitOffset?: boolean } = {},
): Tensor {
  const { eps = 1e-6, unitOffset = false } = checkOptions("rmsNorm", options, {
    eps: "a number from 0",
    unitOffset: "true or false",
  });
  checkWidth("rmsNorm", x, weight);
  const inverse = recip(sqrt(add(meanLast(mul(x, x)), number(x, eps))));
  const y = mul(x, inverse);
  if (!weight) return y;
  return mul(y, unitOffset ? add(weight, number(weight, 1)) : weight);
}

/**
 * Layer normalisation: y = (x − mean(x)) / √(var(x) + ε) · w + b, over the last axis; the variance divides by C.
 *
 * @param x      [..., C]
 * @param weight [C] or `null`
 * @param bias   [C] or `null`
 * @returns      [..., C]
 * @throws {ShapeError} when `weight` or `bias` is not [C]
 * @see https://arxiv.org/abs/1607.06450
 */
export function layerNorm(
  x: Tensor,
  weight: Tensor | null,
  bias: Tensor | null,
  options: { readonly eps?: number } = {},
): Tensor {
  const { eps = 1e-5 } = checkOptions("layerNorm", options, { eps: "a number from 0" });
  checkWidth("layerNorm", x, weight);
  checkWidth("layerNorm", x, bias, "bias");
  const centred = sub(x, meanLast(x));
  const inverse = recip(sqrt(add(meanLast(mul(centred, centred)), number(x, eps))));
  const y = mul(centred, inverse);
  const scaled = weight ? mul(y, weight) : y;
  return bias ? add(scaled, bias) : scaled;
}

/** Root-mean-square normalisation with a learned weight [C]. */
export class RMSNorm extends Module {
  readonly weight: Parameter;
  readonly eps: number;
  /** Multiplies by 1 + w instead of w (Gemma); w then starts at 0. */
  readonly unitOffset: boolean;

  constructor(size: number, options: { readonly eps?: number; readonly unitOffset?: boolean } = {}) {
    super();
    const { eps = 1e-6, unitOffset = false } = checkOptions("RMSNorm", options, {
      eps: "a number from 0",
      unitOffset: "true or false",
    });
    requireKind("RMSNorm", "a whole number from 0", { size });
    this.weight = Parameter.from((unitOffset ? zeros : ones)([size]), [size]);
    this.eps = eps;
    this.unitOffset = unitOffset;
  }

  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight.value, { eps: this.eps, unitOffset: this.unitOffset });
  }
}

/** Layer normalisation with a learned weight and bias [C], or without them. */
export class LayerNorm extends Module {
  readonly weight: Parameter | null;
  readonly bias: Parameter | null;
  readonly eps: number;

  constructor(size: number, options: { readonly eps?: number; readonly weight?: boolean; readonly bias?: boolean } = {}) {
    super();
    const {
      eps = 1e-5,
      weight = true,
      bias = weight,
    } = checkOptions("LayerNorm", options, { eps: "a number from 0", weight: "true or false", bias: "true or false" });
    requireKind("LayerNorm", "a whole number from 0", { size });
    this.weight = weight ? Parameter.from(ones([size]), [size]) : null;
    this.bias = bias ? Parameter.from(zeros([size]), [size]) : null;
    this.eps = eps;
  }

  forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight?.value ?? null, this.bias?.value ?? null, { eps: this.eps });
  }
}
