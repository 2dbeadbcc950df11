/** Principal components of rows that come batch by batch. */
import { type Matrix, matrix } from "../../linalg/matrix.ts";
import { svdLowrankMatrix } from "../../linalg/svd-lowrank.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";

/**
 * Incremental principal component analysis as PEFT does it for EVA: what is known so far counts as rows, of the components times their
 * singular values, beside those of the batch; the decomposition is a randomised one with the seed 42 in each step.
 *
 * @see Ross, Lim, Lin, Yang, "Incremental learning for robust visual tracking", 2008
 */
export class IncrementalPca {
  readonly #count: number;
  #seen = 0;
  #mean = new Float64Array(0);
  #variance = new Float64Array(0);
  /** [components, features], the most important first, signs such that the largest entry of each is positive. */
  components: Matrix | null = null;
  singularValues = new Float64Array(0);
  /** The share of the variance that each explains. */
  explainedVarianceRatio = new Float64Array(0);

  /** @param count how many components are kept */
  constructor(count: number) {
    this.#count = count;
  }

  /** Takes more rows in. */
  fit(rows: Matrix): void {
    const { rows: n, columns: f } = rows;
    const before = this.#seen;
    const total = before + n;
    const mean = means(rows);
    const centred = matrix(
      n,
      f,
      rows.values.map((value, at) => value - mean[at % f]!),
    );
    const variance = new Float64Array(f);
    centred.values.forEach((value, at) => {
      variance[at % f] = variance[at % f]! + value * value;
    });
    const [old, oldMean] = [this.components, this.#mean];
    if (old)
      for (let j = 0; j < f; j++) {
        const shift = oldMean[j]! - mean[j]!;
        variance[j] = variance[j]! + this.#variance[j]! * before + ((before * n) / total) * shift * shift;
      }
    this.#variance = variance.map((sum) => sum / total);
    this.#mean = mean.map((value, j) => (old ? (oldMean[j]! * before + value * n) / total : value));
    this.#seen = total;

    const X = old ? this.#withKnown(old, centred, oldMean, mean, Math.sqrt((before / total) * n)) : centred;
    const q = Math.min(2 * this.#count, X.rows, X.columns);
    const { S, Vt } = svdLowrankMatrix(X, q, { niter: 4, random: new TorchGenerator(42) });
    const kept = Math.min(this.#count, q);
    const components = matrix(kept, f, Vt.values.slice(0, kept * f));
    for (let i = 0; i < kept; i++) {
      const row = components.values.subarray(i * f, (i + 1) * f);
      const largest = row.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0);
      if (largest < 0)
        row.forEach((value, j) => {
          row[j] = -value;
        });
    }
    const whole = this.#variance.reduce((sum, value) => sum + value * total, 0);
    this.components = components;
    this.singularValues = S.slice(0, kept);
    this.explainedVarianceRatio = S.slice(0, kept).map((value) => (value * value) / whole);
  }

  #withKnown(old: Matrix, centred: Matrix, oldMean: Float64Array, mean: Float64Array, weight: number): Matrix {
    const f = centred.columns;
    const X = matrix(old.rows + centred.rows + 1, f);
    X.values.set(old.values.map((value, at) => value * this.singularValues[Math.floor(at / f)]!));
    X.values.set(centred.values, old.values.length);
    X.values.set(
      oldMean.map((value, j) => weight * (value - mean[j]!)),
      (X.rows - 1) * f,
    );
    return X;
  }
}

/** Of each column. */
function means({ rows, columns, values }: Matrix): Float64Array {
  const sums = new Float64Array(columns);
  values.forEach((value, at) => {
    sums[at % columns] = sums[at % columns]! + value;
  });
  return sums.map((sum) => sum / rows);
}
