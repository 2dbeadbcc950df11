/**
 * Reverse mode computes the derivative, along any direction; the same holds for its own derivative.
 *
 *   ⟨vjp(f, x)(g), t⟩ = ⟨g, (f(x + ht) − f(x − ht)) / 2h⟩ + O(h⁴), in float64, by the five-point difference;
 *   the same for x, g ↦ ⟨w, vjp(f, x)(g)⟩, which is the second order
 *
 * The difference is taken with h and with 2h: the distance between the two bounds the O(h⁴) term, and the running error analysis of
 * rounding.ts bounds the rest.
 *
 * @see src/autograd/finite-difference.ts; Griewank & Walther, Evaluating Derivatives, 2nd ed., ch. 3
 */
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { centralDifference } from "../../src/autograd/finite-difference.ts";
import { type Differentiable, vjp } from "../../src/autograd/grad.ts";
import { inner, jvp } from "../../src/autograd/jvp.ts";
import { realize, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { attention } from "../../src/graph/attention.ts";
import { isFloat } from "../../src/graph/dtype.ts";
import { add, elementwise, mul, recip, sub } from "../../src/graph/elementwise.ts";
import { stopGradient } from "../../src/graph/movement.ts";
import { Tensor } from "../../src/graph/node.ts";
import type { Elementwise, Interval, Sample } from "../../src/graph/primitive.ts";
import { primitives } from "../../src/graph/primitives.ts";
import { constant } from "../../src/graph/source.ts";
import { square } from "../../src/tensor/math.ts";
import { cases } from "../arbitrary/cases.ts";
import { composites, exempt, modules } from "../arbitrary/composites.ts";
import { differentiable, samplesOf } from "../arbitrary/derivative-samples.ts";
import { draws, randomTensor } from "../arbitrary/draw.ts";
import { errorBounds } from "../arbitrary/rounding.ts";
import { valuesOf } from "../arbitrary/values.ts";

const device = createReference();
beforeAll(() => void useDevice(device));

const step = 1e-3;
const unit = 2 ** -53;

/** Throws unless `jvp` and `vjp` of `f` at `inputs` are what central differences say. */
function checkDerivative(order: string, f: Differentiable, inputs: readonly Tensor[], seed: number): void {
  const tangents = inputs.map((x, i) => randomTensor(device, x.shape, [-1, 1], seed + i));
  const y = f(...inputs);
  const g = randomTensor(device, y.shape, [-1, 1], seed + 100);
  const { value, uncertainty } = centralDifference(f, inputs, tangents, { step });
  const { tangent } = jvp(f, inputs, tangents);
  const gradients = vjp(f, ...inputs).pullback(g);
  const along = gradients.map((gradient, i) => inner(gradient, tangents[i]!)).reduce(add);
  const [rounding] = errorBounds([y], { unit });
  realize([value, uncertainty, tangent, along, ...(rounding ? [rounding] : [])]);
  const [D, left, T, G] = [value, uncertainty, tangent, g].map(valuesOf) as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  const E = Float64Array.from(rounding ? valuesOf(rounding) : new Float64Array(D.length));
  // the domains keep away from steps, so where the analysis gives up there is none
  const largest = Math.max(0, ...valuesOf(y).map(Math.abs));
  E.forEach((value, i) => {
    if (!Number.isFinite(value)) E[i] = 64 * unit * largest;
  });
  let [expected, allowed] = [0, 1e-12];
  for (let i = 0; i < D.length; i++) {
    const tolerance = left[i]! + (4 * E[i]!) / step + 1e-11 * (1 + Math.abs(D[i]!));
    if (!(Math.abs(T[i]! - D[i]!) <= tolerance))
      throw new Error(`${order}: the tangent of element ${i} is ${T[i]}, the difference ${D[i]} (allowed ${tolerance})`);
    expected += G[i]! * D[i]!;
    allowed += Math.abs(G[i]!) * tolerance;
  }
  const got = valuesOf(along)[0]!;
  if (!(Math.abs(got - expected) <= allowed))
    throw new Error(`${order}: ⟨vjp(g), t⟩ is ${got}, ⟨g, Df·t⟩ ${expected} (allowed ${allowed})`);
}

/** First and second order for one sample. */
function derivativesHold({ inputs, apply }: Sample, seed: number): void {
  // room for the points of the difference inside of the domain
  const x = inputs.map(({ shape, domain: [low, high] }, i) =>
    randomTensor(device, shape, [low + 4 * step, high - 4 * step], seed * 1000 + i),
  );
  const y = apply(...x);
  if (!isFloat(y.dtype)) return;
  checkDerivative("first order", apply, x, seed + 1);
  const weights = x.map((input, i) => randomTensor(device, input.shape, [-1, 1], seed + 200 + i));
  const g = randomTensor(device, y.shape, [-1, 1], seed + 300);
  const gradient: Differentiable = (...all) => {
    const [point, cotangent] = [all.slice(0, -1), all[all.length - 1]!];
    return vjp(apply, ...point)
      .pullback(cotangent)
      .map((part, i) => inner(part, weights[i]!))
      .reduce(add);
  };
  checkDerivative("second order", gradient, [...x, g], seed + 400);
}

describe("primitives", () => {
  test.each(differentiable)("%s", (name, op) => {
    fc.assert(
      fc.property(draws(), fc.nat(1e6), (draw, seed) => {
        const samples = samplesOf(name, op, draw);
        derivativesHold(samples[seed % samples.length]!, seed);
      }),
      cases(op.kind === "fused" ? 4 : 6),
    );
  });
});

describe("composites and layers", () => {
  test.each(Object.entries(composites(device)))("%s", (_name, composite) => {
    fc.assert(
      fc.property(draws(), fc.nat(1e6), (draw, seed) => {
        const samples = composite(draw);
        derivativesHold(samples[seed % samples.length]!, seed);
      }),
      cases(3),
    );
  });

  test("a fused operation whose result goes two ways: its derivative by hand once kept only one", () => {
    const shape = [1, 2, 1, 2];
    const inputs = [0, 1, 2].map(() => ({ shape, domain: [-2, 2] as const }));
    derivativesHold({ inputs, apply: (q, k, v) => square(attention(q!, k!, v!, { isCausal: true })) }, 1);
  });

  test("every function of the modules of composites is tried", () => {
    const known = new Set([...Object.keys(composites(device)), ...Object.keys(primitives), ...Object.keys(exempt)]);
    const isClass = (f: unknown): boolean => /^class\b/.test(String(f));
    const forgotten = Object.values(modules).flatMap((module) =>
      Object.entries(module).flatMap(([name, f]) => (typeof f === "function" && !isClass(f) && !known.has(name) ? [name] : [])),
    );
    expect(forgotten).toEqual([]);
  });
});

describe("mutants are caught", () => {
  /** The law on an operation whose derivative was changed. */
  const wrong = (op: Elementwise, vjp: Elementwise["vjp"], domain: Interval) => (seed: number) => {
    const mutant = { ...op, vjp };
    derivativesHold(
      {
        inputs: op.domain.map(() => ({ shape: [3], domain })),
        apply: (...xs) => new Tensor(mutant, xs, xs[0]!.shape, xs[0]!.dtype),
      },
      seed,
    );
  };
  const mutants = {
    "tanh′ = 1 − y": wrong(elementwise.tanh, (g, y) => [mul(g, sub(constant(1, [], g.dtype), y))], [-2, 2]),
    "(√x)′ = 1 / y": wrong(elementwise.sqrt, (g, y) => [mul(g, recip(y))], [0.5, 2]),
    "the factors of a product in the wrong places": wrong(elementwise.mul, (g, _y, x, z) => [mul(g, x!), mul(g, z!)], [-2, 2]),
    "a derivative right in the first order only": wrong(elementwise.exp, (g, y) => [mul(g, stopGradient(y))], [-2, 2]),
  };
  test.each(Object.entries(mutants))("%s", (_name, mutant) => {
    const { failed } = fc.check(fc.property(fc.nat(1e6), mutant), { numRuns: 5 });
    expect(failed).toBe(true);
  });
});
