/** Normalisation of images and other tensors whose second axis is the channel: [N, C, ...]. */
import { checkOptions, requireKind, ShapeError, wordShape } from "../errors.ts";
import { requireFloat } from "../graph/dtype.ts";
import { add, mul, sub } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import { rsqrt } from "../tensor/math.ts";
import { mean, variance } from "../tensor/statistics.ts";
import { layerNorm } from "./norm.ts";

/** A value per channel, broadcastable to x. */
function perChannel(operation: string, name: string, value: Tensor, x: Tensor): Tensor {
  requireTensors(operation, { [name]: value });
  if (value.rank !== 1 || value.shape[0] !== x.shape[1])
    throw new ShapeError(`\`${name}\` is ${wordShape(value.shape)}, x ${wordShape(x.shape)} has ${x.shape[1]} channels.`, {
      operation,
      expected: [x.shape[1]],
      got: value.shape,
    });
  return reshape(value, [value.size, ...x.shape.slice(2).map(() => 1)]);
}

function checkImage(operation: string, x: Tensor, eps: number): void {
  requireTensors(operation, { x });
  requireFloat(operation, x.dtype);
  requireKind(operation, "a number", { eps });
  if (x.rank < 2) throw new ShapeError(`needs [N, C, ...], got ${wordShape(x.shape)}.`, { operation, got: x.shape });
}

function affine(operation: string, y: Tensor, weight: Tensor | null, bias: Tensor | null): Tensor {
  const scaled = weight ? mul(y, perChannel(operation, "weight", weight, y)) : y;
  return bias ? add(scaled, perChannel(operation, "bias", bias, y)) : scaled;
}

/**
 * Group normalisation: every sample's channels in `groups` equal groups, each with mean 0 and variance 1, then · w + b.
 *
 * @param x      [N, C, ...]
 * @param weight [C] or `null`
 * @param bias   [C] or `null`
 * @see https://arxiv.org/abs/1803.08494
 */
export function groupNorm(
  x: Tensor,
  groups: number,
  weight: Tensor | null,
  bias: Tensor | null,
  options: { readonly eps?: number } = {},
): Tensor {
  const { eps = 1e-5 } = checkOptions("groupNorm", options, { eps: "a number from 0" });
  checkImage("groupNorm", x, eps);
  requireKind("groupNorm", "a whole number from 1", { groups });
  if (x.shape[1]! % groups !== 0)
    throw new ShapeError(`the channels of ${wordShape(x.shape)} do not make ${groups} equal groups.`, {
      operation: "groupNorm",
      got: x.shape,
    });
  const rows = reshape(x, [x.shape[0]!, groups, x.size / Math.max(1, x.shape[0]! * groups)]);
  return affine("groupNorm", reshape(layerNorm(rows, null, null, { eps }), x.shape), weight, bias);
}

/**
 * Batch normalisation: (x − mean) / √(variance + ε) · w + b, each channel over the batch and all places.
 *
 * @param x       [N, C, ...]
 * @param running mean and variance [C] gathered in training; `null` takes those of this batch, as in training
 * @see https://arxiv.org/abs/1502.03167
 */
export function batchNorm(
  x: Tensor,
  running: { readonly mean: Tensor; readonly variance: Tensor } | null,
  weight: Tensor | null,
  bias: Tensor | null,
  options: { readonly eps?: number } = {},
): Tensor {
  const { eps = 1e-5 } = checkOptions("batchNorm", options, { eps: "a number from 0" });
  const operation = "batchNorm";
  checkImage(operation, x, eps);
  const axes = x.shape.map((_, axis) => axis).filter((axis) => axis !== 1);
  const centre = running ? perChannel(operation, "mean", running.mean, x) : mean(x, axes, true);
  const spread = running
    ? perChannel(operation, "variance", running.variance, x)
    : variance(x, { axes, correction: 0, keepDims: true });
  return affine(operation, mul(sub(x, centre), rsqrt(add(spread, number(x, eps)))), weight, bias);
}
