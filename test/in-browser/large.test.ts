/** Tables of more than 2²⁴ floats, which float indices cannot tell apart: rows are taken and products made from their very ends. */
import { describe, expect, test } from "vitest";
import { download, realize, upload, useDevice } from "../../src/compile/program.ts";
import { devices } from "../../src/devices/choose.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { mul, sub } from "../../src/graph/elementwise.ts";
import { cumulativeSum, take } from "../../src/graph/indexing.ts";
import { transpose } from "../../src/graph/movement.ts";

const [rows, width] = [49_153, 576]; // 28 million
const few = [0, 1, 29_127, 29_128, 40_001, rows - 2, rows - 1];
/** Its 24 bits differ in every element of a row and in neighbouring rows. */
const value = (row: number, column: number): number => (((row * 7919 + column * 104_729) % 8191) - 4095) / 4096;

describe.each(["webgpu", "webgl2"] as const)("mode %s", (mode) => {
  test("rows of a large table and products with it", async () => {
    const device = await devices.gpu({ mode });
    useDevice(device);
    const values = new Float32Array(rows * width);
    for (let row = 0, i = 0; row < rows; row++) for (let column = 0; column < width; column++) values[i++] = value(row, column);
    const table = upload(device, values, [rows, width], "float32");
    const index = upload(device, Int32Array.from(few), [few.length], "int32");
    const taken = await download(take(table, index));
    few.forEach((row, n) => {
      for (let column = 0; column < width; column++)
        if (taken[n * width + column] !== value(row, column))
          throw new Error(`row ${row}, column ${column}: ${taken[n * width + column]} instead of ${value(row, column)}`);
    });

    // the head of a model that shares the table, and its derivative
    const M = 16;
    const x = Float32Array.from({ length: M * width }, (_, i) => ((i % 13) - 6) / 8);
    const logits = await download(matmul(upload(device, x, [M, width], "float32"), transpose(table)));
    for (const row of few)
      for (const m of [0, M - 1]) {
        let sum = 0;
        for (let k = 0; k < width; k++) sum += x[m * width + k]! * value(row, k);
        expect(Math.abs(logits[m * rows + row]! - sum)).toBeLessThan(1e-3);
      }
    const dLogits = new Float32Array(M * rows);
    for (const row of few) for (let m = 0; m < M; m++) dLogits[m * rows + row] = (row % 7) - m / 4 + 1;
    const dx = await download(matmul(upload(device, dLogits, [M, rows], "float32"), table));
    for (const m of [0, M - 1])
      for (const column of [0, 1, width - 1]) {
        const sum = few.reduce((all, row) => all + dLogits[m * rows + row]! * value(row, column), 0);
        expect(Math.abs(dx[m * width + column]! - sum)).toBeLessThan(1e-3);
      }
    if (mode === "webgl2")
      expect(() => realize([sub(table, mul(table, table))])).toThrow(`kernels in mode webgl2 of the gpu device`);
    table.dispose();
    device[Symbol.dispose]();
  });
});

test("mode webgl2 finds the rows of nine million elements", async () => {
  const device = await devices.gpu({ mode: "webgl2" });
  useDevice(device);
  const [count, long] = [150, 60_001];
  const ones = upload(device, new Float32Array(count * long).fill(1), [count, long], "float32");
  const sums = await download(cumulativeSum(ones));
  for (let row = 0; row < count; row++)
    for (const column of [0, 1, 2, long - 2, long - 1])
      if (sums[row * long + column] !== column + 1)
        throw new Error(`row ${row}, column ${column}: ${sums[row * long + column]} instead of ${column + 1}`);
  device[Symbol.dispose]();
});
