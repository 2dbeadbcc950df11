/** What a mode can hold, index and read at once is known before anything runs. Limits of a few floats stand for those of a graphics card. */
import { afterEach, expect, test } from "vitest";
import "../../src/tensor/methods.ts";
import { downloadSync, realize, upload, useDevice } from "../../src/compile/program.ts";
import { createArrayBackend } from "../../src/devices/gpu/array-backend.ts";
import type { Backend, GpuJs } from "../../src/devices/gpu/backend.ts";
import { GpuDevice } from "../../src/devices/gpu/device.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { DeviceError } from "../../src/errors.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { add, exp, mul, where } from "../../src/graph/elementwise.ts";
import { take } from "../../src/graph/indexing.ts";
import { transpose } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";

const library = (await import("gpu.js")) as unknown as GpuJs;

/** Mode cpu as if it had these limits. */
function open(limits: Partial<Pick<Backend, "limit" | "exact" | "inputs">>): GpuDevice {
  const backend = Object.create(createArrayBackend(library, "cpu")) as Backend;
  for (const [name, value] of Object.entries(limits)) Object.defineProperty(backend, name, { value });
  const device = new GpuDevice(backend, "with small limits");
  useDevice(device);
  return device;
}
afterEach(() => void useDevice(createReference()));

const counted = (device: GpuDevice, shape: readonly number[]): Tensor => {
  const size = shape.reduce((a, b) => a * b, 1);
  return upload(
    device,
    Float32Array.from({ length: size }, (_, i) => i),
    shape,
    "float32",
  );
};

test("a value that one array cannot hold is refused, when it is uploaded and before it is computed", () => {
  using device = open({ limit: 100 });
  expect(() => counted(device, [101])).toThrow("upload: a value takes 101 floats, mode cpu of the gpu device holds 100");
  // an int32 takes two
  expect(() => upload(device, new Int32Array(51), [51], "int32")).toThrow("takes 102 floats");
  const x = counted(device, [20, 1]);
  const { kernels } = device.statistics;
  const first = exp(x);
  expect(() => realize([first, mul(matmul(x, transpose(x)), matmul(x, transpose(x)))])).toThrow(DeviceError);
  expect(first.storage).toBeNull();
  expect(device.statistics.kernels).toBe(kernels);
});

test("a value whose elements kernels cannot tell apart is refused, but for tables that are read by row", () => {
  using device = open({ exact: 50 });
  const table = counted(device, [20, 3]);
  const index = upload(device, Int32Array.of(19, 0), [2], "int32");
  expect([...downloadSync(take(table, index))]).toEqual([57, 58, 59, 0, 1, 2]);
  const { kernels } = device.statistics;
  for (const large of [add(table, table), matmul(counted(device, [1, 3]), transpose(table))])
    expect(() => realize([large])).toThrow(
      "a value takes 60 floats, of which kernels in mode cpu of the gpu device can tell 50 apart",
    );
  expect(device.statistics.kernels).toBe(kernels);
  // part of it is near enough to its start
  expect([...downloadSync(add(table.slice("0:2"), table.slice("0:2")))]).toEqual([0, 2, 4, 6, 8, 10]);
});

test("kernels that would read more arrays than one may are split", () => {
  using device = open({ inputs: 2 });
  const parts = Array.from({ length: 7 }, () => counted(device, [5]));
  const sum = parts.reduce((all, part, i) => add(all, i % 2 ? exp(mul(part, all)) : part));
  using plain = open({});
  const same = Array.from({ length: 7 }, () => counted(plain, [5]));
  const wanted = same.reduce((all, part, i) => add(all, i % 2 ? exp(mul(part, all)) : part));
  expect(downloadSync(sum)).toEqual(downloadSync(wanted));
  expect(device.statistics.kernels).toBeGreaterThan(plain.statistics.kernels);
});

test("one operation that reads more arrays than a kernel may is refused in words", () => {
  using device = open({ inputs: 2 });
  const chosen = where(counted(device, [5]).cast("bool"), counted(device, [5]), counted(device, [5]));
  expect(() => realize([chosen])).toThrow(DeviceError);
  expect(() => realize([chosen])).toThrow("gpu: a kernel would read 3 arrays, and one may read 2 here.");
  expect(chosen.storage).toBeNull();
});
