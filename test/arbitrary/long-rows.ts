/** Softmax, norms and cross-entropy with their derivatives, in rows longer than the laws draw, on every variant of the gpu device. */
import { afterAll, describe, expect, test } from "vitest";
import { pullback } from "../../src/autograd/grad.ts";
import { download, realize, upload, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { max } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { reduceMax } from "../../src/graph/reduction.ts";
import { crossEntropy } from "../../src/nn/loss.ts";
import { layerNorm, rmsNorm } from "../../src/nn/norm.ts";
import { logSoftmax, softmax } from "../../src/tensor/statistics.ts";
import type { Variant } from "./devices.ts";
import { randomValues } from "./draw.ts";

interface Sources {
  readonly x: Tensor;
  readonly weight: Tensor;
  readonly bias: Tensor;
  readonly targets: Tensor;
}

const functions: Readonly<
  Record<string, { readonly of: (sources: Sources) => Tensor; readonly by: readonly (keyof Sources)[] }>
> = {
  softmax: { of: ({ x }) => softmax(x), by: ["x"] },
  "log-softmax": { of: ({ x }) => logSoftmax(x), by: ["x"] },
  largest: { of: ({ x }) => reduceMax(x, [1]), by: ["x"] },
  "layer norm": { of: ({ x, weight, bias }) => layerNorm(x, weight, bias), by: ["x", "weight", "bias"] },
  "RMS norm": { of: ({ x, weight }) => rmsNorm(x, weight), by: ["x", "weight"] },
  "cross-entropy": { of: ({ x, targets }) => crossEntropy(x, targets, { ignoreIndex: 1 }), by: ["x"] },
  "cross-entropy, weighed and smoothed": {
    of: ({ x, targets, weight }) => crossEntropy(x, targets, { weight, labelSmoothing: 0.1, reduction: "sum" }),
    by: ["x"],
  },
};

const sizes = [
  { rows: 3, width: 64 },
  { rows: 70, width: 67 },
  { rows: 2, width: 300 },
  { rows: 40, width: 1100 },
  { rows: 1, width: 40_000 },
];

const reference = createReference();

export function longRowsOn(variants: readonly Variant[]): void {
  describe.each(variants)("$name", ({ open }) => {
    const opened = Promise.resolve(open());
    afterAll(async () => (await opened)[Symbol.dispose]());

    test.each(sizes)("NaN is the largest of $rows rows of $width", async ({ rows, width }) => {
      const device = await opened;
      useDevice(device);
      const values = Float32Array.from(randomValues([rows, width], [-4, 4], 1));
      // in the first row only, and neither first nor last
      values[width >> 1] = Number.NaN;
      const x = upload(device, values, [rows, width], "float32");
      const top = await download(reduceMax(x, [1]));
      expect(Array.from(top, Number.isNaN)).toEqual(Array.from({ length: rows }, (_, row) => row === 0));
      const larger = await download(max(x, upload(device, new Float32Array(width), [width], "float32")));
      expect(Array.from(larger).flatMap((value, i) => (Number.isNaN(value) ? [i] : []))).toEqual([width >> 1]);
    });

    test.each(sizes)("$rows rows of $width", async ({ rows, width }) => {
      const build = (on: Device): Tensor[] => {
        useDevice(on);
        const floats = (shape: number[], low: number, high: number, seed: number) =>
          upload(on, Float32Array.from(randomValues(shape, [low, high], seed)), shape, "float32");
        const targets = Int32Array.from(randomValues([rows], [0, width - 1], 3), Math.round);
        const sources: Sources = {
          x: floats([rows, width], -4, 4, 1),
          weight: floats([width], 0.5, 2, 2),
          bias: floats([width], -1, 1, 5),
          targets: upload(on, targets, [rows], "int32"),
        };
        return Object.values(functions).flatMap(({ of, by }) => {
          const y = of(sources);
          const gradients = pullback(
            [y],
            [floats([...y.shape], -1, 1, 4)],
            by.map((name) => sources[name]),
          );
          return [y, ...gradients.map((gradient) => gradient!)];
        });
      };
      const wanted = build(reference);
      realize(wanted);
      const device = await opened;
      const got = build(device);
      realize(got);
      const names = Object.entries(functions).flatMap(([name, { by }]) => [name, ...by.map((each) => `${name} by ${each}`)]);
      for (const [i, x] of got.entries()) {
        const [values, want] = [await download(x), Array.from(await download(wanted[i]!))];
        const largest = want.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-3);
        const allowed = 3e-6 * largest * Math.sqrt(width / 64);
        // a NaN would pass the other way round
        const wrong = want.findIndex((value, n) => !(Math.abs(values[n]! - value) <= allowed));
        expect(wrong, `${names[i]}: ${values[wrong]} for ${want[wrong]}, ${allowed} allowed`).toBe(-1);
      }
    });
  });
}
