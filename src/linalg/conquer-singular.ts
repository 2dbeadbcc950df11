/**
 * Singular vectors of a bidiagonal matrix, by dividing and conquering.
 *
 * @see Gu, Eisenstat, "A divide-and-conquer algorithm for the bidiagonal SVD", 1995
 */
import { deflate, type Mode, mixRows, rotateRows } from "./conquer.ts";
import { type Matrix, matrix } from "./matrix.ts";
import { iterateQr, singleEpsilon } from "./qr-iteration.ts";
import { type SecularRoots, secularRoots } from "./secular.ts";

/**
 * Singular values of the matrix with `d` on and `e` above the diagonal, in ascending order, and singular vectors as rows. Its entries
 * should be near 1, see `scaleOf`; `d` is overwritten with the values.
 *
 * @param asLapack signs of the vectors are those that LAPACK's `sbdsdc` finds for float32 matrices: it leaves blocks of up to 25 rows to
 *   QR iteration, and takes what float32 does not tell from zero for it
 */
export function bidiagonalSvd(
  d: Float64Array,
  e: Float64Array,
  asLapack = false,
): { readonly values: Float64Array; readonly left: Matrix; readonly right: Matrix } {
  const n = d.length;
  const levels = !asLapack ? Number.POSITIVE_INFINITY : n <= 25 ? 0 : Math.trunc(Math.log2(n / 26)) + 1;
  const tolerance = 8 * (asLapack ? singleEpsilon : Number.EPSILON);
  const svd: Bidiagonal = { d, e, left: matrix(n, n), right: matrix(n, n), tolerance };
  divide(svd, 0, n, 0, levels);
  if (levels === 0) sort(svd);
  return { values: d, left: svd.left, right: svd.right };
}

/** What is solved: `d` becomes the values, rows of `left` and `right` the vectors. */
interface Bidiagonal {
  readonly d: Float64Array;
  readonly e: Float64Array;
  readonly left: Matrix;
  readonly right: Matrix;
  /** What counts as zero beside 1. */
  readonly tolerance: number;
}

/**
 * Rows `start` … `end` of the matrix, which have `extra` columns (0 or 1) more than rows. With one more, the vector that the block
 * takes to zero becomes row `end` of `right`.
 *
 * @param levels how often a block is still divided
 */
function divide(svd: Bidiagonal, start: number, end: number, extra: number, levels: number): void {
  const { d, right } = svd;
  if (levels === 0) block(svd, start, end, extra);
  else if (end === start) {
    if (extra === 1) right.values[start * d.length + start] = 1;
  } else if (end - start === 1) leaf(svd, start, extra);
  else {
    const middle = (start + end) >> 1; // the row that couples the halves
    divide(svd, start, middle, 1, levels - 1);
    divide(svd, middle + 1, end, extra, levels - 1);
    merge(svd, start, middle, end, extra);
  }
}

function block({ d, e, left, right }: Bidiagonal, start: number, end: number, extra: number): void {
  const n = d.length;
  const found = iterateQr(d.slice(start, end), e.slice(start, end - 1 + extra));
  d.set(found.values, start);
  for (const [into, { rows, columns, values }] of [
    [left, found.left],
    [right, found.right],
  ] as const)
    for (let i = 0; i < rows; i++) into.values.set(values.subarray(i * columns, (i + 1) * columns), (start + i) * n + start);
}

function leaf({ d, e, left, right }: Bidiagonal, at: number, extra: number): void {
  const n = d.length;
  const [a, b] = [d[at]!, extra === 1 ? e[at]! : 0];
  const length = Math.hypot(a, b);
  const [cosine, sine] = length === 0 ? [1, 0] : [a / length, b / length];
  left.values[at * n + at] = 1;
  right.values[at * n + at] = cosine;
  d[at] = length;
  if (extra === 0) return;
  right.values[at * n + at + 1] = sine;
  right.values[(at + 1) * n + at] = -sine;
  right.values[(at + 1) * n + at + 1] = cosine;
}

