import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConfigError } from "../../src/errors.ts";
import { checkSampling, processLogits, type SamplingOptions, sampleToken, uniformAt } from "../../src/train/sampling.ts";

/** One of `test/fixtures/generate/gen_sampling.py`. */
interface Case {
  readonly settings: Readonly<Record<string, number | boolean>>;
  readonly bias: Readonly<Record<number, number>>;
  readonly tokens: readonly number[];
  readonly logits: readonly number[];
  readonly scores: readonly (number | null)[];
}

const cases: readonly Case[] = JSON.parse(
  readFileSync(process.env["SAMPLING_CASES"] ?? new URL("../fixtures/sampling.json", import.meta.url), "utf8"),
);

const camel = (key: string) => key.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());

describe("logits are changed as by transformers", () => {
  test.each(cases.map((one, i) => [i, one.settings, one] as const))(
    "case %i: %o",
    (_, settings, { bias, tokens, logits, scores }) => {
      const { do_sample, sequence_bias, ...rest } = settings;
      const options: SamplingOptions = {
        ...Object.fromEntries(Object.entries(rest).map(([key, value]) => [camel(key), value])),
        ...(do_sample ? { temperature: (rest["temperature"] as number | undefined) ?? 1 } : { temperature: 0 }),
        logitBias: bias,
      };
      checkSampling("generate", options);
      const got = [...processLogits(logits, options, { tokens })];
      expect(got.map((score) => score === Number.NEGATIVE_INFINITY)).toEqual(scores.map((score) => score === null));
      got.forEach((score, token) => {
        if (scores[token] !== null) expect(Math.abs(score - scores[token]!)).toBeLessThan(1e-5 * (1 + Math.abs(score)));
      });
    },
  );
});

/** Settings of any kind, with which a token is left. */
const anySettings: fc.Arbitrary<SamplingOptions> = fc.record(
  {
    temperature: fc.double({ min: 0, max: 3, noNaN: true }),
    topK: fc.integer({ min: 0, max: 12 }),
    topP: fc.double({ min: 0.01, max: 1, noNaN: true }),
    minP: fc.double({ min: 0, max: 1, noNaN: true }),
    repetitionPenalty: fc.double({ min: 0.2, max: 3, noNaN: true }),
    noRepeatNgramSize: fc.integer({ min: 2, max: 4 }),
    logitBias: fc.dictionary(
      fc.integer({ min: 0, max: 8 }).map(String),
      fc.oneof(fc.double({ min: -5, max: 5, noNaN: true }), fc.constant(Number.NEGATIVE_INFINITY)),
    ),
  },
  { requiredKeys: [] },
);
const anyLogits = fc.array(fc.double({ min: -20, max: 20, noNaN: true }), { minLength: 20, maxLength: 40 });
const anyText = fc.array(fc.integer({ min: 0, max: 8 }), { maxLength: 12 });
const anyUniform = fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true });

