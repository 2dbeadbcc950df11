/** TIES: where changes disagree about the direction of a value, those that lose the vote are left out. */
import { add, cast, div, equal, less, max, mul, where } from "../../graph/elementwise.ts";
import type { Tensor } from "../../graph/node.ts";
import { number } from "../../graph/source.ts";
import { sign } from "../../tensor/math.ts";

/** How votes count: by their size, or one each. */
export type MajoritySignMethod = "total" | "frequency";

/** For each change, where it has the sign that most have: 1 there, 0 elsewhere. A draw goes to plus; zeros have no sign. */
export function electedSigns(changes: readonly Tensor[], method: MajoritySignMethod): Tensor[] {
  const votes = method === "total" ? changes : changes.map(sign);
  const sum = votes.reduce(add);
  const majority = where(less(sum, number(sum, 0)), number(sum, -1), number(sum, 1));
  return changes.map((change) => cast(equal(sign(change), majority), change.dtype));
}

/** Σ wᵢ·xᵢ·mᵢ / Σ mᵢ, value by value: the mean over those that are left. */
export function disjointMean(changes: readonly Tensor[], elected: readonly Tensor[]): Tensor {
  const sum = changes.map((change, i) => mul(change, elected[i] as Tensor)).reduce(add);
  const count = elected.reduce(add);
  return div(sum, max(count, number(count, 1)));
}
