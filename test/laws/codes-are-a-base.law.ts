/**
 * To any adapter, a layer with a quantised weight is the layer with the dequantised weight: same output, and after merging the nearest
 * codes of the same changed weight. Unmerging and detaching restore every bit of the codes.
 *
 *   f(x; codes, adapter) = f(x; widened codes, adapter) and |widened merged codes − (W + ΔW)| ≤ half a gap of the quantiser
 *
 * @see https://arxiv.org/abs/2305.14314, eq. 5
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { currentDevice, downloadSync, upload } from "../../src/compile/program.ts";
import { Linear } from "../../src/nn/linear.ts";
import type { Module } from "../../src/nn/module.ts";
import type { QuantisedLinear } from "../../src/nn/quantised-linear.ts";
import { nf4, type QuantisedType } from "../../src/nn/quantiser.ts";
import { attach, detach, merge, quantise, unmerge } from "../../src/peft/index.ts";
import type { AnyMethod } from "../../src/peft/method.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import {
  type AdapterCase,
  adaptations,
  adapterCases,
  buildLayer,
  Holder,
  largest,
  numbers,
  optionsOf,
  shake,
} from "../arbitrary/adapter.ts";
import { onEveryDevice } from "../devices.ts";

const wholeOf = (model: Module) => [...model.namedParameters()].map(([path, parameter]) => [path, numbers(parameter.stored)]);

function checkCodes(method: AnyMethod, type: QuantisedType, item: AdapterCase, takeOut: (model: Module) => void = unmerge): void {
  const { model, x } = buildLayer("linear", { ...item, dtype: "float32" });
  const bias = (model.layer as Linear).bias;
  quantise(model, { type, blockSize: 32, doubleQuantise: false, skip: [] });
  const layer = model.layer as QuantisedLinear;
  const matrix = layer.matrix();
  const values = downloadSync(matrix) as Float32Array;
  const wide = new Linear(layer.inFeatures, layer.outFeatures, { init: () => values.slice(), bias: bias ?? false });
  const twin = new Holder(wide);
  const before = wholeOf(model);
  const options = optionsOf(method, "linear", item);
  for (const of of [model, twin]) {
    const adapter = attach(of, method(options), { seed: item.seed });
    shake({ adapters: [adapter] } as never, item.seed);
  }
  // a start that takes a part of the weight away leaves the nearest codes
  const left = downloadSync(layer.matrix()) as Float32Array;
  if (left.some((value, i) => value !== values[i]))
    wide.weight.replace(upload(currentDevice(), left, wide.weight.shape, "float32"));
  const [y, wanted] = [numbers(model.forward(x)), numbers(twin.forward(x))];
  const size = 1 + largest(wanted);
  expect(largest(y.map((value, i) => value - wanted[i]!))).toBeLessThanOrEqual(1e-4 * size);
  if (method.layers.linear?.delta && method.peftType !== "IA3") {
    const options = { tell: () => {} };
    merge(model, undefined, options);
    merge(twin, undefined, options);
    const [got, changed] = [numbers(layer.matrix()), numbers(wide.weight.stored)];
    const row = type === "int8" ? layer.inFeatures : 32;
    // the widest gap of NF4 is the one after −1
    const gap = type === "int8" ? 1 / 127 : nf4[1]! - nf4[0]!;
    // a change may leave nothing of the weight but its rounding
    const rounding = 1e-4 * Math.max(largest(changed), largest([...values]));
    for (let start = 0; start < changed.length; start += row) {
      const wanted = changed.slice(start, start + row);
      const furthest = largest(wanted.map((value, i) => got[start + i]! - value));
      expect(furthest).toBeLessThanOrEqual(largest(wanted) * (gap / 2 + 2 ** -10) + rounding);
    }
    takeOut(model);
  }
  detach(model);
  expect(model.layer).toBe(layer);
  expect(wholeOf(model)).toEqual(before);
}

onEveryDevice(() => {
  describe.each(adaptations.filter(({ kind }) => kind === "linear"))("$name", ({ method }) => {
    test("on codes it is what it is on the widened weight", () => {
      fc.assert(
        fc.property(adapterCases({ maxAdapters: 1 }), fc.constantFrom("nf4", "int8"), (item, type) =>
          checkCodes(method, type as QuantisedType, item),
        ),
        { numRuns: 6 },
      );
    });
  });
});

describe("mutants are caught", () => {
  const caught = (takeOut: (model: Module) => void) =>
    expect(() =>
      fc.assert(
        fc.property(adapterCases({ maxAdapters: 1 }), (item) => checkCodes(lora, "nf4", item, takeOut)),
        { numRuns: 20, endOnFailure: true },
      ),
    ).toThrow();
  test("taking out by putting codes of another weight there", () =>
    caught((model) => {
      unmerge(model);
      const [, codes] = [...model.namedParameters()].find(([path]) => path.endsWith("base_layer.weight"))!;
      const other = Uint8Array.from(downloadSync(codes.stored), (byte) => byte ^ 1);
      codes.replace(upload(currentDevice(), other, codes.shape, "uint8"));
    }));
});
