/** Counts, curves through points, and distances between them. */
import { checkOptions, ShapeError, wordShape } from "../errors.ts";
import { requireFloat } from "../graph/dtype.ts";
import { add, and, cast, div, equal, floor, less, mul, where } from "../graph/elementwise.ts";
import { scatterAdd, take } from "../graph/indexing.ts";
import { expand, reshape, sliceAxis, stopGradient } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { normalizeAxis, sameShape } from "../graph/shape.ts";
import { constant, number } from "../graph/source.ts";
import { concatenate, flip, unsqueeze } from "./arrange.ts";
import { clamp, lerp, lessEqual, sub } from "./math.ts";
import { cumprod, diff, searchSorted } from "./running.ts";
import { amax, amin, norm, sum, toFloat } from "./statistics.ts";

function checkWeights(operation: string, x: Tensor, weights: Tensor | undefined): void {
  if (weights === undefined) return;
  requireTensors(operation, { weights });
  if (!sameShape(weights.shape, x.shape))
    throw new ShapeError(`weights ${wordShape(weights.shape)} are not one for each of ${wordShape(x.shape)}.`, {
      operation,
      expected: x.shape,
      got: weights.shape,
    });
}

/** How a histogram counts. */
export interface HistcOptions {
  readonly bins?: number;
  /** Where the first bin begins and the last one ends; the smallest and the largest value when absent. */
  readonly range?: readonly [low: number, high: number];
  /** What each value counts, of the shape of x; 1 when absent. */
  readonly weights?: Tensor;
}

/** How many values lie in each of `bins` equal parts of a range, which holds both of its ends; others do not count. In the dtype of x, or of the weights. */
export function histc(x: Tensor, options: HistcOptions = {}): Tensor {
  const {
    bins = 100,
    range,
    weights,
  } = checkOptions("histc", options, {
    bins: "a whole number from 1",
    range: "two numbers",
    weights: null,
  });
  requireFloat("histc", x.dtype);
  checkWeights("histc", x, weights);
  const flat = stopGradient(reshape(x, [x.size]));
  const [from, to] = range
    ? range.map((end) => number(x, end))
    : x.size
      ? [amin(flat), amax(flat)]
      : [number(x, 0), number(x, 1)];
  // all equal: a bin on each side of them
  const wide = cast(equal(from!, to!), x.dtype);
  const [low, high] = [sub(from!, wide), add(to!, wide)];
  const place = floor(mul(div(sub(flat, low), sub(high, low)), number(x, bins)));
  const inside = and(lessEqual(low, flat), lessEqual(flat, high));
  const index = where(inside, cast(clamp(place, { min: 0, max: bins - 1 }), "int32"), constant(0, [], "int32"));
  const counts = weights ? reshape(weights, [x.size]) : expand(number(x, 1), [x.size]);
  return scatterAdd(index, where(inside, counts, number(counts, 0)), bins);
}

/**
 * How often each of 0, 1, … below `length` stands in x, as int32, or the sums of their weights. A value outside is an error when it runs.
 *
 * @param weights of the shape of x
 */
export function bincount(x: Tensor, length: number, weights?: Tensor): Tensor {
  checkOptions("bincount", { length }, { length: "a whole number from 1" });
  checkWeights("bincount", x, weights);
  return scatterAdd(x, weights ?? expand(constant(1, [], "int32"), x.shape), length);
}

/** Powers of the last axis in columns: xⁿ⁻¹, …, x, 1, or from 1 upwards when `increasing`; n is its size unless `columns` says otherwise. */
export function vander(x: Tensor, options: { readonly columns?: number; readonly increasing?: boolean } = {}): Tensor {
  if (x.rank === 0) throw new ShapeError("needs at least one axis.", { operation: "vander", got: x.shape });
  const { columns = x.shape.at(-1) as number, increasing = false } = checkOptions("vander", options, {
    columns: "a whole number from 0",
    increasing: "true or false",
  });
  const factors = [constant(1, [...x.shape, 1], x.dtype), expand(unsqueeze(x, -1), [...x.shape, Math.max(0, columns - 1)])];
  const powers = cumprod(sliceAxis(concatenate(factors, x.rank), x.rank, 0, columns), x.rank);
  return increasing ? powers : flip(powers, -1);
}

