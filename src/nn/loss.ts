/** Losses. Each is a row-wise composition, so that a forward and a backward pass over the data are one program each. */
import { downloadSync } from "../compile/program.ts";
import type { Device } from "../devices/device.ts";
import { ConfigError, checkOptions, DTypeError, ShapeError, wordShape } from "../errors.ts";
import { matmul } from "../graph/contraction.ts";
import { isFloat } from "../graph/dtype.ts";
import { add, and, cast, div, equal, exp, less, log, max, mul, neg, sub, where } from "../graph/elementwise.ts";
import { permute, reshape } from "../graph/movement.ts";
import { requireTensors, Tensor } from "../graph/node.ts";
import { reduceSum } from "../graph/reduction.ts";
import { type Shape, sameShape } from "../graph/shape.ts";
import { constant, iota, number } from "../graph/source.ts";
import { abs, softplus } from "../tensor/math.ts";
import { logSumOfRows, mean, sum, unitVectors } from "../tensor/statistics.ts";

/** What becomes of the losses of all elements: their mean, their sum, or nothing. */
export type Reduction = "mean" | "sum" | "none";

/** The loss of all elements, as `reduction` says. @throws {ConfigError} for another one */
export function reduceLoss(operation: string, loss: Tensor, reduction: Reduction): Tensor {
  switch (reduction) {
    case "mean":
      return mean(loss);
    case "sum":
      return sum(loss);
    case "none":
      return loss;
    default:
      throw new ConfigError(`\`reduction\` (= ${JSON.stringify(reduction)}) must be "mean", "sum" or "none".`, {
        operation,
        got: reduction,
      });
  }
}

function checkSame(operation: string, x: Tensor, target: Tensor): void {
  requireTensors(operation, { x, target });
  if (!sameShape(x.shape, target.shape))
    throw new ShapeError(`the input is ${wordShape(x.shape)}, the target ${wordShape(target.shape)}.`, {
      operation,
      expected: x.shape,
      got: target.shape,
    });
}

/** Which rows count, and how much. */
export interface CrossEntropyOptions {
  /** Rows with this target count neither in the sum nor in the mean; −100 when absent, as in PyTorch. */
  readonly ignoreIndex?: number;
  /** ε: the target is (1 − ε)·one-hot + ε/C. */
  readonly labelSmoothing?: number;
  /** [C]: weight of each class; the mean divides by the sum of the weights of the targets. */
  readonly weight?: Tensor;
  readonly reduction?: Reduction;
}

/**
 * −ln softmax(logits)[target], over the last axis. Targets are compared with index numbers: no one-hot matrix, no gather.
 * A target that is no class and not `ignoreIndex` is an error where its value can be read when this is called; where it is computed
 * later, as in a compiled function and on WebGPU, it makes the loss NaN.
 *
 * @param logits  [..., C]
 * @param targets [...] int32, 0 … C − 1 or `ignoreIndex`
 * @returns       [] for "mean" (over rows that are not ignored) and "sum", [...] for "none"
 * @throws {ShapeError} when `targets` has another shape than the rows of `logits`, or holds what is no class;
 *   @throws {DTypeError} when it is not whole numbers
 */
export function crossEntropy(logits: Tensor, targets: Tensor, options: CrossEntropyOptions = {}): Tensor {
  checkOptions("crossEntropy", options, {
    ignoreIndex: "a whole number",
    labelSmoothing: "a number from 0 to 1",
    weight: Tensor,
    reduction: null,
  });
  const { labelSmoothing = 0, weight } = options;
  const operation = "crossEntropy";
  const rows = rowsOf(operation, logits, targets, options);
  const { x, isClass } = rows;
  const logSum = logSumOfRows(x); // [N, 1]
  // Σ_c (ln Σ eˣ − x_c)·target_c = ln Σ eˣ·Σ target_c − Σ x_c·target_c, and Σ target_c = 1 without class weights
  const onTarget = (values: Tensor) => reduceSum(where(isClass, values, number(x, 0)), [1]);
  const negativeLog = weight ? onTarget(mul(sub(logSum, x), weight)) : sub(logSum, onTarget(x));
  if (labelSmoothing === 0) return finish(operation, rows, negativeLog, options);
  const C = x.shape[1] as number;
  const perClass = weight ? mul(sub(logSum, x), weight) : sub(logSum, x);
  const uniform = mul(reduceSum(perClass, [1]), number(x, labelSmoothing / C));
  return finish(operation, rows, add(mul(negativeLog, number(x, 1 - labelSmoothing)), uniform), options);
}

