/** A kernel that WebGPU takes for wrong is run before that is known, and writes nothing: reading says so instead of giving zeros. */
import { expect, test } from "vitest";
import type { GpuJs } from "../../src/devices/gpu/backend.ts";
import { binding, type Pass } from "../../src/devices/gpu/plan.ts";
import { createWebGpuBackend } from "../../src/devices/gpu/webgpu-backend.ts";
import { DeviceError } from "../../src/errors.ts";

const module = (await import("gpu.js")) as unknown as GpuJs & { default?: GpuJs };
const library = module.GPU ? module : module.default!;

test("a wrong kernel is an error of whoever reads, and of all that comes after", async () => {
  const backend = await createWebGpuBackend(library);
  const x = backend.upload(Float32Array.of(1, 2, 3));
  const twice: Pass = { source: "function (a) { return 2 * a[this.thread.x]; }", functions: [], args: [binding(0)], count: 3 };
  expect(Array.from(await backend.read(backend.run(twice, [x])[0]!))).toEqual([2, 4, 6]);
  const [wrong] = backend.run({ ...twice, wgsl: { code: "fn main() { nonsense }", workgroups: 1 } }, [x]);
  const error: unknown = await backend.read(wrong!).catch((caught: unknown) => caught);
  expect(error).toBeInstanceOf(DeviceError);
  expect(String(error)).toContain("WebGPU refuses a kernel");
  expect(String(error)).toContain("nonsense");
  expect(() => backend.upload(Float32Array.of(1))).toThrow("WebGPU refuses a kernel");
  await backend.destroy();
  // the next one starts afresh
  const again = await createWebGpuBackend(library);
  const y = again.upload(Float32Array.of(5));
  expect(Array.from(await again.read(again.run({ ...twice, count: 1 }, [y])[0]!))).toEqual([10]);
  await again.destroy();
});
