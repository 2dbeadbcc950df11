/** Rows of a table by index on the wasm device: copied and added to the bit, whatever their width, on any number of threads. */
import { afterAll, describe, expect, test } from "vitest";
import { createWasm, type DType, ShapeError, tensor, useDevice } from "../../src/index.ts";

const devices = [1, 3].map((threads) => createWasm({ threads }));
afterAll(() => {
  for (const device of devices) device[Symbol.dispose]();
});

/** Small whole numbers, which every dtype holds. */
const values = (count: number, modulus: number) => Array.from({ length: count }, (_, i) => ((i * 2654435761) >>> 7) % modulus);

describe.each(devices)("on $about", (device) => {
  test.each([
    ["float32", 5, 1, 40_000],
    ["float32", 50, 7, 6_000],
    ["float32", 300, 80, 500],
    ["float16", 9, 1, 30],
    ["bfloat16", 9, 13, 6_000],
    ["uint8", 40, 3, 50],
    ["uint8", 40, 31, 5_000],
    ["bool", 4, 18, 50],
    ["int32", 11, 4, 10_000],
  ] as const)("take of %s [%i, %i], %i rows", (dtype: DType, rows, width, count) => {
    useDevice(device);
    const [table, index] = [values(rows * width, dtype === "bool" ? 2 : 200), values(count, rows)];
    const x = tensor(table, { dtype }).reshape([rows, width]);
    const taken = Array.from(
      x
        .take(tensor(index, { dtype: "int32" }))
        .cast("float32")
        .dataSync(),
      Number,
    );
    expect(taken).toEqual(index.flatMap((row) => table.slice(row * width, (row + 1) * width)));
  });

  test.each([
    ["float32", 5, 1, 40_000],
    ["float32", 700, 9, 5_000],
    ["float32", 3, 250, 200],
    ["float32", 300, 64, 900],
    ["bfloat16", 30, 5, 50],
    ["int32", 4, 33, 2_000],
    ["int32", 100, 33, 2_000],
  ] as const)("scatterAdd into %s [%i, %i] of %i rows", (dtype: DType, rows, width, count) => {
    useDevice(device);
    const [updates, index] = [values(count * width, 8), values(count, rows)];
    const sums = new Array<number>(rows * width).fill(0);
    for (let i = 0; i < updates.length; i++) sums[index[Math.floor(i / width)]! * width + (i % width)]! += updates[i]!;
    const from = tensor(updates, { dtype }).reshape([count, width]);
    const to = tensor(new Array<number>(rows * width).fill(0), { dtype }).reshape([rows, width]);
    const added = to.indexAdd(tensor(index, { dtype: "int32" }), from, 0);
    expect(Array.from(added.cast("float32").dataSync(), Number)).toEqual(sums);
  });

  test("an index outside is an error before anything is read or written", () => {
    useDevice(device);
    const index = values(5_000, 20);
    index[4_321] = 20;
    const take = () =>
      tensor(values(20 * 16, 9))
        .reshape([20, 16])
        .take(tensor(index, { dtype: "int32" }))
        .dataSync();
    expect(take).toThrow(ShapeError);
    expect(take).toThrow("take: index 20 is outside a table of 20 rows.");
    index[4_321] = -1;
    expect(take).toThrow("take: index -1 is outside a table of 20 rows.");
  });
});

test("sums do not depend on the number of threads, to the bit", () => {
  const [rows, width, count] = [90, 37, 4_000];
  const [one, three] = devices.map((device) => {
    useDevice(device);
    const from = tensor(Array.from({ length: count * width }, (_, i) => Math.sin(i))).reshape([count, width]);
    const to = tensor(new Array<number>(rows * width).fill(0)).reshape([rows, width]);
    return to.indexAdd(tensor(values(count, rows), { dtype: "int32" }), from, 0).toArray();
  });
  expect(one).toEqual(three);
});
