/** Kinds of dropout that leave parts of an adapter out of a call, in place of values of x. In training only. */
import { add, cast, div, max, mul, sub } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import { identity } from "../linalg/cayley.ts";
import { greater, lessEqual } from "../tensor/math.ts";
import { topk } from "../tensor/pick.ts";
import { amax, mean } from "../tensor/statistics.ts";
import type { Base, Use } from "./method.ts";

/** 1 with probability 1 − p, else 0. */
const kept = (use: Use, shape: readonly number[], p: number): Tensor => cast(greater(use.uniform(shape), constant(p)), "float32");

/**
 * LyCORIS's two kinds: whole rows of ΔW [out, in] are left out with the probability `rankDropout`, all of it with `moduleDropout`.
 *
 * @param scaled the rows that are left are divided by their share, so that their sum stays about the same
 * @returns [out, 1], or `null` where nothing is dropped
 */
export function rowMask(
  { out }: Base,
  { rankDropout, moduleDropout }: { readonly rankDropout: number; readonly moduleDropout: number },
  use: Use,
  scaled: boolean,
): Tensor | null {
  if (!use.training || (rankDropout === 0 && moduleDropout === 0)) return null;
  const all = moduleDropout === 0 ? constant(1, [out, 1]) : kept(use, [1, 1], moduleDropout);
  if (rankDropout === 0) return all;
  const rows = kept(use, [out, 1], rankDropout);
  // the share of no row at all would be 0
  return mul(all, scaled ? div(rows, max(mean(rows), constant(1 / out))) : rows);
}

/** Which of n blocks are left out: ⌊p·n⌋ of them, 1 at those, [n, 1, 1]; `null` where none are. */
export function blockMask(use: Use, n: number, p: number): Tensor | null {
  const count = use.training ? Math.floor(p * n) : 0;
  if (count === 0) return null;
  const drawn = use.uniform([n]);
  const last = amax(topk(drawn, count, -1, false).values);
  return reshape(cast(lessEqual(drawn, last), "float32"), [n, 1, 1]);
}

/** Matrices [n, b, b] with the identity in place of those that are left out. */
export const withoutBlocks = (R: Tensor, mask: Tensor | null): Tensor =>
  mask ? add(R, mul(mask, sub(identity(R.shape[1] as number), R))) : R;