function merge(svd: Bidiagonal, start: number, middle: number, end: number, extra: number): void {
  const { d, left, right, tolerance } = svd;
  const columns = end + extra;
  const { modes, norm } = couple(svd, start, middle, end, extra);
  if (norm === 0) return; // a block of zeros, whose vectors are as good as any
  const { kept, settled } = deflate(modes, { d: tolerance, z: tolerance }, true, (r, s, cosine, sine) => {
    rotateRows(left, r, s, cosine, sine, start, end);
    rotateRows(right, r, s, cosine, sine, start, columns);
  });
  const poles = { d: Float64Array.from(kept, (mode, j) => Math.max(mode.d, j === 0 ? 0 : tolerance / 2)), squared: true };
  const roots = secularRoots(
    poles,
    Float64Array.from(kept, (mode) => mode.z),
    1,
  );
  const shares = sharesOf(poles.d, roots);
  const values = [...roots.values, ...settled.map((mode) => mode.d)];
  const order = [...values.keys()].sort((a, b) => values[a]! - values[b]!);
  const split = middle + 1;
  mixRows(left, { start, middle: split, end }, kept, settled, shares.left, order);
  mixRows(right, { start, middle: split, end: columns }, kept, settled, shares.right, order);
  order.forEach((from, i) => {
    d[start + i] = values[from]! * norm;
  });
}

/**
 * Couples two halves: in their vectors the block is (z in row `middle`, d on the diagonal), with the vector of d = 0 in row `middle` of
 * `right`.
 *
 * @returns d and z by row, d ascending, over the largest of them, `norm`
 */
function couple(
  { d, e, left, right, tolerance }: Bidiagonal,
  start: number,
  middle: number,
  end: number,
  extra: number,
): { readonly modes: Mode[]; readonly norm: number } {
  const n = d.length;
  const columns = end + extra;
  const alpha = d[middle]!;
  const beta = middle + 1 < columns ? e[middle]! : 0;
  left.values[middle * n + middle] = 1;
  let z0 = alpha * right.values[middle * n + middle]!;
  if (extra === 1) {
    const other = beta * right.values[end * n + middle + 1]!;
    const length = Math.hypot(z0, other);
    if (length > 0) rotateRows(right, middle, end, z0 / length, other / length, start, columns);
    z0 = length;
  }
  const modes: Mode[] = [];
  let norm = Math.abs(z0);
  for (let row = start; row < end; row++) {
    if (row === middle) continue;
    const z = row < middle ? alpha * right.values[row * n + middle]! : beta * right.values[row * n + middle + 1]!;
    modes.push({ d: d[row]!, z, row, side: row < middle ? "left" : "right" });
    norm = Math.max(norm, Math.abs(z), d[row]!);
  }
  for (const mode of modes) {
    mode.d /= norm;
    mode.z /= norm;
  }
  modes.sort((a, b) => a.d - b.d);
  z0 /= norm;
  if (Math.abs(z0) <= tolerance) z0 = z0 < 0 ? -tolerance : tolerance;
  modes.unshift({ d: 0, z: z0, row: middle, side: "both" });
  return { modes, norm };
}

/** How much of mode j is in the i-th singular vectors, which have length 1. @param d the poles */
function sharesOf(
  d: Float64Array,
  { z, differences: shares }: SecularRoots,
): Record<"left" | "right", (i: number, j: number) => number> {
  const count = d.length;
  // shares of right vectors; those of left ones are d times as much, and −1 for the first
  const [leftScale, rightScale] = [new Float64Array(count), new Float64Array(count)];
  for (let i = 0; i < count; i++) {
    let [sum, leftSum] = [0, 1];
    for (let j = 0; j < count; j++) {
      const share = z[j]! / shares[i * count + j]!;
      shares[i * count + j] = share;
      sum += share * share;
      leftSum += (d[j]! * share) ** 2;
    }
    rightScale[i] = 1 / Math.sqrt(sum);
    leftScale[i] = 1 / Math.sqrt(leftSum);
  }
  return {
    left: (i, j) => leftScale[i]! * (j === 0 ? -1 : d[j]! * shares[i * count + j]!),
    right: (i, j) => rightScale[i]! * shares[i * count + j]!,
  };
}

/** By ascending values. */
function sort({ d, left, right }: Bidiagonal): void {
  const n = d.length;
  const order = [...d.keys()].sort((a, b) => d[a]! - d[b]!);
  for (const { values } of [left, right]) {
    const rows = order.map((row) => values.slice(row * n, (row + 1) * n));
    for (const [i, row] of rows.entries()) values.set(row, i * n);
  }
  d.set(order.map((row) => d[row]!));
}
