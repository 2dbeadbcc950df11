/** Sorting of long rows and sums of many rows by number, in sizes that the laws do not draw, on every variant of the gpu device. */
import { afterAll, describe, expect, test } from "vitest";
import { download, upload, useDevice } from "../../src/compile/program.ts";
import { argsort, scatterAdd } from "../../src/graph/indexing.ts";
import type { Variant } from "./devices.ts";
import { randomValues } from "./draw.ts";

const sizes = [
  { rows: 3, width: 40 },
  { rows: 2, width: 1024 },
  { rows: 2, width: 1025 },
  { rows: 1, width: 5000 },
];

/** Few different values, so that there are ties; NaN and infinities among floats. */
const valueAt = (seed: number, dtype: "float32" | "int32") => (x: number, i: number) => {
  const picked = Math.round(x * 300);
  if (dtype === "int32") return i % 97 === 0 ? (i % 2 ? -(2 ** 31) : 2 ** 31 - 1) : picked * 70_001 * ((seed % 2) + 1);
  return i % 101 === 0 ? Number.NaN : i % 97 === 0 ? Number.NEGATIVE_INFINITY : picked / 7;
};

/** The meaning of argsort, by JavaScript's own stable sort. */
function orderOf(values: ArrayLike<number>, rows: number, width: number, descending: boolean): number[] {
  const compare = (a: number, b: number): number => {
    if (a === b || (Number.isNaN(a) && Number.isNaN(b))) return 0;
    return Number.isNaN(a) || a > b ? 1 : -1;
  };
  return Array.from({ length: rows }, (_, row) => {
    const at = (i: number) => values[row * width + i]!;
    const places = Array.from({ length: width }, (_, i) => i);
    return places.sort((i, j) => (descending ? compare(at(j), at(i)) : compare(at(i), at(j))));
  }).flat();
}

/** Of long arrays a place says more than all their elements. */
const firstDifference = (got: ArrayLike<number>, want: ArrayLike<number>): number =>
  got.length === want.length ? Array.from(want).findIndex((value, i) => got[i] !== value) : want.length;

export function manyRowsOn(variants: readonly Variant[]): void {
  describe.each(variants)("$name", ({ open }) => {
    const opened = Promise.resolve(open());
    afterAll(async () => (await opened)[Symbol.dispose]());

    test.each(sizes)("the order of sorting of $rows rows of $width", async ({ rows, width }) => {
      const device = await opened;
      useDevice(device);
      for (const dtype of ["float32", "int32"] as const)
        for (const descending of [false, true]) {
          const drawn = randomValues([rows, width], [-1, 1], width).map(valueAt(width, dtype));
          const values = dtype === "int32" ? Int32Array.from(drawn) : Float32Array.from(drawn);
          const got = await download(argsort(upload(device, values, [rows, width], dtype), descending));
          expect(firstDifference(got, orderOf(values, rows, width, descending)), `${dtype}, ${descending}`).toBe(-1);
        }
    });

    test.each([
      { name: "few indices", count: 20, rows: 9 },
      { name: "many indices of few rows", count: 300, rows: 3 },
      { name: "rows that nobody picks", count: 200, rows: 1000 },
      { name: "more indices than are sorted by counting", count: 1100, rows: 50 },
    ])("sums of rows by number: $name", async ({ count, rows }) => {
      const device = await opened;
      useDevice(device);
      const width = 3;
      const index = Int32Array.from(randomValues([count], [0, rows], count), (x) => Math.min(rows - 1, Math.floor(x)));
      for (const dtype of ["float32", "int32"] as const) {
        // whole numbers, so that sums are exact in any order
        const drawn = randomValues([count, width], [-1000, 1000], rows).map((x) => Math.round(x) * (dtype === "int32" ? 1e6 : 1));
        const updates = dtype === "int32" ? Int32Array.from(drawn) : Float32Array.from(drawn);
        const want = dtype === "int32" ? new Int32Array(rows * width) : new Float32Array(rows * width);
        index.forEach((row, n) => {
          for (let c = 0; c < width; c++) want[row * width + c]! += updates[n * width + c]!;
        });
        const sums = scatterAdd(upload(device, index, [count], "int32"), upload(device, updates, [count, width], dtype), rows);
        expect(firstDifference(await download(sums), want), dtype).toBe(-1);
      }
    });
  });
}
