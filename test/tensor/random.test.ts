import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { threefry2x32, uniformFromBits } from "../../src/random/threefry.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { tensor } from "../../src/tensor/create.ts";
import * as random from "../../src/tensor/random.ts";
import "../../src/tensor/methods.ts";
import { onEveryDevice } from "../devices.ts";

onEveryDevice((device) => {
  test("bits equal the generator in plain numbers for any seed and element", () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.integer({ min: 1, max: 40 }), (seed, n) => {
        const [high, low] = [Math.floor(seed / 2 ** 32), seed >>> 0];
        const words = Array.from({ length: n }, (_, i) => threefry2x32(high, low, 0, i));
        const joined = words.map(([x, y]) => (x ^ y) | 0);
        const from = random.key(seed);
        expect([...random.bits(from, [n]).dataSync()]).toEqual(joined);
        expect([...random.uniform(from, [n]).dataSync()]).toEqual(joined.map((bits) => uniformFromBits(bits >>> 0)));
        expect(random.split(from, n).toArray()).toEqual(words.map(([x, y]) => [x | 0, y | 0]));
        expect(random.foldIn(from, n - 1).toArray()).toEqual(words[n - 1]!.map((word) => word | 0));
      }),
      { numRuns: device === "reference" ? 20 : 10 },
    );
  });

  test("bits are those of JAX", () => {
    // jax.random.bits(jax.random.key(0)), jax.random.uniform(jax.random.key(0)) to 23 bits
    expect(random.bits(random.key(0), [1]).item() >>> 0).toBe(0xf29a4fa7);
    expect(random.uniform(random.key(0), []).item()).toBeCloseTo(0.947667, 6);
  });

  const N = 20_000;
  const moments = (values: ArrayLike<number>) => {
    const list = Array.from(values);
    const mean = list.reduce((a, b) => a + b, 0) / list.length;
    const central = (p: number) => list.reduce((a, b) => a + (b - mean) ** p, 0) / list.length;
    return { mean, variance: central(2), kurtosis: central(4) / central(2) ** 2 };
  };

  test("uniform and normal values have the moments of their distributions", () => {
    const u = moments(random.uniform(random.key(1), [N], { low: -1, high: 3 }).dataSync());
    expect(Math.abs(u.mean - 1)).toBeLessThan((4 * 4) / Math.sqrt(12 * N));
    expect(u.variance).toBeCloseTo(16 / 12, 1);
    const z = moments(random.normal(random.key(2), [N / 2, 2], { mean: 5, std: 2 }).dataSync());
    expect(Math.abs(z.mean - 5)).toBeLessThan((4 * 2) / Math.sqrt(N));
    expect(Math.abs(z.variance - 4)).toBeLessThan(4 * 4 * Math.sqrt(2 / N));
    expect(Math.abs(z.kurtosis - 3)).toBeLessThan(4 * Math.sqrt(24 / N));
  });

  test("neighbouring keys and elements are uncorrelated", () => {
    const keys = random.split(random.key(3), 2);
    const a = random.normal(keys.at(0), [N]).dataSync();
    const b = random.normal(keys.at(1), [N]).dataSync();
    const correlation = (x: ArrayLike<number>, y: ArrayLike<number>, lag: number) => {
      let sum = 0;
      for (let i = 0; i < N - lag; i++) sum += x[i]! * y[i + lag]!;
      return Math.abs(sum) / Math.sqrt(N);
    };
    for (const c of [correlation(a, b, 0), correlation(a, a, 1), correlation(a, a, 2)]) expect(c).toBeLessThan(4);
  });

  test("bernoulli, randint, permutation and categorical draw what they say", () => {
    const p = random.bernoulli(random.key(4), 0.3, [N]).dataSync();
    expect(Math.abs(moments(p).mean - 0.3)).toBeLessThan(4 * Math.sqrt(0.21 / N));
    const dice = random.randint(random.key(5), [6000], 1, 7).dataSync();
    for (let side = 1; side <= 6; side++) expect(Math.abs(dice.filter((v) => v === side).length - 1000)).toBeLessThan(4 * 29);
    const shuffled = [...random.permutation(random.key(6), 50).dataSync()];
    expect(shuffled).not.toEqual([...shuffled].sort((x, y) => x - y));
    expect([...shuffled].sort((x, y) => x - y)).toEqual(Array.from({ length: 50 }, (_, i) => i));
    const logits = tensor([Math.log(0.5), Math.log(0.2), Math.log(0.3)]).broadcastTo([3000, 3]);
    const drawn = random.categorical(random.key(7), logits).dataSync();
    [0.5, 0.2, 0.3].forEach((q, i) => {
      expect(Math.abs(drawn.filter((v) => v === i).length / 3000 - q)).toBeLessThan(0.035);
    });
  });

  test("dropout keeps the mean, and p = 0 changes nothing", () => {
    const x = tensor(new Float32Array(N).fill(2));
    const y = random.dropout(random.key(8), x, 0.25).dataSync();
    expect(new Set(y)).toEqual(new Set([0, Math.fround(2 * Math.fround(1 / 0.75))]));
    expect(Math.abs(moments(y).mean - 2)).toBeLessThan(0.04);
    expect(random.dropout(random.key(8), x, 0)).toBe(x);
  });

  test("a generator never gives a key twice, and starts over with its seed", () => {
    const generator = new random.Generator(9);
    const first = [generator.next(), generator.next(), generator.next()].map((from) => `${from.toArray()}`);
    expect(new Set(first).size).toBe(3);
    generator.manualSeed(9);
    expect(`${generator.next().toArray()}`).toBe(first[0]);
  });

  test("torch streams are those of the generator, shared or one's own", () => {
    random.manualSeed(0);
    expect(random.torchUniform([2]).toArray()).toEqual([...new TorchGenerator(0).uniform(2)]);
    const generator = new TorchGenerator(3);
    const other = new TorchGenerator(3);
    expect(random.torchRandn([2, 9], { generator }).dataSync()).toEqual(other.randn(18));
    expect(random.torchRandperm(7, { generator }).dataSync()).toEqual(other.randperm(7));
  });
});

describe("errors", () => {
  beforeAll(() => void useDevice(createReference()));
  test.each<[string, () => unknown]>([
    ["key: `seed` (= -1) must be a whole number from 0 to 2⁵³ − 1.", () => random.key(-1)],
    [
      "bits: a key is int32 [2], got float32 [2]. Make one with key(seed), or take a row of split(key).",
      () => random.bits(tensor(Float32Array.of(1, 2)), [3]),
    ],
    ["bernoulli: `p` (= 1.5) must be in 0…1.", () => random.bernoulli(random.key(0), 1.5, [1])],
    [
      "randint: `low` (= 3) and `high` (= 3) must be whole numbers of 32 bits with low < high, at most 2³¹ − 1 apart.",
      () => random.randint(random.key(0), [1], 3, 3),
    ],
    ["must be whole numbers of 32 bits", () => random.randint(random.key(0), [1], 2 ** 40, 2 ** 40 + 6)],
    [
      "uniform: `low` (= 1) and `high` (= 0) must be numbers with low ≤ high.",
      () => random.uniform(random.key(0), [1], { low: 1, high: 0 }),
    ],
    ["normal: `std` (= -1) must be a number from 0.", () => random.normal(random.key(0), [1], { std: -1 })],
    ["torchRandperm: ", () => random.torchRandperm(-1)],
    ["dropoutMask: `p` (= 1) must be at least 0 and below 1.", () => random.dropoutMask(random.key(0), [1], 1)],
  ])("%s", (message, act) => expect(act).toThrow(message));
});
