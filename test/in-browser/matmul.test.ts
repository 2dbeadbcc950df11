/** The tuned matrix products of webgpu, webgl2 and webgl against the reference device: all transpositions, batches, starts, ragged edges. */
import { afterAll, describe, expect, test } from "vitest";
import { download, realize, releaseArena, upload, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createGpu, type GpuDevice } from "../../src/devices/gpu/index.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { add } from "../../src/graph/elementwise.ts";
import { take } from "../../src/graph/indexing.ts";
import { expand, permute, reshape, transpose } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { reduceMax, reduceSum } from "../../src/graph/reduction.ts";
import { sizeOf } from "../../src/graph/shape.ts";
import { softmax } from "../../src/tensor/statistics.ts";
import { onCard, variants } from "../arbitrary/devices.ts";
import { randomValues } from "../arbitrary/draw.ts";

/** Products are packed by kernels of GPU.js there, as they are in mode headlessgl. */
async function openWithoutDrawBuffers(): Promise<GpuDevice> {
  const { getExtension } = WebGLRenderingContext.prototype;
  WebGLRenderingContext.prototype.getExtension = function (this: WebGLRenderingContext, name: string) {
    return name === "WEBGL_draw_buffers" ? null : getExtension.call(this, name as "WEBGL_multi_draw");
  } as typeof getExtension;
  try {
    return await createGpu({ mode: "webgl" });
  } finally {
    WebGLRenderingContext.prototype.getExtension = getExtension;
  }
}

const opened = await Promise.all(
  [
    ...variants,
    onCard("webgl2"),
    { name: "gpu, webgl", open: () => createGpu({ mode: "webgl" }) },
    { name: "gpu, webgl without draw buffers", open: openWithoutDrawBuffers },
  ].map(async ({ name, open }) => ({ name, open, device: await open() })),
);
const reference = createReference();

const cases = [
  { name: "full tiles", batch: [], M: 64, K: 32, N: 64 },
  { name: "ragged edges", batch: [], M: 65, K: 19, N: 130 },
  { name: "few rows", batch: [], M: 9, K: 70, N: 33 },
  { name: "a batch", batch: [3], M: 17, K: 21, N: 18 },
  { name: "large tiles, for many workgroups", batch: [100], M: 65, K: 19, N: 66 },
  { name: "large tiles, for some workgroups", batch: [45], M: 68, K: 36, N: 40 },
  { name: "small tiles, for some workgroups", batch: [60], M: 40, K: 67, N: 38 },
  { name: "a vector, over threads that share out k", batch: [], M: 1, K: 300, N: 70 },
  { name: "an adapter's rank", batch: [], M: 68, K: 8, N: 6 },
  { name: "one row", batch: [2], M: 1, K: 12, N: 8 },
  { name: "two axes of batch", batch: [2, 3], M: 50, K: 16, N: 27 },
  { name: "heads beside each other, as attention has them", batch: [3, 2], M: 9, K: 10, N: 12, heads: true },
  { name: "a shared head", batch: [2, 3], M: 10, K: 8, N: 7, heads: true, shared: true },
  { name: "more matrices than fit below each other", batch: [2, 34], M: 260, K: 5, N: 4, heads: true },
];

/** Whether the operands lie transposed and what is added to, in four ways. */
const ways = [
  [false, false, false],
  [true, false, true],
  [false, true, false],
  [true, true, true],
] as const;

