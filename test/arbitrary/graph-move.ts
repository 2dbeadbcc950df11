/** What one step of a recipe does: which operation the numbers mean, on which of the values that are there. */
import { withVjp } from "../../src/autograd/custom.ts";
import { concatenate } from "../../src/graph/composite.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { isFloat } from "../../src/graph/dtype.ts";
import * as elementwiseFunctions from "../../src/graph/elementwise.ts";
import { add, cast, elementwise, exp, less, max, mod, mul, recip, sqrt, sub, where } from "../../src/graph/elementwise.ts";
import { after, expand, pad, permute, reshape, slice, stopGradient, transpose } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Draw, Elementwise, Interval, Primitive, Sample } from "../../src/graph/primitive.ts";
import { primitives } from "../../src/graph/primitives.ts";
import { reduceMax, reduceProduct, reduceSum } from "../../src/graph/reduction.ts";
import { broadcastShapes, type Shape, sizeOf } from "../../src/graph/shape.ts";
import { constant, iota } from "../../src/graph/source.ts";
import type { GraphBuilder, Value } from "./graph.ts";
import { valuesOf } from "./values.ts";

type Apply = (...inputs: Tensor[]) => Tensor;
export interface Move {
  readonly inputs: readonly Value[];
  readonly apply: Apply;
}

const elementwiseEntries = Object.entries(elementwise) as readonly [string, Elementwise][];

/** The function that applies an elementwise entry: it is exported under the entry's name. */
export function elementwiseFunction(name: string): (...inputs: Tensor[]) => Tensor {
  const f = (elementwiseFunctions as unknown as Record<string, (...inputs: Tensor[]) => Tensor>)[name];
  if (typeof f !== "function") throw new Error(`no function applies the elementwise operation "${name}"`);
  return f;
}

/** Entries that come with samples: everything that is not elementwise and has inputs. */
export const sampled = (Object.values(primitives) as readonly Primitive[]).filter((op) => op.samples !== undefined);

