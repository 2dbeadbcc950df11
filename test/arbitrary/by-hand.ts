/**
 * Kernels by hand for rows and for the optimiser: each is taken for the operations that it stands for, as the compiler writes them today, and
 * gives what `reference` does; in every mode that runs functions of GPU.js.
 */
import { afterAll, describe, expect, test } from "vitest";
import { normKernels } from "../../kernels/gpu/norms.ts";
import { optimiserKernels } from "../../kernels/gpu/optimiser.ts";
import { rowKernels } from "../../kernels/gpu/rows.ts";
import { pullback } from "../../src/autograd/grad.ts";
import { download, realize, upload, useDevice } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import type { Device } from "../../src/devices/device.ts";
import type { Backend } from "../../src/devices/gpu/backend.ts";
import type { GpuDevice } from "../../src/devices/gpu/device.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { mul } from "../../src/graph/elementwise.ts";
import { transpose } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { crossEntropy } from "../../src/nn/loss.ts";
import { Parameter } from "../../src/nn/module.ts";
import { layerNorm, rmsNorm } from "../../src/nn/norm.ts";
import { AdamW } from "../../src/optim/index.ts";
import { logSoftmax, softmax } from "../../src/tensor/statistics.ts";
import type { Variant } from "./devices.ts";
import { randomValues } from "./draw.ts";

/** Names of the functions of kernels/gpu that `work` runs. */
export async function kernelsOf(device: GpuDevice, work: () => unknown): Promise<string[]> {
  const { backend } = device as unknown as { backend: Backend };
  const { run } = backend;
  const ran: string[] = [];
  backend.run = (pass, args) => {
    const [, name] = /^function (\w+)/.exec(pass.source) ?? [];
    if (name) ran.push(name);
    return run(pass, args);
  };
  try {
    await work();
  } finally {
    backend.run = run;
  }
  return ran;
}

interface Sources {
  readonly x: Tensor;
  readonly g: Tensor;
  readonly weight: Tensor;
  readonly bias: Tensor;
  readonly targets: Tensor;
  readonly one: Tensor;
}

/** The derivative by the first of `by`, of a value that is there already. */
function derivative(y: Tensor, g: Tensor, by: readonly Tensor[]): Tensor[] {
  realize([y]);
  return pullback([y], [g], by).map((each) => each!);
}

/** What an operation gives, and the kernels that it takes: where exponentials are kept, and where they are computed again. */
interface Case {
  readonly of: (sources: Sources) => readonly Tensor[];
  readonly takes: readonly string[];
  readonly again?: readonly string[];
  /** Of all rows: the sum of one long row, which a card cuts. */
  readonly isMean?: boolean;
}

const exponentials = ["rowShift", "rowExponentials", "rowSum"];
const cases: Readonly<Record<string, Case>> = {
  softmax: {
    of: ({ x }) => [softmax(x)],
    takes: [...exponentials, "shares"],
    again: ["rowShift", "rowExponentialSum", "softmax"],
  },
  "the derivative of softmax": { of: ({ x, g }) => derivative(softmax(x), g, [x]), takes: ["rowDot", "softmaxDerivative"] },
  "log-softmax": { of: ({ x }) => [logSoftmax(x)], takes: ["rowShift", "rowExponentialSum", "logSoftmax"] },
  "the derivative of log-softmax": {
    of: ({ x, g }) => derivative(logSoftmax(x), g, [x]),
    takes: ["rowSum", "logSoftmaxDerivative"],
  },
  "layer norm": { of: ({ x, weight, bias }) => [layerNorm(x, weight, bias)], takes: ["rowSum", "inverseDeviation", "layerNorm"] },
  "the derivative of layer norm": {
    of: ({ x, weight, bias, g }) => derivative(layerNorm(x, weight, bias), g, [x]),
    takes: ["rowSum", "inverseDeviation", "centredDot"],
  },
  "RMS norm": { of: ({ x, weight }) => [rmsNorm(x, weight)], takes: ["inverseRms", "rmsNorm"] },
  "the derivative of RMS norm": {
    of: ({ x, weight, g }) => derivative(rmsNorm(x, weight), g, [x]),
    takes: ["inverseRms", "weightedDot"],
  },
  "RMS norm and its derivative without a weight": {
    of: ({ x, g }) => [...derivative(rmsNorm(x, null), g, [x])],
    takes: ["inverseRms", "rowDot"],
  },
  "cross-entropy": {
    of: ({ x, targets }) => [crossEntropy(x, targets, { reduction: "none" })],
    takes: ["rowShift", "rowExponentialSum", "crossEntropy"],
  },
  "cross-entropy and its derivative": {
    of: ({ x, targets, one }) => {
      const loss = crossEntropy(x, targets);
      return [loss, pullback([loss], [one], [x])[0]!];
    },
    takes: [...exponentials, "crossEntropy", "crossEntropyDerivativeOf"],
    again: ["rowShift", "rowExponentialSum", "crossEntropy", "crossEntropyDerivative"],
    isMean: true,
  },
};

