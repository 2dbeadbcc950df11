/** Choosing the next token from logits, by the rules of transformers' logits processors and in their order. */
import { ConfigError, type Rules, requireKind, requireOption, under, wordJson } from "../errors.ts";
import { threefry2x32, uniformFromBits } from "../random/threefry.ts";

/** How random the choice of the next token is, and what speaks for or against a token; the most likely one when nothing is said. */
export interface SamplingOptions {
  /** Divides the logits; 0 always takes the most likely token. When absent 1 if `topK`, `topP` or `minP` is given, else 0. */
  readonly temperature?: number;
  /** Only this many most likely tokens can be drawn, and those that are as likely as the last of them; 0 means all. */
  readonly topK?: number;
  /** Only the most likely tokens that together have this probability can be drawn. @see https://arxiv.org/abs/1904.09751 */
  readonly topP?: number;
  /** Only tokens can be drawn that have this share of the most likely one's probability; 0 means all. @see https://arxiv.org/abs/2407.01082 */
  readonly minP?: number;
  /**
   * Divides positive logits, and multiplies negative ones, of every token that the prompt or the text so far has (of an
   * encoder-decoder model, the answer); 1 changes nothing. @see https://arxiv.org/abs/1909.05858
   */
  readonly repetitionPenalty?: number;
  /** No sequence of this many tokens comes a second time; 0 allows all. */
  readonly noRepeatNgramSize?: number;
  /** Added to the logits of single tokens, by their numbers; −∞ forbids one. */
  readonly logitBias?: ReadonlyMap<number, number> | Readonly<Record<number, number>>;
}

/** What the choice of a token may depend on besides its logits. */
export interface SamplingContext {
  /** The prompt and what followed, without padding. */
  readonly tokens?: readonly number[];
  /** Tokens that must not come now. */
  readonly forbidden?: Iterable<number>;
}

type Scores = Float64Array;
const never = Number.NEGATIVE_INFINITY;

/** What these may be. */
export const samplingRules: Rules<SamplingOptions> = {
  temperature: "a number from 0",
  topK: "a whole number from 0",
  topP: "a number above 0 up to 1",
  minP: "a number from 0 to 1",
  repetitionPenalty: "a number above 0",
  noRepeatNgramSize: "a whole number from 0",
  logitBias: "an object",
};

/** @throws {ConfigError} for a setting out of range */
export function checkSampling(operation: string, options: SamplingOptions): void {
  for (const [name, rule] of Object.entries(samplingRules)) {
    const value = options[name as keyof SamplingOptions];
    if (value !== undefined) requireOption(operation, rule, name, value);
  }
  for (const [token, bias] of biases(options.logitBias ?? {})) {
    const refuse = (rule: string) => {
      const got = { [token]: bias };
      throw new ConfigError(`\`logitBias\` (= ${wordJson(got)}) must be ${rule}.`, { operation, got });
    };
    if (!Number.isInteger(token) || token < 0) refuse("of tokens, by their numbers");
    if (typeof bias !== "number" || Number.isNaN(bias) || bias === Number.POSITIVE_INFINITY) refuse("of numbers, or −Infinity");
  }
}

/** The temperature that is meant: 0 takes the most likely token. */
export const temperatureOf = ({ temperature, topK = 0, topP = 1, minP = 0 }: SamplingOptions): number =>
  temperature ?? (topK > 0 || topP < 1 || minP > 0 ? 1 : 0);

/**
 * Logits as the settings change them, −∞ for tokens that cannot be drawn: first what speaks for or against single tokens
 * (`logitBias`, `repetitionPenalty`, `noRepeatNgramSize`, `forbidden`), then, unless the most likely token is always taken,
 * `temperature`, `topK`, `topP` and `minP`.
 *
 * @param logits one per token
 */
export function processLogits(logits: ArrayLike<number>, options: SamplingOptions, context: SamplingContext = {}): Float64Array {
  const operation = "processLogits";
  requireKind(operation, "a list of numbers", { logits });
  requireKind(operation, "an object", { options, context });
  checkSampling(operation, options);
  const { tokens = [], forbidden = [] } = context;
  requireKind(operation, "a list of numbers", { tokens });
  const { topK = 0, topP = 1, minP = 0, repetitionPenalty = 1, noRepeatNgramSize = 0, logitBias = {} } = options;
  const scores = new Float64Array(logits);
  const temperature = temperatureOf(options);
  for (const [token, bias] of biases(logitBias)) if (token < scores.length) scores[token]! += bias;
  if (repetitionPenalty !== 1) penalizeRepetition(scores, tokens, repetitionPenalty);
  if (noRepeatNgramSize > 0) forbidNgrams(scores, tokens, noRepeatNgramSize);
  for (const token of forbidden) if (token < scores.length) scores[token] = never;
  if (temperature === 0) return scores;
  if (temperature !== 1) divide(scores, temperature);
  if (topK > 0 && topK < scores.length) keepTopK(scores, topK);
  if (topP < 1) keepTopP(scores, topP);
  if (minP > 0) keepMinP(scores, minP);
  return scores;
}

