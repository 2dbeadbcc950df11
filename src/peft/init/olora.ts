/**
 * OLoRA: B is orthonormal, the first columns of Q of the weight's QR decomposition, and A the first rows of R; the weight keeps W − s·B·A.
 *
 * PEFT decomposes the weight as it is stored, which for GPT-2's Conv1D is turned. Where that one is square, the factors fit all the same,
 * and what is taken out of the weight is (B·A)ᵀ, not B·A: a fresh adapter changes the model. That is what such a file means, so that it is
 * the same here. Where it is not square, PEFT's factors fit nothing; here they are those of [out, in].
 *
 * @see https://arxiv.org/abs/2406.01775
 */
import { matrix, sliceColumns, transposed } from "../../linalg/matrix.ts";
import { qrMatrix } from "../../linalg/qr.ts";
import type { Initialiser } from "../initialiser.ts";
import { kindOf } from "../layer-kind.ts";
import { requireLinear, requireRank, takenOut, weightOf } from "./factors.ts";

/** `initLoraWeights: "olora"`. */
export const olora: Initialiser = {
  startsAtZero: true,
  residual: "from the weight",
  start(base, { r, scaling }) {
    requireLinear("olora", base);
    requireRank("olora", base, r);
    const W = weightOf(base);
    const isTurned = base.in === base.out && kindOf(base.layer)?.fanInFanOut === true;
    const { Q, R } = qrMatrix(isTurned ? transposed(W) : W);
    const [A, B] = [matrix(r, R.columns, R.values.subarray(0, r * R.columns)), sliceColumns(Q, 0, r)];
    if (!isTurned) return takenOut(base, A, B, scaling);
    const start = takenOut(base, transposed(B), transposed(A), scaling);
    return { ...start, taken: start.values, values: { A: new Float32Array(A.values), B: new Float32Array(B.values) } };
  },
};
