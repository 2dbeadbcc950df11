/** Short ways to make tensors and to look into them. */
import { beforeAll, describe } from "vitest";
import { grad } from "../../src/autograd/grad.ts";
import { currentDevice, downloadSync, upload, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { type DType, dtypes } from "../../src/graph/dtype.ts";
import { mul } from "../../src/graph/elementwise.ts";
import { reshape } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { reduceSum } from "../../src/graph/reduction.ts";
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

/**
 * Compares the gradient of Σ f(inputs)·c, with fixed c, to central differences in float64; for the reference device.
 * @returns the largest difference relative to the largest entry of that gradient or 1
 */
export function gradientError(f: (...inputs: Tensor[]) => Tensor, shapes: readonly (readonly number[])[], step = 1e-5): number {
  const numbers = shapes.map((shape, i) => new TorchGenerator(11 + i).randn64(sizeOf(shape)));
  const inputs = () => numbers.map((list, i) => upload(currentDevice(), list, shapes[i]!, "float64"));
  const weighted = (...xs: Tensor[]): Tensor => {
    const y = f(...xs);
    const c = upload(currentDevice(), new TorchGenerator(5).randn64(y.size), y.shape, "float64");
    return reshape(reduceSum(mul(y, c), [...y.shape.keys()]), []);
  };
  const gradients = grad(weighted)(...inputs());
  let worst = 0;
  numbers.forEach((list, i) => {
    const got = values(gradients[i]!);
    const most = Math.max(1, ...got.map(Math.abs));
    list.forEach((value, j) => {
      const at = (x: number) => {
        list[j] = x;
        return values(weighted(...inputs()))[0]!;
      };
      const slope = (at(value + step) - at(value - step)) / (2 * step);
      list[j] = value;
      worst = Math.max(worst, Math.abs(slope - got[j]!) / most);
    });
  });
  return worst;
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
