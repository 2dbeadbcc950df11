/**
 * MiCA: B is fixed, the left singular vectors of the weight's smallest singular values, and only A is trained, from zero: what the
 * model has learned already lies in other directions. Of an embedding the turned table counts.
 *
 * @see https://arxiv.org/abs/2604.01694
 */
import { sliceColumns, transposed } from "../../linalg/matrix.ts";
import { svdMatrix } from "../../linalg/svd.ts";
import type { Initialiser } from "../initialiser.ts";
import { requireRank, weightOf } from "./factors.ts";

/** `initLoraWeights: "mica"`. */
export const mica: Initialiser = {
  startsAtZero: true,
  fixesB: true,
  start(base, { r }) {
    requireRank("mica", base, r);
    const W = weightOf(base);
    const { U } = svdMatrix(base.kind === "embedding" ? transposed(W) : W);
    const B = sliceColumns(U, U.columns - r, U.columns);
    return { values: { A: new Float32Array(r * base.in), B: new Float32Array(B.values) } };
  },
};
