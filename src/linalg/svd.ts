/** Singular value decomposition. */
import type { Tensor } from "../graph/node.ts";
import { bidiagonalSvd } from "./conquer-singular.ts";
import { type Matrix, matrix, readMatrix, scaled, scaleOf, toTensor, transposed } from "./matrix.ts";
import { bidiagonalise } from "./reduction.ts";
import { reflectAll } from "./reflection.ts";

/** A = U·diag(S)·Vᵀ with orthonormal columns of U and rows of Vᵀ, S ≥ 0 descending. */
export interface Svd {
  /** [m, k] with k = min(m, n). */
  readonly U: Tensor;
  /** [k] */
  readonly S: Tensor;
  /** [k, n] */
  readonly Vt: Tensor;
}

/** The same in float64. */
export interface MatrixSvd {
  readonly U: Matrix;
  readonly S: Float64Array;
  readonly Vt: Matrix;
}

/**
 * Thin singular value decomposition of a matrix [m, n], computed in float64. Signs are free: only the product is determined.
 * The values are needed at once, so a device that can only be read asynchronously is refused.
 *
 * @throws {ShapeError} when `x` is not one matrix; @throws {ConfigError} for NaN and infinities
 */
export function svd(x: Tensor): Svd {
  const { U, S, Vt } = svdMatrix(readMatrix("svd", x));
  return {
    U: toTensor(U.values, [U.rows, U.columns], x),
    S: toTensor(S, [S.length], x),
    Vt: toTensor(Vt.values, [Vt.rows, Vt.columns], x),
  };
}

/** Thin singular value decomposition of a finite matrix. */
export function svdMatrix(A: Matrix): MatrixSvd {
  const wide = A.rows < A.columns;
  const exponent = scaleOf(A);
  const { Ut, S, Vt } = tallSvd(scaled(wide ? transposed(A) : A, -exponent));
  const values = scaled({ rows: 1, columns: S.length, values: S }, exponent).values;
  return wide ? { U: transposed(Vt), S: values, Vt: Ut } : { U: transposed(Ut), S: values, Vt };
}

/** For entries near 1 and at least as many rows as columns. */
function tallSvd(A: Matrix): { readonly Ut: Matrix; readonly S: Float64Array; readonly Vt: Matrix } {
  const { rows: m, columns: n } = A;
  const { d, e, left, right } = bidiagonalise(A);
  const found = bidiagonalSvd(d, e);
  const [Ut, Vt] = [matrix(n, m), matrix(n, n)];
  for (let i = 0; i < n; i++) {
    const from = (n - 1 - i) * n; // in descending order
    Ut.values.set(found.left.values.subarray(from, from + n), i * m);
    Vt.values.set(found.right.values.subarray(from, from + n), i * n);
  }
  reflectAll(Ut, left.vectors, left.taus);
  reflectAll(Vt, right.vectors, right.taus);
  return { Ut, S: found.values.reverse(), Vt };
}
