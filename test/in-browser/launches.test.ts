/** Shaders of ours that write several values at once: how many launches programs take, and what they write at odd sizes. */
import { afterAll, describe, expect, test } from "vitest";
import { download, realize, upload, useDevice } from "../../src/compile/program.ts";
import type { Backend } from "../../src/devices/gpu/backend.ts";
import type { GpuDevice } from "../../src/devices/gpu/device.ts";
import { countsOf, type Pass } from "../../src/devices/gpu/plan.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { add, cast, exp, less, mul, neg, sub } from "../../src/graph/elementwise.ts";
import { flip, transpose } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { reduceMax, reduceSum } from "../../src/graph/reduction.ts";
import { Parameter } from "../../src/nn/module.ts";
import { layerNorm } from "../../src/nn/norm.ts";
import { AdamW } from "../../src/optim/index.ts";
import { softmax } from "../../src/tensor/statistics.ts";
import { modes, onCard, variants } from "../arbitrary/devices.ts";
import { randomValues } from "../arbitrary/draw.ts";

const onGpu = [...variants.filter(({ name }) => name.startsWith("gpu")), ...(modes ? [] : [onCard("webgl2")])];
const reference = createReference();

/** Passes that `work` runs. */
function launches(device: GpuDevice, work: () => void): readonly Pass[] {
  const { backend } = device as unknown as { backend: Backend };
  const { run } = backend;
  const ran: Pass[] = [];
  backend.run = (pass, args) => {
    ran.push(pass);
    return run(pass, args);
  };
  try {
    work();
  } finally {
    backend.run = run;
  }
  return ran;
}

const floats = (device: Parameters<typeof upload>[0], shape: readonly number[], seed: number): Tensor =>
  upload(device, Float32Array.from(randomValues([...shape], [-3, 3], seed)), [...shape], "float32");

/** What `make` gives on the device is what it gives on `reference`. */
async function expectAsOnReference(
  device: GpuDevice,
  make: (on: Parameters<typeof upload>[0]) => Tensor[],
): Promise<readonly Pass[]> {
  useDevice(reference);
  const wanted = make(reference);
  realize(wanted);
  useDevice(device);
  const got = make(device);
  const ran = launches(device, () => realize(got));
  for (const [n, y] of got.entries()) {
    const [values, want] = [await download(y), Array.from(await download(wanted[n]!))];
    const wrong = want.findIndex((value, i) => !(Math.abs(values[i]! - value) <= 2e-5 * Math.max(1, Math.abs(value))));
    expect(wrong, `value ${n}: ${values[wrong]} for ${want[wrong]}`).toBe(-1);
  }
  return ran;
}

describe.each(onGpu)("$name", ({ name, open }) => {
  const opened = Promise.resolve(open()) as Promise<GpuDevice>;
  afterAll(async () => (await opened)[Symbol.dispose]());
  const isDrawn = name === "gpu, webgl2";

  test.each([[1], [5], [16], [1003], [7, 33], [3, 5, 64]])("several values of %s elements are one launch", async (...shape) => {
    const device = await opened;
    const ran = await expectAsOnReference(device, (on) => {
      const [x, y, scale] = [floats(on, shape, 1), floats(on, shape, 2), floats(on, [1], 3)];
      const sum = add(mul(x, scale), y);
      return [sum, exp(sum), mul(sum, sum)];
    });
    expect(ran).toHaveLength(1);
  });

  test("values of views and of whole numbers are those of single launches", async () => {
    const device = await opened;
    await expectAsOnReference(device, (on) => {
      const x = floats(on, [9, 9], 1);
      const k = upload(
        on,
        Int32Array.from({ length: 81 }, (_, i) => i * 1_000_003),
        [9, 9],
        "int32",
      );
      const turned = add(transpose(x), flip(x, 1));
      return [turned, cast(less(turned, x), "float32"), less(x, turned), add(k, k), mul(cast(k, "float32"), turned), neg(turned)];
    });
  });

  test("a step of AdamW is one launch a tensor", async () => {
    const device = await opened;
    useDevice(device);
    const sizes = [[6, 8], [13], [4, 5, 3]];
    const parameters = sizes.map((shape, i) => Parameter.from(Float32Array.from(randomValues(shape, [-1, 1], i)), shape));
    const optimizer = new AdamW(parameters, { lr: 0.01 });
    const gradients = new Map(parameters.map((parameter, i) => [parameter, floats(device, sizes[i]!, 10 + i)]));
    const step = () =>
      launches(device, () => {
        optimizer.step(gradients);
        realize(parameters.map((p) => p.value));
      });
    // what is no tensor's is a scalar: the running products of betas
    const counts = [step(), step()].map((ran) => ran.filter(({ count }) => count > 1).map((pass) => countsOf(pass).length));
    expect(counts).toEqual([sizes.map(() => 3), sizes.map(() => 3)]);
  });

  test.each([
    { shape: [40, 8], why: "short rows" },
    { shape: [33, 132], why: "rows of fours" },
    { shape: [5000, 8], why: "more rows than a texture has lines" },
    { shape: [32, 16_420], why: "rows longer than the line of a texture" },
    { shape: [35, 66], why: "rows that are no fours" },
    { shape: [2, 5, 4, 12], why: "several axes" },
  ])("$why", async ({ shape }) => {
    const device = await opened;
    const width = shape.at(-1)!;
    const axis = shape.length - 1;
    const ran = await expectAsOnReference(device, (on) => {
      const [x, weight, bias] = [floats(on, shape, 1), floats(on, [width], 2), floats(on, [width], 3)];
      return [softmax(x), layerNorm(x, weight, bias)];
    });
    if (isDrawn && width % 4 === 0) {
      // x, weight and bias are copied, and two values back; each function is a launch for the rows and one for the elements
      expect(ran.filter(({ copiesFours }) => copiesFours).length).toBeGreaterThan(2);
      expect(ran.filter(({ copiedColumns }) => copiedColumns)).toHaveLength(2);
      const drawn = ran.filter(({ copiesFours, copiedColumns }) => !copiesFours && !copiedColumns);
      expect(drawn.map(({ glsl }) => glsl !== undefined)).toEqual([true, true, true, true]);
    }
    // values of the row and of its elements from one program
    await expectAsOnReference(device, (on) => {
      const x = floats(on, shape, 4);
      const largest = reduceMax(x, [axis]);
      const apart = sub(x, largest);
      return [largest, apart, exp(apart), reduceSum(exp(apart), [axis])];
    });
  });
});
