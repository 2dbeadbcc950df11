/** Clusters of points. */
import type { TorchGenerator } from "../random/torch-generator.ts";
import type { Matrix } from "./matrix.ts";

/**
 * Puts points, the rows of a matrix, into clusters with a small sum of squared distances from each cluster's mean: Lloyd's iteration from
 * some of the points, as scikit-learn's `KMeans(n_clusters, init="random", n_init=1, max_iter)` does it, in float64.
 *
 * @param random MT19937 from the seed that is `random_state` there
 * @returns the cluster of each point; one may have none, where points are equal
 * @see https://doi.org/10.1109/TIT.1982.1056489
 */
export function kMeans(
  points: Matrix,
  clusters: number,
  { iterations, random }: { readonly iterations: number; readonly random: TorchGenerator },
): Int32Array {
  const { rows: n, columns: width } = points;
  const X = centred(points);
  const at = (values: Float64Array, i: number) => values.subarray(i * width, (i + 1) * width);
  const spread = X.reduce((sum, value) => sum + value * value, 0) / X.length;
  let centres = new Float64Array(clusters * width);
  for (const [j, i] of different(n, clusters, random).entries()) centres.set(at(X, i), j * width);
  let labels = new Int32Array(n).fill(-1);
  const nearest = (): Int32Array => {
    const lengths = Array.from({ length: clusters }, (_, j) => dot(at(centres, j), at(centres, j)));
    return Int32Array.from({ length: n }, (_, i) => {
      const far = lengths.map((length, j) => length - 2 * dot(at(X, i), at(centres, j)));
      return far.indexOf(Math.min(...far));
    });
  };
  for (let step = 0; step < iterations; step++) {
    const next = nearest();
    const [sums, counts] = [new Float64Array(clusters * width), new Int32Array(clusters)];
    const move = (i: number, j: number, sign: number) => {
      counts[j]! += sign;
      for (const [k, value] of at(X, i).entries()) sums[j * width + k]! += sign * value;
    };
    for (const [i, j] of next.entries()) move(i, j, 1);
    const empty = Array.from({ length: clusters }, (_, j) => j).filter((j) => counts[j] === 0);
    if (empty.length > 0) {
      // they get the points that are furthest from their centres
      const far = Array.from(next, (j, i) => [i, distance(at(X, i), at(centres, j))] as const).sort(([, a], [, b]) => b - a);
      for (const [e, j] of (far[0]?.[1] ?? 0) > 0 ? empty.entries() : []) {
        const [i] = far[e] as readonly [number, number];
        move(i, next[i] as number, -1);
        move(i, j, 1);
      }
    }
    const largest = counts.indexOf(Math.max(...counts));
    for (let j = 0; j < clusters; j++) if (counts[j]! > 0) for (let k = 0; k < width; k++) sums[j * width + k]! /= counts[j]!;
    for (let j = 0; j < clusters; j++) if (counts[j] === 0) sums.set(at(sums, largest), j * width);
    const moved = distance(sums, centres);
    centres = sums;
    const same = next.every((j, i) => j === labels[i]);
    labels = next as Int32Array<ArrayBuffer>;
    if (same) return labels;
    if (moved <= 1e-4 * spread) break;
  }
  return nearest();
}

/** The same without the mean of all points. */
function centred({ rows, columns, values }: Matrix): Float64Array {
  const mean = new Float64Array(columns);
  for (const [i, value] of values.entries()) mean[i % columns]! += value / rows;
  return values.map((value, i) => value - (mean[i % columns] as number));
}

const dot = (a: Float64Array, b: Float64Array): number => a.reduce((sum, value, k) => sum + value * (b[k] as number), 0);
const distance = (a: Float64Array, b: Float64Array): number =>
  a.reduce((sum, value, k) => sum + (value - (b[k] as number)) ** 2, 0);

/** `k` of 0 … n − 1: NumPy's `RandomState.choice(n, k, replace=False, p)` with one p for all, which has another order than without. */
function different(n: number, k: number, random: TorchGenerator): number[] {
  const weights = new Float64Array(n).fill(Math.fround(1 / n));
  const found: number[] = [];
  while (found.length < k) {
    const drawn = Array.from({ length: k - found.length }, () => {
      const high = random.u32() >>> 5;
      return (high * 2 ** 26 + (random.u32() >>> 6)) / 2 ** 53;
    });
    for (const i of found) weights[i] = 0;
    let total = 0;
    const ends = weights.map((weight) => (total += weight)).map((end) => end / total);
    found.push(...new Set(drawn.map((u) => ends.findIndex((end) => end > u))));
  }
  return found;
}