/**
 * −logProbabilities[target], over the last axis: `crossEntropy` of values that are logarithms of probabilities already.
 *
 * @param logProbabilities [..., C]
 * @param targets          [...] int32; what is no class is treated as there
 */
export function negativeLogLikelihood(
  logProbabilities: Tensor,
  targets: Tensor,
  options: Omit<CrossEntropyOptions, "labelSmoothing"> = {},
): Tensor {
  checkOptions("negativeLogLikelihood", options, { ignoreIndex: "a whole number", weight: Tensor, reduction: null });
  const operation = "negativeLogLikelihood";
  const rows = rowsOf(operation, logProbabilities, targets, options);
  const values = options.weight ? mul(rows.x, options.weight) : rows.x;
  return finish(operation, rows, neg(reduceSum(where(rows.isClass, values, number(rows.x, 0)), [1])), options);
}

interface Rows {
  /** [N, C] */
  readonly x: Tensor;
  /** [N, 1] int32 */
  readonly target: Tensor;
  /** [N, C] bool: the column is the target's. */
  readonly isClass: Tensor;
  /** Shape of the targets. */
  readonly shape: readonly number[];
}

/** Whole numbers that lie in memory which can be read at once, as they are or seen through movements; `null` where they are not there yet. */
function knownValues(x: Tensor): ArrayLike<number> | null {
  let stored = x;
  while (!stored.storage && stored.op.kind === "movement" && stored.sources.length === 1) stored = stored.sources[0]!;
  const { storage } = stored;
  return storage && !storage.disposed && (storage.device as Device).downloadSync ? downloadSync(x) : null;
}

function checkTargets(operation: string, targets: Tensor, C: number, ignoreIndex: number): void {
  const values = knownValues(targets) ?? [];
  for (let i = 0; i < values.length; i++) {
    const target = values[i]!;
    if (target === ignoreIndex || (target >= 0 && target < C)) continue;
    throw new ShapeError(`target ${target} is none of the ${C} classes.`, {
      operation,
      expected: C,
      got: target,
      hint: `Classes count from 0 to ${C - 1}; rows with \`ignoreIndex\` (= ${ignoreIndex}) are left out.`,
    });
  }
}

/** What people mean who come from where classes are the second axis, or a target may be a probability for each. */
function hintForRows(x: Shape, targets: Shape): { hint?: string } {
  if (sameShape(x, targets)) return { hint: "A target is the number of a class, such as targets.argmax(-1)." };
  const turned = sameShape([...x.slice(0, 1), ...x.slice(2)], targets);
  return turned ? { hint: "Classes stand along the last axis: x.moveAxis(1, -1)." } : {};
}

function rowsOf(operation: string, x: Tensor, targets: Tensor, options: CrossEntropyOptions): Rows {
  requireTensors(operation, { logits: x, targets });
  const { weight, ignoreIndex = -100 } = options;
  const C = x.shape[x.rank - 1] as number;
  if (x.rank === 0 || !sameShape(x.shape.slice(0, -1), targets.shape))
    throw new ShapeError(
      `logits ${wordShape(x.shape)} have rows ${wordShape(x.shape.slice(0, -1))}, the targets are ${wordShape(targets.shape)}.`,
      {
        operation,
        expected: x.shape.slice(0, -1),
        got: targets.shape,
        ...hintForRows(x.shape, targets.shape),
      },
    );
  if (isFloat(targets.dtype))
    throw new DTypeError(`targets are class numbers (int32), got ${targets.dtype}.`, {
      operation,
      got: targets.dtype,
      hint: 'Use targets.cast("int32").',
    });
  if (weight && !sameShape(weight.shape, [C]))
    throw new ShapeError(`\`weight\` is ${wordShape(weight.shape)}, there are ${C} classes.`, {
      operation,
      expected: [C],
      got: weight.shape,
    });
  checkTargets(operation, targets, C, ignoreIndex);
  const N = targets.size;
  const target = reshape(cast(targets, "int32"), [N, 1]);
  return { x: reshape(x, [N, C]), target, isClass: equal(reshape(iota([C]), [1, C]), target), shape: targets.shape };
}

