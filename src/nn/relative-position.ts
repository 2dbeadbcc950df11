/** Distances between tokens as a few numbers, each of which has a learned bias in T5's attention. */
import { ConfigError, checkOptions, requireKind } from "../errors.ts";
import { add, cast, less, max, neg, sub, where } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import { Tensor } from "../graph/node.ts";
import { constant, iota } from "../graph/source.ts";
import { abs, minimum } from "../tensor/math.ts";

/** How distances are put into buckets. */
export interface RelativeBucketOptions {
  readonly buckets: number;
  /** Distances from here on are in the last bucket. */
  readonly maxDistance: number;
  /** Whether queries see no later keys, so that all buckets are for what came before; otherwise half of them are. */
  readonly isCausal: boolean;
  /** [] int32: key at which the first query stands; 0 when absent. */
  readonly offset?: Tensor | undefined;
}

const whole = (value: number): Tensor => constant(value, [], "int32");

/**
 * The bucket of each key as each query sees it: small distances have one each, larger ones share buckets whose widths grow
 * with the logarithm of the distance.
 *
 * @returns [queries, keys] int32
 * @see https://arxiv.org/abs/1910.10683, section 2.1
 */
export function relativeBuckets(queries: number, keys: number, options: RelativeBucketOptions): Tensor {
  const { buckets, maxDistance, isCausal, offset } = checkOptions("relativeBuckets", options, {
    buckets: "a whole number from 1",
    maxDistance: "a whole number from 1",
    isCausal: "true or false",
    offset: Tensor,
  });
  requireKind("relativeBuckets", "a whole number from 0", { queries, keys });
  requireKind("relativeBuckets", "a whole number from 1", { buckets, maxDistance });
  const query = reshape(iota([queries]), [queries, 1]);
  const ahead = sub(reshape(iota([keys]), [1, keys]), offset ? add(query, offset) : query);
  const own = isCausal ? buckets : Math.floor(buckets / 2);
  const exact = Math.floor(own / 2);
  if (maxDistance <= exact)
    throw new ConfigError(
      `\`maxDistance\` (= ${maxDistance}) must be above the ${exact} distances that have buckets of their own.`,
      { operation: "relativeBuckets", got: maxDistance },
    );
  const distance = isCausal ? max(neg(ahead), whole(0)) : abs(ahead);
  const passed = firstDistances(own, exact, maxDistance).map((first) => cast(less(whole(first - 1), distance), "int32"));
  const bucket = passed.reduce(add, minimum(distance, whole(exact)));
  return isCausal ? bucket : add(bucket, where(less(whole(0), ahead), whole(own), whole(0)));
}

/** From where on distances are in the second, third, … shared bucket. Rounded to float32, as models in use were trained. */
function firstDistances(buckets: number, exact: number, maxDistance: number): number[] {
  const f = Math.fround;
  const bucketOf = (distance: number) =>
    exact + Math.trunc(f(f(f(Math.log(f(distance / exact))) / f(Math.log(maxDistance / exact))) * (buckets - exact)));
  return Array.from({ length: buckets - exact - 1 }, (_, i) => {
    let distance = Math.max(exact, Math.floor(exact * (maxDistance / exact) ** ((i + 1) / (buckets - exact))) - 1);
    while (bucketOf(distance) < exact + i + 1) distance++;
    return distance;
  });
}
