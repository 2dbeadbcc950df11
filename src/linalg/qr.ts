/** QR decomposition. */
import { checkOptions } from "../errors.ts";
import { concatenate } from "../graph/composite.ts";
import { matmul } from "../graph/contraction.ts";
import { add, mul, sub } from "../graph/elementwise.ts";
import { sliceAxis, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import { tril } from "../tensor/math.ts";
import { chain, diagonalMatrix, factors } from "./factor.ts";
import { type Matrix, matrix, readMatrix, scaled, scaleOf, transposed } from "./matrix.ts";
import { makeReflection, type Reflections, reflectAll, reflectionBlock, reflectRows } from "./reflection.ts";
import { inverse } from "./solve.ts";

/** The factors of `qr`. */
export interface Qr {
  /** [m, k] with k = min(m, n). */
  readonly Q: Tensor;
  /** [k, n] */
  readonly R: Tensor;
}

/**
 * Reduced QR decomposition of a matrix [m, n], computed in float64: x = Q·R with orthonormal columns of Q and an upper triangular R.
 * The values are needed at once, as in `svd`. The derivative is defined where the first min(m, n) columns are independent.
 *
 * @param options.positive turns signs so that the diagonal of R is not negative, which makes the factors unique where they have a
 *   derivative; LAPACK's signs otherwise
 * @throws {ShapeError} when `x` is not one matrix; @throws {ConfigError} for NaN and infinities
 */
export function qr(x: Tensor, options: { readonly positive?: boolean } = {}): Qr {
  const { positive = false } = checkOptions("qr", options, { positive: "true or false" });
  const A = readMatrix("qr", x);
  const [m, n, k] = [A.rows, A.columns, Math.min(A.rows, A.columns)];
  const [Q, R] = factors(
    x,
    [
      [m, k],
      [k, n],
    ],
    () => {
      const found = qrMatrix(A, positive);
      return [found.Q.values, found.R.values];
    },
    ([gQ, gR], [Q, R]) => {
      // x = (X, Y) where it has more columns than rows, with R = (S, T): X = Q·S alone makes Q, and T = Qᵀ·Y
      const [S, gS] = [sliceAxis(R, 1, 0, k), sliceAxis(gR, 1, 0, k)];
      const [T, gT] = [sliceAxis(R, 1, k, n), sliceAxis(gR, 1, k, n)];
      const own = n > k ? add(gQ, chain(Q, T, transpose(gT))) : gQ;
      const M = sub(matmul(S, transpose(gS)), matmul(transpose(own), Q));
      const low = tril(M, -1);
      const symmetric = add(add(low, transpose(low)), mul(M, diagonalMatrix(constant(1, [k], M.dtype))));
      const gX = matmul(add(own, matmul(Q, symmetric)), transpose(inverse(S)));
      return n > k ? concatenate([gX, matmul(Q, gT)], 1) : gX;
    },
  );
  return { Q, R };
}

/** A = Q·R with orthonormal columns of Q [m, k] and an upper triangular R [k, n], k = min(m, n). */
export interface MatrixQr {
  readonly Q: Matrix;
  readonly R: Matrix;
}

/**
 * Reduced QR decomposition of a finite matrix, with LAPACK's signs.
 *
 * @param positive turns signs so that the diagonal of R is not negative, which makes the factors unique where the rank is full
 */
export function qrMatrix(A: Matrix, positive = false): MatrixQr {
  const exponent = scaleOf(A);
  const { R: small, reflections } = triangularise(scaled(A, -exponent));
  const R = scaled(small, exponent);
  const Qt = matrix(R.rows, A.rows);
  for (let i = 0; i < Qt.rows; i++) Qt.values[i * Qt.columns + i] = 1;
  reflectAll(Qt, reflections, true);
  if (positive)
    for (let i = 0; i < R.rows; i++) {
      if (R.values[i * R.columns + i]! >= 0) continue;
      for (const { columns, values } of [R, Qt]) {
        const row = values.subarray(i * columns, (i + 1) * columns);
        row.forEach((value, j) => {
          row[j] = -value;
        });
      }
    }
  return { Q: transposed(Qt), R };
}

/** R [k, n] and the reflections whose product begins with Q. Entries should be near 1, see `scaleOf`. */
export function triangularise(A: Matrix): { readonly R: Matrix; readonly reflections: Reflections } {
  const { rows: m, columns: n } = A;
  const k = Math.min(m, n);
  const At = transposed(A);
  const reflections = { vectors: matrix(k, m), taus: new Float64Array(k) };
  const { vectors, taus } = reflections;
  for (let s = 0; s < k; s += reflectionBlock) {
    const end = Math.min(k, s + reflectionBlock);
    for (let i = s; i < end; i++) {
      const v = vectors.values.subarray(i * m + i, (i + 1) * m);
      v.set(At.values.subarray(i * m + i, (i + 1) * m));
      const { tau, beta } = makeReflection(v, 0, m - i);
      taus[i] = tau;
      At.values[i * m + i] = beta;
      for (let j = i + 1; j < end; j++) {
        const column = At.values.subarray(j * m + i, (j + 1) * m);
        let overlap = 0;
        for (let r = 0; r < v.length; r++) overlap += v[r]! * column[r]!;
        overlap *= tau;
        for (let r = 0; r < v.length; r++) column[r] = column[r]! - overlap * v[r]!;
      }
    }
    reflectRows(At, reflections, s, end - s, { backwards: true, firstRow: end });
  }
  const R = matrix(k, n);
  for (let i = 0; i < k; i++) for (let j = i; j < n; j++) R.values[i * n + j] = At.values[j * m + i]!;
  return { R, reflections };
}
