import fc from "fast-check";
import { expect, test } from "vitest";
import { pullback } from "../../src/autograd/grad.ts";
import { downloadSync, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { inverse, solve, solveMatrix } from "../../src/linalg/solve.ts";
import { tensor } from "../../src/tensor/create.ts";
import "../../src/tensor/methods.ts";
import { expectDerivative, float64 } from "../tensor/gradient.ts";
import { distance, filled, matrices, noise, product } from "./matrices.ts";

useDevice(createReference());

test("A·A⁻¹ is the identity, whatever rows have to be exchanged", () => {
  fc.assert(
    fc.property(
      matrices(10, ["dense"]).filter(({ rows, columns }) => rows === columns),
      (A) => {
        const values = downloadSync(inverse(float64([...A.values], [A.rows, A.rows]))) as Float64Array;
        const size = Math.hypot(...values) * Math.hypot(...A.values);
        expect(distance(product(A, { ...A, values }), "identity")).toBeLessThanOrEqual(1e-13 * size);
      },
    ),
    { numRuns: 50 },
  );
  const [next, n] = [noise(2), 75];
  const A = filled(n, n, next);
  const X = solveMatrix(
    "solve",
    A,
    filled(n, 3, (i, j) => i - j),
  );
  expect(
    distance(
      product(A, X),
      filled(n, 3, (i, j) => i - j),
    ),
  ).toBeLessThan(1e-10);
  expect(
    inverse(
      tensor([
        [0, 1],
        [2, 0],
      ]),
    ).toArray(),
  ).toEqual([
    [0, 0.5],
    [1, 0],
  ]);
});

test("solves several systems at once", () => {
  const A = tensor([
    [
      [0, 2],
      [1, 0],
    ],
    [
      [1, 1],
      [0, 4],
    ],
  ]);
  const B = tensor([
    [[2], [3]],
    [[3], [8]],
  ]);
  expect(solve(A, B).toArray()).toEqual([
    [[3], [1]],
    [[1], [2]],
  ]);
});

test("have first and second derivatives", () => {
  const next = noise(5);
  const values = Array.from({ length: 8 }, (_, i) => next() + ([0, 3, 4, 7].includes(i) ? 2 : 0));
  expectDerivative(inverse, values, [2, 2, 2], 1e-5);
  const B = float64(
    Array.from({ length: 8 }, (_, i) => i - 3),
    [2, 2, 2],
  );
  expectDerivative((x) => solve(x, B), values, [2, 2, 2], 1e-5);
  expectDerivative((x) => solve(B.add(float64(values, [2, 2, 2])), x), values, [2, 2, 2], 1e-5);
});

test("the derivative is that of the product with the inverse", () => {
  const A = float64([2, 1, 0, 3], [2, 2]);
  const B = float64([1, 2], [2, 1]);
  const g = float64([1, -1], [2, 1]);
  const [direct] = pullback([solve(A, B)], [g], [A]);
  const [composed] = pullback([matmul(inverse(A), B)], [g], [A]);
  downloadSync(direct!).forEach((value, i) => {
    expect(value).toBeCloseTo(downloadSync(composed!)[i]!, 12);
  });
});

test("say what does not fit", () => {
  expect(() => inverse(tensor([[1, 2]]))).toThrow("inverse: needs a square matrix, got [1, 2].");
  expect(() =>
    inverse(
      tensor([
        [1, 2],
        [2, 4],
      ]),
    ),
  ).toThrow("inverse: the matrix [2, 2] is singular. Use pinv, or add to its diagonal.");
  expect(() => solve(tensor([[1]]), tensor([1]))).toThrow("solve: needs B with as many rows as A [1, 1], got [1].");
  expect(() => solve(tensor([[Number.NaN]]), tensor([[1]]))).toThrow("solve: entry [0, 0] of the matrix [1, 1] is NaN.");
});
