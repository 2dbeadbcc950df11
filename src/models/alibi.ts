/** Attention with linear biases (ALiBi): states hold no positions; scores fall with the distance instead, with a slope for each head. */
import { add, cast, exp, less, max, mul, sub, where } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant, iota, number } from "../graph/source.ts";
import { cumsum } from "../tensor/statistics.ts";

/**
 * What each key adds to the scores of all queries: slope · position. It differs from −slope · distance by what is the same for all keys
 * of a query, which softmax does not see. Where there are not 2ⁿ heads, those beyond take every other slope of the next power.
 *
 * @param keyMask [B, keys], 1 for tokens; all are where it is absent
 * @param rounded each factor and the product, as a model was trained
 * @returns [B or 1, heads, 1, keys]
 * @see https://arxiv.org/abs/2108.12409
 */
export function alibi(heads: number, keys: number, keyMask?: Tensor, rounded = (x: Tensor): Tensor => x): Tensor {
  const power = 2 ** Math.floor(Math.log2(heads));
  const head = cast(iota([heads]), "float32");
  const of = (value: number) => number(head, value);
  const first = mul(add(head, of(1)), of(-8 / power));
  const beyond = mul(add(mul(sub(head, of(power)), of(2)), of(1)), of(-4 / power));
  const slopes = exp(mul(where(less(head, of(power)), first, beyond), of(Math.LN2)));
  const whole = (value: number) => constant(value, [], "int32");
  const positions = keyMask ? max(sub(cumsum(cast(keyMask, "int32"), 1), whole(1)), whole(0)) : reshape(iota([keys]), [1, keys]);
  const places = cast(reshape(positions, [-1, 1, 1, keys]), "float32");
  return rounded(mul(rounded(reshape(slopes, [1, heads, 1, 1])), rounded(places)));
}