const reference = createReference();

function sourcesOn(on: Device, rows: number, width: number): Sources {
  const floats = (shape: number[], low: number, high: number, seed: number) =>
    upload(on, Float32Array.from(randomValues(shape, [low, high], seed)), shape, "float32");
  // one is left out
  const targets = Int32Array.from({ length: rows }, (_, row) => (row === 1 ? -100 : (row * 7 + 1) % width));
  return {
    x: floats([rows, width], -4, 4, 1),
    g: floats([rows, width], -1, 1, 2),
    weight: floats([width], 0.5, 2, 3),
    bias: floats([width], -1, 1, 4),
    targets: upload(on, targets, [rows], "int32"),
    one: floats([], 1, 1, 5),
  };
}

/** @param keepsNaN whether NaN has to be NaN, and not just nothing finite */
async function expectSame(
  got: readonly Tensor[],
  wanted: readonly Tensor[],
  allowed: number,
  what: string,
  keepsNaN = true,
): Promise<void> {
  for (const [n, y] of got.entries()) {
    const [values, want] = [await download(y), Array.from(await download(wanted[n]!))];
    const wrong = want.findIndex((value, i) =>
      Number.isFinite(value)
        ? !(Math.abs(values[i]! - value) <= allowed * Math.max(1, Math.abs(value)))
        : !(Object.is(values[i], value) || (!keepsNaN && Number.isNaN(value) && !Number.isFinite(values[i]))),
    );
    expect(wrong, `${what}, value ${n}: ${values[wrong]} for ${want[wrong]}`).toBe(-1);
  }
}