/** Smallest and largest of the values; what is not finite counts as infinite. */
export function rangeOf(x: Tensor): Interval {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const value of valuesOf(x)) {
    if (!Number.isFinite(value)) return [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return low > high ? [0, 0] : [low, high];
}

/** `x` moved linearly from `range` into `domain`. */
const rescale = (x: Tensor, [low, high]: Interval, [from, to]: Interval): Tensor => {
  const scale = high > low ? (0.999 * (to - from)) / (high - low) : 0;
  const shift = high > low ? from - scale * low + 0.0005 * (to - from) : (from + to) / 2;
  return add(mul(x, constant(scale, [], x.dtype)), constant(shift, [], x.dtype));
};

/** Elements of `x` in another shape: its first ones, and zeros where there are too few. */
export function refill(x: Tensor, shape: Shape): Tensor {
  const size = sizeOf(shape);
  const flat = reshape(x, [x.size]);
  const cut = x.size > size ? slice(flat, [0], [size]) : flat;
  return reshape(cut.size < size ? pad(cut, [0], [size - cut.size]) : cut, shape);
}

/** A part of `x` that broadcasts with `shape`. */
function conform(x: Tensor, shape: Shape): Tensor {
  const rank = Math.min(x.rank, Math.max(shape.length, 0));
  let y = x;
  while (y.rank > rank)
    y = reshape(
      slice(
        y,
        y.shape.map(() => 0),
        y.shape.map((extent, axis) => (axis === 0 ? Math.min(1, extent) : extent)),
      ),
      y.shape[0] === 0 ? [0, ...y.shape.slice(2)] : y.shape.slice(1),
    );
  // nothing broadcasts with an empty axis but itself
  if (y.shape.some((extent, axis) => extent === 0 && shape[axis - y.rank + shape.length] !== 0)) return constant(0, [], x.dtype);
  const stops = y.shape.map((extent, axis) => {
    const target = shape[axis - y.rank + shape.length]!;
    return extent === target || target === 1 || extent === 1 ? extent : extent > target ? target : 1;
  });
  return slice(
    y,
    stops.map(() => 0),
    stops,
  );
}

/** Numbers in the range that their reader asks for, taken one after the other from a step. */
class Numbers implements Draw {
  private at = 0;
  private readonly numbers: readonly number[];
  constructor(numbers: readonly number[]) {
    this.numbers = numbers;
  }
  private next(): number {
    const n = this.numbers[this.at % this.numbers.length]!;
    const turn = Math.floor(this.at++ / this.numbers.length);
    return turn === 0 ? n : (n >>> (turn * 3)) ^ (turn * 7);
  }
  integer(low: number, high: number): number {
    return low + (this.next() % (high - low + 1));
  }
  extent(small: number): number {
    return this.integer(1, small);
  }
  shape(maxRank = 3, maxExtent = 5, minRank = 0): number[] {
    return Array.from({ length: this.integer(minRank, maxRank) }, () => this.integer(1, maxExtent));
  }
}

const asFloat = (x: Tensor): Tensor => (isFloat(x.dtype) ? x : cast(x, "float32"));

/** One step of a recipe as an operation on values that are there. */
export function moveOf(builder: GraphBuilder, step: readonly number[]): Move | null {
  const [what, a, b, c, ...rest] = step as [number, number, number, number, ...number[]];
  const draw = new Numbers(rest);
  const x = builder.pick(a);
  const { shape, rank } = x.expected;
  const one = (apply: (x: Tensor) => Tensor): Move => ({ inputs: [x], apply });
  switch (what % 28) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
      return elementwiseMove(builder, draw, [x, builder.pick(b), builder.pick(c)]);
    case 5:
    case 6: {
      const axes = shape.flatMap((_, axis) => (draw.integer(0, 1) ? [axis] : []));
      return fold(x, axes, draw.integer(0, 5), draw.integer(0, 1) === 1);
    }
    case 7:
    case 8:
      return matmulMove(draw, x, builder.pick(b), builder.pick(c));
    case 9: {
      // another factorisation of the size
      const parts = factors(x.expected.size);
      const next: number[] = [];
      for (const part of parts)
        if (next.length > 0 && draw.integer(0, 2) > 0) next[next.length - 1]! *= part;
        else next.push(part);
      if (draw.integer(0, 3) === 0) next.splice(draw.integer(0, next.length), 0, 1);
      return one((t) => reshape(t, x.expected.size === 0 ? [0] : next));
    }
    case 10: {
      const order = shape.map((_, axis) => axis);
      for (let i = order.length - 1; i > 0; i--) {
        const j = draw.integer(0, i);
        [order[i], order[j]] = [order[j]!, order[i]!];
      }
      return one((t) => permute(t, order));
    }
    case 11: {
      const at = draw.integer(0, rank);
      const extent = draw.integer(1, 4);
      const [before, behind] = [shape.slice(0, at), shape.slice(at)];
      return one((t) => expand(reshape(t, [...before, 1, ...behind]), [...before, extent, ...behind]));
    }
    case 12: {
      const before = shape.map(() => draw.integer(0, 5)).map((n) => Math.max(0, n - 3));
      const behind = shape.map(() => draw.integer(0, 5)).map((n) => Math.max(0, n - 3));
      return one((t) => pad(t, before, behind));
    }
    case 13:
    case 14: {
      const empty = draw.integer(0, 30) === 0;
      const parts = shape.map((extent) => {
        const step = draw.integer(1, 2) * (draw.integer(0, 2) === 0 ? -1 : 1);
        if (extent === 0) return [0, 0, 1] as const;
        const [p, q] = [draw.integer(0, extent - 1), draw.integer(0, extent - 1)];
        const [low, high] = [Math.min(p, q), Math.max(p, q)];
        if (empty) return [low, low, 1] as const;
        return step > 0 ? ([low, high + 1, step] as const) : ([high, low - 1, step] as const);
      });
      return one((t) =>
        slice(
          t,
          parts.map(([start]) => start),
          parts.map(([, stop]) => stop),
          parts.map(([, , s]) => s),
        ),
      );
    }
    case 15: {
      if (rank === 0) return null;
      const axis = draw.integer(0, rank - 1);
      const extent = draw.integer(1, 3);
      return {
        inputs: [x, builder.pick(b)],
        apply: (t, u) =>
          concatenate(
            [
              t!,
              refill(
                u!,
                shape.map((own, i) => (i === axis ? extent : own)),
              ),
            ],
            axis,
          ),
      };
    }
    case 16:
    case 17: {
      if (rank === 0) return null;
      const axes = draw.integer(0, 2) ? [rank - 1] : [draw.integer(0, rank - 1)];
      return draw.integer(0, 1)
        ? one((t) => softmax(asFloat(t), axes))
        : {
            inputs: [x, builder.pick(b)],
            apply: (t, w) => normalize(asFloat(t!), axes, conform(asFloat(w!), shape)),
          };
    }
    case 18:
    case 19:
    case 20: {
      const op = sampled[draw.integer(0, sampled.length - 1)]!;
      const samples = op.samples!(draw);
      const sample = samples[draw.integer(0, samples.length - 1)]!;
      return sampleMove(sample, [x, builder.pick(b), builder.pick(c)]);
    }
    case 21: {
      if (rank < 2) return null;
      const [T, C] = [shape[rank - 2]!, shape[rank - 1]!];
      const shift = draw.integer(0, 2);
      return one((t) =>
        where(
          less(reshape(iota([C]), [1, C]), add(reshape(iota([T]), [T, 1]), constant(shift, [], "int32"))),
          t,
          constant(isFloat(t.dtype) ? -2.5 : 0, [], t.dtype),
        ),
      );
    }
    case 22:
      switch (draw.integer(0, 3)) {
        case 0:
          return one((t) => stopGradient(t));
        case 1:
          return { inputs: [x, builder.pick(b)], apply: (t, u) => after(t!, u!) };
        case 2:
          return one((t) =>
            withVjp(
              (z) => asFloat(z!),
              (g, _y, z) => [cast(g, z!.dtype)],
            )(t),
          );
        default: {
          const divisor = constant(draw.integer(1, 5), [], "int32");
          return one((t) => mod(iota(t.shape), divisor));
        }
      }
    case 23:
    case 24: {
      // rows: a fold of the last axis that stays, to be broadcast against what it was made of
      if (rank === 0) return null;
      return fold(x, [rank - 1], draw.integer(0, 5), true);
    }
    case 25:
    case 26: {
      const f = [add, mul, sub, max][draw.integer(0, 3)]!;
      return { inputs: [x, builder.pick(b)], apply: (t, u) => f(t!, conform(u!, t!.shape)) };
    }
    default: {
      const [value, extents] = [draw.integer(-8, 8) / 4, draw.shape(3, 4)];
      return { inputs: [], apply: () => constant(value, extents) };
    }
  }
}

