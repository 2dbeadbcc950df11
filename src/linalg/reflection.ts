/** Householder reflections H = I − τ·v·vᵀ, applied many at a time as matrix products. */
import { type Matrix, matrix } from "./matrix.ts";
import { multiplyAdd, part, turn } from "./product.ts";

/** How many reflections are applied at once. */
export const reflectionBlock = 32;

/** A product H₀·H₁ ⋯ of reflections: row i of `vectors` is the v of Hᵢ, zero before its own number. */
export interface Reflections {
  readonly vectors: Matrix;
  readonly taus: Float64Array;
}

/**
 * Makes x[start … end) the v of the reflection that takes it to (β, 0, …), with v[start] = 1.
 *
 * @returns τ (0 where nothing is to do) and β
 */
export function makeReflection(x: Float64Array, start: number, end: number): { readonly tau: number; readonly beta: number } {
  let largest = 0;
  for (let i = start; i < end; i++) largest = Math.max(largest, Math.abs(x[i]!));
  // squares of values as small or large as these would lose their digits
  const scale = largest > 0 && (largest < 1e-120 || largest > 1e120) ? largest : 1;
  if (scale !== 1) for (let i = start; i < end; i++) x[i] = x[i]! / scale;
  const alpha = x[start]!;
  let rest = 0;
  for (let i = start + 1; i < end; i++) rest += x[i]! * x[i]!;
  x[start] = 1;
  if (rest === 0) return { tau: 0, beta: alpha * scale };
  const norm = Math.sqrt(alpha * alpha + rest);
  const beta = alpha >= 0 ? -norm : norm; // as in LAPACK
  const factor = 1 / (alpha - beta);
  for (let i = start + 1; i < end; i++) x[i] = x[i]! * factor;
  return { tau: (beta - alpha) / beta, beta: beta * scale };
}

/** The upper triangular T of H₀·H₁ ⋯ = I − V·T·Vᵀ for rows `first` … of V, which are the v of each. */
function triangle(V: Matrix, taus: Float64Array, first: number, count: number): Matrix {
  const rows = part(V, first, first, count);
  const [gram, T] = [matrix(count, count), matrix(count, count)];
  multiplyAdd(part(gram, 0, 0), rows, turn(rows));
  for (let j = 0; j < count; j++) {
    const tau = taus[first + j]!;
    for (let i = 0; i < j; i++) {
      let sum = 0;
      for (let k = i; k < j; k++) sum += T.values[i * count + k]! * gram.values[k * count + j]!;
      T.values[i * count + j] = -tau * sum;
    }
    T.values[j * count + j] = tau;
  }
  return T;
}

/**
 * Each row c of C, from `firstRow` on, becomes H·c with H = H₀·H₁ ⋯ of the reflections `first` …, or `backwards` Hᵀ·c.
 */
export function reflectRows(
  C: Matrix,
  { vectors: V, taus }: Reflections,
  first: number,
  count: number,
  { backwards = false, firstRow = 0 }: { readonly backwards?: boolean; readonly firstRow?: number } = {},
): void {
  const height = C.rows - firstRow; // V may be shorter than C is wide: its vectors end in zeros then
  if (height <= 0 || count <= 0) return;
  const T = triangle(V, taus, first, count);
  const [inner, turned] = [matrix(height, count), matrix(height, count)];
  const [target, rows] = [part(C, firstRow, first, height, V.columns - first), part(V, first, first, count)];
  multiplyAdd(part(inner, 0, 0), target, turn(rows));
  multiplyAdd(part(turned, 0, 0), part(inner, 0, 0), backwards ? part(T, 0, 0) : turn(part(T, 0, 0)));
  multiplyAdd(target, part(turned, 0, 0), rows, -1);
}

/**
 * Each row c of C becomes H₀·H₁ ⋯ c, for all reflections. @param identity C begins as rows of the identity, whose first rows a
 * later reflection leaves alone
 */
export function reflectAll(C: Matrix, reflections: Reflections, identity = false): void {
  const count = reflections.taus.length;
  for (let first = Math.floor((count - 1) / reflectionBlock) * reflectionBlock; first >= 0; first -= reflectionBlock)
    reflectRows(C, reflections, first, Math.min(reflectionBlock, count - first), { firstRow: identity ? first : 0 });
}
