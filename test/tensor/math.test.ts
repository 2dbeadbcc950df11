import { beforeAll, describe, expect, test } from "vitest";
import { grad, pullback } from "../../src/autograd/grad.ts";
import { useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { tensor } from "../../src/tensor/create.ts";
import * as math from "../../src/tensor/math.ts";
import "../../src/tensor/methods.ts";
import { onEveryDevice } from "../devices.ts";
import { expectDerivative } from "./gradient.ts";

const { NaN: nan, POSITIVE_INFINITY: inf } = Number;

/** erf to about 1e-15: the series near 0, the continued fraction elsewhere. */
function erf(x: number): number {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  let term = a;
  let sum = a;
  for (let n = 1; n < 200; n++) {
    term *= (-a * a) / n;
    sum += term / (2 * n + 1);
  }
  return a < 3 ? (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI) : Math.sign(x) * (1 - erfcTail(a));
}
function erfcTail(a: number): number {
  let f = 0;
  for (let k = 60; k > 0; k--) f = k / 2 / (a + f);
  return Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + f);
}
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const softplus = (x: number) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

const expected: Record<string, [f: (x: ReturnType<typeof tensor>) => ReturnType<typeof tensor>, js: (x: number) => number]> = {
  abs: [math.abs, Math.abs],
  sign: [math.sign, Math.sign],
  square: [math.square, (x) => x * x],
  cos: [math.cos, Math.cos],
  tan: [math.tan, Math.tan],
  expm1: [math.expm1, Math.expm1],
  relu: [math.relu, (x) => Math.max(x, 0)],
  sigmoid: [math.sigmoid, sigmoid],
  silu: [math.silu, (x) => x * sigmoid(x)],
  quickGelu: [math.quickGelu, (x) => x * sigmoid(1.702 * x)],
  gelu: [math.gelu, (x) => 0.5 * x * (1 + erf(x / Math.SQRT2))],
  geluTanh: [math.geluTanh, (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))],
  softplus: [math.softplus, softplus],
  leakyRelu: [(x) => math.leakyRelu(x, 0.1), (x) => (x > 0 ? x : 0.1 * x)],
  elu: [(x) => math.elu(x, 1.5), (x) => (x > 0 ? x : 1.5 * Math.expm1(x))],
  hardswish: [math.hardswish, (x) => (x * Math.min(Math.max(x + 3, 0), 6)) / 6],
  mish: [math.mish, (x) => x * Math.tanh(softplus(x))],
  floor: [math.floor, Math.floor],
  ceil: [math.ceil, Math.ceil],
  trunc: [math.trunc, Math.trunc],
  clamp: [(x) => math.clamp(x, { min: -0.5, max: 1 }), (x) => Math.min(Math.max(x, -0.5), 1)],
  cube: [(x) => math.powScalar(x, 3), (x) => x ** 3],
  inverseFourth: [(x) => math.powScalar(x, -4), (x) => x ** -4],
};
const points = [-40, -7.3, -3.2, -1.7, -0.9, -0.3, -1e-3, 1e-4, 0.2, 0.45, 1.3, 2.1, 2.9, 4.4, 9.5, 30];

