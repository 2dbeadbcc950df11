/** A thousand steps take no more memory of the graphics card, and no more kernels, than the first ones. */
import { expect, test } from "vitest";
import { pullback } from "../../src/autograd/grad.ts";
import { download, upload, useDevice } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { createGpu } from "../../src/devices/gpu/index.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { mul, sub } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { reduceSum } from "../../src/graph/reduction.ts";
import { constant } from "../../src/graph/source.ts";
import { Variable } from "../../src/graph/variable.ts";
import { watchGraphics } from "./graphics.ts";

test.each(["webgl2", "webgpu"] as const)("mode %s", async (mode) => {
  using graphics = watchGraphics(mode);
  const device = await createGpu({ mode });
  useDevice(device);
  const floats = (values: readonly number[], shape: readonly number[]) =>
    upload(device, Float32Array.from(values), shape, "float32");
  const weight = new Variable(floats([0, 0, 0, 0], [4, 1]));
  const x = floats([1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1], [3, 4]);
  const y = floats([1, 2, 3], [3, 1]);
  const step = compile(() => {
    const error = sub(matmul(x, weight.value), y);
    const loss = reduceSum(mul(error, error), [0, 1]);
    const [gradient] = pullback([loss], [constant(1, loss.shape)], [weight.value]);
    weight.assign(sub(weight.value, mul(gradient!, constant(0.1))));
    return loss;
  });
  const run = async (steps: number): Promise<number> => {
    let last = 0;
    for (let i = 0; i < steps; i++) {
      const loss: Tensor = step();
      if (i % 50 === 49 || i === steps - 1) last = (await download(loss))[0]!;
      loss.dispose();
    }
    return last;
  };
  const first = await run(3);
  const [before, living] = [device.statistics, graphics.living()];
  const memory = mode === "webgpu" ? "Buffer" : "Texture";
  expect(living[memory]).toBeGreaterThan(5);
  expect(await run(1000)).toBeLessThan(first * 1e-3);
  expect(device.statistics).toEqual(before);
  // the kernels' own may be one more or less
  const after = graphics.living();
  expect({ ...after, [memory]: 0 }).toEqual({ ...living, [memory]: 0 });
  expect(after[memory]).toBeLessThanOrEqual(living[memory]! + 2);
  device[Symbol.dispose]();
  const left = graphics.living();
  x.dispose();
  // a WebGL context that is gone is asked nothing: that of mode headlessgl throws
  if (mode === "webgl2") expect(graphics.living()).toEqual(left);
});
