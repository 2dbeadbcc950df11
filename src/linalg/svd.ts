/** Singular value decomposition. */
import { matmul } from "../graph/contraction.ts";
import { add, less, mul, where } from "../graph/elementwise.ts";
import { sliceAxis, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { square } from "../tensor/math.ts";
import { bidiagonalSvd } from "./conquer-singular.ts";
import {
  chain,
  diagonalMatrix,
  factors,
  inverseGaps,
  inverseOrZero,
  number,
  outside,
  scaleColumns,
  scaleRows,
  skewPart,
} from "./factor.ts";
import { type Matrix, matrix, readMatrix, scaled, scaleOf, transposed } from "./matrix.ts";
import { triangularise } from "./qr.ts";
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
 * The values are needed at once, so a device that can only be read asynchronously is refused, and so is a function being traced.
 *
 * The derivative of U and V is not defined where singular values are equal (or, for m ≠ n, zero); the shares of such pairs are left out.
 *
 * @throws {ShapeError} when `x` is not one matrix; @throws {ConfigError} for NaN and infinities
 * @example
 * const { U, S, Vt } = svd(tensor([[3, 0], [4, 5]]));
 * S   // [6.7082 2.2361] float32 [2]
 */
export function svd(x: Tensor): Svd {
  const A = readMatrix("svd", x);
  const k = Math.min(A.rows, A.columns);
  const [U, S, Vt] = factors(
    x,
    [[A.rows, k], [k], [k, A.columns]],
    () => {
      const found = svdMatrix(A);
      return [found.U.values, found.S, found.Vt.values];
    },
    ([gU, gS, gVt], [U, S, Vt]) => {
      const [V, gV] = [transpose(Vt), transpose(gVt)];
      const gaps = inverseGaps(square(S));
      const turnU = mul(gaps, skewPart(matmul(transpose(U), gU)));
      const turnV = mul(gaps, skewPart(matmul(Vt, gV)));
      const inner = add(add(scaleColumns(turnU, S), scaleRows(turnV, S)), diagonalMatrix(gS));
      let g = chain(U, inner, Vt);
      const inverse = inverseOrZero(S);
      if (A.rows > k) g = add(g, matmul(scaleColumns(outside(U, gU), inverse), Vt));
      if (A.columns > k) g = add(g, matmul(scaleColumns(U, inverse), transpose(outside(V, gV))));
      return g;
    },
  );
  return { U, S, Vt };
}

/** Singular values of a matrix, descending; errors are those of `svd`. */
export const svdvals = (x: Tensor): Tensor => svd(x).S;

/**
 * Moore–Penrose inverse of a matrix [m, n]: [n, m], from its singular value decomposition.
 *
 * @param cutoff singular values below this part of the largest one count as zero; rounding of max(m, n) entries when absent
 */
export function pinv(x: Tensor, cutoff?: number): Tensor {
  const { U, S, Vt } = svd(x);
  const epsilon = x.dtype === "float64" ? Number.EPSILON : 2 ** -23;
  const least = mul(number(S, cutoff ?? epsilon * Math.max(U.shape[0] as number, Vt.shape[1] as number)), sliceAxis(S, 0, 0, 1));
  const inverse = where(less(least, S), inverseOrZero(S), number(S, 0));
  return matmul(scaleColumns(transpose(Vt), inverse), transpose(U));
}

/** The X with the least ‖A·X − B‖, and of those the one with the least ‖X‖: A [m, n], B [m, k], X [n, k]. */
export const lstsq = (A: Tensor, B: Tensor): Tensor => matmul(pinv(A), B);

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
  const [Ut, Vt] = [matrix(n, m), matrix(n, n)];
  // of a much taller matrix only the triangle is worth the work of both sides
  const tall = m > 1.6 * n ? triangularise(A) : undefined;
  const { d, e, left, right } = bidiagonalise(tall ? tall.R : A);
  const found = bidiagonalSvd(d, e);
  for (let i = 0; i < n; i++) {
    const from = (n - 1 - i) * n; // in descending order
    Ut.values.set(found.left.values.subarray(from, from + n), i * m);
    Vt.values.set(found.right.values.subarray(from, from + n), i * n);
  }
  reflectAll(Ut, left);
  if (tall) reflectAll(Ut, tall.reflections);
  reflectAll(Vt, right);
  return { Ut, S: found.values.reverse(), Vt };
}