/** Leaves ignored rows out and reduces. `loss` is [N, 1]. */
function finish(operation: string, { x, target, isClass, shape }: Rows, loss: Tensor, options: CrossEntropyOptions): Tensor {
  const { ignoreIndex = -100, weight, reduction = "mean" } = options;
  const C = x.shape[1] as number;
  const whole = (value: number) => constant(value, [], "int32");
  const kept = less(cast(equal(target, whole(ignoreIndex)), "int32"), whole(1));
  // what cannot be looked at before: NaN is seen, a number would not be
  const isTarget = and(less(whole(-1), target), less(target, whole(C)));
  const counted = where(kept, where(isTarget, loss, number(x, Number.NaN)), number(x, 0));
  if (reduction !== "mean") return reduceLoss(operation, reshape(counted, shape), reduction);
  const share = weight ? reduceSum(where(and(isClass, kept), weight, number(x, 0)), [1]) : cast(kept, x.dtype);
  return div(sum(counted), sum(share));
}

/** (x − target)². */
export function mseLoss(x: Tensor, target: Tensor, options: { readonly reduction?: Reduction } = {}): Tensor {
  const { reduction = "mean" } = checkOptions("mseLoss", options, { reduction: null });
  checkSame("mseLoss", x, target);
  const difference = sub(x, target);
  return reduceLoss("mseLoss", mul(difference, difference), reduction);
}

/** |x − target|. */
export function l1Loss(x: Tensor, target: Tensor, options: { readonly reduction?: Reduction } = {}): Tensor {
  const { reduction = "mean" } = checkOptions("l1Loss", options, { reduction: null });
  checkSame("l1Loss", x, target);
  return reduceLoss("l1Loss", abs(sub(x, target)), reduction);
}

/** ½d² where |d| < δ, else δ·(|d| − ½δ), with d = x − target. */
export function huberLoss(
  x: Tensor,
  target: Tensor,
  options: { readonly delta?: number; readonly reduction?: Reduction } = {},
): Tensor {
  const { delta = 1, reduction = "mean" } = checkOptions("huberLoss", options, { delta: "a number above 0", reduction: null });
  checkSame("huberLoss", x, target);
  const d = sub(x, target);
  const size = abs(d);
  const outside = mul(number(d, delta), sub(size, number(d, 0.5 * delta)));
  return reduceLoss("huberLoss", where(less(size, number(d, delta)), mul(number(d, 0.5), mul(d, d)), outside), reduction);
}

/** ½d²/β where |d| < β, else |d| − ½β, with d = x − target: Huber's loss divided by β. With β = 0 it is |d|. */
export function smoothL1Loss(
  x: Tensor,
  target: Tensor,
  options: { readonly beta?: number; readonly reduction?: Reduction } = {},
): Tensor {
  const { beta = 1, reduction = "mean" } = checkOptions("smoothL1Loss", options, { beta: "a number from 0", reduction: null });
  if (beta === 0) return l1Loss(x, target, { reduction });
  checkSame("smoothL1Loss", x, target);
  const loss = huberLoss(x, target, { delta: beta, reduction: "none" });
  return reduceLoss("smoothL1Loss", mul(loss, number(loss, 1 / beta)), reduction);
}

/**
 * Binary cross-entropy of σ(x): max(x, 0) − x·target + ln(1 + e^−|x|), without overflow.
 *
 * @param options.posWeight multiplies the loss of positive targets; broadcasts against `x`
 */
