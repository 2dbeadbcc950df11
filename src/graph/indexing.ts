/** Data-dependent operations: which elements they touch is known only when they run. All work on rows: [n, C]. */
import { DTypeError, ShapeError, wordShape } from "../errors.ts";
import type { TypedArray } from "./dtype.ts";
import { cast, mod } from "./elementwise.ts";
import { flip, reshape } from "./movement.ts";
import { Tensor } from "./node.ts";
import type { CallGeometry, Draw, KernelOperation, Sample } from "./primitive.ts";
import { sizeOf } from "./shape.ts";
import { constant, iota } from "./source.ts";

const domain: readonly [number, number] = [-2, 2];
/** 0, 3, 6, … modulo `rows`: some rows twice, some never. */
const indices = (count: number, rows: number): Tensor => mod(cast(iota([count]), "int32"), constant(rows, [], "int32"));

/**
 * @param extent of the axis that addresses were computed from, as `gather` and `scatter` do; those outside are −1
 * @throws {ShapeError} for an index outside; when the program runs, since its values are not known before
 */
export function checkIndex(operation: string, index: number, rows: number, extent: number | undefined): void {
  if (index >= 0 && index < rows) return;
  throw extent === undefined
    ? new ShapeError(`index ${index} is outside a table of ${rows} rows.`, { operation, expected: rows, got: index })
    : new ShapeError(`an index is outside its axis of ${extent}.`, {
        operation: operation === "take" ? "gather" : "scatter",
        expected: extent,
        hint: "Indices count from 0.",
      });
}

const extentOf = (node: Tensor): number | undefined => node.attributes["extent"] as number | undefined;
const withExtent = (extent: number | undefined) => (extent === undefined ? {} : { extent });

/** See {@link take}. */
export const takeOp: KernelOperation = {
  kind: "kernel",
  name: "take",
  formula: "x[index]",
  vjp: (g, y, x, index) => [scatterAdd(index!, g, x!.shape[0]!, extentOf(y)), null],
  host: ([table, index]: readonly TypedArray[], [out]: readonly TypedArray[], geometry: CallGeometry) => {
    const [rows, width] = geometry.operands[0]!.shape as [number, number];
    for (let i = 0; i < index!.length; i++) {
      const row = index![i]!;
      checkIndex("take", row, rows, geometry.attributes["extent"]);
      if (width === 1) out![i] = table![row]!;
      else out!.set(table!.subarray(row * width, (row + 1) * width), i * width);
    }
  },
  samples: (draw: Draw): Sample[] => {
    const [rows, width, count] = [draw.extent(5), draw.extent(4), draw.extent(7)];
    return [{ inputs: [{ shape: [rows, width], domain }], apply: (x) => take(x, indices(count, rows)) }];
  },
};

/** See {@link scatterAdd}. */
export const scatterAddOp: KernelOperation = {
  kind: "kernel",
  name: "scatterAdd",
  formula: "y[index] += x, from zeros",
  vjp: (g, y, index) => [null, take(g, index!, extentOf(y))],
  host: ([index, updates]: readonly TypedArray[], [out]: readonly TypedArray[], geometry: CallGeometry) => {
    const [rows, width] = geometry.results[0]!.shape as [number, number];
    out!.fill(0);
    for (let i = 0; i < index!.length; i++) {
      const row = index![i]!;
      checkIndex("scatterAdd", row, rows, geometry.attributes["extent"]);
      for (let c = 0, to = row * width, from = i * width; c < width; c++) out![to + c]! += updates![from + c]!;
    }
  },
  samples: (draw) => {
    const [rows, width, count] = [draw.extent(5), draw.extent(4), draw.extent(7)];
    return [{ inputs: [{ shape: [count, width], domain }], apply: (x) => scatterAdd(indices(count, rows), x, rows) }];
  },
};

/** See {@link cumulativeSum}. */
export const cumulativeSumOp: KernelOperation = {
  kind: "kernel",
  name: "cumulativeSum",
  formula: "yᵢ = x₀ + … + xᵢ along the last axis",
  vjp: (g) => [flip(cumulativeSum(flip(g, g.rank - 1)), g.rank - 1)],
  host: ([x]: readonly TypedArray[], [out]: readonly TypedArray[], geometry: CallGeometry) => {
    const shape = geometry.operands[0]!.shape;
    const width = shape[shape.length - 1]!;
    for (let start = 0; start < x!.length; start += width) {
      let sum = 0;
      for (let i = start; i < start + width; i++) out![i] = sum += x![i]!;
    }
  },
  samples: (draw) => [{ inputs: [{ shape: draw.shape(3, 5, 1), domain }], apply: (x) => cumulativeSum(x) }],
  tolerance: 1e-5,
};

