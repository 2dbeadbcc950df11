/** Kernels that make room for others leave nothing behind on the card, and what they computed stays as it was. */
import { expect, test } from "vitest";
import { download, upload, useDevice } from "../../src/compile/program.ts";
import type { Backend, GpuJs } from "../../src/devices/gpu/backend.ts";
import { GpuDevice } from "../../src/devices/gpu/device.ts";
import { createGlBackend } from "../../src/devices/gpu/gl-backend.ts";
import { binding, type Pass } from "../../src/devices/gpu/plan.ts";
import { createWebGpuBackend } from "../../src/devices/gpu/webgpu-backend.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { exp } from "../../src/graph/elementwise.ts";
import { reduceSum } from "../../src/graph/reduction.ts";
import { watchGraphics } from "./graphics.ts";

const module = (await import("gpu.js")) as unknown as GpuJs & { default?: GpuJs };
const library = module.GPU ? module : module.default!;

const modes = ["webgl2", "webgl", "webgpu"] as const;
/** So few that nearly every kernel has gone when it is asked for again. */
const kept = { most: 4, mostOfAll: 4 };
const open = async (mode: (typeof modes)[number]): Promise<Backend> =>
  mode === "webgpu" ? createWebGpuBackend(library, undefined, kept) : createGlBackend(library, mode, undefined, kept);

test.each(modes)("values outlive the kernels that made them, on %s", async (mode) => {
  using graphics = watchGraphics(mode);
  const backend = await open(mode);
  const times = (factor: number): Pass => ({
    source: `function (a) { return ${factor} * a[this.thread.x]; }`,
    functions: [],
    args: [binding(0)],
    count: 3,
  });
  const ones = backend.upload(Float32Array.of(1, 2, 3));
  const tens = backend.upload(Float32Array.of(10, 20, 30));
  // three runs of one kernel: GPU.js treats the first result, the last one and those between in different ways
  const twice = times(2);
  const values = [ones, tens, ones].map((given) => backend.run(twice, [given])[0]!);
  const evict = async (): Promise<void> => {
    for (let i = 3; i < 3 + 3 * kept.most; i++) backend.free(backend.run(times(i), [ones])[0]!);
    await backend.read(ones); // all that was begun is done
  };
  await evict();
  expect(backend.statistics).toMatchObject({ kernels: kept.most, compilations: 1 + 3 * kept.most, handles: 5 });
  const before = graphics.living();
  for (const [i, expected] of [
    [2, 4, 6],
    [20, 40, 60],
    [2, 4, 6],
  ].entries())
    expect(Array.from(await backend.read(values[i]!)), `value ${i}`).toEqual(expected);
  // and are no less readable by kernels
  const sum = backend.run(times(7), [values[0]!])[0]!;
  expect(Array.from(await backend.read(sum))).toEqual([14, 28, 42]);
  for (const value of [...values, sum]) backend.free(value);
  await evict();
  const after = graphics.living();
  // WebGPU keeps the buffers for others
  if (mode !== "webgpu") expect(after["Texture"]).toBe(before["Texture"]! - values.length);
  // as many kernels live as before, and one more sum
  expect({ ...after, Texture: 0, Buffer: 0 }).toEqual({ ...before, Texture: 0, Buffer: 0 });
  expect(after["Buffer"]).toBeLessThanOrEqual(before["Buffer"]! + 1);
  await backend.destroy();
});

test.each(modes)("many shapes, one after the other and again, take no more of the card, on %s", async (mode) => {
  using graphics = watchGraphics(mode);
  const device = new GpuDevice(await open(mode), `gpu: mode ${mode}, few kernels`);
  useDevice(device);
  const round = async (): Promise<void> => {
    for (let n = 5; n < 13; n++) {
      const values = Float32Array.from({ length: n * n }, (_, i) => (i % 7) / 8);
      const x = upload(device, values, [n, n], "float32");
      const row = reduceSum(exp(matmul(x, x)), [1]);
      const [first] = await download(row);
      const line = (i: number, j: number) => values[n * i + j]!;
      let right = 0;
      for (let j = 0; j < n; j++) {
        let product = 0;
        for (let k = 0; k < n; k++) product += line(0, k) * line(k, j);
        right += Math.exp(product);
      }
      expect(Math.abs(first! / right - 1), `${n} rows`).toBeLessThan(1e-4);
      row.dispose();
      x.dispose();
    }
  };
  for (let i = 0; i < 2; i++) await round();
  const [statistics, living] = [device.statistics, graphics.living()];
  for (let i = 0; i < 3; i++) await round();
  const { compilations, ...others } = statistics;
  expect(device.statistics).toMatchObject(others);
  expect(device.statistics.compilations).toBeGreaterThan(compilations + 3 * 8);
  expect(graphics.living()).toEqual(living);
  device[Symbol.dispose]();
});
