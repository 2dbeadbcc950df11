/** Inverses and systems of equations. */
import { withVjp } from "../autograd/custom.ts";
import { ConfigError, ShapeError, wordShape } from "../errors.ts";
import { matmul } from "../graph/contraction.ts";
import { neg } from "../graph/elementwise.ts";
import { transpose } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { identityMatrix, type Matrix, matrix, readMatrices, requireSquare, sliceColumns, toTensor } from "./matrix.ts";
import { multiplyAdd, part } from "./product.ts";

/**
 * Inverse of square matrices [..., n, n], computed in float64. The values are needed at once, as in `svd`.
 *
 * @throws {ShapeError} for matrices that are not square; @throws {ConfigError} for a singular one, NaN and infinities
 */
export const inverse: (x: Tensor) => Tensor = withVjp(
  (x) => {
    const A = x as Tensor;
    requireSquare("inverse", A);
    return fromMatrices(
      readMatrices("inverse", A).map((each) => solveMatrix("inverse", each, identityMatrix(each.rows))),
      A,
      A.shape,
    );
  },
  (g, y) => [neg(matmul(matmul(transpose(y), g), transpose(y)))],
);

/**
 * The X with A·X = B, computed in float64: A [..., n, n], B [..., n, k] with the same axes before. The values are needed at once.
 *
 * @throws {ShapeError} when the shapes do not fit; @throws {ConfigError} for a singular A, NaN and infinities
 */
export const solve: (A: Tensor, B: Tensor) => Tensor = withVjp(
  (a, b) => {
    const [A, B] = [a as Tensor, b as Tensor];
    requireSquare("solve", A);
    requireTensors("solve", { B });
    if (B.rank !== A.rank || B.shape.slice(0, -1).join() !== A.shape.slice(0, -1).join())
      throw new ShapeError(`needs B with as many rows as A ${wordShape(A.shape)}, got ${wordShape(B.shape)}.`, {
        operation: "solve",
        expected: [...A.shape.slice(0, -1), "k"],
        got: B.shape,
      });
    const right = readMatrices("solve", B);
    return fromMatrices(
      readMatrices("solve", A).map((each, i) => solveMatrix("solve", each, right[i] as Matrix)),
      A.dtype === "float64" ? A : B,
      B.shape,
    );
  },
  (g, y, A) => {
    const gB = matmul(transpose(inverse(A as Tensor)), g);
    return [neg(matmul(gB, transpose(y))), gB];
  },
);

function fromMatrices(results: readonly Matrix[], like: Tensor, shape: readonly number[]): Tensor {
  const values = new Float64Array(shape.reduce((size, extent) => size * extent, 1));
  results.forEach((each, i) => {
    values.set(each.values, i * each.values.length);
  });
  return toTensor(values, shape, like);
}

/** Columns that are eliminated before the others hear of it, by a product. */
const block = 32;

/** A⁻¹·B by elimination with exchange of rows. @throws {ConfigError} when A is singular to working precision */
export function solveMatrix(operation: string, A: Matrix, B: Matrix): Matrix {
  const [n, k] = [A.rows, B.columns];
  const width = n + k;
  const W = matrix(n, width); // A beside B
  const { values } = W;
  for (let i = 0; i < n; i++) {
    values.set(A.values.subarray(i * n, (i + 1) * n), i * width);
    values.set(B.values.subarray(i * k, (i + 1) * k), i * width + n);
  }
  const largest = A.values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  /** Row `to` loses `factor` times row `from`, in the columns from `start` to `end`. */
  const subtract = (to: number, from: number, factor: number, start: number, end: number) => {
    const [a, b] = [from * width, to * width];
    for (let j = start; j < end; j++) values[b + j] = values[b + j]! - factor * values[a + j]!;
  };
  for (let s = 0; s < n; s += block) {
    const end = Math.min(n, s + block);
    for (let i = s; i < end; i++) {
      let pivot = i;
      for (let r = i + 1; r < n; r++) if (Math.abs(values[r * width + i]!) > Math.abs(values[pivot * width + i]!)) pivot = r;
      if (Math.abs(values[pivot * width + i]!) <= n * Number.EPSILON * largest)
        throw new ConfigError(`the matrix [${n}, ${n}] is singular.`, { operation, hint: "Use pinv, or add to its diagonal." });
      if (pivot !== i) {
        const kept = values.slice(i * width, (i + 1) * width);
        values.copyWithin(i * width, pivot * width, (pivot + 1) * width);
        values.set(kept, pivot * width);
      }
      const head = values[i * width + i]!;
      for (let r = i + 1; r < n; r++) {
        const factor = values[r * width + i]! / head;
        values[r * width + i] = factor; // kept where the zero would be
        subtract(r, i, factor, i + 1, end);
      }
    }
    for (let i = s + 1; i < end; i++) for (let j = s; j < i; j++) subtract(i, j, values[i * width + j]!, end, width);
    const [factors, rows] = [part(W, end, s, n - end, end - s), part(W, s, end, end - s)];
    multiplyAdd(part(W, end, end), factors, rows, -1);
  }
  for (let s = Math.floor((n - 1) / block) * block; s >= 0; s -= block) {
    const end = Math.min(n, s + block);
    multiplyAdd(part(W, s, n, end - s), part(W, s, end, end - s, n - end), part(W, end, n), -1);
    for (let i = end - 1; i >= s; i--) {
      for (let j = i + 1; j < end; j++) subtract(i, j, values[i * width + j]!, n, width);
      for (let j = n; j < width; j++) values[i * width + j] = values[i * width + j]! / values[i * width + i]!;
    }
  }
  return sliceColumns(W, n, width);
}