/** See {@link argsort}. */
export const argsortOp: KernelOperation = {
  kind: "kernel",
  name: "argsort",
  formula: "the order that sorts the last axis, equal values as they stand",
  vjp: () => [null],
  host: ([x]: readonly TypedArray[], [out]: readonly TypedArray[], geometry: CallGeometry) => {
    const shape = geometry.operands[0]!.shape;
    const width = shape[shape.length - 1]!;
    const sign = geometry.attributes["descending"] ? -1 : 1;
    for (let start = 0; start < x!.length; start += width) {
      const order = Array.from({ length: width }, (_, i) => i);
      // NaN counts as larger than every number, as in PyTorch
      order.sort((i, j) => {
        const [p, q] = [x![start + i]!, x![start + j]!];
        if (Number.isNaN(p) || Number.isNaN(q)) return sign * (Number(Number.isNaN(p)) - Number(Number.isNaN(q))) || i - j;
        return sign * (p < q ? -1 : p > q ? 1 : 0) || i - j;
      });
      out!.set(order, start);
    }
  },
};

/**
 * Rows of a table: x [rows, ...], index [...] → [...index, ...row].
 * @throws {ShapeError} for a scalar table; @throws {DTypeError} when `index` is not int32; a row that is not there is an error when it runs
 * @param extent for the message only: of the axis that `index` was computed from
 */
export function take(x: Tensor, index: Tensor, extent?: number): Tensor {
  if (x.rank === 0) throw new ShapeError("needs a table with at least one axis.", { operation: "take" });
  if (index.dtype !== "int32" && index.dtype !== "uint8")
    throw new DTypeError(`indices are int32, got ${index.dtype}.`, {
      operation: "take",
      got: index.dtype,
      hint: 'Use index.cast("int32").',
    });
  const row = x.shape.slice(1);
  const flat = new Tensor(
    takeOp,
    [reshape(x, [x.shape[0]!, sizeOf(row)]), reshape(cast(index, "int32"), [index.size])],
    [index.size, sizeOf(row)],
    x.dtype,
    withExtent(extent),
  );
  return reshape(flat, [...index.shape, ...row]);
}

/**
 * Adds rows into a table of zeros: index [...n], x [...n, ...row] → [rows, ...row]; repeated indices add up, in their order.
 */
export function scatterAdd(index: Tensor, x: Tensor, rows: number, extent?: number): Tensor {
  const row = x.shape.slice(index.rank);
  if (wordShape(x.shape.slice(0, index.rank)) !== wordShape(index.shape))
    throw new ShapeError(`${wordShape(index.shape)} indices do not fit ${wordShape(x.shape)}.`, {
      operation: "scatterAdd",
      got: x.shape,
    });
  const wide = widened(x);
  const flat = new Tensor(
    scatterAddOp,
    [reshape(cast(index, "int32"), [index.size]), reshape(wide, [index.size, sizeOf(row)])],
    [rows, sizeOf(row)],
    wide.dtype,
    withExtent(extent),
  );
  return cast(reshape(flat, [rows, ...row]), x.dtype);
}

/** 16-bit floats are for storage: sums and comparisons are done in float32. */
const widened = (x: Tensor): Tensor => (x.dtype === "float16" || x.dtype === "bfloat16" ? cast(x, "float32") : x);

/** Running sum along the last axis. */
export function cumulativeSum(x: Tensor): Tensor {
  const wide = widened(x);
  if (wide !== x) return cast(cumulativeSum(wide), x.dtype);
  return new Tensor(cumulativeSumOp, [x], x.shape, x.dtype);
}

/** Indices that sort the last axis, as int32; stable. */
export function argsort(x: Tensor, descending: boolean): Tensor {
  return new Tensor(argsortOp, [widened(x)], x.shape, "int32", { descending: descending ? 1 : 0 });
}

/** The entries of this family, by name. */
export const indexing = { take: takeOp, scatterAdd: scatterAddOp, cumulativeSum: cumulativeSumOp, argsort: argsortOp } as const;
