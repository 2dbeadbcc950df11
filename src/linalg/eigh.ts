/** Eigendecomposition of symmetric matrices. */
import { matmul } from "../graph/contraction.ts";
import { add, mul } from "../graph/elementwise.ts";
import { transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import { tridiagonalEigen } from "./conquer-eigen.ts";
import { chain, diagonalMatrix, factors, inverseGaps } from "./factor.ts";
import { type Matrix, matrix, readMatrix, requireSquare, scaled, scaleOf, transposed } from "./matrix.ts";
import { tridiagonalise } from "./reduction.ts";
import { reflectAll } from "./reflection.ts";

/** A = V·diag(values)·Vᵀ. */
export interface Eigh {
  /** [n], in ascending order. */
  readonly values: Tensor;
  /** [n, n], orthonormal columns. */
  readonly vectors: Tensor;
}

/**
 * Eigenvalues and eigenvectors of a symmetric matrix [n, n], computed in float64 from the entries on and below the diagonal. The values
 * are needed at once, as in `svd`. The derivative of the vectors is not defined where eigenvalues are equal; the shares of such
 * pairs are left out.
 *
 * @throws {ShapeError} when `x` is not one square matrix; @throws {ConfigError} for NaN and infinities
 */
export function eigh(x: Tensor): Eigh {
  const A = readMatrix("eigh", x);
  requireSquare("eigh", x);
  const n = A.rows;
  const [values, vectors] = factors(
    x,
    [[n], [n, n]],
    () => {
      const found = eighMatrix(A);
      return [found.values, transposed(found.vectors).values];
    },
    ([gValues, gV], [values, V]) => {
      const inner = add(diagonalMatrix(gValues), mul(inverseGaps(values), matmul(transpose(V), gV)));
      const g = chain(V, inner, transpose(V));
      return mul(add(g, transpose(g)), number(g, 0.5));
    },
  );
  return { values, vectors };
}

/** Eigenvalues in ascending order and eigenvectors as rows, from the entries of a finite matrix on and below the diagonal. */
export function eighMatrix(A: Matrix): { readonly values: Float64Array; readonly vectors: Matrix } {
  const n = A.rows;
  const symmetric = matrix(n, n);
  for (let i = 0; i < n; i++)
    for (let j = 0; j <= i; j++) symmetric.values[i * n + j] = symmetric.values[j * n + i] = A.values[i * n + j]!;
  const exponent = scaleOf(symmetric);
  const { d, e, reflections } = tridiagonalise(scaled(symmetric, -exponent));
  const { values, vectors } = tridiagonalEigen(d, e);
  reflectAll(vectors, reflections);
  return { values: scaled({ rows: 1, columns: n, values }, exponent).values, vectors };
}
