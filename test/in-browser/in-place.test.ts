/** What a compiled function assigns is written over the old value on webgpu, where nobody else refers to that; and a step that comes again makes nothing anew. */
import { afterAll, describe, expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createGpu } from "../../src/devices/gpu/index.ts";
import { compile, fromTypedArray, type Tensor, Variable } from "../../src/index.ts";
import { AdamW, gradientsOf } from "../../src/optim/index.ts";
import { randomValues } from "../arbitrary/draw.ts";

const filled = (shape: readonly number[], seed: number) =>
  fromTypedArray(Float32Array.from(randomValues(shape, [-1, 1], seed)), shape);

/** GPUBufferUsage.STORAGE. */
const storage = 128;

/** Counts what is made while `body` runs. */
async function countMade(body: () => Promise<unknown>): Promise<{ groups: number; buffers: number }> {
  const made = { groups: 0, buffers: 0 };
  const { createBindGroup, createBuffer } = GPUDevice.prototype;
  GPUDevice.prototype.createBindGroup = function (given) {
    made.groups++;
    return createBindGroup.call(this, given);
  };
  GPUDevice.prototype.createBuffer = function (this: GPUDevice, given: GPUBufferDescriptor) {
    if (given.usage & storage) made.buffers++;
    return createBuffer.call(this, given);
  } as typeof createBuffer;
  try {
    await body();
  } finally {
    Object.assign(GPUDevice.prototype, { createBindGroup, createBuffer });
  }
  return made;
}

describe.each(["card", "software"] as const)("webgpu, as on %s", (adapter) => {
  const opened = createGpu({ mode: "webgpu", adapter });
  afterAll(async () => (await opened)[Symbol.dispose]());

  test("a copy that was taken before an update keeps its values", async () => {
    useDevice(await opened);
    const values = randomValues([6, 10], [-1, 1], 1);
    const x = new Variable(filled([6, 10], 1));
    const copy = new Variable(filled([6, 10], 2));
    const update = compile(() => {
      x.assign(x.value.mul(2).add(1));
      return [];
    });
    let want = Float32Array.from(values);
    for (let round = 0; round < 4; round++) {
      if (round % 2 === 0) copy.assign(x.value);
      const before = want;
      update();
      want = want.map((value) => 2 * value + 1);
      expect(await x.value.data()).toEqual(want);
      if (round % 2 === 0) expect(await copy.value.data()).toEqual(before);
    }
  });

  test("a training step that comes again makes no buffers, and bind groups for what it gives back alone", async () => {
    useDevice(await opened);
    const weights = [
      new Variable(filled([12, 20], 1)),
      new Variable(filled([20, 12], 2)),
      new Variable(filled([12], 3)),
    ] as const;
    const optimizer = new AdamW(weights, { lr: 1e-2 });
    const step = compile((x: Tensor, y: Tensor) => {
      const [first, second, bias] = weights;
      const error = x.matmul(first.value).tanh().matmul(second.value).add(bias.value).sub(y);
      const loss = error.square().mean();
      optimizer.step(gradientsOf(loss, weights));
      return loss;
    });
    const [x, y] = [filled([16, 12], 4), filled([16, 12], 5)];
    const losses: number[] = [];
    const run = async (): Promise<void> => {
      const loss = step(x, y);
      losses.push((await loss.data())[0] as number);
      loss.dispose();
    };
    for (let i = 0; i < 5; i++) await run();
    const { groups, buffers } = await countMade(run);
    expect(groups).toBeLessThanOrEqual(1);
    expect(buffers).toBe(0);
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
  });
});
