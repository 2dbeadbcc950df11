/** Choosing the next token from logits. */
import { ConfigError } from "../errors.ts";
import { threefry2x32, uniformFromBits } from "../random/threefry.ts";

/** How random the choice of the next token is; the most likely one when nothing is said. */
export interface SamplingOptions {
  /** Divides the logits; 0 always takes the most likely token. */
  readonly temperature?: number;
  /** Only this many most likely tokens can be drawn; 0 means all. */
  readonly topK?: number;
  /** Only the most likely tokens that together have this probability can be drawn. @see https://arxiv.org/abs/1904.09751 */
  readonly topP?: number;
}

/** @throws {ConfigError} for a setting out of range */
export function checkSampling({ temperature = 0, topK = 0, topP = 1 }: SamplingOptions): void {
  const refuse = (name: string, value: number, rule: string) => {
    throw new ConfigError(`\`${name}\` (= ${value}) must be ${rule}.`, { operation: "generate", got: value });
  };
  if (!(temperature >= 0) || !Number.isFinite(temperature)) refuse("temperature", temperature, "a number from 0");
  if (!Number.isInteger(topK) || topK < 0) refuse("topK", topK, "a whole number from 0");
  if (!(topP > 0 && topP <= 1)) refuse("topP", topP, "above 0 and at most 1");
}

/**
 * One token number. Equal logits, settings and `uniform` give the same one; of equally likely tokens the first comes first.
 *
 * @param logits  one per token
 * @param uniform a random number in [0, 1)
 */
export function sampleToken(
  logits: ArrayLike<number>,
  { temperature = 0, topK = 0, topP = 1 }: SamplingOptions,
  uniform: number,
): number {
  const V = logits.length;
  let best = 0;
  for (let token = 1; token < V; token++) if (logits[token]! > logits[best]!) best = token;
  if (temperature === 0) return best;
  const top = logits[best]!;
  const weights = Float64Array.from({ length: V }, (_, token) => Math.exp((logits[token]! - top) / temperature));
  if (topK === 0 && topP === 1) return draw(weights, null, uniform);
  let order: Uint32Array = Uint32Array.from({ length: V }, (_, token) => token);
  order.sort((a, b) => weights[b]! - weights[a]! || a - b);
  if (topK > 0) order = order.subarray(0, topK);
  if (topP < 1) {
    const total = order.reduce((sum, token) => sum + weights[token]!, 0);
    let [kept, sum] = [0, 0];
    while (kept < order.length && sum < topP * total) sum += weights[order[kept++]!]!;
    order = order.subarray(0, Math.max(1, kept));
  }
  return draw(weights, order, uniform);
}

/** The token at which the running sum of weights passes `uniform` of their total. */
function draw(weights: Float64Array, order: Uint32Array | null, uniform: number): number {
  const count = order ? order.length : weights.length;
  const token = (i: number) => (order ? order[i]! : i);
  let total = 0;
  for (let i = 0; i < count; i++) total += weights[token(i)]!;
  let left = uniform * total;
  for (let i = 0; i < count; i++) {
    left -= weights[token(i)]!;
    if (left < 0) return token(i);
  }
  return token(0); // rounding: the most likely one, or the first
}

/** The random number of one step of one sequence: counter-based, so that a batch draws what its rows would draw alone. */
export function uniformAt(seed: number, row: number, step: number): number {
  return uniformFromBits(threefry2x32(seed | 0, row, step, 0)[0]);
}
