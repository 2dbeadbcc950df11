/**
 * Reverse mode on the gpu device, in float32 and with the kernels of each mode, computes the derivative that finite differences give on
 * the reference device in float64.
 *
 *   |⟨vjp(f, x)(g), t⟩ − ⟨g, (f(x + ht) − f(x − ht)) / 2h⟩| ≤ ⟨E, |t|⟩ + what the difference leaves out,
 *
 * with E the running error bound of float32 (test/arbitrary/rounding.ts) of each element of the gradient.
 *
 * @see test/laws/vjp-is-the-derivative.law.ts for the same on the reference device, and the second order
 */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { centralDifference } from "../../src/autograd/finite-difference.ts";
import { pullback } from "../../src/autograd/grad.ts";
import { download, realize, upload, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { isFloat } from "../../src/graph/dtype.ts";
import { cast, elementwise, mul, sub } from "../../src/graph/elementwise.ts";
import { Tensor } from "../../src/graph/node.ts";
import type { Sample } from "../../src/graph/primitive.ts";
import { constant } from "../../src/graph/source.ts";
import { broken, bugs } from "../arbitrary/broken-device.ts";
import { cases } from "../arbitrary/cases.ts";
import { composites } from "../arbitrary/composites.ts";
import { differentiable, samplesOf } from "../arbitrary/derivative-samples.ts";
import { gpuVariants } from "../arbitrary/devices.ts";
import { draws, randomValues, repeating } from "../arbitrary/draw.ts";
import { errorBounds, tolerances } from "../arbitrary/rounding.ts";
import { valuesOf } from "../arbitrary/values.ts";

const reference = createReference();
const opened: readonly { readonly name: string; readonly device: Device }[] = await Promise.all(
  gpuVariants.map(async ({ name, open }) => ({ name, device: await open() })),
);
beforeAll(() => void useDevice(reference));
afterAll(() => {
  for (const { device } of opened) device[Symbol.dispose]();
});

const step = 1e-3;
const float64 = 2 ** -53;
const sum = (values: ArrayLike<number>, term: (value: number, i: number) => number): number =>
  Array.from(values, term).reduce((a, b) => a + b, 0);

/** Throws unless every device gives the derivative of the sample, which is built anew for each. */
async function derivativeHolds(sampleOn: (device: Device) => Sample, seed: number, among = opened): Promise<void> {
  useDevice(reference);
  const { inputs, apply } = sampleOn(reference);
  const drawn = (shape: readonly number[], domain: readonly [number, number], own: number) =>
    Float32Array.from(randomValues(shape, domain, seed * 1000 + own));
  // room for the points of the difference inside of the domain
  const x = inputs.map(({ shape, domain: [low, high] }, i) => drawn(shape, [low + 4 * step, high - 4 * step], i));
  const t = inputs.map(({ shape }, i) => drawn(shape, [-1, 1], 100 + i));
  const wide = (values: readonly Float32Array[]) =>
    values.map((each, i) => upload(reference, Float64Array.from(each), inputs[i]!.shape, "float64"));

  const y = apply(...wide(x));
  if (!isFloat(y.dtype)) return;
  const g = drawn(y.shape, [-1, 1], 200);
  const difference = centralDifference(apply, wide(x), wide(t), { step });
  const [rounding] = errorBounds([y], { unit: float64 });
  realize([difference.value, difference.uncertainty, y, ...(rounding ? [rounding] : [])]);
  const [D, left] = [valuesOf(difference.value), valuesOf(difference.uncertainty)];
  const largest = Math.max(0, ...Array.from(valuesOf(y), Math.abs));
  const E = Array.from(rounding ? valuesOf(rounding) : new Float64Array(D.length), (e) =>
    Number.isFinite(e) ? e : 64 * float64 * largest,
  );
  const expected = sum(D, (d, i) => d * g[i]!);
  const leftOut = sum(D, (d, i) => Math.abs(g[i]!) * (left[i]! + (4 * E[i]!) / step + 1e-11 * (1 + Math.abs(d))));

  /** The gradients on a device; `null` where the operation has none. */
  const gradientsOn = (device: Device): (Tensor | null)[] => {
    useDevice(device);
    const own = x.map((values, i) => upload(device, values, inputs[i]!.shape, "float32"));
    const result = sampleOn(device).apply(...own);
    return pullback([result], [cast(upload(device, g, result.shape, "float32"), result.dtype)], own);
  };
  const exact = gradientsOn(reference).filter((gradient) => gradient !== null);
  const bounds = tolerances(exact, { unit: 2 ** -24 });

  for (const { name, device } of among) {
    let [got, tolerance, at] = [0, leftOut + 1e-12, 0];
    const gradients = gradientsOn(device);
    realize(gradients.filter((gradient) => gradient !== null));
    for (const [i, gradient] of gradients.entries()) {
      if (gradient === null) continue;
      const values = await download(gradient);
      got += sum(values, (value, j) => value * t[i]![j]!);
      tolerance += sum(
        bounds[at++]!,
        (bound, j) => (Number.isNaN(bound) ? Number.POSITIVE_INFINITY : bound) * Math.abs(t[i]![j]!),
      );
    }
    for (const gradient of gradients) gradient?.dispose();
    if (!(Math.abs(got - expected) <= tolerance))
      throw new Error(`${name}: ⟨vjp(g), t⟩ is ${got}, ⟨g, Df·t⟩ ${expected} (allowed ${tolerance.toExponential(1)})`);
  }
}

describe("primitives", () => {
  test.each(differentiable)("%s", async (name, op) => {
    await fc.assert(
      fc.asyncProperty(draws(), fc.nat(1e6), async (draw, seed) => {
        const again = repeating(draw);
        await derivativeHolds(() => {
          // the float32 form of what takes a dtype
          const samples = samplesOf(name, op, again()).slice(name === "cast" ? 1 : 0);
          return samples[seed % samples.length]!;
        }, seed);
      }),
      cases(2),
    );
  });
});

// in a browser, where kernels take long to compile, devices-agree.law.ts alone compiles them: it holds every element of the same
// gradients to the reference device's, which vjp-is-the-derivative.law.ts holds to differences
describe.runIf(typeof window === "undefined")("composites and layers", () => {
  test.each(Object.keys(composites(reference)))("%s", async (name) => {
    await fc.assert(
      fc.asyncProperty(draws(), fc.nat(1e6), async (draw, seed) => {
        const again = repeating(draw);
        const sampleOn = (device: Device): Sample => {
          const samples = composites(device)[name]!(again());
          return samples[seed % samples.length]!;
        };
        // one mode by chance: devices-agree.law.ts holds these gradients on each to the reference device's
        await derivativeHolds(sampleOn, seed, [opened[(seed >> 3) % opened.length]!]);
      }),
      cases(1),
    );
  });
});

describe("mutants are caught", () => {
  const inputs = [{ shape: [4], domain: [-2, 2] as const }];
  const wrongTanh = { ...elementwise.tanh, vjp: (g: Tensor, y: Tensor) => [mul(g, sub(constant(1, [], g.dtype), y))] };
  test("a wrong derivative: tanh′ = 1 − y", async () => {
    const sample = () => ({ inputs, apply: (x: Tensor) => new Tensor(wrongTanh, [x], x.shape, x.dtype) });
    await expect(derivativeHolds(sample as () => Sample, 3)).rejects.toThrow("⟨vjp(g), t⟩");
  });
  test("a derivative that is 1 ‰ too large", async () => {
    const wrong = {
      ...elementwise.mul,
      vjp: (g: Tensor, _y: Tensor, x: Tensor, z: Tensor) => [mul(g, mul(z, constant(1.001))), mul(g, x)],
    };
    const sample = () => ({
      inputs: [inputs[0]!, inputs[0]!],
      apply: (x: Tensor, z: Tensor) => new Tensor(wrong as unknown as typeof elementwise.mul, [x, z], x.shape, x.dtype),
    });
    await expect(derivativeHolds(sample as () => Sample, 3)).rejects.toThrow("⟨vjp(g), t⟩");
  });
  test("a device that takes the rows of a square factor for columns", async () => {
    const bug = bugs["rows of a square factor are taken for columns"];
    const device = broken(createReference({ fuse: true }), bug);
    const square = [0, 1].map(() => ({ shape: [5, 5], domain: [-2, 2] as const }));
    const sample = (): Sample => ({ inputs: square, apply: (a, b) => matmul(a!, b!) });
    await expect(derivativeHolds(sample, 3, [{ name: "mutant", device }])).rejects.toThrow("mutant");
  });
});
