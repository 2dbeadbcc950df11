/**
 * PiSSA: A and B hold the largest singular values of the weight, which keeps the rest; training begins where most of the weight is.
 * W = U·S·Vᵀ, A = √(S/s)·Vᵀ, B = U·√(S/s) for the first r.
 *
 * @see https://arxiv.org/abs/2404.02948
 */
import { svdMatrix } from "../../linalg/svd.ts";
import { svdLowrankMatrix } from "../../linalg/svd-lowrank.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";
import type { Initialiser } from "../initialiser.ts";
import { balanced, requireLinear, requireRank, requireScaling, takenOut, weightOf } from "./factors.ts";

/**
 * @param niter finds the values by as many iterations instead of exactly. Their random numbers depend on nothing, so that a file can be
 *   loaded again without a seed.
 */
export const pissa = (niter?: number): Initialiser => ({
  startsAtZero: true,
  residual: "from the weight",
  start(base, { r, scaling }) {
    requireLinear("pissa", base);
    requireRank("pissa", base, r);
    requireScaling("pissa", scaling);
    const W = weightOf(base);
    const found = niter === undefined ? svdMatrix(W) : svdLowrankMatrix(W, r, { niter, random: new TorchGenerator(0) });
    const { A, B } = balanced(found, r, scaling);
    return takenOut(base, A, B, scaling);
  },
});
