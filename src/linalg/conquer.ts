/**
 * What dividing and conquering is for eigenvalues and for singular values: two halves are solved, the row that couples them makes a
 * secular equation, and the vectors of both halves are mixed with those of the equation. Most of its time are matrix products.
 *
 * @see Cuppen, "A divide and conquer method for the symmetric tridiagonal eigenproblem", 1981
 */
import { type Matrix, matrix } from "./matrix.ts";
import { multiplyAdd, part } from "./product.ts";

/** One value of a half: where its vector's row is, and in which columns that is not zero: of the left half, of both, of the right. */
export interface Mode {
  d: number;
  z: number;
  readonly row: number;
  side: "left" | "both" | "right";
}

/**
 * Modes that the coupling leaves alone are taken out: those of which it knows nothing (z ≈ 0), and one of each two with the same d, after
 * a rotation of both has made its z zero.
 *
 * @param modes ascending by d
 * @param fixed the first is kept in any case
 * @param rotate rows (r, s) of the vectors become (c·r + s·s′, c·s − s·r), given as (row, row, cosine, sine)
 */
export function deflate(
  modes: readonly Mode[],
  tolerance: { readonly d: number; readonly z: number },
  fixed: boolean,
  rotate: (r: number, s: number, cosine: number, sine: number) => void,
): { readonly kept: Mode[]; readonly settled: Mode[] } {
  const [kept, settled]: [Mode[], Mode[]] = [[], []];
  const free = fixed ? 1 : 0;
  modes.forEach((mode, i) => {
    if (i < free) kept.push(mode);
    else if (Math.abs(mode.z) <= tolerance.z) settled.push(mode);
    else {
      const before = kept.length > free ? (kept.at(-1) as Mode) : undefined;
      if (before && mode.d - before.d <= tolerance.d) {
        const length = Math.hypot(mode.z, before.z);
        rotate(mode.row, before.row, mode.z / length, before.z / length);
        mode.z = length;
        before.z = 0;
        if (mode.side !== before.side) mode.side = before.side = "both";
        settled.push(kept.pop() as Mode);
      }
      kept.push(mode);
    }
  });
  return { kept, settled };
}

/** Rotates two rows of a matrix, from column `start` to `end`. */
export function rotateRows(
  { columns, values }: Matrix,
  r: number,
  s: number,
  cosine: number,
  sine: number,
  start: number,
  end: number,
): void {
  const [first, second] = [r * columns, s * columns];
  for (let j = start; j < end; j++) {
    const [a, b] = [values[first + j]!, values[second + j]!];
    values[first + j] = cosine * a + sine * b;
    values[second + j] = cosine * b - sine * a;
  }
}

/** Where the vectors of the two halves are not zero: columns `start` … `middle` and `middle` … `end`. */
export interface Halves {
  readonly start: number;
  readonly middle: number;
  readonly end: number;
}

const sides = ["left", "both", "right"] as const;

/**
 * Rows of Q from `start` on become the new vectors, in the order of `order`: numbers below the number of kept modes are the rows of
 * their mixture, the others the settled ones.
 *
 * @param mixture (i, j) is the share of kept mode j in vector i
 */
export function mixRows(
  Q: Matrix,
  { start, middle, end }: Halves,
  kept: readonly Mode[],
  settled: readonly Mode[],
  mixture: (i: number, j: number) => number,
  order: readonly number[],
): void {
  const [count, wide] = [kept.length, end - start];
  // sorted by side, so that each half has to do with neighbouring ones only
  const sorted = sides.flatMap((side) => [...kept.keys()].filter((j) => kept[j]!.side === side));
  const left = kept.filter(({ side }) => side !== "right").length;
  const right = kept.filter(({ side }) => side !== "left").length;
  const [shares, old, mixed] = [matrix(count, count), matrix(count, wide), matrix(count, wide)];
  sorted.forEach((j, at) => {
    const from = kept[j]!.row * Q.columns;
    old.values.set(Q.values.subarray(from + start, from + end), at * wide);
    for (let i = 0; i < count; i++) shares.values[i * count + at] = mixture(i, j);
  });
  const columns = middle - start;
  multiplyAdd(part(mixed, 0, 0, count, columns), part(shares, 0, 0, count, left), part(old, 0, 0, left, columns));
  multiplyAdd(part(mixed, 0, columns), part(shares, 0, count - right), part(old, count - right, columns));
  const others = settled.map(({ row }) => Q.values.slice(row * Q.columns + start, row * Q.columns + end));
  order.forEach((from, i) => {
    const row = from < count ? mixed.values.subarray(from * wide, (from + 1) * wide) : (others[from - count] as Float64Array);
    Q.values.set(row, (start + i) * Q.columns + start);
  });
}