describe("sampleToken", () => {
  test("never draws a token that is not allowed", () => {
    fc.assert(
      fc.property(anyLogits, anySettings, anyText, anyUniform, (logits, options, tokens, uniform) => {
        const token = sampleToken(logits, options, uniform, { tokens, forbidden: [15, 16] });
        const scores = processLogits(logits, options, { tokens, forbidden: [15, 16] });
        expect(scores[token]).toBeGreaterThan(Number.NEGATIVE_INFINITY);
        expect([15, 16]).not.toContain(token);
        // said once more, without the code under test
        const { topK = 0, minP = 0, temperature = topK || minP || (options.topP ?? 1) < 1 ? 1 : 0 } = options;
        const better = scores.filter((score) => score > scores[token]!).length;
        if (temperature === 0) expect(better).toBe(0);
        else {
          if (topK > 0) expect(better).toBeLessThan(topK);
          expect(scores[token]! - Math.max(...scores)).toBeGreaterThanOrEqual(Math.log(minP) - 1e-9);
        }
        const end = tokens.slice(tokens.length - (options.noRepeatNgramSize ?? 99) + 1).concat(token);
        if (end.length === options.noRepeatNgramSize)
          expect(tokens.some((_, at) => end.every((each, i) => each === tokens[at + i]))).toBe(false);
      }),
    );
  });

  test("draws from what topP leaves, which has that probability and would not without its least likely token", () => {
    fc.assert(
      fc.property(anyLogits, fc.double({ min: 0.01, max: 0.99, noNaN: true }), (logits, topP) => {
        const top = Math.max(...logits);
        const weights = logits.map((logit) => Math.exp(logit - top));
        const total = weights.reduce((a, b) => a + b);
        const kept = weights.filter((_, token) => processLogits(logits, { topP })[token]! > Number.NEGATIVE_INFINITY);
        const share = kept.reduce((a, b) => a + b, 0) / total;
        expect(share).toBeGreaterThanOrEqual(topP - 1e-9);
        if (kept.length > 1) expect(share - Math.min(...kept) / total).toBeLessThan(topP + 1e-9);
      }),
    );
  });

  const logits = [0, Math.log(2), Math.log(5), Math.log(2)];
  const share = (options: object) => {
    const counts = [0, 0, 0, 0];
    for (let i = 0; i < 1000; i++) counts[sampleToken(logits, options, (i + 0.5) / 1000)]!++;
    return counts;
  };

  test("draws with the probabilities of softmax", () => {
    expect(share({ temperature: 1 })).toEqual([100, 200, 500, 200]);
    expect(share({ temperature: 0 })).toEqual([0, 0, 1000, 0]);
    expect(share({})).toEqual([0, 0, 1000, 0]);
    const cold = share({ temperature: 0.5 });
    expect(cold[2]! / cold[1]!).toBeCloseTo(25 / 4, 1);
  });

  test("topK, topP and minP leave only the most likely; temperature is 1 then when nobody says another", () => {
    expect(share({ topK: 1 })).toEqual([0, 0, 1000, 0]);
    expect(share({ topK: 2 })).toEqual([0, 222, 556, 222]); // what is as likely as the last of them stays
    expect(share({ topP: 0.6 })).toEqual([0, 286, 714, 0]); // of equal ones the first
    expect(share({ temperature: 1, topP: 0.01 })).toEqual([0, 0, 1000, 0]);
    expect(share({ topK: 3, topP: 0.9 })).toEqual([0, 222, 556, 222]);
    expect(share({ minP: 0.3 })).toEqual([0, 222, 556, 222]);
    expect(share({ topP: 0.6, temperature: 0 })).toEqual([0, 0, 1000, 0]);
  });

  test("forbidden, biased and repeated tokens", () => {
    const choose = (options: SamplingOptions, context = {}) => sampleToken(logits, options, 0, context);
    expect(choose({}, { forbidden: [2] })).toBe(1);
    expect(choose({ logitBias: { 2: Number.NEGATIVE_INFINITY } })).toBe(1);
    expect(choose({ logitBias: new Map([[0, 5]]) })).toBe(0);
    expect(choose({ repetitionPenalty: 3 }, { tokens: [2] })).toBe(1);
    expect(choose({ noRepeatNgramSize: 2 }, { tokens: [1, 2, 1] })).toBe(1);
    expect(choose({ noRepeatNgramSize: 2, logitBias: { 99: 1 } }, { tokens: [99] })).toBe(2);
  });

  test("says when no token is left, and when logits are no numbers", () => {
    expect(() => sampleToken([1, 2], {}, 0, { forbidden: [0, 1] })).toThrow("sampleToken: no token is left that may come next.");
    expect(() => sampleToken([1, 2], { noRepeatNgramSize: 1 }, 0, { tokens: [0, 1] })).toThrow(ConfigError);
    expect(() => sampleToken([1, Number.NaN], { topK: 1 }, 0)).toThrow("sampleToken: the model's logits are not all numbers.");
    expect(() => sampleToken([Number.NaN, 1], {}, 0)).toThrow("the model's logits are not all numbers.");
  });

  test("random numbers are in [0, 1) and of their place only", () => {
    const list = Array.from({ length: 100 }, (_, i) => uniformAt(3, i % 10, Math.floor(i / 10)));
    expect(new Set(list).size).toBe(100);
    expect(Math.min(...list)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...list)).toBeLessThan(1);
    expect(uniformAt(3, 2, 5)).toBe(list[52]);
  });

  test.each<[SamplingOptions, string]>([
    [{ temperature: -1 }, "generate: `temperature` (= -1) must be a number from 0."],
    [{ topK: 1.5 }, "generate: `topK` (= 1.5) must be a whole number from 0."],
    [{ topP: 0 }, "generate: `topP` (= 0) must be a number above 0 up to 1."],
    [{ minP: 2 }, "generate: `minP` (= 2) must be a number from 0 to 1."],
    [{ repetitionPenalty: 0 }, "generate: `repetitionPenalty` (= 0) must be a number above 0."],
    [{ noRepeatNgramSize: -1 }, "generate: `noRepeatNgramSize` (= -1) must be a whole number from 0."],
    [{ logitBias: { a: 1 } as never }, 'generate: `logitBias` (= {"NaN":1}) must be of tokens, by their numbers.'],
    [{ logitBias: { 3: Number.NaN } }, "must be of numbers, or −Infinity."],
  ])("%o is refused", (options, message) => {
    expect(() => checkSampling("generate", options)).toThrow(message);
    expect(() => checkSampling("generate", options)).toThrow(ConfigError);
  });
});
