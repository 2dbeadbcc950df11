/** Matrices in float64 outside of the graph: what factorisations compute with, and the way from tensors to them and back. */
import { downloadSync, upload } from "../compile/program.ts";
import type { Device } from "../devices/device.ts";
import { ConfigError, ShapeError, wordShape } from "../errors.ts";
import { fromBFloat16Bits, fromFloat16Bits, requireFloat, type TypedArray } from "../graph/dtype.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { sizeOf } from "../graph/shape.ts";

/** Rows one after the other. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly values: Float64Array;
}

/** A matrix of zeros, or of the given values, which it does not copy. */
export function matrix(rows: number, columns: number, values: Float64Array = new Float64Array(rows * columns)): Matrix {
  return { rows, columns, values };
}

/** Ones on the diagonal. */
export function identityMatrix(n: number): Matrix {
  const I = matrix(n, n);
  for (let i = 0; i < n; i++) I.values[i * n + i] = 1;
  return I;
}

/** Rows become columns. */
export function transposed({ rows, columns, values }: Matrix): Matrix {
  const turned = new Float64Array(values.length);
  const block = 32; // lines of the cache are read and written whole
  for (let top = 0; top < rows; top += block)
    for (let left = 0; left < columns; left += block) {
      const [bottom, right] = [Math.min(rows, top + block), Math.min(columns, left + block)];
      for (let i = top; i < bottom; i++) for (let j = left; j < right; j++) turned[j * rows + i] = values[i * columns + j]!;
    }
  return { rows: columns, columns: rows, values: turned };
}

/** Columns from `start` to `end`. */
export function sliceColumns({ rows, columns, values }: Matrix, start: number, end: number): Matrix {
  const part = matrix(rows, end - start);
  for (let i = 0; i < rows; i++) part.values.set(values.subarray(i * columns + start, i * columns + end), i * (end - start));
  return part;
}

/** The largest entry, without its sign. */
export const largestOf = ({ values }: Matrix): number => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

/** The power of two that brings the largest entry near 1, so that squares neither overflow nor vanish. */
export function scaleOf(A: Matrix): number {
  const largest = largestOf(A);
  return largest === 0 ? 0 : Math.floor(Math.log2(largest));
}

/** A matrix times 2^exponent: exact, in two steps because the power alone may overflow. */
export function scaled({ rows, columns, values }: Matrix, exponent: number): Matrix {
  const half = Math.trunc(exponent / 2);
  const [first, second] = [2 ** half, 2 ** (exponent - half)];
  return { rows, columns, values: values.map((value) => value * first * second) };
}

/** Values of a tensor in float64; the tensor is computed if it was not yet. */
export function readValues(x: Tensor): Float64Array {
  const values: TypedArray = downloadSync(x);
  const bits = x.dtype === "float16" ? fromFloat16Bits : x.dtype === "bfloat16" ? fromBFloat16Bits : (value: number) => value;
  return Float64Array.from(values as ArrayLike<number>, bits);
}

/**
 * The matrices that a tensor [..., m, n] is made of.
 *
 * @throws {ShapeError} for fewer than two axes; @throws {DTypeError} for integers; @throws {ConfigError} for NaN and infinities
 */
export function readMatrices(operation: string, x: Tensor): Matrix[] {
  requireFloat(operation, x.dtype);
  if (x.rank < 2)
    throw new ShapeError(`needs a matrix, got ${wordShape(x.shape)}.`, { operation, got: x.shape, expected: ["m", "n"] });
  const [rows, columns] = x.shape.slice(-2) as [number, number];
  const values = readValues(x);
  const wrong = values.findIndex((value) => !Number.isFinite(value));
  if (wrong >= 0)
    throw new ConfigError(
      `entry [${Math.floor(wrong / columns) % rows}, ${wrong % columns}] of the matrix ${wordShape(x.shape)} is ${values[wrong]}.`,
      { operation, got: values[wrong], hint: "Only finite numbers can be factorised." },
    );
  const size = rows * columns;
  const count = sizeOf(x.shape.slice(0, -2));
  return Array.from({ length: count }, (_, i) => matrix(rows, columns, values.subarray(i * size, (i + 1) * size)));
}

/** The one matrix of a tensor [m, n]. @throws {ShapeError} for another number of axes, and what `readMatrices` throws */
export function readMatrix(operation: string, x: Tensor): Matrix {
  requireTensors(operation, { x });
  if (x.rank !== 2)
    throw new ShapeError(`needs one matrix, got ${wordShape(x.shape)}.`, { operation, got: x.shape, expected: ["m", "n"] });
  return readMatrices(operation, x)[0] as Matrix;
}

/** A tensor on the device of `like`, in float64 if that has it, else in float32. */
export function toTensor(values: Float64Array, shape: readonly number[], like: Tensor): Tensor {
  const device = like.storage?.device as Device;
  return like.dtype === "float64"
    ? upload(device, values, shape, "float64")
    : upload(device, new Float32Array(values), shape, "float32");
}

/** @throws {ShapeError} when the last two axes are not of one size */
export function requireSquare(operation: string, x: Tensor): void {
  requireTensors(operation, { x });
  if (x.rank >= 2 && x.shape.at(-1) === x.shape.at(-2)) return;
  throw new ShapeError(`needs a square matrix, got ${wordShape(x.shape)}.`, { operation, got: x.shape, expected: ["n", "n"] });
}

/** @throws {ShapeError} unless A is square, and B has its rows and the same axes before */
export function requireSystem(operation: string, A: Tensor, B: Tensor): void {
  requireSquare(operation, A);
  requireTensors(operation, { B });
  if (B.rank !== A.rank || B.shape.slice(0, -1).join() !== A.shape.slice(0, -1).join())
    throw new ShapeError(`needs B with as many rows as A ${wordShape(A.shape)}, got ${wordShape(B.shape)}.`, {
      operation,
      expected: [...A.shape.slice(0, -1), "k"],
      got: B.shape,
    });
}

/** A tensor of matrices, one after the other, as `toTensor`. */
export function fromMatrices(results: readonly Matrix[], like: Tensor, shape: readonly number[]): Tensor {
  const values = new Float64Array(sizeOf(shape));
  results.forEach((each, i) => {
    values.set(each.values, i * each.values.length);
  });
  return toTensor(values, shape, like);
}
