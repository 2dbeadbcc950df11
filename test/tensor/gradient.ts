/** Central differences in float64, against which derivatives of composites are checked on the reference device. */
import { expect } from "vitest";
import { pullback } from "../../src/autograd/grad.ts";
import { currentDevice, downloadSync, upload } from "../../src/compile/program.ts";
import { mul } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { sum } from "../../src/tensor/statistics.ts";

export const float64 = (values: readonly number[], shape: readonly number[] = [values.length]): Tensor =>
  upload(currentDevice(), Float64Array.from(values), shape, "float64");

/** Uneven numbers, so that sums of cotangents do not hide mistakes. */
const weights = (y: Tensor): Tensor =>
  float64(
    Array.from({ length: y.size }, (_, i) => Math.cos(3 * i + 1)),
    y.shape,
  );

/** Checks first and second derivatives of `f` at `values`; the second through the derivative of Σ g·w. */
export function expectDerivative(
  f: (x: Tensor) => Tensor,
  values: readonly number[],
  shape?: readonly number[],
  tolerance = 1e-6,
): void {
  const weighted = (x: Tensor): Tensor => {
    const y = f(x);
    return sum(mul(y, weights(y)));
  };
  const gradient = (g: (x: Tensor) => Tensor, x: Tensor): Tensor => {
    const y = g(x);
    return (
      pullback([y], [float64([1], [])], [x])[0] ??
      float64(
        values.map(() => 0),
        shape,
      )
    );
  };
  const second = (x: Tensor): Tensor => {
    const g = gradient(weighted, x);
    return sum(mul(g, weights(g)));
  };
  for (const [order, g] of [weighted, second].entries()) {
    const exact = downloadSync(gradient(g, float64(values, shape)));
    values.forEach((value, i) => {
      const h = 1e-5 * Math.max(1, Math.abs(value));
      const at = (shift: number) =>
        downloadSync(
          g(
            float64(
              values.map((v, j) => (j === i ? v + shift : v)),
              shape,
            ),
          ),
        )[0]!;
      const numeric = (at(h) - at(-h)) / (2 * h);
      const error = Math.abs(exact[i]! - numeric);
      if (!(error <= tolerance * Math.max(1, Math.abs(numeric))))
        expect.fail(`derivative ${order + 1} by element ${i}: ${exact[i]}, central differences give ${numeric}`);
    });
  }
}
