/**
 * The first half of an SVD or eigendecomposition: reflections from both sides leave two diagonals. Half of the work is a product of
 * the whole rest with a vector; the other half waits until a block of reflections is there and is then a product of matrices.
 *
 * @see Dongarra, Sorensen, Hammarling, "Block reduction of matrices to condensed forms", 1989
 */
import { openKernels } from "./kernel.ts";
import { type Matrix, matrix } from "./matrix.ts";
import { multiplyAdd, part, turn } from "./product.ts";
import { makeReflection, type Reflections, reflectionBlock } from "./reflection.ts";

/** A = H·B·Gᵀ with B bidiagonal: d on the diagonal, e above it; H and G are products of reflections. */
export interface Bidiagonal {
  readonly d: Float64Array;
  readonly e: Float64Array;
  readonly left: Reflections;
  readonly right: Reflections;
}

const negated = (x: Float64Array, count: number): Float64Array => {
  for (let i = 0; i < count; i++) x[i] = -x[i]!;
  return x;
};
const scale = (x: Float64Array, factor: number): void => {
  for (let i = 0; i < x.length; i++) x[i] = x[i]! * factor;
};

/** For a matrix [m, n] with m ≥ n. The result's memory is that of `openKernels`. */
export function bidiagonalise({ rows: m, columns: n, values }: Matrix): Bidiagonal {
  const nb = reflectionBlock;
  const { array, dots, combine } = openKernels(2 * m * n + n * n + (nb + 1) * (m + n) + nb);
  const A = matrix(m, n, array(m * n));
  A.values.set(values);
  const [V, U] = [matrix(n, m, array(n * m)), matrix(n, n, array(n * n))];
  const [X, Y] = [matrix(nb, m, array(nb * m)), matrix(nb, n, array(nb * n))];
  const [column, row, factors] = [array(m), array(n), array(nb)];
  const [d, e] = [new Float64Array(n), new Float64Array(Math.max(n - 1, 0))];
  const [leftTaus, rightTaus] = [new Float64Array(n), new Float64Array(Math.max(n - 1, 0))];
  for (let s = 0; s < n; s += nb) {
    const end = Math.min(n, s + nb);
    // what A is by now: A − Σ v·yᵀ − Σ x·uᵀ, with the sums over this block's reflections so far
    for (let i = s; i < end; i++) {
      const b = i - s;
      const high = m - i;
      const below = column.subarray(i);
      for (let r = i; r < m; r++) column[r] = A.values[r * n + i]!;
      for (let j = 0; j < b; j++) factors[j] = -Y.values[j * n + i]!;
      combine(below, V.values.subarray(s * m + i), factors, b, high, m);
      for (let j = 0; j < b; j++) factors[j] = -U.values[(s + j) * n + i]!;
      combine(below, X.values.subarray(i), factors, b, high, m);
      const { tau, beta } = makeReflection(column, i, m);
      d[i] = beta;
      leftTaus[i] = tau;
      V.values.set(below, i * m + i);
      const wide = n - i - 1;
      if (wide === 0) continue;

      const y = Y.values.subarray(b * n + i + 1, (b + 1) * n).fill(0);
      combine(y, A.values.subarray(i * n + i + 1), below, high, wide, n);
      dots(factors, V.values.subarray(s * m + i), below, b, high, m);
      combine(y, Y.values.subarray(i + 1), negated(factors, b), b, wide, n);
      dots(factors, X.values.subarray(i), below, b, high, m);
      combine(y, U.values.subarray(s * n + i + 1), negated(factors, b), b, wide, n);
      scale(y, tau);

      const right = row.subarray(i + 1);
      right.set(A.values.subarray(i * n + i + 1, (i + 1) * n));
      for (let j = 0; j <= b; j++) factors[j] = -V.values[(s + j) * m + i]!;
      combine(right, Y.values.subarray(i + 1), factors, b + 1, wide, n);
      for (let j = 0; j < b; j++) factors[j] = -X.values[j * m + i]!;
      combine(right, U.values.subarray(s * n + i + 1), factors, b, wide, n);
      const reflection = makeReflection(row, i + 1, n);
      e[i] = reflection.beta;
      rightTaus[i] = reflection.tau;
      U.values.set(right, i * n + i + 1);

      const x = X.values.subarray(b * m + i + 1, (b + 1) * m);
      dots(x, A.values.subarray((i + 1) * n + i + 1), right, high - 1, wide, n);
      dots(factors, Y.values.subarray(i + 1), right, b + 1, wide, n);
      combine(x, V.values.subarray(s * m + i + 1), negated(factors, b + 1), b + 1, high - 1, m);
      dots(factors, U.values.subarray(s * n + i + 1), right, b, wide, n);
      combine(x, X.values.subarray(i + 1), negated(factors, b), b, high - 1, m);
      scale(x, reflection.tau);
    }
    if (end === n) break;
    const rest = part(A, end, end);
    multiplyAdd(rest, turn(part(V, s, end, nb)), part(Y, 0, end), -1);
    multiplyAdd(rest, turn(part(X, 0, end)), part(U, s, end, nb), -1);
  }
  return { d, e, left: { vectors: V, taus: leftTaus }, right: { vectors: U, taus: rightTaus } };
}