describe.each(opened)("$name", ({ name: deviceName, open, device }) => {
  afterAll(() => device[Symbol.dispose]());

  test.each(cases.map((given, i) => ({ ...given, i })))("$name", async ({ batch, M, K, N, heads = false, shared = false, i }) => {
    // a processor takes over a second to compile each of WebGPU's kernels for cards: the outer two ways and the inner two by turns
    const tried = deviceName === onCard("webgpu").name ? ways.filter((_, n) => (n % 3 === 0) === (i % 2 === 0)) : ways;
    for (const [left, right, start] of tried) {
      const build = (on: Device): Tensor => {
        const matrix = (rows: number, columns: number, seed: number): Tensor => {
          const [B, H] = [batch[0]!, shared && seed === 2 ? 1 : batch[1]!];
          const shape = heads ? [B, rows, H, columns] : [...batch, rows, columns];
          const x = upload(on, Float32Array.from(randomValues(shape, [-1, 1], seed)), shape, "float32");
          return heads ? expand(permute(x, [0, 2, 1, 3]), [...batch, rows, columns]) : x;
        };
        const a = left ? transpose(matrix(K, M, 1)) : matrix(M, K, 1);
        const b = right ? transpose(matrix(N, K, 2)) : matrix(K, N, 2);
        const y = matmul(a, b);
        return start ? add(y, matrix(M, N, 3)) : y;
      };
      useDevice(reference);
      const want = await download(build(reference));
      useDevice(device);
      const got = await download(build(device));
      expect(got.length).toBe(sizeOf([...batch, M, N]));
      const worst = Array.from(want, (value, i) => Math.abs(got[i]! - value)).reduce((most, error) => Math.max(most, error));
      expect(worst).toBeLessThan(K * 1e-6);
    }
  });

  test("an operand that stays is made ready once, and what was made of it goes with it", async () => {
    // of its own: on the shared one the collector frees meanwhile what earlier tests left
    using device = await open();
    useDevice(device);
    const handles = (): number => (device as GpuDevice).statistics.handles;
    const matrix = (rows: number, columns: number, seed: number): Tensor =>
      upload(device, Float32Array.from(randomValues([rows, columns], [-1, 1], seed)), [rows, columns], "float32");
    const product = async (weight: Tensor, seed: number): Promise<Float32Array> => {
      const x = matrix(12, 20, seed);
      const y = matmul(x, weight);
      const values = (await download(y)) as Float32Array;
      for (const tensor of [x, y]) tensor.dispose();
      releaseArena(device);
      return values;
    };
    const unused = matrix(20, 16, 9);
    await product(unused, 9); // makes what the device keeps
    unused.dispose();
    const before = handles();
    const weight = matrix(20, 16, 2);
    const first = await product(weight, 1);
    await product(weight, 3);
    const held = handles();
    expect(await product(weight, 1)).toEqual(first);
    await product(weight, 4);
    expect(handles()).toBe(held);
    const other = matrix(20, 16, 5);
    expect(await product(other, 1)).not.toEqual(first);
    for (const tensor of [weight, other]) tensor.dispose();
    expect(handles()).toBe(before);
  });

  // mode webgl leaves products as they are, and compiles what reads them for that
  test.each([
    { name: "whole fours of rows", batch: [], M: 20, N: 24 },
    { name: "rows that are no fours", batch: [], M: 9, N: 12 },
    { name: "a batch", batch: [3], M: 8, N: 16 },
    ...((device as GpuDevice).mode === "webgl" ? [{ name: "more than 2²¹ elements", batch: [], M: 1458, N: 1444 }] : []),
  ])("what reads a product: $name", async ({ batch, M, N }) => {
    const uploaded: Tensor[] = [];
    const build = (on: Device) => {
      const matrix = (rows: number, columns: number, seed: number): Tensor => {
        const shape = [...batch, rows, columns];
        uploaded.push(upload(on, Float32Array.from(randomValues(shape, [-1, 1], seed)), shape, "float32"));
        return uploaded.at(-1)!;
      };
      const y = matmul(matrix(M, 5, 1), matrix(5, N, 2));
      realize([y]);
      const rows = reshape(y, [-1, N]);
      const index = upload(on, Int32Array.from([M - 1, 0, 3, 2]), [4], "int32");
      uploaded.push(index);
      const small = M < 1000;
      return [
        y,
        add(y, matrix(1, N, 3)),
        reduceSum(y, [-1]),
        ...(small ? [softmax(y, -1), reduceMax(transpose(y), [-1])] : []),
        ...(small ? [matmul(transpose(y), matrix(M, 8, 4)), add(matmul(matrix(M, 6, 5), matrix(6, N, 6)), y)] : []),
        // by row and column, for which it is unpacked; then it lies in another way
        take(rows, index),
        reduceSum(y, [-1]),
      ];
    };
    const values = async (on: Device): Promise<ArrayLike<number>[]> => {
      useDevice(on);
      const read: ArrayLike<number>[] = [];
      const results = build(on);
      for (const tensor of results) read.push((await download(tensor)) as ArrayLike<number>);
      for (const tensor of [...results, ...uploaded.splice(0)]) tensor.dispose();
      return read;
    };
    const want = await values(reference);
    for (const [i, got] of (await values(device)).entries()) {
      expect(got.length).toBe(want[i]!.length);
      let worst = 0;
      for (let at = 0; at < got.length; at++) worst = Math.max(worst, Math.abs(got[at]! - want[i]![at]!));
      expect(worst, `result ${i}`).toBeLessThan(1e-6 * (M + N + 20));
    }
  });
});
