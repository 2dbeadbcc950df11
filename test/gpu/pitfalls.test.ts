/**
 * What gives wrong numbers on GPU.js without a word, each
 * on every mode that runs here: in Node `cpu` and `webasm`, in Chromium `webgl2`, `webgl` and `webgpu`.
 *
 * Pitfall 3, an index above 2^24: device.test.ts has that nothing so long is made, and the tests of large tables what reads them.
 */
import { afterAll, describe, expect, test } from "vitest";
import * as functions from "../../kernels/gpu/math.ts";
import { download, realize, upload, useDevice } from "../../src/compile/program.ts";
import { checkMode, type GpuKernel, type GpuMode, kernelSettings } from "../../src/devices/gpu/backend.ts";
import { createGpu, type GpuDevice } from "../../src/devices/gpu/index.ts";
import { DeviceError, DisposedError } from "../../src/errors.ts";
import { matmul } from "../../src/graph/contraction.ts";
import {
  add,
  bitcast,
  cast,
  div,
  equal,
  erf,
  exp,
  less,
  max,
  mul,
  pow,
  shiftLeft,
  shiftRight,
  sub,
  tanh,
} from "../../src/graph/elementwise.ts";
import { scatterAdd } from "../../src/graph/indexing.ts";
import { expand, reshape, transpose } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { reduceMax, reduceSum } from "../../src/graph/reduction.ts";
import { constant } from "../../src/graph/source.ts";
import { modes as namedModes } from "../arbitrary/devices.ts";

const inBrowser = typeof window !== "undefined";
const modes: readonly GpuMode[] = namedModes ?? (inBrowser ? ["webgl2", "webgl", "webgpu"] : ["cpu", "webasm"]);
const opened = await Promise.all(modes.map(async (mode) => ({ mode, device: await createGpu({ mode }) })));

describe.each(opened)("mode $mode", ({ mode, device }) => {
  afterAll(() => device[Symbol.dispose]());

  const floats = (values: ArrayLike<number>, shape: readonly number[] = [values.length], on: GpuDevice = device): Tensor =>
    upload(on, Float32Array.from(values), shape, "float32");
  const counting = (count: number) => Float32Array.from({ length: count }, (_, i) => (i % 251) - 125);
  const read = async (build: () => Tensor): Promise<number[]> => {
    useDevice(device);
    return [...(await download(build()))].map(Number);
  };

  test("1: no loop stops at 1000: a fold, a matrix product, a sum by index", async () => {
    // as many rows as are folded by a thread each
    const ones = () => expand(floats([1], [1, 1]), [600, 2500]);
    expect(new Set(await read(() => reduceSum(mul(ones(), ones()), [1])))).toEqual(new Set([2500]));
    const row = () => floats(new Float32Array(2300).fill(1), [1, 2300]);
    expect(await read(() => matmul(row(), transpose(row())))).toEqual([2300]);
    const index = () => upload(device, new Int32Array(1700), [1700], "int32");
    const updates = () => floats(new Float32Array(1700).fill(1), [1700, 1]);
    expect(await read(() => scatterAdd(index(), updates(), 2))).toEqual([1700, 0]);
  });

  test("2: a kernel takes arrays of one length whatever shape they had, and whichever kernel wrote them", async () => {
    const values = counting(96 * 48);
    const plusOne = (x: Tensor) => add(reshape(x, [96 * 48]), constant(1));
    const want = [...values].map((value) => value + 1);
    expect(await read(() => plusOne(floats(values, [96, 48])))).toEqual(want);
    const { compilations } = device.statistics;
    expect(await read(() => plusOne(floats(values, [48, 96])))).toEqual(want);
    await read(() => add(floats(counting(77)), constant(1))); // the uploads of another length in between
    const sameKernel = device.statistics.compilations;
    expect(await read(() => plusOne(floats(values, [2, 48, 48])))).toEqual(want);
    expect(device.statistics.compilations).toBe(sameKernel);
    expect(sameKernel).toBe(compilations + 1);
    // from a matrix product, which writes in an order of its own
    const identity = Float32Array.from({ length: 48 * 48 }, (_, i) => Number(i % 49 === 0));
    const product = matmul(floats(values, [96, 48]), floats(identity, [48, 48]));
    realize([product]);
    expect(await read(() => plusOne(product))).toEqual(want);
    expect(await read(() => reshape(transpose(product), [48 * 96]))).toEqual(
      Array.from({ length: 48 * 96 }, (_, i) => values[(i % 96) * 48 + Math.floor(i / 96)]!),
    );
  });

  test("4: what was given back is not read", async () => {
    useDevice(device);
    const x = add(floats([1, 2]), constant(1));
    realize([x]);
    x.dispose();
    expect(() => realize([add(x, constant(1))])).toThrow(DisposedError);
    await expect((async () => download(x))()).rejects.toThrow(DisposedError);
  });

  test("5: functions whose exponentials overflow, and infinities, are what they should be", async () => {
    const x = () => floats([-1e30, -100, -20, 20, 100, 1e30]);
    expect(await read(() => tanh(x()))).toEqual([-1, -1, -1, 1, 1, 1]);
    expect(await read(() => erf(x()))).toEqual([-1, -1, -1, 1, 1, 1]);
    expect(Math.max(...(await read(() => exp(x()))).slice(0, 2))).toBeLessThan(1e-37);
    const low = constant(Number.NEGATIVE_INFINITY);
    const masked = () => add(floats([1, 2, 3, 0], [2, 2]), expand(low, [2, 2]));
    expect(await read(() => reduceMax(masked(), [1]))).toEqual([Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY]);
    expect(await read(() => max(floats([3]), low))).toEqual([3]);
    // a softmax with a masked place
    const scores = () => floats([1, Number.NEGATIVE_INFINITY, 1], [1, 3]);
    const weights = () => exp(sub(scores(), expand(reduceMax(scores(), [1]), [1, 3])));
    expect(await read(weights)).toEqual([1, 0, 1]);
  });

  test("5: NaN and infinities are told from numbers by powers, bits and casts", async () => {
    const { NaN: none, POSITIVE_INFINITY: all } = Number;
    const x = () => floats([none, all, -all, -8, 2]);
    expect(await read(() => pow(x(), constant(2)))).toEqual([none, all, all, 64, 4]);
    expect(await read(() => pow(floats([2, none, -8]), floats([none, 0, 0.5])))).toEqual([none, 1, none]);
    expect(await read(() => bitcast(x(), "int32"))).toEqual([0x7fc00000, 0x7f800000, -0x800000, -0x3f000000, 0x40000000]);
    const bits = () => upload(device, Int32Array.of(0x7fc00000, 0x7f800001, 0x7f800000, -0x800000), [4], "int32");
    expect(await read(() => bitcast(bits(), "float32"))).toEqual([none, none, all, -all]);
    expect(await read(() => cast(x(), "int32"))).toEqual([0, 0, 0, -8, 2]);
    expect(await read(() => div(floats([1, -1.5, 0, 6]), floats([0, 0, 0, 3])))).toEqual([all, -all, none, 2]);
    expect(await read(() => cast(cast(floats([none, all, -all, 70000, 1.5]), "float16"), "float32"))).toEqual([
      none,
      all,
      -all,
      all,
      1.5,
    ]);
  });

  test("6: a constant compares as the float32 that it is", async () => {
    const x = () => floats([0.2, 0.1]);
    expect(await read(() => equal(x(), constant(0.2)))).toEqual([1, 0]);
    expect(await read(() => less(x(), constant(0.2)))).toEqual([0, 1]);
    expect(await read(() => less(constant(0.2), x()))).toEqual([0, 0]);
  });

  test("6: whole numbers are shifted to the bit, though Mesa takes a float beyond 2²⁴ for another whole number", async () => {
    const numbers = [1, -5, -7, 65535, 70000, 123456789, -123456789, 2 ** 31 - 1];
    const [xs, ys] = [numbers.flatMap((x) => Array<number>(32).fill(x)), numbers.flatMap(() => [...Array(32).keys()])];
    const whole = (values: readonly number[]) => upload(device, Int32Array.from(values), [values.length], "int32");
    expect(await read(() => shiftLeft(whole(xs), whole(ys)))).toEqual(xs.map((x, i) => x << ys[i]!));
    expect(await read(() => shiftRight(whole(xs), whole(ys)))).toEqual(xs.map((x, i) => (x >>> ys[i]!) | 0));
  });

  test("7: kernels ran in the mode that was chosen", async () => {
    // every call checks it: it would have thrown
    expect(await read(() => mul(floats([3]), constant(2)))).toEqual([6]);
    expect(device.mode).toBe(mode);
    expect(device.about).toBe(`gpu: GPU.js, mode ${mode}`);
  });

  test("8: more arrays than a kernel may read are read by several", async () => {
    const all = () => Array.from({ length: 20 }, (_, i) => floats([2 ** i, i], [2]));
    expect(await read(() => all().reduce(add))).toEqual([2 ** 20 - 1, 190]);
    expect((await read(() => all().reduce((sum, x) => add(sum, mul(x, x)))))[1]).toBe(2470);
  });
});

