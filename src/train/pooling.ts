/** From the states of a text's tokens to one vector: what is taken of them, the steps behind it, and how two vectors are compared. */
import { ShapeError, wordShape } from "../errors.ts";
import { concatenate } from "../graph/composite.ts";
import { matmul } from "../graph/contraction.ts";
import { add, cast, div, less, mul, neg, sqrt, sub, where } from "../graph/elementwise.ts";
import { pad, reshape, sliceAxis, transpose } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { reduceMax, reduceSum } from "../graph/reduction.ts";
import { constant, iota, number } from "../graph/source.ts";
import { abs, maximum } from "../tensor/math.ts";
import { unitVectors } from "../tensor/statistics.ts";

/**
 * What of the states of a text's tokens becomes its vector: their mean, the first one (of a `[CLS]`), the last one, the largest value
 * in each place, their sum over the root of their number, or their mean with weights 1, 2, 3 ….
 */
export type Pooling = "mean" | "first" | "last" | "max" | "meanSqrtLength" | "weightedMean";

/** How two vectors are compared: the cosine between them, their product, or minus their distance, straight or along the axes. */
export type Similarity = "cosine" | "dot" | "euclidean" | "manhattan";

/** A step behind the pooling. */
export interface VectorStep {
  /** Values that come out; as many as go in when absent. */
  readonly width?: number;
  /** [B, C] → [B, width] */
  readonly run: (vectors: Tensor) => Tensor;
}

/** How states become vectors. */
export interface VectorWay {
  /** One beside the other where there are several. */
  readonly pooling: readonly Pooling[];
  /** Whether tokens of a prompt in front of a text count. */
  readonly includePrompt: boolean;
  readonly steps: readonly VectorStep[];
}

/** What comes in front of each row, and what comes behind it: [B, T] → [B, T]. */
const before = (mask: Tensor): Tensor => sliceAxis(pad(mask, [0, 1], [0, 0]), 1, 0, mask.shape[1] as number);
const behind = (mask: Tensor): Tensor => pad(sliceAxis(mask, 1, 1, mask.shape[1] as number), [0, 0], [0, 1]);

/** Σ weight·state over what `per` makes of Σ weight. @param weights [B, T] */
function weighted(states: Tensor, weights: Tensor, per = (sum: Tensor): Tensor => sum): Tensor {
  const [B, T, C] = states.shape as [number, number, number];
  const each = cast(reshape(weights, [B, T, 1]), states.dtype);
  const sum = reduceSum(each, [1]);
  return reshape(div(reduceSum(mul(states, each), [1]), per(maximum(sum, number(sum, 1e-9)))), [B, C]);
}

/** @param mask [B, T], 1 for tokens that count, which stand side by side */
const taken: { readonly [Each in Pooling]: (states: Tensor, mask: Tensor) => Tensor } = {
  mean: (states, mask) => weighted(states, mask),
  first: (states, mask) => weighted(states, sub(mask, mul(mask, before(mask)))),
  last: (states, mask) => weighted(states, sub(mask, mul(mask, behind(mask)))),
  max(states, mask) {
    const [B, T, C] = states.shape as [number, number, number];
    const counted = reshape(cast(mask, "bool"), [B, T, 1]);
    return reshape(reduceMax(where(counted, states, number(states, Number.NEGATIVE_INFINITY)), [1]), [B, C]);
  },
  meanSqrtLength: (states, mask) => weighted(states, mask, sqrt),
  weightedMean: (states, mask) => weighted(states, mul(mask, add(iota([mask.shape[1] as number]), constant(1, [], "int32")))),
};

/** Names of the ways in which something is taken. */
export const poolings = Object.keys(taken) as readonly Pooling[];

/**
 * [B, T, C] → [B, width]
 *
 * @param mask         [B, T] int32, 1 for tokens
 * @param promptLength tokens in front that are of a prompt
 */
export function vectorsBy({ pooling, includePrompt, steps }: VectorWay, states: Tensor, mask: Tensor, promptLength = 0): Tensor {
  const isText = (whole: Tensor) =>
    where(less(iota([whole.shape[1] as number]), constant(promptLength, [], "int32")), constant(0, [], "int32"), whole);
  const counted = includePrompt || promptLength === 0 ? mask : isText(cast(mask, "int32"));
  const parts = pooling.map((each) => taken[each](states, counted));
  return steps.reduce((vectors, { run }) => run(vectors), parts.length === 1 ? (parts[0] as Tensor) : concatenate(parts, 1));
}

/** Values of such a vector. @param stateWidth C */
export const widthOf = ({ pooling, steps }: VectorWay, stateWidth: number): number =>
  steps.reduce((width, step) => step.width ?? width, pooling.length * stateWidth);

/** Makes vectors of length 1. */
export const unitStep: VectorStep = { run: (vectors) => unitVectors("embed", vectors, -1, 1e-12) };

const sumOfLast = (x: Tensor): Tensor => reshape(reduceSum(x, [2]), x.shape.slice(0, 2));
const differences = (x: Tensor, y: Tensor): Tensor => sub(reshape(x, [x.shape[0] as number, 1, -1]), reshape(y, [1, ...y.shape]));
const products = (x: Tensor, y: Tensor): Tensor => matmul(x, transpose(y));
const compared: { readonly [Kind in Similarity]: (x: Tensor, y: Tensor) => Tensor } = {
  cosine: (x, y) => products(unitStep.run(x), unitStep.run(y)),
  dot: products,
  euclidean(x, y) {
    const apart = differences(x, y);
    return neg(sqrt(sumOfLast(mul(apart, apart))));
  },
  manhattan: (x, y) => neg(sumOfLast(abs(differences(x, y)))),
};

/** Names of the ways to compare. */
export const similarities = Object.keys(compared) as readonly Similarity[];

/** Every row of x [N, C] with every row of y [M, C] → [N, M], the larger the nearer. @throws {ShapeError} for other shapes */
export function compareRows(operation: string, kind: Similarity, x: Tensor, y: Tensor): Tensor {
  requireTensors(operation, { x, y });
  if (x.rank !== 2 || y.rank !== 2 || x.shape[1] !== y.shape[1])
    throw new ShapeError(`x is ${wordShape(x.shape)}, y ${wordShape(y.shape)}: they should be [N, C] and [M, C].`, {
      operation,
      expected: x.shape,
      got: y.shape,
    });
  return compared[kind](x, y);
}