/** @param keepsNaN whether e^NaN is NaN: SwiftShader's is not */
export function byHandOn(variants: readonly Variant[], keepsNaN: boolean): void {
  describe.each(variants)("$name", ({ open }) => {
    const opened = Promise.resolve(open()) as Promise<GpuDevice>;
    afterAll(async () => (await opened)[Symbol.dispose]());
    const keeps = async () => ((await opened) as unknown as { backend: Backend }).backend.visible;
    const writesSeveral = async () => ((await opened) as unknown as { backend: Backend }).backend.results! > 1;
    const seen = new Set<string>();

    test.each(Object.entries(cases))("%s", async (name, { of, takes, again = takes, isMean }) => {
      const device = await opened;
      const wantedKernels = (await keeps()) ? takes : again;
      for (const [rows, width] of [
        [6, 1],
        [7, 3],
        [70, 67],
        [520, 260],
      ] as const) {
        useDevice(reference);
        const wanted = of(sourcesOn(reference, rows, width));
        realize(wanted);
        useDevice(device);
        const got = of(sourcesOn(device, rows, width));
        const ran = await kernelsOf(device, () => realize(got));
        const summed = isMean && (rows < 256 || (await keeps())) ? ["rowSum"] : [];
        if (width > 1) expect(new Set(ran), `${rows} rows of ${width}`).toEqual(new Set([...wantedKernels, ...summed]));
        for (const kernel of ran) seen.add(kernel);
        await expectSame(got, wanted, 4e-6 * Math.sqrt(Math.max(1, width / 64)), `${name}, ${rows} rows of ${width}`);
      }
    });

    test.each(["softmax", "log-softmax", "cross-entropy"])("%s of −∞, NaN and targets that are no class", async (name) => {
      const device = await opened;
      const [rows, width] = [6, 9];
      const values = randomValues([rows, width], [-4, 4], 1);
      values.fill(Number.NEGATIVE_INFINITY, 0, width); // nothing to see
      values.fill(-3.4e38, width, 2 * width); // how others mask
      values[2 * width] = Number.NEGATIVE_INFINITY;
      if (keepsNaN) values[3 * width + 1] = Number.NaN;
      const steps = async (on: Device): Promise<{ y: Tensor; ran: string[] }> => {
        useDevice(on);
        const x = upload(on, Float32Array.from(values), [rows, width], "float32");
        const targets = upload(on, Int32Array.of(1, 2, 3, 4, width, -100), [rows], "int32");
        // compiled, as targets that can be read are checked
        const f = compile((z: Tensor, t: Tensor) =>
          name === "softmax" ? softmax(z) : name === "log-softmax" ? logSoftmax(z) : crossEntropy(z, t, { reduction: "none" }),
        );
        let y: Tensor | undefined;
        const work = () => {
          y = f(x, targets);
        };
        if (on === reference) work();
        const ran = on === reference ? [] : await kernelsOf(on as GpuDevice, work);
        return { y: y!, ran };
      };
      const wanted = await steps(reference);
      const got = await steps(device);
      const { takes, again = takes } = cases[name]!;
      expect(new Set(got.ran)).toEqual(new Set((await keeps()) ? takes : again));
      await expectSame([got.y], [wanted.y], 2e-6, name, keepsNaN);
    });

    test.each([
      [0, 5],
      [5, 0],
      [0, 0],
    ])("nothing of %s rows of %s", async (rows, width) => {
      const device = await opened;
      useDevice(device);
      const x = upload(device, new Float32Array(0), [rows, width], "float32");
      for (const y of [layerNorm(x, null, null), rmsNorm(x, null), softmax(x)]) expect(await download(y)).toHaveLength(0);
    });

    test.each([0, 0.1])("AdamW with a decay of %s, of gradients as they lie and turned", async (weightDecay) => {
      const steps = async (on: Device): Promise<{ values: Tensor[]; ran: string[] }> => {
        useDevice(on);
        const shapes = [[9, 8], [13], [5, 7]];
        const parameters = shapes.map((shape, i) => Parameter.from(Float32Array.from(randomValues(shape, [-1, 1], i)), shape));
        const optimizer = new AdamW(parameters, { lr: 0.01, weightDecay });
        const ran: string[] = [];
        for (let step = 0; step < 3; step++) {
          const clip = upload(on, Float32Array.of(0.7), [], "float32");
          const gradients = shapes.map((shape, i) => {
            const lying = i === 2 ? [...shape].reverse() : shape;
            const g = upload(on, Float32Array.from(randomValues(lying, [-1, 1], 10 * step + i)), lying, "float32");
            return mul(i === 2 ? transpose(g) : g, clip);
          });
          const work = () => {
            optimizer.step(new Map(parameters.map((parameter, i) => [parameter, gradients[i]!])));
            realize(parameters.map(({ value }) => value));
          };
          if (on === reference) work();
          else ran.push(...(await kernelsOf(on as GpuDevice, work)));
        }
        return { values: [...parameters.map(({ value }) => value), ...optimizer.stateDict().values()], ran };
      };
      const wanted = await steps(reference);
      const got = await steps(await opened);
      const step = weightDecay ? "adamDecayStep" : "adamStep";
      const [twice, once] = [new Array<string>(6), new Array<string>(3)];
      const means = ["adamMean", "adamSquare"].flatMap((name) => [...twice.fill(name), ...once.fill(`${name}Turned`)]);
      // where a shader may write all three, it does
      const taken = (await writesSeveral()) ? [] : [...means, ...twice.fill(step), ...once.fill(step)];
      expect(got.ran.sort()).toEqual(taken.sort());
      for (const kernel of got.ran) seen.add(kernel);
      await expectSame(got.values, wanted.values, 2e-6, "AdamW");
    });

    test("each kernel is taken for something", async () => {
      const kept = await keeps();
      const onlyKept = ["rowExponentials", "shares", "crossEntropyDerivativeOf"];
      const onlyAgain = ["softmax", "crossEntropyDerivative"];
      const all = [...rowKernels, ...normKernels, ...((await writesSeveral()) ? [] : optimiserKernels)].map(
        ({ kernel }) => kernel.name,
      );
      const wanted = all.filter((name) => !(kept ? onlyAgain : onlyKept).includes(name));
      expect([...seen].sort()).toEqual([...new Set(wanted)].sort());
    });
  });
}