const biases = (given: NonNullable<SamplingOptions["logitBias"]>): Iterable<readonly [number, number]> =>
  given instanceof Map ? given : Object.entries(given).map(([token, bias]) => [Number(token), bias as number]);

function divide(scores: Scores, temperature: number): void {
  const top = scores[argmax(scores)]!;
  const shift = Number.isFinite(top / temperature) ? 0 : top; // only differences matter
  for (let token = 0; token < scores.length; token++) scores[token] = (scores[token]! - shift) / temperature;
}

function penalizeRepetition(scores: Scores, tokens: readonly number[], penalty: number): void {
  for (const token of new Set(tokens)) {
    const score = scores[token];
    if (score !== undefined) scores[token] = score < 0 ? score * penalty : score / penalty;
  }
}

/** A token is forbidden that would end a sequence of `size` tokens which is in the text already. */
function forbidNgrams(scores: Scores, tokens: readonly number[], size: number): void {
  const start = tokens.length - (size - 1); // of the sequence that the next token ends
  for (let at = 0; at < start; at++) {
    let same = 0;
    while (same < size - 1 && tokens[at + same] === tokens[start + same]) same++;
    const next = tokens[at + size - 1]!;
    if (same === size - 1 && next < scores.length) scores[next] = never;
  }
}

function keepTopK(scores: Scores, count: number): void {
  const least = Float64Array.from(scores).sort()[scores.length - count]!;
  for (let token = 0; token < scores.length; token++) if (scores[token]! < least) scores[token] = never;
}

/** What is least likely goes, as long as all of it together has at most the probability 1 − share; of equal ones the last goes first. */
function keepTopP(scores: Scores, share: number): void {
  const weights = softmaxWeights(scores);
  const ascending = Float64Array.from(weights).sort(); // of numbers, which is faster than that of tokens by them
  const most = (1 - share) * ascending.reduce((sum, weight) => sum + weight, 0);
  let [gone, sum] = [0, 0];
  while (gone < ascending.length - 1 && sum + ascending[gone]! <= most) sum += ascending[gone++]!;
  const least = ascending[gone]!;
  let equal = gone - ascending.indexOf(least); // of those that are as likely as the least likely one that stays
  for (let token = scores.length - 1; token >= 0; token--)
    if (weights[token]! < least || (weights[token] === least && equal-- > 0)) scores[token] = never;
}

function keepMinP(scores: Scores, share: number): void {
  const top = scores[argmax(scores)]!;
  for (let token = 0; token < scores.length; token++) if (Math.exp(scores[token]! - top) < share) scores[token] = never;
}

/** e^score, divided by the largest. */
function softmaxWeights(scores: Scores): Float64Array {
  const top = scores[argmax(scores)]!;
  return scores.map((score) => (score === never ? 0 : Math.exp(score - top)));
}

/** The first of the largest. */
function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

/** As `values.some(Number.isNaN)`, without a call for each of a whole vocabulary. */
function hasNaN(values: Scores): boolean {
  for (let i = 0; i < values.length; i++) if (Number.isNaN(values[i])) return true;
  return false;
}

/**
 * One token number. Equal logits, settings, context and `uniform` give the same one; of equally likely tokens the first comes first.
 *
 * @param logits  one per token
 * @param uniform a random number in [0, 1)
 * @throws {ConfigError} when no token is left, or logits are not numbers
 */
export function sampleToken(
  logits: ArrayLike<number>,
  options: SamplingOptions,
  uniform: number,
  context: SamplingContext = {},
): number {
  requireKind("sampleToken", "a number", { uniform });
  const scores = under("sampleToken", () => processLogits(logits, options, context));
  const best = argmax(scores);
  if (!Number.isFinite(scores[best]!) || hasNaN(scores))
    throw new ConfigError(
      Array.prototype.some.call(logits, (x: number) => !(x < Number.POSITIVE_INFINITY))
        ? "the model's logits are not all numbers."
        : "no token is left that may come next.",
      { operation: "sampleToken", hint: "Check the weights, or what forbids tokens: `logitBias`, `noRepeatNgramSize`." },
    );
  return temperatureOf(options) === 0 ? best : draw(softmaxWeights(scores), uniform, best);
}

/** The token at which the running sum of weights passes `uniform` of their total. */
function draw(weights: Float64Array, uniform: number, best: number): number {
  let total = 0;
  for (let token = 0; token < weights.length; token++) total += weights[token]!;
  let left = uniform * total;
  for (let token = 0; token < weights.length; token++) {
    left -= weights[token]!;
    if (left < 0) return token;
  }
  return best; // rounding
}

/** The random number of one step of one sequence: counter-based, so that a batch draws what its rows would draw alone. */
export function uniformAt(seed: number, row: number, step: number): number {
  return uniformFromBits(threefry2x32(seed | 0, row, step, 0)[0]);
}