onEveryDevice((device) => {
  const near = device === "reference" ? 1e-12 : 4e-7;

  test.each(Object.entries(expected))("%s has its formula's values", (_, [f, js]) => {
    const x = tensor(points, { dtype: device === "reference" ? "float64" : "float32" });
    const y = f(x).dataSync();
    points.forEach((point, i) => {
      const want = js(device === "reference" ? point : Math.fround(point));
      expect(Math.abs(y[i]! - want), `at ${point}: ${y[i]} for ${want}`).toBeLessThanOrEqual(
        near * Math.max(1, Math.abs(want)) * 8,
      );
    });
  });

  test("expm1 and log1p keep their digits near 0", () => {
    const tiny = [1e-8, -1e-8, 3e-5, -3e-5, 0.01, -0.3, 0.7, 3, 80].map(Math.fround);
    const [e, l] = [math.expm1(tensor(tiny)).dataSync(), math.log1p(tensor(tiny)).dataSync()];
    tiny.forEach((x, i) => {
      expect(Math.abs(e[i]! / Math.expm1(x) - 1)).toBeLessThan(1e-6);
      expect(Math.abs(l[i]! / Math.log1p(x) - 1)).toBeLessThan(1e-6);
    });
    expect(math.log1p(tensor([-1, inf, 0])).toArray()).toEqual([-inf, inf, 0]);
  });

  test("the derivatives of sine and cosine keep their digits for large arguments", () => {
    const large = [1e3, 12345.678, -54321].map(Math.fround);
    for (const [f, slope] of [
      [math.sin, Math.cos],
      [math.cos, (x: number) => -Math.sin(x)],
    ] as const) {
      const x = tensor(large);
      const y = f(x);
      const g = pullback([y], [tensor([1, 1, 1])], [x])[0]!.dataSync();
      large.forEach((value, i) => {
        expect(g[i]).toBeCloseTo(slope(value), 5);
      });
    }
  });

  test("large arguments neither overflow nor give NaN", () => {
    const x = tensor([-1e4, -200, 200, 1e4]);
    expect(math.sigmoid(x).toArray()).toEqual([0, 0, 1, 1]);
    for (const f of [math.silu, math.gelu, math.geluTanh, math.softplus, math.mish])
      for (const [i, y] of f(x).dataSync().entries()) expect(y + 0).toBeCloseTo(i < 2 ? 0 : x.dataSync()[i]!, 2);
  });

  test("the slope of mish is 1 far out, that of x⁰ is 0 everywhere, and whole powers of integers stay and wrap", () => {
    const slope = (f: (x: Tensor) => Tensor, x: number[]) => grad((z: Tensor) => f(z).sum())(tensor(x))[0]!.toArray();
    expect(slope(math.mish, [1e30, inf])).toEqual([1, 1]);
    expect(slope((x) => math.pow(x, tensor([0, 0, 2])), [0, 3, -3])).toEqual([expect.closeTo(0), 0, -6]);
    const whole = math.powScalar(tensor([3, -1, 2], { dtype: "int32" }), 40); // torch's
    expect([whole.dtype, whole.toArray()]).toEqual(["int32", [689956897, 1, 0]]);
  });

  test("round sends halves to the even number", () => {
    const x = tensor([0.5, 1.5, 2.5, -0.5, -1.5, 0.49999997, 2.4999998, -3.7, 1e9, inf, nan]);
    expect(math.round(x).toArray()).toEqual([0, 2, 2, 0, -2, 0, 2, -4, 1e9, inf, nan].map((v) => v + 0));
  });

  test("what has no sign is compared with fractions as the number it is", () => {
    const counts = tensor([0, 3, 200], { dtype: "uint8" });
    expect(math.minimum(counts, tensor([2.5, 2.5, 2.5])).toArray()).toEqual([0, 2.5, 2.5]);
    expect(math.minimum(tensor([-1.5, 2.5, 250]), counts).toArray()).toEqual([-1.5, 2.5, 200]);
    expect(math.minimum(tensor([true, false]), tensor([0.5, 0.5])).toArray()).toEqual([0.5, 0]);
  });

  test("minimum and maximum pass NaN on; integers stay integers", () => {
    expect(math.minimum(tensor([1, nan, -2]), tensor([0, 3, nan])).toArray()).toEqual([0, nan, nan]);
    const small = math.minimum(tensor([200, 3], { dtype: "uint8" }), tensor([100, 7], { dtype: "uint8" }));
    expect([small.dtype, small.toArray()]).toEqual(["uint8", [100, 3]]);
    const square = math.powScalar(tensor([-3, 4], { dtype: "int32" }), 2);
    expect([square.dtype, square.toArray()]).toEqual(["int32", [9, 16]]);
  });

  test("comparisons with NaN are false but for notEqual", () => {
    const [x, y] = [tensor([1, 2, nan]), tensor([2, 2, nan])];
    expect(math.less(x, y).toArray()).toEqual([true, false, false]);
    expect(math.lessEqual(x, y).toArray()).toEqual([true, true, false]);
    expect(math.greater(x, y).toArray()).toEqual([false, false, false]);
    expect(math.greaterEqual(x, y).toArray()).toEqual([false, true, false]);
    expect(math.equal(x, y).toArray()).toEqual([false, true, false]);
    expect(math.notEqual(x, y).toArray()).toEqual([true, false, true]);
    expect(math.isNan(y).toArray()).toEqual([false, false, true]);
    expect(math.isInfinite(tensor([1, -inf, nan])).toArray()).toEqual([false, true, false]);
  });

  test("logic works on truth, whatever the dtype", () => {
    const [a, b] = [tensor([0, 2, 0, -1]), tensor([false, true, true, false])];
    expect(math.logicalAnd(a, b).toArray()).toEqual([false, true, false, false]);
    expect(math.logicalOr(a, b).toArray()).toEqual([false, true, true, true]);
    expect(math.logicalXor(a, b).toArray()).toEqual([false, false, true, true]);
    expect(math.logicalNot(a).toArray()).toEqual([true, false, true, false]);
  });

  test("triangles follow their diagonal", () => {
    const x = tensor([
      [1, 2, 3],
      [4, 5, 6],
    ]);
    expect(math.tril(x).toArray()).toEqual([
      [1, 0, 0],
      [4, 5, 0],
    ]);
    expect(math.tril(x, 1).toArray()).toEqual([
      [1, 2, 0],
      [4, 5, 6],
    ]);
    expect(math.triu(x, 1).toArray()).toEqual([
      [0, 2, 3],
      [0, 0, 6],
    ]);
    expect(math.maskedFill(x, math.greater(x, tensor(4)), -inf).toArray()).toEqual([
      [1, 2, 3],
      [4, -inf, -inf],
    ]);
    expect(math.lerp(tensor([0, 10]), tensor([10, 20]), tensor(0.25)).toArray()).toEqual([2.5, 12.5]);
  });
});

describe("derivatives", () => {
  beforeAll(() => void useDevice(createReference()));
  test("stay finite far out", () => {
    for (const f of [math.silu, math.gelu, math.geluTanh, math.softplus, math.mish, math.sigmoid, math.elu])
      expectDerivative(f, [-900, -60, 50, 800], [4], 1e-5);
  });
});

test("functions of real analysis name themselves when given integers", () => {
  const x = tensor([1, 2], { dtype: "int32" });
  expect(() => math.silu(x)).toThrow('silu: needs floating-point values, got int32. Use x.cast("float32").');
  expect(() => math.clamp(x, { min: 3, max: 1 })).toThrow("clamp: `min` (= 3) is above `max` (= 1).");
});
