/**
 * CorDA: like PiSSA, but singular values are those of W·C, with C the covariance of what goes into the layer, so that a direction
 * counts for as much as the data uses it. "ipm" trains the largest ones, "kpm" the smallest, which keeps what the model knows.
 *
 * W·C = U·S·Vᵀ; A = √(S/s)·Vᵀ·C⁻¹, B = U·√(S/s). C gets as much on its diagonal as its inverse needs to be one.
 *
 * @see https://arxiv.org/abs/2406.05223
 */
import { boolean, choice, key, text } from "../../formats/peft-config.ts";
import { identityMatrix, type Matrix, matrix } from "../../linalg/matrix.ts";
import { product } from "../../linalg/product.ts";
import { solveMatrix } from "../../linalg/solve.ts";
import { svdMatrix } from "../../linalg/svd.ts";
import type { Initialiser } from "../initialiser.ts";
import { balanced, calibrationOf, requireLinear, requireRank, requireScaling, takenOut, weightOf } from "./factors.ts";

/** `corda_config`. The files are not read or written: what calibration gives can be kept. */
export const cordaKeys = {
  cache_file: key(null, text),
  covariance_file: key(null, text),
  corda_method: key("ipm", choice("ipm", "kpm")),
  verbose: key(false, boolean),
  use_float16_for_covariance: key(false, boolean),
  prune_temporary_fields: key(true, boolean),
};

/** Reads the covariance [in, in] that `calibrateCorda` gives. */
export const corda: Initialiser = {
  startsAtZero: true,
  residual: "from data",
  start(base, { r, scaling, calibration, options }) {
    const C = calibrationOf("corda", base, calibration);
    requireLinear("corda", base);
    requireRank("corda", base, r);
    requireScaling("corda", scaling);
    const { covariance, inverse } = damped(C);
    const { U, S, Vt } = svdMatrix(product(weightOf(base), covariance));
    const start = options["corda_method"] === "kpm" ? S.length - r : 0;
    const { A, B } = balanced({ U, S, Vt: product(Vt, inverse) }, r, scaling, start);
    return takenOut(base, A, B, scaling);
  },
};

/** C with more on its diagonal until its inverse is one, and that inverse. */
function damped(C: Matrix): { readonly covariance: Matrix; readonly inverse: Matrix } {
  const n = C.rows;
  let mean = 0;
  for (let i = 0; i < n; i++) mean += C.values[i * n + i]! / n;
  for (let damp = 0.01; ; damp *= 2) {
    const covariance = matrix(n, n, C.values.slice());
    for (let i = 0; i < n; i++) covariance.values[i * n + i] = covariance.values[i * n + i]! + damp * mean;
    const inverse = solveMatrix("corda", covariance, identityMatrix(n));
    const check = product(covariance, inverse);
    for (let i = 0; i < n; i++) check.values[i * n + i] = check.values[i * n + i]! - 1;
    if (Math.hypot(...norms(check)) < 0.05) return { covariance, inverse };
  }
}

/** Of each row. */
const norms = ({ rows, columns, values }: Matrix): number[] =>
  Array.from({ length: rows }, (_, i) => Math.hypot(...values.subarray(i * columns, (i + 1) * columns)));
