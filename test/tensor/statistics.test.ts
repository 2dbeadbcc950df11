import { beforeAll, describe, expect, test } from "vitest";
import { grad, pullback } from "../../src/autograd/grad.ts";
import { useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { ones, tensor, zeros } from "../../src/tensor/create.ts";
import * as statistics from "../../src/tensor/statistics.ts";
import "../../src/tensor/methods.ts";
import { onEveryDevice } from "../devices.ts";
import { expectDerivative } from "./gradient.ts";

const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
const box = [
  [
    [1, -2, 3],
    [4, 5, -6],
  ],
  [
    [0.5, 8, 7],
    [-1, 2, 2],
  ],
];

onEveryDevice(() => {
  test("sums of many values, and products of vectors as long, keep their digits", () => {
    const values = (seed: number) => Float32Array.from({ length: 1e6 }, (_, i) => ((i * 7919 + seed) % 1000) / 1000);
    const [a, b] = [values(3), values(41)];
    const [x, y] = [tensor(a), tensor(b)];
    const total = a.reduce((sum, value) => sum + value, 0);
    const product = a.reduce((sum, value, i) => sum + value * b[i]!, 0);
    expect(Math.abs((statistics.sum(x).item() as number) / total - 1)).toBeLessThan(1e-6);
    expect(Math.abs((x.matmul(y).item() as number) / product - 1)).toBeLessThan(1e-6);
  });

  test("counts booleans and averages integers", () => {
    const mask = tensor([
      [true, false, true],
      [false, false, false],
    ]);
    expect([statistics.sum(mask).dtype, statistics.sum(mask).item()]).toEqual(["int32", 2]);
    expect(statistics.any(mask, 1).toArray()).toEqual([true, false]);
    expect(statistics.all(mask, 0).toArray()).toEqual([false, false, false]);
    expect(statistics.all(tensor([1, 2])).item()).toBe(1);
    expect(statistics.mean(tensor([1, 2], { dtype: "int32" })).item()).toBe(1.5);
    expect(statistics.amin(tensor([7, 250, 3], { dtype: "uint8" })).item()).toBe(3);
    expect(statistics.any(zeros([0])).item()).toBe(0);
    expect(statistics.all(zeros([0])).item()).toBe(1);
  });

  test("argmax is the first of the largest, argmin the first of the smallest, and NaN wins both", () => {
    const x = tensor([
      [1, 5, 5, 2],
      [3, -1, nan, -1],
    ]);
    expect(statistics.argmax(x, 1).toArray()).toEqual([1, 2]);
    expect(statistics.argmin(x, 1).toArray()).toEqual([0, 2]);
    expect(statistics.argmax(x, 0, true).toArray()).toEqual([[1, 0, 1, 0]]);
    expect(statistics.argmax(tensor([-inf, -inf])).item()).toBe(0);
    const { values, indices } = statistics.max(tensor(box), 1);
    expect(values.toArray()).toEqual([
      [4, 5, 3],
      [0.5, 8, 7],
    ]);
    expect(indices.toArray()).toEqual([
      [1, 1, 0],
      [0, 0, 0],
    ]);
    expect(statistics.min(tensor([3, 1, 1]), 0, true).indices.toArray()).toEqual([1]);
  });

  test("variance of values far from 0 that are close together keeps its digits", () => {
    // multiples of 2⁻¹² around 1000 and of 2⁻⁹ around 10 000, which float32 has; their means it has not
    for (const [mean, step] of [
      [1000, 2 ** -12],
      [10_000, 2 ** -9],
    ] as const)
      for (const count of [7, 50, 1001, 4096]) {
        const x = Float64Array.from({ length: count }, (_, i) => mean + step * ((i * i) % 11));
        const average = x.reduce((sum, value) => sum + value, 0) / count;
        const want = x.reduce((sum, value) => sum + (value - average) ** 2, 0) / count;
        const got = statistics.variance(tensor([...x]), { correction: 0 }).item() as number;
        expect(Math.abs(got / want - 1)).toBeLessThan(2e-6);
      }
    // not below 0, of which there is no root
    for (const value of [0.1, 1234.567, -1e8])
      expect(statistics.std(tensor(new Array(37).fill(value))).item()).toBeGreaterThanOrEqual(0);
  });

  test("variance divides by n − correction", () => {
    const x = tensor([2, 4, 4, 4, 5, 5, 7, 9]);
    expect(statistics.variance(x, { correction: 0 }).item()).toBeCloseTo(4);
    expect(statistics.variance(x).item()).toBeCloseTo(32 / 7, 5);
    expect(statistics.std(x, { correction: 0, keepDims: true }).toArray()).toEqual([2]);
    expect(statistics.variance(tensor([3])).item()).toBeNaN();
  });

  test("norms of every order", () => {
    const x = tensor([
      [3, -4],
      [0, 2],
    ]);
    const row = (p: number) => statistics.norm(x, { p, axes: 1 }).toArray();
    expect(row(2)).toEqual([5, 2]);
    expect(row(1)).toEqual([7, 2]);
    expect(row(inf)).toEqual([4, 2]);
    expect(row(-inf)).toEqual([3, 0]);
    expect(row(0)).toEqual([2, 1]);
    expect(statistics.norm(x, { p: 3 }).item()).toBeCloseTo((27 + 64 + 8) ** (1 / 3), 5);
    expect(statistics.norm(tensor([0, nan, -1]), { p: 0 }).item()).toBe(2);
  });

  // torch.linalg.vector_norm and torch.std at rows of equal values
  test("norms and deviations have a gradient of 0 where they have no derivative", () => {
    const x = tensor([
      [0, 0],
      [0, -1],
    ]);
    const slope = (f: (x: Tensor) => Tensor) =>
      grad((x: Tensor) => f(x).sum())(x)[0]!
        .add(0)
        .toArray(); // −0 as 0
    for (const p of [0.5, 1, 2, 3, -1])
      expect(slope((z) => statistics.norm(z, { p, axes: 1 }))).toEqual([
        [0, 0],
        [0, p < 0 ? 0 : -1],
      ]);
    expect(slope((z) => statistics.std(z, { axes: 1 }))).toEqual([
      [0, 0],
      [expect.closeTo(Math.SQRT1_2), expect.closeTo(-Math.SQRT1_2)],
    ]);
  });

  test("the smallest of integers may be the one that has no negative", () => {
    const x = tensor([3, -(2 ** 31), 2 ** 31 - 1], { dtype: "int32" });
    expect([statistics.amin(x).item(), statistics.argmin(x).item()]).toEqual([-(2 ** 31), 1]);
    expect(statistics.min(x, 0).values.item()).toBe(-(2 ** 31));
  });

  test("softmax takes −∞ and large values; an entirely masked row gives zeros and no gradient", () => {
    const x = tensor([
      [1e4, 1e4, -1e4],
      [-inf, 0, 0],
      [-inf, -inf, -inf],
    ]);
    expect(statistics.softmax(x).toArray()).toEqual([
      [0.5, 0.5, 0],
      [0, 0.5, 0.5],
      [0, 0, 0],
    ]);
    const l = statistics.logSoftmax(x).toArray() as number[][];
    expect(l[1]![0]).toBe(-inf);
    expect(l[1]![1]).toBeCloseTo(Math.log(0.5));
    expect(l[2]).toEqual([-inf, -inf, -inf]);
    expect(statistics.logSumExp(x, 1).toArray()).toEqual([
      expect.closeTo(1e4 + Math.log(2), 2),
      expect.closeTo(Math.log(2)),
      -inf,
    ]);
    expect(statistics.logSumExp(tensor([inf, 1])).item()).toBe(inf);
    for (const f of [statistics.softmax, (z: typeof x) => statistics.logSumExp(z, -1, true)]) {
      const y = f(x);
      const [g] = pullback([y], [ones(y.shape)], [x]);
      expect(g!.dataSync().every(Number.isFinite)).toBe(true);
    }
  });

  test("running sums along any axis", () => {
    const x = tensor([
      [1, 2, 3],
      [4, 5, 6],
    ]);
    expect(statistics.cumsum(x, 1).toArray()).toEqual([
      [1, 3, 6],
      [4, 9, 15],
    ]);
    expect(statistics.cumsum(x, -2).toArray()).toEqual([
      [1, 2, 3],
      [5, 7, 9],
    ]);
    expect(statistics.cumsum(tensor([true, true, false]), 0).toArray()).toEqual([1, 2, 2]);
  });

  test("cosine similarity is 0 beside a vector of zeros", () => {
    const y = statistics.cosineSimilarity(
      tensor([
        [1, 0],
        [3, 4],
        [0, 0],
      ]),
      tensor([
        [0, 2],
        [6, 8],
        [1, 1],
      ]),
    );
    expect(y.toArray()).toEqual([0, expect.closeTo(1, 6), 0]);
  });
});

describe("derivatives", () => {
  beforeAll(() => void useDevice(createReference()));
  test.each([
    ["one zero in a row", [0, 2, -3, 0.5, 1.5, 0]],
    ["several", [0, 2, 0, 0, 0, 0]],
  ])("of a product that has %s, the second too", (_, numbers) => {
    expectDerivative((x) => statistics.prod(x, 1), numbers, [2, 3], 1e-5);
    expectDerivative((x) => statistics.prod(x), numbers, [2, 3], 1e-5);
    expectDerivative((x) => statistics.prod(x, [0, 2]), numbers, [1, 3, 2], 1e-5);
  });

  // a sum of exponentials that is 1 to every digit is no tie with what it is guarded by
  test.each([
    ["of one", [0.7], [1]],
    ["with one far above the others", [-30, 5, -40], [3]],
  ])("of logSumExp %s, the second too", (_, numbers, shape) =>
    expectDerivative((x) => statistics.logSumExp(x.mul(x), -1), numbers, shape, 1e-4),
  );

  test("all of the largest over several axes share evenly, as in PyTorch's amax", () => {
    const x = tensor([
      [
        [2, 1, 2],
        [0, 2, -2],
      ],
      [
        [1, 1, 1],
        [0, -2, 2],
      ],
    ]);
    const gradient = (f: (z: typeof x) => typeof x) => grad((z) => f(z).sum())(x)[0]!.toArray();
    expect(gradient((z) => statistics.amax(z))).toEqual([
      [
        [0.25, 0, 0.25],
        [0, 0.25, 0],
      ],
      [
        [0, 0, 0],
        [0, 0, 0.25],
      ],
    ]);
    expect(gradient((z) => statistics.amin(z, [0, -1]))).toEqual([
      [
        [0, 0.25, 0],
        [0, 0, 0.5],
      ],
      [
        [0.25, 0.25, 0.25],
        [0, 0.5, 0],
      ],
    ]);
  });
});

test("errors name the operation and the axis", () => {
  expect(() => statistics.sum(tensor([[1]]), 2)).toThrow("sum: axis 2 is outside a tensor of 2 axes. Use -2…1.");
  expect(() => statistics.amax(zeros([2, 0]), 1)).toThrow("amax: nothing to compare along axes [1] of [2, 0].");
  expect(() => statistics.softmax(tensor([1], { dtype: "int32" }))).toThrow(
    'softmax: needs floating-point values, got int32. Use x.cast("float32").',
  );
});
