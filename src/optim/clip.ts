/** Keeping gradients from growing too large for one step. */
import { ConfigError, checkOptions, requireKind, requireOption } from "../errors.ts";
import { add, max, mul, neg, pow, recip, sqrt } from "../graph/elementwise.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import { computeTogether } from "../graph/together.ts";
import { abs, minimum } from "../tensor/math.ts";
import { amax, sum } from "../tensor/statistics.ts";

/** Gradients after clipping, by the keys they had. */
export interface ClippedGradients<Key> {
  readonly gradients: Map<Key, Tensor>;
  /** Norm of all gradients together before clipping, []. */
  readonly totalNorm: Tensor;
}

function checkLimit(operation: string, name: string, value: number, gradients: ReadonlyMap<unknown, Tensor>): void {
  requireKind(operation, "a Map", { gradients });
  for (const gradient of gradients.values()) requireTensors(operation, { gradient });
  requireOption(operation, "a number above 0, or Infinity", name, value);
}

/**
 * Scales all gradients by min(1, maxNorm / (‖g‖ₚ + 1e-6)), where the norm is that of all their values together.
 *
 * @param options.normType p; `Infinity` for the largest absolute value
 * @returns the gradients, and the norm before, to look at or log
 * @see https://arxiv.org/abs/1211.5063
 */
export function clipGradNorm<Key>(
  gradients: ReadonlyMap<Key, Tensor>,
  maxNorm: number,
  options: { readonly normType?: number } = {},
): ClippedGradients<Key> {
  const { normType = 2 } = checkOptions("clipGradNorm", options, { normType: "a number" });
  const operation = "clipGradNorm";
  checkLimit(operation, "maxNorm", maxNorm, gradients);
  checkLimit(operation, "normType", normType, gradients);
  if (gradients.size === 0) throw new ConfigError("got no gradients.", { operation });
  const totalNorm = norm([...gradients.values()], normType);
  const share = mul(number(totalNorm, maxNorm), recip(add(totalNorm, number(totalNorm, 1e-6))));
  const scale = minimum(share, number(totalNorm, 1));
  const clipped = new Map([...gradients].map(([key, g]) => [key, mul(g, scale)]));
  computeTogether(totalNorm, clipped.values());
  return { gradients: clipped, totalNorm };
}

function norm(gradients: readonly Tensor[], p: number): Tensor {
  if (p === Number.POSITIVE_INFINITY) return gradients.map((g) => amax(abs(g))).reduce((a, b) => max(a, b));
  if (p === 1) return gradients.map((g) => sum(abs(g))).reduce(add);
  if (p === 2) return sqrt(gradients.map((g) => sum(mul(g, g))).reduce(add));
  const power = (x: Tensor, p: number) => pow(x, number(x, p));
  return power(gradients.map((g) => sum(power(abs(g), p))).reduce(add), 1 / p);
}

/** Moves every value of every gradient into ±limit. */
export function clipGradValue<Key>(gradients: ReadonlyMap<Key, Tensor>, limit: number): Map<Key, Tensor> {
  checkLimit("clipGradValue", "limit", limit, gradients);
  const clip = (g: Tensor) => neg(max(neg(max(g, number(g, -limit))), number(g, -limit)));
  return new Map([...gradients].map(([key, g]) => [key, clip(g)]));
}
