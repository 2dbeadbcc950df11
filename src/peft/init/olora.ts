/**
 * OLoRA: B is orthonormal, the first columns of Q of the weight's QR decomposition, and A the first rows of R; the weight keeps W − s·B·A.
 *
 * PEFT decomposes the weight as it is stored, which for GPT-2's Conv1D is turned and gives factors that do not fit; here it is always
 * [out, in].
 *
 * @see https://arxiv.org/abs/2406.01775
 */
import { matrix, sliceColumns } from "../../linalg/matrix.ts";
import { qrMatrix } from "../../linalg/qr.ts";
import type { Initialiser } from "../initialiser.ts";
import { requireLinear, requireRank, takenOut, weightOf } from "./factors.ts";

/** `initLoraWeights: "olora"`. */
export const olora: Initialiser = {
  startsAtZero: true,
  residual: "from the weight",
  start(base, { r, scaling }) {
    requireLinear("olora", base);
    requireRank("olora", base, r);
    const { Q, R } = qrMatrix(weightOf(base));
    return takenOut(base, matrix(r, R.columns, R.values.subarray(0, r * R.columns)), sliceColumns(Q, 0, r), scaling);
  },
};