function elementwiseMove(_builder: GraphBuilder, draw: Draw, candidates: readonly Value[]): Move | null {
  const [name, entry] = elementwiseEntries[draw.integer(0, elementwiseEntries.length - 1)]!;
  const inputs = candidates.slice(0, entry.arity);
  const f = elementwiseFunction(name);
  const floats = entry.takes === "float" || inputs.some((x) => isFloat(x.expected.dtype));
  // operations with steps in them get whole numbers, which no rounding moves across a step
  const stepped = entry.takes === "integer" || name === "less" || name === "equal" || name === "bitcast";
  const ranges = inputs.map((x) => rangeOf(x.expected));
  const apply: Apply = (...tensors) => {
    let shape: Shape = tensors[0]!.shape;
    const args = tensors.map((x, i) => {
      const part = i === 0 ? x : conform(x, shape);
      shape = broadcastShapes("conform", shape, part.shape);
      if (name === "where" && i === 0) return isFloat(part.dtype) ? less(iota(part.shape), constant(3, [], "int32")) : part;
      if (stepped) {
        const whole = isFloat(part.dtype) ? mod(iota(part.shape), constant(5, [], "int32")) : part;
        const [low, high] = entry.domain[i]!;
        return name.startsWith("shift") && i === 1 ? mod(cast(whole, "int32"), constant(high - low, [], "int32")) : whole;
      }
      if (!floats) return part;
      const [low, high] = ranges[i]!;
      const domain = entry.domain[i]!;
      const wide = domain[0] === -2 && domain[1] === 2;
      if (wide && low >= -50 && high <= 50) return asFloat(part);
      return rescale(asFloat(part), [low, high], domain);
    });
    if (name === "cast") return isFloat(args[0]!.dtype) ? cast(args[0]!, "float32") : cast(args[0]!, "int32");
    if (name === "bitcast") {
      const whole = cast(args[0]!, "int32");
      return elementwiseFunctions.bitcast(elementwiseFunctions.bitcast(cast(whole, "float32"), "int32"), "float32");
    }
    return f(...args);
  };
  return { inputs, apply };
}

