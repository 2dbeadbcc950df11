/** Singular value decomposition. */
import type { Tensor } from "../graph/node.ts";
import { type Matrix, matrix, readMatrix, scaled, scaleOf, toTensor, transposed } from "./matrix.ts";

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
  const exponent = scaleOf(A);
  const { U, S, Vt } = jacobi(A.rows < A.columns ? scaled(transposed(A), -exponent) : scaled(A, -exponent));
  const values = scaled({ rows: 1, columns: S.length, values: S }, exponent).values;
  return A.rows < A.columns ? { U: transposed(Vt), S: values, Vt: transposed(U) } : { U, S: values, Vt };
}

/** One-sided Jacobi rotations, for a matrix with at least as many rows as columns. */
function jacobi(A: Matrix): MatrixSvd {
  const [m, n] = [A.rows, A.columns];
  const columns = transposed(A).values;
  const V = new Float64Array(n * n);
  for (let i = 0; i < n; i++) V[i * n + i] = 1;
  const dot = (p: number, q: number) => {
    let sum = 0;
    for (let k = 0; k < m; k++) sum += columns[p * m + k]! * columns[q * m + k]!;
    return sum;
  };
  const turn = (x: Float64Array, length: number, p: number, q: number, c: number, s: number) => {
    for (let k = 0; k < length; k++) {
      const [a, b] = [x[p * length + k]!, x[q * length + k]!];
      x[p * length + k] = c * a - s * b;
      x[q * length + k] = s * a + c * b;
    }
  };
  for (let sweep = 0, turned = true; turned && sweep < 60; sweep++) {
    turned = false;
    for (let p = 0; p < n; p++)
      for (let q = p + 1; q < n; q++) {
        const [a, b, c] = [dot(p, p), dot(q, q), dot(p, q)];
        if (c === 0 || Math.abs(c) <= 1e-16 * Math.sqrt(a * b)) continue;
        turned = true;
        const z = (b - a) / (2 * c);
        const t = (z < 0 ? -1 : 1) / (Math.abs(z) + Math.hypot(1, z));
        const cosine = 1 / Math.hypot(1, t);
        turn(columns, m, p, q, cosine, cosine * t);
        turn(V, n, p, q, cosine, cosine * t);
      }
  }
  const norms = Float64Array.from({ length: n }, (_, i) => Math.sqrt(dot(i, i)));
  const order = [...norms.keys()].sort((i, j) => norms[j]! - norms[i]!);
  const S = Float64Array.from(order, (i) => norms[i]!);
  const Ut = new Float64Array(n * m);
  const Vt = matrix(n, n);
  order.forEach((from, to) => {
    Vt.values.set(V.subarray(from * n, (from + 1) * n), to * n);
    const negligible = S[to]! <= (S[0] as number) * 1e-15 * m;
    if (!negligible) for (let k = 0; k < m; k++) Ut[to * m + k] = columns[from * m + k]! / S[to]!;
    for (let unit = 0, done = !negligible; !done; unit++) {
      const row = Ut.subarray(to * m, (to + 1) * m).fill(0);
      row[unit] = 1;
      for (let again = 0; again < 2; again++)
        for (let i = 0; i < to; i++) {
          let sum = 0;
          for (let k = 0; k < m; k++) sum += row[k]! * Ut[i * m + k]!;
          for (let k = 0; k < m; k++) row[k] = row[k]! - sum * Ut[i * m + k]!;
        }
      const length = Math.hypot(...row);
      done = length > 0.5 / Math.sqrt(m);
      for (let k = 0; k < m; k++) row[k] = row[k]! / length;
    }
  });
  return { U: transposed({ rows: n, columns: m, values: Ut }), S, Vt };
}
