/** Matrices to factorise, the hard ones included, and plain arithmetic to check the factors with. */
import fc from "fast-check";
import type { Matrix } from "../../src/linalg/matrix.ts";

export const filled = (rows: number, columns: number, entry: (i: number, j: number) => number): Matrix => ({
  rows,
  columns,
  values: Float64Array.from({ length: rows * columns }, (_, at) => entry(Math.floor(at / columns), at % columns)),
});

export function product(A: Matrix, B: Matrix): Matrix {
  return filled(A.rows, B.columns, (i, j) => {
    let sum = 0;
    for (let k = 0; k < A.columns; k++) sum += A.values[i * A.columns + k]! * B.values[k * B.columns + j]!;
    return sum;
  });
}

export const turned = (A: Matrix): Matrix => filled(A.columns, A.rows, (i, j) => A.values[j * A.columns + i]!);

/** Rows as arrays, as other libraries want them. */
export const arrays = ({ rows, columns, values }: Matrix): number[][] =>
  Array.from({ length: rows }, (_, i) => [...values.subarray(i * columns, (i + 1) * columns)]);

/** Frobenius norm of the difference. */
export function distance(A: Matrix, B: Matrix | "identity"): number {
  return Math.hypot(
    ...A.values.map((value, at) => value - (B === "identity" ? Number(at % (A.columns + 1) === 0) : B.values[at]!)),
  );
}

/** A stream of numbers in −1 … 1. */
export function noise(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    const mixed = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d);
    return ((mixed ^ (mixed >>> 12)) | 0) / 2 ** 31;
  };
}

const kinds = {
  dense: (m: number, n: number, next: () => number) => filled(m, n, next),
  zero: (m: number, n: number) => filled(m, n, () => 0),
  identity: (m: number, n: number) => filled(m, n, (i, j) => Number(i === j)),
  constant: (m: number, n: number) => filled(m, n, () => 1),
  /** Of low rank, so that many singular values are zero but for rounding. */
  "low rank": (m: number, n: number, next: () => number) => product(filled(m, 2, next), filled(2, n, next)),
  /** Rows and columns of very different size. */
  graded: (m: number, n: number, next: () => number) => filled(m, n, (i, j) => next() * 10 ** (-2 * (i + j))),
  /** Nearly equal singular values. */
  clustered: (m: number, n: number, next: () => number) => filled(m, n, (i, j) => Number(i === j) + 1e-13 * next()),
  bidiagonal: (m: number, n: number, next: () => number) => filled(m, n, (i, j) => (j === i || j === i + 1 ? next() : 0)),
  sparse: (m: number, n: number, next: () => number) => filled(m, n, () => (next() > 0.6 ? next() : 0)),
  whole: (m: number, n: number, next: () => number) => filled(m, n, () => Math.round(2 * next())),
  tiny: (m: number, n: number, next: () => number) => filled(m, n, () => 1e-160 * next()),
  huge: (m: number, n: number, next: () => number) => filled(m, n, () => 1e150 * next()),
} as const;

/** Matrices of every kind. @param largest number of rows and columns */
export const matrices = (largest = 12, only: readonly (keyof typeof kinds)[] = Object.keys(kinds) as (keyof typeof kinds)[]) =>
  fc
    .record({
      kind: fc.constantFrom(...only),
      m: fc.integer({ min: 1, max: largest }),
      n: fc.integer({ min: 1, max: largest }),
      seed: fc.integer(),
    })
    .map(({ kind, m, n, seed }) => kinds[kind](m, n, noise(seed)));