export function binaryCrossEntropyWithLogits(
  x: Tensor,
  target: Tensor,
  options: { readonly posWeight?: Tensor; readonly reduction?: Reduction } = {},
): Tensor {
  const { posWeight, reduction = "mean" } = checkOptions("binaryCrossEntropyWithLogits", options, {
    posWeight: Tensor,
    reduction: null,
  });
  checkSame("binaryCrossEntropyWithLogits", x, target);
  const softplusOfNegative = softplus(neg(x)); // whose derivatives know no kink at 0, where training begins
  const rest = mul(sub(number(x, 1), target), x);
  const factor = posWeight ? add(number(x, 1), mul(sub(posWeight, number(x, 1)), target)) : null;
  return reduceLoss(
    "binaryCrossEntropyWithLogits",
    add(rest, factor ? mul(factor, softplusOfNegative) : softplusOfNegative),
    reduction,
  );
}

/**
 * Binary cross-entropy −target·ln x − (1 − target)·ln(1 − x) of probabilities x; logarithms count as −100 at least, as in PyTorch.
 * `binaryCrossEntropyWithLogits` keeps more digits.
 */
export function binaryCrossEntropy(x: Tensor, target: Tensor, options: { readonly reduction?: Reduction } = {}): Tensor {
  const { reduction = "mean" } = checkOptions("binaryCrossEntropy", options, { reduction: null });
  checkSame("binaryCrossEntropy", x, target);
  const one = number(x, 1);
  const share = (weight: Tensor, p: Tensor) => mul(weight, max(log(p), number(x, -100)));
  return reduceLoss("binaryCrossEntropy", neg(add(share(target, x), share(sub(one, target), sub(one, x)))), reduction);
}

/**
 * Kullback–Leibler divergence Σ target·(ln target − x), where x holds logarithms of probabilities; 0·ln 0 counts as 0.
 *
 * @param options.reduction `"batchmean"` divides the sum by the size of the first axis, which is the mathematical mean
 * @param options.logTarget the target holds logarithms too
 */
export function klDivergence(
  x: Tensor,
  target: Tensor,
  options: { readonly reduction?: Reduction | "batchmean"; readonly logTarget?: boolean } = {},
): Tensor {
  const { reduction = "mean", logTarget = false } = checkOptions("klDivergence", options, {
    reduction: null,
    logTarget: "true or false",
  });
  checkSame("klDivergence", x, target);
  const positive = less(number(target, 0), target);
  const loss = logTarget
    ? mul(exp(target), sub(target, x))
    : sub(where(positive, mul(target, log(where(positive, target, number(target, 1)))), number(target, 0)), mul(target, x));
  if (reduction !== "batchmean") return reduceLoss("klDivergence", loss, reduction);
  return mul(sum(loss), number(loss, 1 / (x.shape[0] ?? 1)));
}

/**
 * Draws each vector to its partner and away from the partners of all others: the cross-entropy of scale·cos(xᵢ, yⱼ) over j, whose class
 * is i. In sentence-transformers it is `MultipleNegativesRankingLoss`, in the literature InfoNCE with the batch for negatives.
 *
 * @param x [B, C]
 * @param y [B, C]: row i belongs to row i of x; more rows belong to nothing and are further negatives
 * @param options.scale one over the temperature
 * @returns []
 * @throws {ShapeError} when these are no matrices of equal width, or y has fewer rows than x
 * @see https://arxiv.org/abs/1705.00652, https://arxiv.org/abs/1807.03748
 */
export function contrastiveLoss(x: Tensor, y: Tensor, options: { readonly scale?: number } = {}): Tensor {
  const operation = "contrastiveLoss";
  const { scale = 20 } = checkOptions(operation, options, { scale: "a number above 0" });
  requireTensors(operation, { x, y });
  if (x.rank !== 2 || y.rank !== 2 || x.shape[1] !== y.shape[1] || (y.shape[0] as number) < (x.shape[0] as number))
    throw new ShapeError(`x is ${wordShape(x.shape)}, y ${wordShape(y.shape)}: it should be [B, C], and [B or more, C].`, {
      operation,
      expected: x.shape,
      got: y.shape,
    });
  const unit = (z: Tensor) => unitVectors(operation, z, -1, 1e-12);
  const similarity = matmul(unit(x), permute(unit(y), [1, 0])); // [B, rows of y]
  return crossEntropy(mul(similarity, number(x, scale)), iota([x.shape[0] as number]));
}
