/**
 * How far a device may be from the reference device: first-order running error analysis. Beside a graph stands another one
 * that carries, element by element, a bound of the error that rounding has made so far:
 *
 *   E(f(x…)) = Σᵢ |∂f/∂xᵢ|·E(xᵢ) + u·|f(x…)|
 *
 * with u the rounding unit of the dtype (scaled by the tolerance that an operation states), sums of n terms with n·u.
 * The derivatives are the operations' own, so this holds for every operation that is registered.
 * @see Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., §3.3
 */
import { realize } from "../../src/compile/program.ts";
import { type DType, isFloat } from "../../src/graph/dtype.ts";
import { add, cast, elementwise, equal, less, max, mul, neg, sub, where } from "../../src/graph/elementwise.ts";
import { isItem } from "../../src/graph/fused.ts";
import { expand } from "../../src/graph/movement.ts";
import { Tensor, topologicalOrder } from "../../src/graph/node.ts";
import type { Elementwise, Fused, Primitive } from "../../src/graph/primitive.ts";
import { maxReduceOp, reduceMax, reduceSum } from "../../src/graph/reduction.ts";
import { constant } from "../../src/graph/source.ts";
import { valuesOf } from "./values.ts";

/** Half the distance between 1 and the next number. */
const units: Partial<Record<DType, number>> = { float64: 2 ** -53, float32: 2 ** -24, float16: 2 ** -11, bfloat16: 2 ** -8 };
const defaultTolerance = 1e-6;

/** These give one of their inputs, or its negative, without rounding. */
const exactOps: ReadonlySet<Primitive> = new Set([elementwise.neg, elementwise.max, elementwise.where, elementwise.copy]);

const absolute = (x: Tensor): Tensor => max(x, neg(x));
const zeros = (x: Tensor): Tensor => constant(0, x.shape, "float64");
const ones = (x: Tensor): Tensor => constant(1, x.shape, x.dtype);
const wide = (x: Tensor): Tensor => cast(x, "float64");

/** Infinite wherever an input is not exact: behind a step (a comparison, a cast to integers) nothing is known then. */
const unknown = (error: Tensor): Tensor =>
  where(less(zeros(error), error), constant(Number.POSITIVE_INFINITY, [], "float64"), zeros(error));

/** |slope|·error, and 0 where the error is, however steep. */
const carried = (slope: Tensor, error: Tensor): Tensor =>
  where(equal(error, zeros(error)), zeros(error), mul(absolute(wide(slope)), error));

/**
 * How far the largest, `top`, may be wrong on account of one candidate: what the candidate may lie above it. The winner, right
 * or wrong, is among the candidates; one that is far below does no harm, however inexact it is.
 */
const largestError = (top: Tensor, candidate: Tensor, error: Tensor): Tensor =>
  max(add(sub(wide(candidate), wide(top)), error), zeros(top));

const sumOf = (terms: readonly (Tensor | null)[]): Tensor | null => {
  const there = terms.filter((term) => term !== null);
  return there.length ? there.reduce(add) : null;
};

export interface RoundingOptions {
  /** Rounding unit of float32: 2⁻²⁴ for devices that compute in float32, 2⁻⁵³ where floats are float64. */
  readonly unit?: number;
}

/**
 * Bounds of the rounding errors of `roots`, as tensors on the reference device; `null` means exact.
 * Values that lie in memory count as exact unless they were computed from a history that is still there.
 */