/** A = H·T·Hᵀ with T tridiagonal: d on the diagonal, e beside it. */
export interface Tridiagonal {
  readonly d: Float64Array;
  readonly e: Float64Array;
  readonly reflections: Reflections;
}

/** For a symmetric matrix. The result's memory is that of `openKernels`. */
export function tridiagonalise({ rows: n, values }: Matrix): Tridiagonal {
  const nb = reflectionBlock;
  const { array, dots, combine } = openKernels(2 * n * n + (nb + 1) * n + nb);
  const A = matrix(n, n, array(n * n));
  A.values.set(values);
  const [V, W] = [matrix(n, n, array(n * n)), matrix(nb, n, array(nb * n))];
  const [column, factors] = [array(n), array(nb)];
  const [d, e, taus] = [new Float64Array(n), new Float64Array(Math.max(n - 1, 0)), new Float64Array(Math.max(n - 1, 0))];
  for (let s = 0; s < n; s += nb) {
    const end = Math.min(n, s + nb);
    // what A is by now: A − Σ v·wᵀ − Σ w·vᵀ; the v of reflection i begins at i + 1
    for (let i = s; i < end; i++) {
      const b = i - s;
      const own = column.subarray(i);
      own.set(A.values.subarray(i * n + i, (i + 1) * n));
      for (let j = 0; j < b; j++) factors[j] = -W.values[j * n + i]!;
      combine(own, V.values.subarray(s * n + i), factors, b, n - i, n);
      for (let j = 0; j < b; j++) factors[j] = -V.values[(s + j) * n + i]!;
      combine(own, W.values.subarray(i), factors, b, n - i, n);
      d[i] = own[0]!;
      const high = n - i - 1;
      if (high === 0) continue;
      const v = column.subarray(i + 1);
      const { tau, beta } = makeReflection(column, i + 1, n);
      e[i] = beta;
      taus[i] = tau;
      V.values.set(v, i * n + i + 1);
      const w = W.values.subarray(b * n + i + 1, (b + 1) * n);
      dots(w, A.values.subarray((i + 1) * n + i + 1), v, high, high, n);
      dots(factors, W.values.subarray(i + 1), v, b, high, n);
      combine(w, V.values.subarray(s * n + i + 1), negated(factors, b), b, high, n);
      dots(factors, V.values.subarray(s * n + i + 1), v, b, high, n);
      combine(w, W.values.subarray(i + 1), negated(factors, b), b, high, n);
      let overlap = 0;
      for (let j = 0; j < high; j++) overlap += w[j]! * v[j]!;
      for (let j = 0; j < high; j++) w[j] = tau * (w[j]! - 0.5 * tau * overlap * v[j]!);
    }
    if (end === n) break;
    const rest = part(A, end, end);
    const [v, w] = [part(V, s, end, nb), part(W, 0, end)];
    multiplyAdd(rest, turn(v), w, -1);
    multiplyAdd(rest, turn(w), v, -1);
  }
  return { d, e, reflections: { vectors: V, taus } };
}
