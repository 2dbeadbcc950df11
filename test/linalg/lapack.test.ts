/** Singular vectors with the signs that PyTorch finds on a CPU (lapack.py). */
import { describe, expect, it } from "vitest";
import "../../src/devices/choose.ts";
import { matrix, transposed } from "../../src/linalg/matrix.ts";
import { product } from "../../src/linalg/product.ts";
import { iterateQr } from "../../src/linalg/qr-iteration.ts";
import { svdMatrix } from "../../src/linalg/svd.ts";
import cases from "./lapack.json" with { type: "json" };

/** Largest difference from the identity. */
const offOrthonormal = (rows: ReturnType<typeof matrix>): number => {
  const gram = product(rows, transposed(rows));
  return Math.max(...gram.values.map((value, i) => Math.abs(value - (i % (gram.columns + 1) === 0 ? 1 : 0))));
};

describe.each(cases)("a matrix [$rows, $columns]", ({ rows, columns, values, first, at }) => {
  const A = matrix(rows, columns, Float64Array.from(values));
  const { U, S, Vt } = svdMatrix(A, true);

  it("has PyTorch's signs", () => {
    expect(at.map((row, j) => Math.sign(U.values[row * U.columns + j]!))).toEqual(first);
  });

  it("is the product of its factors, which are orthonormal", () => {
    const scaled = matrix(
      U.rows,
      U.columns,
      U.values.map((value, i) => value * S[i % U.columns]!),
    );
    for (const [i, value] of product(scaled, Vt).values.entries()) expect(value).toBeCloseTo(A.values[i]!, 5);
    expect(offOrthonormal(transposed(U))).toBeLessThan(1e-12);
    expect(offOrthonormal(Vt)).toBeLessThan(1e-12);
  });
});

it.each([1, 2, 3, 8])("QR iteration of %d rows and a column more finds what is taken to zero", (n) => {
  const d = Float64Array.from({ length: n }, (_, i) => 1 - 0.3 * i);
  const e = Float64Array.from({ length: n }, (_, i) => 0.2 + 0.1 * i);
  const B = matrix(n, n + 1);
  for (let i = 0; i < n; i++) {
    B.values[i * (n + 1) + i] = d[i]!;
    B.values[i * (n + 1) + i + 1] = e[i]!;
  }
  const { values, left, right } = iterateQr(d, e);
  const diagonal = product(product(left, B), transposed(right));
  for (const [at, value] of diagonal.values.entries()) {
    const [i, j] = [Math.floor(at / (n + 1)), at % (n + 1)];
    expect(value).toBeCloseTo(i === j ? values[i]! : 0, 5);
  }
  expect(values.every((value) => value >= 0)).toBe(true);
});
