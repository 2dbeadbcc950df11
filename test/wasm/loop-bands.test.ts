/** Columns folded in bands of rows: the same bits as folded column by column, on any number of threads. */
import { afterAll, describe, expect, test } from "vitest";
import { inBandsOf, rowBlocksOf } from "../../src/devices/wasm/loop-bands.ts";
import { planLoop } from "../../src/devices/wasm/loop-plan.ts";
import { compile, createWasm, type Device, type DType, type Tensor, tensor, useDevice } from "../../src/index.ts";

const devices = [1, 3].map((threads) => createWasm({ threads }));
const [alone, together] = devices as [Device, Device];
const narrow = createWasm({ threads: 1, relaxedSimd: false });
afterAll(() => {
  for (const device of [...devices, narrow]) device[Symbol.dispose]();
});

const values = (count: number, dtype: DType, seed: number) =>
  Array.from({ length: count }, (_, i) => {
    const x = Math.sin((i + 1) * (seed + 0.7)) * 3;
    return dtype === "int32" ? Math.trunc(x * 1000) : dtype === "bool" ? Number(x > 2.99) : i % 4099 === 4098 ? Number.NaN : x;
  });

type Fold = (x: Tensor, y: Tensor, w: Tensor) => Tensor;
const folds: Record<string, Fold> = {
  sum: (x) => x.sum(0),
  "sum of products": (x, y) => x.mul(y).sum(0),
  "sum with a factor for each row": (x, y, w) => x.mul(y).mul(w).sum(0),
  "sum, then more": (x, y) => x.mul(y).sum(0).mul(0.5).add(1),
  maximum: (x) => x.max(0).values,
};

/** How many launches of a function go in bands. */
function bandsOf(fold: Fold, inputs: readonly [Tensor, Tensor, Tensor]): number {
  const call = compile(fold);
  call(...inputs).dispose();
  const { steps } = call.schedule()!;
  const found = steps.filter(
    ({ code, geometry }) =>
      "instructions" in code && inBandsOf(code, planLoop(code), geometry as Parameters<typeof inBandsOf>[2]),
  );
  call.dispose();
  return found.length;
}

describe.each([...devices, narrow])("on $about", (device) => {
  test.each(
    Object.entries(folds).flatMap(
      ([name, fold]) =>
      ([[16, 256], [43, 1030], [519, 261]] as const).map(([rows, columns]) => ({ name, fold, rows, columns })), // biome-ignore format: a table
    ),
  )("$name, [$rows, $columns]", ({ fold, rows, columns }) => {
    useDevice(device);
    const [x, y] = [1, 2].map((seed) => tensor(values(rows * columns, "float32", seed)).reshape([rows, columns])) as [
      Tensor,
      Tensor,
    ];
    const w = tensor(values(rows, "float32", 3)).reshape([rows, 1]);
    expect(bandsOf(fold, [x, y, w])).toBeGreaterThan(0);
    const whole = fold(x, y, w).toArray();
    const parts: unknown[] = [];
    for (let from = 0; from < columns; from += 200) {
      const part = (t: Tensor) => t.slice(":", `${from}:${Math.min(columns, from + 200)}`);
      const [a, b] = [part(x), part(y)];
      if (from === 0) expect(bandsOf(fold, [a, b, w])).toBe(0);
      parts.push(...(fold(a, b, w).toArray() as unknown[]));
    }
    expect(whole).toEqual(parts);
  });

  test.each(["int32", "bool", "float16"] as const)("%s", (dtype) => {
    useDevice(device);
    const x = tensor(values(70 * 301, dtype, 1), { dtype }).reshape([70, 301]);
    const fold = dtype === "bool" ? (t: Tensor) => t.any(0) : (t: Tensor) => t.sum(0);
    expect(bandsOf(fold, [x, x, x])).toBeGreaterThan(0);
    const parts = [0, 1].map((i) => fold(x.slice(":", i ? "150:" : ":150")).toArray() as unknown[]);
    expect(fold(x).toArray()).toEqual(parts.flat());
  });
});

describe("blocks of rows, each of which is one thread's work", () => {
  const several: Record<string, Fold> = {
    ...folds,
    mean: (x) => x.mean(0),
    "of one axis of three": (x) =>
      x
        .reshape([2, x.shape[0]! / 2, x.shape[1]!])
        .sum(1)
        .mul(2),
    "of a view": (x) => x.flip(0).sum(0),
  };
  test.each(
    Object.entries(several).flatMap(
      ([name, fold]) =>
      ([[512, 512], [1030, 290]] as const).map(([rows, columns]) => ({ name, fold, rows, columns })), // biome-ignore format: a table
    ),
  )("$name, [$rows, $columns]", ({ fold, rows, columns }) => {
    const results = [alone, together].map((device) => {
      useDevice(device);
      const [x, y] = [1, 2].map((seed) => tensor(values(rows * columns, "float32", seed)).reshape([rows, columns]));
      const inputs = [x!, y!, tensor(values(rows, "float32", 3)).reshape([rows, 1])] as const;
      const call = compile(fold);
      const result = call(...inputs);
      const cut = call.schedule()!.steps.filter(({ code, geometry }) => {
        const threads = device === alone ? 1 : 3;
        return (
          "instructions" in code && rowBlocksOf(code, planLoop(code), geometry as Parameters<typeof rowBlocksOf>[2], threads)
        );
      });
      const found = result.toArray();
      call.dispose();
      return { cut: cut.length, found };
    });
    expect(results[0]!.cut).toBe(0);
    // 256 rows are one block
    if (fold !== several["of one axis of three"] || rows > 512) expect(results[1]!.cut).toBeGreaterThan(0);
    expect(results[1]!.found).toEqual(results[0]!.found);
  });
});
