/** Eigenvectors of a symmetric tridiagonal matrix, by dividing and conquering. */
import { deflate, type Mode, mixRows, rotateRows } from "./conquer.ts";
import { type Matrix, matrix } from "./matrix.ts";
import { secularRoots } from "./secular.ts";

/**
 * Eigenvalues of the matrix with `d` on and `e` beside the diagonal, in ascending order, and eigenvectors as rows. Its entries should be
 * near 1, see `scaleOf`; `d` is overwritten with the values.
 */
export function tridiagonalEigen(d: Float64Array, e: Float64Array): { readonly values: Float64Array; readonly vectors: Matrix } {
  const n = d.length;
  const vectors = matrix(n, n);
  const largest = [...d, ...e].reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const divide = (start: number, end: number): void => {
    if (end - start <= 1) {
      if (end > start) vectors.values[start * n + start] = 1;
      return;
    }
    // diag(left, right) + |e|·u·uᵀ, u = (…, 1, ±1, …)
    const middle = (start + end) >> 1;
    const coupling = e[middle - 1]!;
    d[middle - 1] = d[middle - 1]! - Math.abs(coupling);
    d[middle] = d[middle]! - Math.abs(coupling);
    divide(start, middle);
    divide(middle, end);
    merge(start, middle, end, coupling);
  };
  const merge = (start: number, middle: number, end: number, coupling: number): void => {
    const modes: Mode[] = [];
    for (let row = start; row < end; row++) {
      const left = row < middle;
      const z = vectors.values[row * n + (left ? middle - 1 : middle)]! * (left || coupling >= 0 ? 1 : -1);
      modes.push({ d: d[row]!, z: z * Math.SQRT1_2, row, side: left ? "left" : "right" });
    }
    modes.sort((a, b) => a.d - b.d);
    const rho = 2 * Math.abs(coupling);
    const tolerance = 8 * Number.EPSILON * largest;
    const { kept, settled } = deflate(
      modes,
      { d: tolerance, z: rho === 0 ? Number.POSITIVE_INFINITY : tolerance / rho },
      false,
      (r, s, cosine, sine) => rotateRows(vectors, r, s, cosine, sine, start, end),
    );
    const poles = { d: Float64Array.from(kept, (mode) => mode.d), squared: false };
    const roots = secularRoots(
      poles,
      Float64Array.from(kept, (mode) => mode.z),
      rho,
    );
    const count = kept.length;
    const shares = roots.differences;
    for (let i = 0; i < count; i++) {
      let sum = 0;
      for (let j = i * count; j < (i + 1) * count; j++) {
        shares[j] = roots.z[j - i * count]! / shares[j]!;
        sum += shares[j]! * shares[j]!;
      }
      for (let j = i * count; j < (i + 1) * count; j++) shares[j] = shares[j]! / Math.sqrt(sum);
    }
    const values = [...roots.values, ...settled.map((mode) => mode.d)];
    const order = [...values.keys()].sort((a, b) => values[a]! - values[b]!);
    mixRows(vectors, { start, middle, end }, kept, settled, (i, j) => shares[i * count + j]!, order);
    order.forEach((from, i) => {
      d[start + i] = values[from]!;
    });
  };
  divide(0, n);
  return { values: d, vectors };
}