export function errorBounds(roots: readonly Tensor[], { unit = 2 ** -24 }: RoundingOptions = {}): (Tensor | null)[] {
  const errors = new Map<Tensor, Tensor | null>();
  const compositions = new Map<Tensor, readonly Tensor[]>();
  const unitOf = (dtype: DType): number => Math.max(unit, dtype === "float32" || dtype === "float64" ? 0 : units[dtype]!);
  // 16-bit floats are computed in float32, then rounded
  const scaled = (op: Primitive, dtype: DType): number =>
    unit * ((op.tolerance ?? defaultTolerance) / 2 ** -24) + (unitOf(dtype) === unit ? 0 : unitOf(dtype));
  const get = (node: Tensor): Tensor | null => {
    for (const each of topologicalOrder([node], (n) => errors.has(n))) if (!errors.has(each)) errors.set(each, bound(each));
    return errors.get(node)!;
  };

  const bound = (node: Tensor): Tensor | null => {
    const { op, sources } = node;
    const of = sources.map((source) => errors.get(source) ?? null);
    switch (op.kind) {
      case "source": {
        const value = node.attributes["value"];
        if (op.name !== "constant" || !isFloat(node.dtype) || Math.fround(value as number) === value || !Number.isFinite(value))
          return null;
        return constant(Math.abs(value as number) * unitOf(node.dtype), node.shape, "float64");
      }
      case "movement": {
        if (isItem(node)) {
          const fused = sources[0]!;
          let results = compositions.get(fused);
          if (!results) compositions.set(fused, (results = (fused.op as Fused).compose(fused.sources, fused.attributes)));
          return get(results[node.attributes["index"] as number]!);
        }
        const from = of[0]!;
        return from && new Tensor(op, [from, ...sources.slice(1)], node.shape, "float64", node.attributes);
      }
      case "elementwise":
        return elementwiseBound(node, op, of);
      case "reduction": {
        const [error] = of as [Tensor | null];
        const [x] = sources as [Tensor];
        const axes = x.shape.flatMap((extent, axis) => (extent !== node.shape[axis] ? [axis] : []));
        if (!isFloat(node.dtype)) return error && reduceMax(unknown(error), axes);
        if (op === maxReduceOp) return error && reduceMax(largestError(node, x, error), axes);
        const slope = op.vjp(ones(node), node, x)[0]!;
        const count = axes.reduce((n, axis) => n * x.shape[axis]!, 1);
        const rounding = mul(reduceSum(absolute(wide(mul(slope, x))), axes), constant(count * unitOf(node.dtype), [], "float64"));
        return error ? add(reduceSum(carried(slope, error), axes), rounding) : rounding;
      }
      case "kernel": {
        if (!isFloat(node.dtype) || of.some((error, i) => error && !isFloat(sources[i]!.dtype))) {
          const inexact = of.some((error) => error !== null);
          return inexact ? constant(Number.POSITIVE_INFINITY, node.shape, "float64") : null;
        }
        // linear in each operand, with no negative coefficients: errors pass through the operation itself
        const again = (operand: (source: Tensor, i: number) => Tensor): Tensor =>
          new Tensor(
            op,
            sources.map((source, i) => (isFloat(source.dtype) ? operand(source, i) : source)),
            node.shape,
            "float64",
            node.attributes,
          );
        const magnitude = (source: Tensor): Tensor => absolute(wide(source));
        const count = again((source) => wide(ones(source)));
        const rounding = mul(mul(count, again(magnitude)), constant(unitOf(node.dtype), [], "float64"));
        return sumOf([rounding, ...of.map((error, i) => error && again((source, j) => (i === j ? error : magnitude(source))))]);
      }
      case "fused":
        return null;
    }
  };

  const elementwiseBound = (node: Tensor, op: Elementwise, of: readonly (Tensor | null)[]): Tensor | null => {
    const { sources } = node;
    const inexact = of.some((error) => error !== null);
    if (node.dtype === "bool" && sources.length === 2 && inexact) {
      // a comparison is certain where the two are further apart than their errors
      const error = sumOf(of)!;
      const apart = absolute(sub(wide(sources[0]!), wide(sources[1]!)));
      return unknown(where(less(mul(error, constant(safety, [], "float64")), apart), zeros(node), error));
    }
    const slopes = inexact ? op.vjp(ones(node), node, ...sources) : [];
    const terms = of.map((error, i) => {
      if (!error) return null;
      const slope = slopes[i];
      // x·x states its whole slope at its first factor
      if (!slope && sources.some((source, j) => source === sources[i] && slopes[j])) return null;
      const spread = sources[i]!.shape === node.shape ? error : expand(error, node.shape);
      if (!slope || !isFloat(node.dtype)) return unknown(spread);
      return carried(slope, spread);
    });
    if (op === elementwise.max && inexact && isFloat(node.dtype))
      return of.map((error, i) => largestError(node, sources[i]!, error ?? zeros(sources[i]!))).reduce(max);
    if (!isFloat(node.dtype) || exactOps.has(op)) return sumOf(terms);
    if (op === elementwise.cast) {
      const from = sources[0]!.dtype;
      // exact: to a wider dtype, of small whole numbers, and rounding what is known exactly
      if (isFloat(from)) {
        if (!inexact || unitOf(node.dtype) === unit) return sumOf(terms);
      } else if (from !== "int32" || unit < 2 ** -24) return sumOf(terms);
      else {
        const large = less(constant(2 ** 24, [], "float64"), absolute(wide(node)));
        return sumOf([...terms, where(large, mul(absolute(wide(node)), constant(unit, [], "float64")), zeros(node))]);
      }
    }
    return sumOf([...terms, mul(absolute(wide(node)), constant(scaled(op, node.dtype), [], "float64"))]);
  };

  return roots.map(get);
}

/** First-order bounds leave out what is small against them, and results below the smallest normal number. */
const safety = 4;
const smallest = 1e-35;
/** From here on a value is rounded to infinity. */
const infinityFrom: Partial<Record<DType, number>> = {
  float32: 2 ** 128 * (1 - 2 ** -25),
  float16: 65520,
  bfloat16: 2 ** 128 * (1 - 2 ** -9),
};

/** Tolerances for each element of `expected`, whose graph is still there. */
export function tolerances(expected: readonly Tensor[], options: RoundingOptions = {}): Float64Array[] {
  const bounds = errorBounds(expected, options);
  // together, since they share most of their graphs
  realize(bounds.filter((error) => error !== null));
  return bounds.map((error, i) => {
    const result = new Float64Array(expected[i]!.size).fill(smallest);
    if (error) valuesOf(error).forEach((value, j) => (result[j] = Math.abs(value) * safety + smallest));
    return result;
  });
}

/**
 * The first element of `got` that is further from `want` than allowed, in words; `null` when there is none. NaN equals NaN.
 * @param dtype of `got`: what it cannot hold is infinite there
 */
export function difference(
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  tolerance: ArrayLike<number>,
  dtype: DType = "float32",
): string | null {
  const infinite = infinityFrom[dtype] ?? Number.POSITIVE_INFINITY;
  if (got.length !== want.length) return `${got.length} values, not ${want.length}`;
  for (let i = 0; i < want.length; i++) {
    const [a, b] = [got[i]!, want[i]!];
    if (Object.is(a, b) || a === b || Number.isNaN(tolerance[i]!)) continue;
    if (Math.abs(b) >= infinite && a === Math.sign(b) * Number.POSITIVE_INFINITY) continue;
    if (!(Math.abs(a - b) <= tolerance[i]!)) return `element ${i} is ${a}, not ${b} (allowed ${tolerance[i]!.toExponential(1)})`;
  }
  return null;
}
