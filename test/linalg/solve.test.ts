import fc from "fast-check";
import { expect, test } from "vitest";
import { pullback } from "../../src/autograd/grad.ts";
import { downloadSync, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { matmul } from "../../src/graph/contraction.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { det, inverse, slogdet, solve, solveMatrix } from "../../src/linalg/solve.ts";
import { cholesky, solveTriangular } from "../../src/linalg/triangular.ts";
import { eye, tensor } from "../../src/tensor/create.ts";
import { diagonal, triu } from "../../src/tensor/functions.ts";
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

test("Cholesky factors, triangles and determinants of any size are what they are defined by, with two derivatives", () => {
  const next = noise(8);
  for (const n of [1, 3, 33, 70]) {
    const X = float64(Array.from({ length: 2 * n * n }, next), [2, n, n]);
    const A = X.matmul(X.transpose())
      .add(float64([n], []))
      .add(eye(n));
    const L = cholesky(A);
    expect(L.matmul(L.transpose()).sub(A).abs().max().item()).toBeLessThan(1e-10 * n);
    expect(triu(L, 1).abs().max().item()).toBe(0);
    const B = X.slice(":, :, :2");
    expect(L.matmul(solveTriangular(L, B)).sub(B).abs().max().item()).toBeLessThan(1e-10);
    const U = L.transpose();
    expect(
      U.matmul(solveTriangular(U, B, { upper: true }))
        .sub(B)
        .abs()
        .max()
        .item(),
    ).toBeLessThan(1e-10);
    const { sign, logAbsDet } = slogdet(A);
    expect(sign.toArray()).toEqual([1, 1]);
    const logarithm = diagonal(L, 0, 1, 2).log().sum(1).mul(2);
    expect(logAbsDet.sub(logarithm).abs().max().item()).toBeLessThan(1e-10 * n);
  }
  const [turned, singular] = det(float64([0, 2, 3, 0, 1, 2, 2, 4], [2, 2, 2])).toArray() as number[];
  expect(turned).toBeCloseTo(-6, 12);
  expect(singular).toBe(0);
  const values = [4, 1, 0.5, 1, 5, -1, 0.5, -1, 3];
  const symmetric = (x: Tensor) => x.add(x.transpose());
  expectDerivative((x) => cholesky(symmetric(x)), values, [3, 3], 1e-5);
  expectDerivative((x) => slogdet(x).logAbsDet, values, [3, 3], 1e-5);
  expectDerivative((x) => det(x.reshape([1, 3, 3])), values, [3, 3], 1e-5);
  const B = float64([1, 2, 3, 4, 5, 6], [3, 2]);
  for (const upper of [false, true]) {
    expectDerivative((x) => solveTriangular(x, B, { upper }), values, [3, 3], 1e-5);
    expectDerivative((x) => solveTriangular(float64(values, [3, 3]), x, { upper }), [1, 2, 3, 4, 5, 6], [3, 2], 1e-5);
  }
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
  expect(() => cholesky(tensor([1, 2, 2, 1], { shape: [2, 2] }))).toThrow(
    "cholesky: the matrix [2, 2] is not positive definite: its leading 2 rows are not. Add to its diagonal.",
  );
  expect(() => solveTriangular(tensor([[0]]), tensor([[1]]))).toThrow("solveTriangular: the matrix [1, 1] is singular: row 0");
  expect(() => det(tensor([1]))).toThrow("det: needs a square matrix, got [1].");
  expect(() => solve(tensor([[Number.NaN]]), tensor([[1]]))).toThrow("solve: entry [0, 0] of the matrix [1, 1] is NaN.");
});
