/** Functions of angles and hyperbolic functions on the device that computes in float32: within a few units in the last place, everywhere. */
import { beforeAll, describe, expect, test } from "vitest";
import { downloadSync, useDevice } from "../../src/compile/program.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import {
  acos,
  acosh,
  allClose,
  asin,
  asinh,
  atan,
  atan2,
  atanh,
  cosh,
  fmod,
  fromTypedArray,
  grad,
  hypot,
  isClose,
  meshgrid,
  nanToNum,
  sinh,
  type Tensor,
  tensor,
  unbind,
} from "../../src/index.ts";

beforeAll(() => void useDevice(createWasm({ threads: 1 })));

/** Distance of the next float32 from that of this size. */
const unit = (value: number): number => {
  const exponent = Math.max(Math.floor(Math.log2(Math.abs(value))), -126);
  return 2 ** (exponent - 23);
};

/** Largest error in units of the last place of what is right; what is not finite has to be the same. */
function worst(got: ArrayLike<number>, want: readonly number[]): number {
  let most = 0;
  want.forEach((value, i) => {
    const right = Math.fround(value);
    if (!Number.isFinite(right)) expect(got[i], `place ${i}`).toBe(right);
    else if (got[i] !== right) most = Math.max(most, Math.abs((got[i] as number) - value) / unit(value || 1e-45));
  });
  return most;
}

/** Of both signs and every size, densely around 1. */
const places = Float32Array.from([
  ...[0, 1, Number.POSITIVE_INFINITY, Number.NaN, 88, 88.5, 89, 89.4, 90, 2.4142137, 0.66, 3.4e38],
  ...Array.from({ length: 4001 }, (_, i) => 10 ** (i / 100 - 22)),
  ...Array.from({ length: 2001 }, (_, i) => 1 + (i - 1000) / 1000),
  ...Array.from({ length: 200 }, (_, i) => 1 + (i - 100) * 2 ** -23),
]);
const both = Float32Array.from([...places, ...places.map((x) => -x)]);

describe("in float32", () => {
  test.each<[string, (x: Tensor) => Tensor, (x: number) => number]>([
    ["atan", atan, Math.atan],
    ["asin", asin, Math.asin],
    ["acos", acos, Math.acos],
    ["sinh", sinh, Math.sinh],
    ["cosh", cosh, Math.cosh],
    ["asinh", asinh, Math.asinh],
    ["acosh", acosh, Math.acosh],
    ["atanh", atanh, Math.atanh],
  ])("%s has its digits everywhere", (_, f, exact) => {
    const got = downloadSync(f(fromTypedArray(both)));
    expect(worst(got, Array.from(both, exact))).toBeLessThan(4);
  });

  test.each<[string, (y: Tensor, x: Tensor) => Tensor, (y: number, x: number) => number]>([
    ["atan2", atan2, (y, x) => Math.atan2(y + 0, x + 0)],
    ["hypot", hypot, Math.hypot],
  ])("%s has its digits everywhere", (_, f, exact) => {
    const some = both.filter((_, i) => i % 97 === 0 || i < 12 || (i >= places.length && i < places.length + 12));
    const got = downloadSync(f(fromTypedArray(some).unsqueeze(1), fromTypedArray(some)));
    const want = [...some].flatMap((y) => [...some].map((x) => exact(y, x)));
    expect(worst(got, want)).toBeLessThan(4);
  });

  test("slopes at the ends of a domain are PyTorch's", () => {
    const slope = (f: (x: Tensor) => Tensor, ...at: number[]) => grad((x: Tensor) => f(x).sum())(at)[0]!.toArray();
    const all = Number.POSITIVE_INFINITY;
    expect(slope(asin, -1, 0, 1)).toEqual([all, 1, all]);
    expect(slope(acos, -1, 0, 1)).toEqual([-all, -1, -all]);
    expect(slope(atan, -all, 0, all)).toEqual([0, 1, 0]);
    expect(slope(acosh, 1, all)).toEqual([all, 0]);
    expect(slope(atanh, -1, 0, 1)).toEqual([all, 1, all]);
    expect(slope(asinh, -all, 0, all)).toEqual([0, 1, 0]);
    expect(slope((x) => hypot(x, tensor([0, 1, 4e30])), 0, 0, 3e30)).toEqual([0, 0, expect.closeTo(0.6, 6)]);
    expect(slope((y) => atan2(y, tensor([0, 2, -2])), 0, 0, 0)).toEqual([0, 0.5, -0.5]);
  });
});

test("fmod goes towards zero, integers stay integers, and slopes are those of x − trunc(x/y)·y", () => {
  expect(fmod([5, -5, 5, -5, 0], [3, 3, -3, -3, 2]).toArray()).toEqual([2, -2, 2, -2, 0]);
  expect(fmod(tensor([7, -7], { dtype: "int32" }), 4).print()).toBe("[ 3 -3] int32 [2]");
  expect(fmod(tensor([7], { dtype: "uint8" }), 4).print()).toBe("[3] uint8 [1]");
  const [ofX, ofY] = grad((x: Tensor, y: Tensor) => fmod(x, y).sum())([-5, 0, 3], [2, -0.5, 2]);
  expect(ofX!.toArray()).toEqual([1, 1, 1]);
  expect(ofY!.toArray()).toEqual([2, expect.closeTo(0), -1]);
});

test("what is no number is replaced", () => {
  const x = tensor([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 2]);
  expect(nanToNum(x).toArray()).toEqual([0, 3.4028234663852886e38, -3.4028234663852886e38, 2]);
  expect(nanToNum(x, { nan: 1, posInf: 5, negInf: 6 }).toArray()).toEqual([1, 5, 6, 2]);
  expect(nanToNum(x.cast("float16")).toArray()).toEqual([0, 65504, -65504, 2]);
});

test("close is near, or the same infinity", () => {
  const all = Number.POSITIVE_INFINITY;
  const [x, y] = [
    [1, 1, all, all, Number.NaN],
    [1 + 1e-6, 1.1, all, 1, Number.NaN],
  ];
  expect([...downloadSync(isClose(x, y))]).toEqual([1, 0, 1, 0, 0]);
  expect([...downloadSync(isClose(x, y, { atol: 0.2, equalNan: true }))]).toEqual([1, 1, 1, 0, 1]);
  expect([allClose([1, 2], [1, 2]), allClose([1, 2], [1, 3])].map((is) => is.item())).toEqual([1, 0]);
});

test("slices of an axis, and the points of a grid", () => {
  const x = tensor([
    [1, 2, 3],
    [4, 5, 6],
  ]);
  expect(unbind(x, -1).map((part) => part.toArray())).toEqual([
    [1, 4],
    [2, 5],
    [3, 6],
  ]);
  const shapes = (options: object) => meshgrid([[1, 2], [3, 4, 5], [6]], options).map(({ shape }) => shape);
  expect(shapes({})).toEqual([2, 2, 2].map(() => [2, 3, 1]));
  expect(shapes({ indexing: "xy" })).toEqual([2, 2, 2].map(() => [3, 2, 1]));
  const [across, down] = meshgrid(
    [
      [1, 2],
      [3, 4, 5],
    ],
    { indexing: "xy" },
  );
  expect([across!.at(2).toArray(), down!.at(2).toArray()]).toEqual([
    [1, 2],
    [5, 5],
  ]);
  expect(() => meshgrid([x])).toThrow("meshgrid: takes vectors, got [2, 3].");
  expect(() => meshgrid([[1]], { indexing: "yx" as "xy" })).toThrow("indexing");
});