const ranIn = (mode: string, fallbackReason: unknown) => ({ kernel: { constructor: { mode }, fallbackReason } }) as GpuKernel;

test("7: a kernel that fell back to another mode is an error, with GPU.js's reason", () => {
  expect(() => checkMode(ranIn("gpu", null), "webgl2")).not.toThrow();
  expect(() => checkMode(ranIn("webasm", null), "webasm")).not.toThrow();
  expect(() => checkMode(ranIn("cpu", null), "webgl2")).toThrow(DeviceError);
  expect(() => checkMode(ranIn("cpu", null), "webasm")).toThrow("a kernel ran in mode cpu instead of webasm");
  expect(() => checkMode(ranIn("webasm", "no SIMD"), "webasm")).toThrow("instead of webasm: no SIMD");
});

test("9: a setting that is not given is left out, where GPU.js would fail at `undefined`", () => {
  const settings = kernelSettings(
    { source: "function () { return 1; }", functions: ["sine"], args: [], count: 3 },
    functions as never,
  );
  expect(Object.entries(settings).filter(([, value]) => value === undefined)).toEqual([]);
  expect("constants" in settings || "constantTypes" in settings).toBe(false);
});

test.skipIf(!inBrowser)(
  "10: devices that were closed leave no WebGL context that would take the oldest one's place",
  async () => {
    using first = await createGpu({ mode: "webgl2" });
    useDevice(first);
    const x = upload(first, Float32Array.of(1, 2), [2], "float32");
    for (let i = 0; i < 20; i++) {
      const other = await createGpu({ mode: "webgl2" });
      useDevice(other);
      const y = upload(other, Float32Array.of(i), [1], "float32");
      expect(await download(add(y, constant(1)))).toEqual(Float32Array.of(i + 1));
      other[Symbol.dispose]();
    }
    useDevice(first);
    expect(await download(add(x, constant(1)))).toEqual(Float32Array.of(2, 3));
  },
);
