/** The gpu device in the modes that run everywhere: memory, limits, and what is refused. */
import { describe, expect, test } from "vitest";
import { pullback } from "../../src/autograd/grad.ts";
import { downloadSync, realize, releaseArena, upload, useDevice } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { createGpu, type GpuDevice } from "../../src/devices/gpu/index.ts";
import { DTypeError, ShapeError } from "../../src/errors.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { add, cast, mul, shiftRight, sub, tanh } from "../../src/graph/elementwise.ts";
import { take } from "../../src/graph/indexing.ts";
import { reduceMax, reduceSum } from "../../src/graph/reduction.ts";
import { constant } from "../../src/graph/source.ts";
import { Variable } from "../../src/graph/variable.ts";
import { threefry2x32 } from "../../src/random/threefry.ts";
import { bits, key } from "../../src/tensor/random.ts";

const floats = (device: GpuDevice, values: readonly number[], shape: readonly number[]) =>
  upload(device, Float32Array.from(values), shape, "float32");

describe.each(["cpu", "webasm"] as const)("mode %s", (mode) => {
  const open = async (): Promise<GpuDevice> => {
    const device = await createGpu({ mode });
    useDevice(device);
    return device;
  };

  test("a long training run takes no more memory and no more kernels than its first steps", async () => {
    using device = await open();
    const weight = new Variable(floats(device, [0, 0, 0, 0], [4, 1]));
    const x = floats(device, [1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1], [3, 4]);
    const y = floats(device, [1, 2, 3], [3, 1]);
    const step = compile(() => {
      const error = sub(matmul(x, weight.value), y);
      const loss = reduceSum(mul(error, error), [0, 1]);
      const [gradient] = pullback([loss], [constant(1, loss.shape)], [weight.value]);
      weight.assign(sub(weight.value, mul(gradient!, constant(0.1))));
      return loss;
    });
    const run = (steps: number): number => {
      let loss = 0;
      for (let i = 0; i < steps; i++) {
        const result = step();
        loss = downloadSync(result)[0]!;
        result.dispose();
      }
      return loss;
    };
    const first = run(2);
    const before = device.statistics;
    expect(run(10_000)).toBeLessThan(first * 1e-2);
    expect(device.statistics).toEqual(before);
  });

  test("plans are kept for sizes that come back, and are others for other sizes", async () => {
    using device = await open();
    const bound: { plan: { passes: readonly { count: number }[] } }[] = [];
    const { bind } = device;
    device.bind = (...args) => {
      const launch = bind.apply(device, args);
      bound.push(launch);
      return launch;
    };
    const values = [3, 5, 3, 5].map((length) => {
      const x = floats(
        device,
        Array.from({ length }, (_, i) => i),
        [length],
      );
      return Array.from(downloadSync(add(mul(x, x), constant(1))));
    });
    expect(values).toEqual([
      [1, 2, 5],
      [1, 2, 5, 10, 17],
      [1, 2, 5],
      [1, 2, 5, 10, 17],
    ]);
    const plans = bound.map(({ plan }) => plan);
    expect(plans.map(({ passes }) => passes[0]!.count)).toEqual([3, 5, 3, 5]);
    expect(plans[2]).toBe(plans[0]);
    expect(plans[3]).toBe(plans[1]);
    expect(plans[1]).not.toBe(plans[0]);
    // sizes that never come back are not kept for ever
    for (let length = 6; length < 30; length++)
      downloadSync(add(mul(floats(device, new Array(length).fill(1), [length]), constant(1)), constant(1)));
    for (const { plans } of (
      device as unknown as { executables: Map<string, { plans: Map<string, unknown> }> }
    ).executables.values())
      expect(plans.size).toBeLessThanOrEqual(16);
  });

  test("what is disposed is freed", async () => {
    using device = await open();
    const x = floats(device, [1, 2, 3], [3]);
    realize([add(x, x)]); // makes what the device keeps
    releaseArena(device);
    const before = device.statistics.handles;
    const y = mul(x, x);
    realize([y]);
    y.dispose();
    releaseArena(device);
    expect(device.statistics.handles).toBe(before);
  });

  test("int32 is exact in all of its 32 bits", async () => {
    using device = await open();
    const values = Int32Array.of(2 ** 31 - 1, -(2 ** 31), 123456789, -987654321, -1);
    const x = upload(device, values, [5], "int32");
    expect(downloadSync(x)).toEqual(values);
    expect(downloadSync(mul(x, x))).toEqual(values.map((v) => Math.imul(v, v)));
    expect(downloadSync(shiftRight(x, constant(3, [], "int32")))).toEqual(values.map((v) => v >>> 3));
    expect(downloadSync(cast(x, "float32"))).toEqual(Float32Array.from(values));
  });

  test("random bits are those of every device", async () => {
    using _ = await open();
    const expected = Array.from({ length: 8 }, (_, i) => {
      const [x, y] = threefry2x32(0, 42, 0, i);
      return x ^ y;
    });
    expect([...downloadSync(bits(key(42), [8]))]).toEqual(expected);
  });

  test("an index outside is an error", async () => {
    using device = await open();
    const table = floats(device, [1, 2], [2, 1]);
    const index = upload(device, Int32Array.of(0, 2), [2], "int32");
    expect(() => realize([take(table, index)])).toThrow(ShapeError);
    expect(() => realize([take(table, index)])).toThrow("index 2 is outside a table of 2 rows");
  });

  test("infinities and NaN pass", async () => {
    using device = await open();
    const x = floats(device, [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN, 0], [4]);
    const low = constant(Number.NEGATIVE_INFINITY);
    expect([...downloadSync(add(x, constant(1)))]).toEqual([Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN, 1]);
    expect([...downloadSync(mul(low, constant(2)))]).toEqual([Number.NEGATIVE_INFINITY]);
  });

  test("float64 is refused", async () => {
    using device = await open();
    expect(() => upload(device, Float64Array.of(1), [1], "float64")).toThrow(DTypeError);
  });
});

test("an unknown mode is refused with the names of all", async () => {
  await expect(createGpu({ mode: "webgpu2" as "webgpu" })).rejects.toThrow(
    "There are webgpu, webgl2, webgl, headlessgl, webasm, cpu.",
  );
});

test("the largest element is found again by another kernel that computes it anew: its gradient was NaN once", async () => {
  using device = await createGpu({ mode: "cpu" });
  const x = floats(device, [0.1, 0.7, 0.3, 0.2, -0.4, 0.9], [2, 3]);
  const y = mul(tanh(x), constant(0.37));
  const [gradient] = pullback([reduceMax(y, [1])], [constant(1, [2, 1])], [x]);
  expect([...downloadSync(gradient!)].map((g) => g !== 0)).toEqual([false, true, false, false, false, true]);
});
