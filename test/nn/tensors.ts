/** Short ways to make tensors and to look into them. */
import { beforeAll, describe } from "vitest";
import { currentDevice, downloadSync, upload, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { type DType, dtypes } from "../../src/graph/dtype.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { sizeOf } from "../../src/graph/shape.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";

/** The numbers of nested lists, in the shape given. */
export function tensor(values: readonly number[], shape: readonly number[] = [values.length], dtype: DType = "float32"): Tensor {
  return upload(
    currentDevice(),
    new dtypes[dtype].array(values.length).map((_, i) => values[i]!),
    shape,
    dtype,
  );
}

export const integers = (values: readonly number[], shape?: readonly number[]): Tensor => tensor(values, shape, "int32");

/** Standard normal values; the same for the same seed and shape. */
export const randn = (shape: readonly number[], seed = 1): Tensor =>
  upload(currentDevice(), new TorchGenerator(seed).normal(sizeOf(shape), 0, 1), shape, "float32");

export const values = (x: Tensor): number[] => [...downloadSync(x)];

/** The largest difference, relative to the largest value or 1. */
export function distance(a: Tensor, b: Tensor): number {
  const [x, y] = [values(a), values(b)];
  if (String(a.shape) !== String(b.shape)) return Number.POSITIVE_INFINITY;
  const most = (list: readonly number[]) => list.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  return most(x.map((value, i) => value - y[i]!)) / Math.max(1, most(y));
}

/** A block of tests on the reference device. */
export function onReference(name: string, body: () => void): void {
  describe(name, () => {
    beforeAll(() => {
      useDevice(createReference());
    });
    body();
  });
}
