/** The nearest matrices of low rank, as the factors of LoRA. */

import { downloadSync } from "../../compile/program.ts";
import { matmul } from "../../graph/contraction.ts";
import { mul } from "../../graph/elementwise.ts";
import { reshape, sliceAxis } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { constant } from "../../graph/source.ts";
import { type Svd, svd } from "../../linalg/svd.ts";
import { clamp } from "../../tensor/math.ts";

/** D ≈ B·A. */
export interface Factors {
  /** [r, in] */
  readonly A: Tensor;
  /** [out, r] */
  readonly B: Tensor;
}

const columnsTimes = (x: Tensor, s: Tensor): Tensor => mul(x, reshape(s, [1, s.size]));

/** That of B·A, without making it: r singular values, at a cost of (out + in)·r². */
export function svdOfProduct({ A, B }: Factors): Svd {
  const [left, right] = [svd(B), svd(A)];
  const core = svd(columnsTimes(matmul(mul(reshape(left.S, [left.S.size, 1]), left.Vt), right.U), right.S));
  return { U: matmul(left.U, core.U), S: core.S, Vt: matmul(core.Vt, right.Vt) };
}

/** B = U·S and A = Vᵀ of the `rank` largest singular values. @see Eckart and Young 1936, The approximation of one matrix by another */
export function truncated({ U, S, Vt }: Svd, rank: number): Factors {
  const k = Math.min(rank, S.size);
  return { B: columnsTimes(sliceAxis(U, 1, 0, k), sliceAxis(S, 0, 0, k)), A: sliceAxis(Vt, 0, 0, k) };
}

/** How many of the largest singular values hold this share of Σσ²; at least one. */
export function rankOfEnergy(S: Tensor, share: number): number {
  const squares = Array.from(downloadSync(S), (value) => value * value);
  const wanted = share * squares.reduce((sum, value) => sum + value, 0);
  let sum = 0;
  const last = squares.findIndex((value) => {
    sum += value;
    return sum >= wanted;
  });
  return last === -1 ? squares.length : last + 1;
}

/** Both factors held within ±h, h being this quantile of all their values. */
export function clamped({ A, B }: Factors, quantile: number): Factors {
  const values = Float64Array.from([...downloadSync(B), ...downloadSync(A)]).sort();
  const at = quantile * (values.length - 1);
  const [low, high] = [values[Math.floor(at)] as number, values[Math.ceil(at)] as number];
  const h = low + (high - low) * (at - Math.floor(at));
  // no value is between −h and h when h is negative; PyTorch gives h then
  const hold = (x: Tensor) => (h < 0 ? constant(h, x.shape, x.dtype) : clamp(x, { min: -h, max: h }));
  return { A: hold(A), B: hold(B) };
}