/**
 * Straight lines through points, as numpy's: the value at each x; before the first point and behind the last one theirs.
 *
 * @param points [n], in order
 * @param values [n], at the points
 */
export function interp(x: Tensor, points: Tensor, values: Tensor): Tensor {
  const operation = "interp";
  const n = points.size;
  if (points.rank !== 1 || n === 0 || !sameShape(points.shape, values.shape))
    throw new ShapeError(
      `points ${wordShape(points.shape)} and values ${wordShape(values.shape)} are not two lists of one length.`,
      {
        operation,
        expected: points.shape,
        got: values.shape,
      },
    );
  requireFloat(operation, values.dtype);
  if (n === 1) return expand(reshape(values, []), x.shape);
  const before = sub(searchSorted(points, x, { right: true }), constant(1, [], "int32"));
  const low = clamp(before, { min: 0, max: n - 2 });
  const high = add(low, constant(1, [], "int32"));
  const [x0, x1] = [take(points, low), take(points, high)];
  // of two points at one place the second counts
  const share = where(less(x0, x1), div(sub(x, x0), where(less(x0, x1), sub(x1, x0), number(x1, 1))), number(x1, 1));
  return lerp(take(values, low), take(values, high), cast(clamp(share, { min: 0, max: 1 }), values.dtype));
}

/** What is between two values of a curve. */
export interface TrapezoidOptions {
  /** Where the values stand: a row, or of the shape of y. */
  readonly x?: Tensor;
  /** How far apart they are; 1 when neither is given. */
  readonly dx?: number;
  readonly axis?: number;
}

/** The area below a curve through values along `axis` (the last by default), by trapezoids. */
export function trapezoid(y: Tensor, options: TrapezoidOptions = {}): Tensor {
  const operation = "trapezoid";
  const { x, dx = 1, axis = -1 } = checkOptions(operation, options, { x: null, dx: "a finite number", axis: "a whole number" });
  const at = normalizeAxis(operation, axis, y.rank);
  const z = toFloat(y);
  const n = z.shape[at]!;
  if (n === 0) return sum(z, at);
  const pairs = mul(add(sliceAxis(z, at, 1, n), sliceAxis(z, at, 0, n - 1)), number(z, 0.5));
  if (x === undefined) return sum(mul(pairs, number(z, dx)), at);
  requireTensors(operation, { x });
  if (!sameShape(x.shape, y.shape) && !sameShape(x.shape, [n]))
    throw new ShapeError(`\`x\` is ${wordShape(x.shape)}, not [${n}] or ${wordShape(y.shape)}.`, {
      operation,
      expected: [n],
      got: x.shape,
    });
  const row = sameShape(x.shape, y.shape)
    ? x
    : reshape(
        x,
        y.shape.map((_, i) => (i === at ? n : 1)),
      );
  return sum(mul(pairs, cast(diff(row, at), z.dtype)), at);
}

/** Distances (Σ |x − y|ᵖ)^(1/p) of every row of x [..., P, M] from every row of y [..., R, M]: [..., P, R]. `p` is 2 by default. */
export function cdist(x: Tensor, y: Tensor, p = 2): Tensor {
  if (x.rank < 2 || y.rank < 2 || x.shape.at(-1) !== y.shape.at(-1))
    throw new ShapeError(`${wordShape(x.shape)} and ${wordShape(y.shape)} are not rows of one length.`, {
      operation: "cdist",
      expected: x.shape.at(-1),
      got: y.shape.at(-1),
    });
  return norm(sub(unsqueeze(x, -2), unsqueeze(y, -3)), { p, axes: -1 });
}
