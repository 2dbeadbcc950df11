/** Inverses and systems of equations. */
import { withVjp } from "../autograd/custom.ts";
import { ConfigError, ShapeError, wordShape } from "../errors.ts";
import { matmul } from "../graph/contraction.ts";
import { neg } from "../graph/elementwise.ts";
import { transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { identityMatrix, type Matrix, matrix, readMatrices, requireSquare, toTensor } from "./matrix.ts";

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

/** A⁻¹·B by elimination with exchange of rows. @throws {ConfigError} when A is singular to working precision */
export function solveMatrix(operation: string, A: Matrix, B: Matrix): Matrix {
  const [n, k] = [A.rows, B.columns];
  const [left, X] = [A.values.slice(), matrix(n, k, B.values.slice())];
  const right = X.values;
  const largest = left.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const exchange = (values: Float64Array, width: number, i: number, j: number) => {
    const kept = values.slice(i * width, (i + 1) * width);
    values.copyWithin(i * width, j * width, (j + 1) * width);
    values.set(kept, j * width);
  };
  const subtract = (values: Float64Array, width: number, from: number, to: number, factor: number, start: number) => {
    const [a, b] = [from * width, to * width];
    for (let j = start; j < width; j++) values[b + j] = values[b + j]! - factor * values[a + j]!;
  };
  for (let i = 0; i < n; i++) {
    let pivot = i;
    for (let r = i + 1; r < n; r++) if (Math.abs(left[r * n + i]!) > Math.abs(left[pivot * n + i]!)) pivot = r;
    if (Math.abs(left[pivot * n + i]!) <= n * Number.EPSILON * largest)
      throw new ConfigError(`the matrix [${n}, ${n}] is singular.`, { operation, hint: "Use pinv, or add to its diagonal." });
    if (pivot !== i) {
      exchange(left, n, i, pivot);
      exchange(right, k, i, pivot);
    }
    for (let r = i + 1; r < n; r++) {
      const factor = left[r * n + i]! / left[i * n + i]!;
      if (factor === 0) continue;
      subtract(left, n, i, r, factor, i + 1);
      subtract(right, k, i, r, factor, 0);
    }
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let j = i + 1; j < n; j++) subtract(right, k, j, i, left[i * n + j]!, 0);
    for (let j = 0; j < k; j++) right[i * k + j] = right[i * k + j]! / left[i * n + i]!;
  }
  return X;
}