function fold(x: Value, axes: readonly number[], which: number, keep: boolean): Move {
  const count = axes.reduce((n, axis) => n * x.expected.shape[axis]!, 1);
  const drop = (t: Tensor): Tensor =>
    keep
      ? t
      : reshape(
          t,
          t.shape.filter((_, axis) => !axes.includes(axis)),
        );
  const range = rangeOf(x.expected);
  return {
    inputs: [x],
    apply: (t) => {
      if (which === 0 && count > 0) return drop(reduceMax(t!, axes));
      if (which === 1 && count <= 8) return drop(reduceProduct(isFloat(t!.dtype) ? rescale(t!, range, [0.4, 1.6]) : t!, axes));
      return drop(reduceSum(t!, axes));
    },
  };
}

function matmulMove(draw: Draw, x: Value, y: Value, z: Value): Move | null {
  const shape = x.expected.rank >= 2 ? x.expected.shape : [1, x.expected.size];
  const K = shape[shape.length - 1]!;
  const [N, style, addend] = [draw.integer(1, 5), draw.integer(0, 5), draw.integer(0, 7)];
  if (K === 0 || sizeOf(shape) === 0) return null;
  const batch = shape.slice(0, -2);
  const M = shape[shape.length - 2]!;
  const apply: Apply = (t, u, v) => {
    const a = reshape(asFloat(t!), shape);
    const b = (own: Shape) => refill(asFloat(u!), own);
    let product: Tensor;
    if (style === 0) product = matmul(a, transpose(b([N, K])));
    else if (style === 1) product = matmul(a, b([...batch, K, N]));
    else if (style === 2) product = matmul(transpose(b([...batch, N, M])).shape.length ? transpose(a) : a, b([...batch, M, N]));
    else if (style === 3) product = matmul(b([N, M]), a);
    else if (style === 4) product = matmul(a, transpose(b([...batch, N, K])));
    else product = matmul(a, b([K, N]));
    if (addend === 0) return add(product, conform(asFloat(v!), product.shape));
    if (addend === 1) return add(refill(asFloat(v!), product.shape), product);
    if (addend === 2) return add(product, expand(refill(asFloat(v!), [product.shape.at(-1)!]), product.shape));
    if (addend === 3) return add(reshape(product, [product.size]), refill(asFloat(v!), [product.size]));
    if (addend === 4) return add(product, add(refill(asFloat(v!), product.shape), product));
    return product;
  };
  return { inputs: [x, y, z], apply };
}

function sampleMove(sample: Sample, candidates: readonly Value[]): Move {
  const inputs = sample.inputs.map((_, i) => candidates[i % candidates.length]!);
  const ranges = inputs.map((x) => rangeOf(x.expected));
  return {
    inputs,
    apply: (...tensors) =>
      sample.apply(
        ...tensors.map((t, i) => {
          const { shape, domain } = sample.inputs[i]!;
          const [low, high] = ranges[i]!;
          const inside = low >= domain[0] && high <= domain[1];
          return inside && domain[0] <= 0
            ? refill(asFloat(t), shape)
            : rescale(refill(asFloat(t), shape), [Math.min(0, low), Math.max(0, high)], domain);
        }),
      ),
  };
}

function softmax(x: Tensor, axes: readonly number[]): Tensor {
  if (x.size === 0) return x;
  const e = exp(sub(x, expand(reduceMax(x, axes), x.shape)));
  return mul(e, recip(reduceSum(e, axes)));
}

function normalize(x: Tensor, axes: readonly number[], weight: Tensor): Tensor {
  const count = axes.reduce((n, axis) => n * x.shape[axis]!, 1);
  const mean = mul(reduceSum(mul(x, x), axes), constant(1 / Math.max(1, count), [], x.dtype));
  return mul(mul(x, recip(sqrt(add(mean, constant(0.01, [], x.dtype))))), weight);
}

function factors(n: number): number[] {
  const result: number[] = [];
  for (let p = 2, rest = n; rest > 1; ) {
    if (rest % p === 0) {
      result.push(p);
      rest /= p;
    } else p++;
  }
  return result;
}
