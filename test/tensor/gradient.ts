/** Central differences in float64, against which derivatives of composites are checked on the reference device. */
import { expect } from "vitest";
import { gradientError } from "../../src/autograd/finite-difference.ts";
import { vjp } from "../../src/autograd/grad.ts";
import { currentDevice, upload } from "../../src/compile/program.ts";
import type { Tensor } from "../../src/graph/node.ts";
import "../../src/tensor/methods.ts";

export const float64 = (values: readonly number[], shape: readonly number[] = [values.length]): Tensor =>
  upload(currentDevice(), Float64Array.from(values), shape, "float64");

/** Uneven numbers, so that sums of cotangents do not hide mistakes. */
const weights = (y: Tensor): Tensor =>
  float64(
    Array.from({ length: y.size }, (_, i) => Math.cos(3 * i + 1)),
    y.shape,
  );

/** Checks first and second derivatives of `f` at `values`; the second of Σ g·w, the derivative along a direction. */
export function expectDerivative(
  f: (x: Tensor) => Tensor,
  values: readonly number[],
  shape?: readonly number[],
  tolerance = 1e-6,
): void {
  const x = float64(values, shape);
  const slope = (x: Tensor): Tensor => vjp(f, x).pullback(weights(f(x)))[0]!;
  for (const [order, g] of [f, slope].entries())
    expect(gradientError(g, [x], [weights(x)], weights(g(x))).item(), `derivative ${order + 1}`).toBeLessThanOrEqual(tolerance);
}
