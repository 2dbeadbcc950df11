import { describe, expect, it } from "vitest";
import { NumpyGenerator } from "../../src/random/numpy-generator.ts";

// np.random.default_rng(seed).bit_generator.random_raw(3), of NumPy 2.4.6
describe("the stream of a seed", () => {
  it.each([
    [0n, [11749869230777074271n, 4976686463289251617n, 755828109848996024n]],
    [42n, [14276969152011380360n, 8095878257575067585n, 15838336090824644132n]],
    [1180591620717411303424n, [10013647886062870613n, 17212894771359432687n, 8717928184856760160n]],
    [1393796574908163946345982392040522594123781n, [1024010788505211029n, 11204620011396837878n, 4658340147333518971n]],
  ] as const)("%d begins as NumPy's", (seed, words) => {
    const random = new NumpyGenerator(seed);
    expect(words.map(() => random.u64())).toEqual(words);
  });

  it("has no seed below zero, and none between whole numbers", () => {
    expect(() => new NumpyGenerator(-1)).toThrow("`seed` (= -1) must not be negative");
    expect(() => new NumpyGenerator(0.5)).toThrow("must be an integer");
  });
});

/** A number for a list in order. */
const digest = (values: Int32Array): number => values.reduce((sum, value) => (Math.imul(sum, 31) + value) | 0, 0);

// r = default_rng(seed); r.choice(n, size=k, replace=False); x = arange(count); r.shuffle(x)
it.each([
  [42, 7, 32, 1000, -1796177974, 861917688],
  [1, 299, 300, 5000, 1982595934, -1943428082],
  [3, 500, 20000, 10, 1933070695, 1939697745],
  [3, 300, 20000, 50, 522517251, -1595862353],
  [9, 0, 5, 20, 0, -1854544046],
  [5, 1, 1, 40, 0, 1530606794],
] as const)("choice and shuffle are NumPy's: seed %d, %d of %d, then %d", (seed, k, n, count, chosen, order) => {
  const random = new NumpyGenerator(seed);
  const own = random.choice(n, k);
  expect(new Set(own).size).toBe(k);
  expect([digest(own), digest(random.shuffle(Int32Array.from({ length: count }, (_, i) => i)))]).toEqual([chosen, order]);
});

it("cannot choose more than there are", () => {
  expect(() => new NumpyGenerator(1).choice(3, 4)).toThrow("`n` (= 3) and `k` (= 4)");
});
