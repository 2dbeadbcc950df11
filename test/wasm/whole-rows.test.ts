/** Rows that end with a whole step, one ahead of the other: the same bits as a row alone, on any number of threads. */
import { afterAll, describe, expect, test } from "vitest";
import { planLoop, wholeRowsOf } from "../../src/devices/wasm/loop-plan.ts";
import { arange, compile, createWasm, type Tensor, tensor, useDevice, zeros } from "../../src/index.ts";
import { layerNorm, rmsNorm } from "../../src/nn/norm.ts";

const devices = [1, 3].map((threads) => createWasm({ threads }));
const narrow = createWasm({ threads: 1, relaxedSimd: false });
afterAll(() => {
  for (const device of [...devices, narrow]) device[Symbol.dispose]();
});

type Rows = (x: Tensor, w: Tensor) => Tensor;
const kernels: Record<string, Rows> = {
  sum: (x) => x.sum(-1),
  "sum of products": (x, w) => x.mul(w).sum(-1),
  maximum: (x) => x.amax(-1),
  softmax: (x) => x.softmax(-1),
  "log of a sum": (x, w) => x.exp().add(w.exp()).sum(-1).log(),
  "RMS norm": (x, w) => rmsNorm(x, w),
  "layer norm": (x, w) => layerNorm(x, w, w),
  "half precision": (x, w) => rmsNorm(x.cast("bfloat16"), w.cast("bfloat16")).cast("float32"),
};

const values = (count: number, seed: number) => Array.from({ length: count }, (_, i) => Math.sin((i + 1) * (seed + 0.7)) * 3);
const bits = (x: Tensor) => new Uint32Array(new Float32Array([x.toArray()].flat(3) as number[]).buffer);

/** The way of the rows in each launch of a function. */
function ways(run: Rows, ...inputs: readonly [Tensor, Tensor]): (string | null)[] {
  const call = compile(run);
  call(...inputs).dispose();
  const counts = call
    .schedule()!
    .steps.flatMap(({ code, geometry }) =>
      "instructions" in code
        ? [wholeRowsOf(code, planLoop(code), geometry as Parameters<typeof wholeRowsOf>[2])?.order ?? null]
        : [],
    );
  call.dispose();
  return counts;
}

describe.each([...devices, narrow])("on $about", (device) => {
  test.each(Object.entries(kernels).flatMap(([name, run]) => [48, 256, 1024, 2048].map((columns) => ({ name, run, columns }))))(
    "$name, rows of $columns",
    ({ run, columns }) => {
      useDevice(device);
      const rows = 7;
      const data = values(rows * columns, 1);
      data[columns + 5] = Number.NaN;
      data[3 * columns + 1] = Number.POSITIVE_INFINITY;
      const [x, w] = [tensor(data).reshape([rows, columns]), tensor(values(columns, 2))];
      expect(ways(run, x, w)).toContainEqual(expect.any(String));
      const all = bits(run(x, w));
      for (let row = 0; row < rows; row++) {
        const one = x.slice(row);
        const expected = bits(run(one, w));
        expect(all.subarray(row * expected.length, (row + 1) * expected.length)).toEqual(expected);
      }
    },
  );
});

test("a pass that walks over no array counts its rounds", () => {
  const [rows, columns] = [5, 1024];
  const scales = values(rows, 3);
  // Σ over a row of its index times one number of the row
  const run: Rows = (x) => arange(columns).cast("float32").mul(x).sum(-1);
  for (const device of [...devices, narrow]) {
    useDevice(device);
    const x = tensor(scales).reshape([rows, 1]);
    expect(ways(run, x, x)).toEqual([expect.any(String)]);
    const sums = run(x, x).toArray() as number[];
    const expected = scales.map((scale) => (scale * columns * (columns - 1)) / 2);
    for (const [row, sum] of sums.entries()) expect(sum / expected[row]!).toBeCloseTo(1, 5);
  }
});

test("rows with a rest, or with sums so long that they go by blocks, take the general way", () => {
  useDevice(devices[0]!);
  const way = (run: Rows, columns: number) => ways(run, tensor(values(3 * columns, 1)).reshape([3, columns]), zeros([columns]));
  expect(way(kernels["RMS norm"]!, 1024)).toEqual(["ahead"]);
  expect(way(kernels["RMS norm"]!, 128)).toEqual(["twos"]);
  expect(way(kernels["softmax"]!, 256)).toEqual(["twos"]);
  expect(way(kernels["softmax"]!, 2048)).toEqual(["alone"]);
  for (const columns of [20, 255, 4097, 4112]) expect(way(kernels["sum"]!, columns)).toEqual([null]);
});
