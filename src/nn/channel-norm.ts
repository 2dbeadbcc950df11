/** Normalisation of images and other tensors whose second axis is the channel: [N, C, ...]. */
import { ConfigError, checkOptions, requireKind, ShapeError, wordShape } from "../errors.ts";
import { requireFloat } from "../graph/dtype.ts";
import { add, cast, mul, recip, sub } from "../graph/elementwise.ts";
import { reshape, stopGradient } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { constant, number } from "../graph/source.ts";
import { assignAll, isSubstituting } from "../graph/variable.ts";
import { lerp, rsqrt } from "../tensor/math.ts";
import { mean, variance } from "../tensor/statistics.ts";
import { ones, zeros } from "./init.ts";
import { Buffer, Module, Parameter } from "./module.ts";
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

const allButChannels = (x: Tensor): number[] => x.shape.map((_, axis) => axis).filter((axis) => axis !== 1);

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
    throw new ShapeError(`the channels of ${wordShape(x.shape)} cannot be split into ${groups} equal groups.`, {
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
  const axes = allButChannels(x);
  const centre = running ? perChannel(operation, "mean", running.mean, x) : mean(x, axes, true);
  const spread = running
    ? perChannel(operation, "variance", running.variance, x)
    : variance(x, { axes, correction: 0, keepDims: true });
  return affine(operation, mul(sub(x, centre), rsqrt(add(spread, number(x, eps)))), weight, bias);
}

/** A weight and a bias for each channel, or neither, named as in PyTorch. */
class ChannelNorm extends Module {
  readonly weight: Parameter | null;
  readonly bias: Parameter | null;
  readonly eps: number;

  protected constructor(channels: number, eps: number, affine: boolean) {
    super();
    requireKind(new.target.name, "a whole number from 1", { channels });
    this.weight = affine ? Parameter.from(ones([channels]), [channels]) : null;
    this.bias = affine ? Parameter.from(zeros([channels]), [channels]) : null;
    this.eps = eps;
  }
}

/** Settings of these layers. */
export interface ChannelNormOptions {
  readonly eps?: number;
  /** Learns a weight and a bias for each channel. */
  readonly affine?: boolean;
}

/** `groupNorm` with a learned weight and bias [C]. */
export class GroupNorm extends ChannelNorm {
  readonly groups: number;

  /** @throws {ConfigError} unless the channels make so many equal groups */
  constructor(groups: number, channels: number, options: ChannelNormOptions = {}) {
    const { eps = 1e-5, affine = true } = checkOptions("GroupNorm", options, { eps: "a number from 0", affine: "true or false" });
    super(channels, eps, affine);
    requireKind("GroupNorm", "a whole number from 1", { groups });
    if (channels % groups !== 0)
      throw new ConfigError(`${channels} channels cannot be split into ${groups} equal groups.`, {
        operation: "GroupNorm",
        got: groups,
      });
    this.groups = groups;
  }

  forward(x: Tensor): Tensor {
    return groupNorm(x, this.groups, this.weight?.value ?? null, this.bias?.value ?? null, { eps: this.eps });
  }
}

/** Every channel of every sample by itself, [N, C, ...]: PyTorch's InstanceNorm1d, 2d and 3d. @see https://arxiv.org/abs/1607.08022 */
export class InstanceNorm extends ChannelNorm {
  constructor(channels: number, options: ChannelNormOptions = {}) {
    const { eps = 1e-5, affine = false } = checkOptions("InstanceNorm", options, {
      eps: "a number from 0",
      affine: "true or false",
    });
    super(channels, eps, affine);
  }

  forward(x: Tensor): Tensor {
    const operation = "InstanceNorm";
    checkImage(operation, x, this.eps);
    const y = groupNorm(x, x.shape[1]!, null, null, { eps: this.eps });
    return affine(operation, y, this.weight?.value ?? null, this.bias?.value ?? null);
  }
}

/** Settings of batch normalisation. */
export interface BatchNormOptions extends ChannelNormOptions {
  /** Share of the batch at hand in the running statistics; `null` for the mean of all batches. */
  readonly momentum?: number | null;
  /** Whether there are running statistics; else evaluation takes those of its batch, too. */
  readonly trackRunningStats?: boolean;
}

/**
 * `batchNorm` of [N, C, ...]: PyTorch's BatchNorm1d, 2d and 3d. In training a channel has the statistics of the batch, which are gathered for
 * evaluation: `running_mean`, and `running_var` with the unbiased variance. Nothing is gathered in `functionalCall`.
 */
export class BatchNorm extends ChannelNorm {
  readonly running_mean: Buffer | null;
  readonly running_var: Buffer | null;
  /** Batches seen, int32. */
  readonly num_batches_tracked: Buffer | null;
  readonly momentum: number | null;

  constructor(channels: number, options: BatchNormOptions = {}) {
    const {
      eps = 1e-5,
      affine = true,
      momentum = 0.1,
      trackRunningStats = true,
    } = checkOptions("BatchNorm", options, {
      eps: "a number from 0",
      affine: "true or false",
      momentum: "a number above 0, or null",
      trackRunningStats: "true or false",
    });
    super(channels, eps, affine);
    const buffer = (value: number, shape: number[], dtype: "float32" | "int32") =>
      trackRunningStats ? new Buffer(constant(value, shape, dtype)) : null;
    this.running_mean = buffer(0, [channels], "float32");
    this.running_var = buffer(1, [channels], "float32");
    this.num_batches_tracked = buffer(0, [], "int32");
    this.momentum = momentum;
  }

  /** @throws {ShapeError} in training, when a channel has one value only, of which there is no variance */
  forward(x: Tensor): Tensor {
    const { running_mean: centre, running_var: spread, num_batches_tracked: count } = this;
    const [weight, bias] = [this.weight?.value ?? null, this.bias?.value ?? null];
    if (!this.training && centre && spread)
      return batchNorm(x, { mean: centre.value, variance: spread.value }, weight, bias, { eps: this.eps });
    const y = batchNorm(x, null, weight, bias, { eps: this.eps });
    if (this.training && x.size <= x.shape[1]!)
      throw new ShapeError(`${wordShape(x.shape)} has one value for each channel, which says nothing about its spread.`, {
        operation: "BatchNorm",
        got: x.shape,
        hint: "Train with larger batches.",
      });
    if (!this.training || !centre || !spread || !count || isSubstituting()) return y;
    const [axes, seen] = [allButChannels(x), add(count.value, constant(1, [], "int32"))];
    const share = this.momentum === null ? recip(cast(seen, "float32")) : constant(this.momentum);
    const gathered = (old: Tensor, now: Tensor) => lerp(old, stopGradient(now), share);
    assignAll([
      [centre, gathered(centre.value, mean(x, axes))],
      [spread, gathered(spread.value, variance(x, { axes }))],
      [count, seen],
    ]);
    return y;
  }
}
