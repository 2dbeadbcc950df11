/**
 * A graph that is built again with other values reuses its plan, and gives the same bits as a fresh plan: for each primitive, and for
 * each composite with its derivatives.
 *
 *   plan(f)(x) = planned anew(f)(x)
 */
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { withVjp } from "../../src/autograd/custom.ts";
import { pullback } from "../../src/autograd/grad.ts";
import { realize, upload, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { isFloat } from "../../src/graph/dtype.ts";
import { add, bitcast, cast, mul, neg } from "../../src/graph/elementwise.ts";
import { sliceAxis, stopGradient } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Draw, Primitive, Sample } from "../../src/graph/primitive.ts";
import { primitives } from "../../src/graph/primitives.ts";
import { constant } from "../../src/graph/source.ts";
import { cases } from "../arbitrary/cases.ts";
import { composites } from "../arbitrary/composites.ts";
import { draws, randomValues, repeating } from "../arbitrary/draw.ts";
import { elementwiseFunction } from "../arbitrary/graph-move.ts";
import { valuesOf } from "../arbitrary/values.ts";

const [used, fresh] = [createWasm({ threads: 1 }), createWasm({ threads: 1 })];
afterAll(() => [used, fresh].forEach((device) => device[Symbol.dispose]()));

/** A sample's value and its derivatives by all inputs, on values of this seed. */
function built({ inputs, apply }: Sample, device: Device, seed: number): Tensor[] {
  useDevice(device);
  const xs = inputs.map(({ shape, domain }, i) => upload(device, randomValues(shape, domain, seed + i), shape, "float32"));
  const y = apply(...xs);
  if (!isFloat(y.dtype)) return [y];
  const g = upload(device, randomValues(y.shape, [-1, 1], seed + 100), y.shape, "float32");
  return [y, ...pullback([y], [cast(g, y.dtype)], xs).filter((gradient) => gradient !== null)];
}

const computed = (tensors: readonly Tensor[]) => {
  realize(tensors);
  return tensors.map((x) => [...valuesOf(x)]);
};

/** `sampleOf` gives the same sample each time, made on the device that it is for. */
function usedAgain(sampleOf: (device: Device) => Sample, seed: number): void {
  for (const before of [1, 2]) computed(built(sampleOf(used), used, seed + 1000 * before));
  expect(computed(built(sampleOf(used), used, seed))).toEqual(computed(built(sampleOf(fresh), fresh, seed)));
}

const law = (samplesOf: (device: Device, draw: Draw) => readonly Sample[]) =>
  fc.assert(
    fc.property(draws({}), fc.nat(1e6), (draw, seed) => {
      const again = repeating(draw);
      usedAgain((device) => {
        useDevice(device);
        const samples = samplesOf(device, again());
        return samples[seed % samples.length]!;
      }, seed);
    }),
    cases(3),
  );

describe("primitives", () => {
  test.each(Object.entries(primitives) as [string, Primitive][])("%s", (name, op) => {
    if (op.kind === "elementwise") {
      const whole = (x: Tensor) => (op.takes === "integer" ? cast(x, "int32") : x);
      const apply = (...xs: Tensor[]): Tensor => {
        if (name === "cast") return cast(xs[0]!, "int32");
        if (name === "bitcast") return bitcast(xs[0]!, "int32");
        return elementwiseFunction(name)(...xs.map(whole));
      };
      law((_, draw) => {
        const shape = draw.shape(3, 4);
        return [{ inputs: op.domain.map((domain) => ({ shape, domain })), apply }];
      });
    } else if (op.samples) law((_, draw) => op.samples!(draw));
  });
});

describe("composites and their derivatives", () => {
  test.each(Object.keys(composites(used)))("%s", (name) => law((device, draw) => composites(device)[name]!(draw)));
});

describe("what looks alike has plans of its own", () => {
  const vector = (...values: number[]) => upload(used, Float32Array.from(values), [values.length], "float32");
  const twice = withVjp(
    (x) => add(x!, x!),
    (g) => [add(g, g)],
  );
  const thrice = withVjp(
    (x) => mul(x!, constant(3)),
    (g) => [mul(g, constant(3))],
  );

  test.each<[string, (x: Tensor, y: Tensor) => Tensor[], number[][]]>([
    ["one leaf twice", (x) => [add(x, x)], [[2, 4]]],
    ["two leaves", (x, y) => [add(x, y)], [[6, 9]]],
    ["the other way round", (x, y) => [add(y, mul(x, constant(2)))], [[7, 11]]],
    ["another number", (x, y) => [add(y, mul(x, constant(3)))], [[8, 13]]],
    ["minus nothing", (x) => [mul(x, constant(-0))], [[-0, -0]]],
    ["nothing", (x) => [mul(x, constant(0))], [[0, 0]]],
    ["the first", (x) => [sliceAxis(x, 0, 0, 1)], [[1]]],
    ["the second", (x) => [sliceAxis(x, 0, 1, 2)], [[2]]],
    [
      "two of them",
      (x, y) => [neg(x), neg(y)],
      [
        [-1, -2],
        [-5, -7],
      ],
    ],
    [
      "in the other order",
      (x, y) => [neg(y), neg(x)],
      [
        [-5, -7],
        [-1, -2],
      ],
    ],
    [
      "the same twice",
      (x) => [neg(x), neg(x)],
      [
        [-1, -2],
        [-1, -2],
      ],
    ],
    [
      "one by another name",
      (x) => [neg(x), stopGradient(neg(x))],
      [
        [-1, -2],
        [-1, -2],
      ],
    ],
    ["a derivative of one's own", (x) => pullback([twice(x)], [constant(1, [2])], [x]).map((g) => g!), [[2, 2]]],
    ["another one", (x) => pullback([thrice(x)], [constant(1, [2])], [x]).map((g) => g!), [[3, 3]]],
  ])("%s", (_name, build, want) => {
    useDevice(used);
    for (let i = 0; i < 3; i++) expect(computed(build(vector(1, 2), vector(5, 7)))).toEqual(want);
  });

  test("a plan holds nobody's values", () => {
    useDevice(used);
    const before = used.statistics.bytesInUse;
    for (let i = 0; i < 4; i++) {
      using x = vector(...Array.from({ length: 5000 }, (_, at) => at + i));
      const y = mul(x, constant(1.25));
      expect([...valuesOf(y)][3]).toBe((3 + i) * 1.25);
      y.dispose();
    }
    expect(used.statistics.bytesInUse).toBe(before);
  });
});
