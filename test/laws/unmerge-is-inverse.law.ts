/**
 * Unmerging restores the weight bit for bit: unmerge(merge(W)) = W.
 *
 * Subtracting the change would not: (W + ΔW) − ΔW rounds twice, and in 16 bits a change below half a unit in the last place of W is
 * lost. So the original weight is kept.
 *
 * @see https://github.com/huggingface/peft, `lora.Linear.unmerge`, which subtracts
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { realize } from "../../src/compile/program.ts";
import { sub } from "../../src/graph/elementwise.ts";
import type { Module } from "../../src/nn/module.ts";
import { setActive } from "../../src/peft/adapted-model.ts";
import { snapshot, traceLeft } from "../../src/peft/check-method.ts";
import { detach, merge, unmerge } from "../../src/peft/index.ts";
import type { LayerKind } from "../../src/peft/layer-kind.ts";
import type { AnyMethod } from "../../src/peft/method.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import {
  type AdapterCase,
  adaptations,
  adapterCases,
  type Built,
  buildAdapted,
  buildLayer,
  changesWeight,
  layerAdapters,
  nameOf,
  runsOf,
  shake,
} from "../arbitrary/adapter.ts";
import { onEveryDevice } from "../devices.ts";

type TakeOut = (model: Module, built: Built) => void;

export function checkUnmerge(method: AnyMethod, kind: LayerKind, item: AdapterCase, takeOut: TakeOut = unmerge): void {
  const built = buildAdapted(method, kind, item);
  const { model } = built;
  shake(built, item.seed);
  const names = built.adapters.map((_, i) => nameOf(i));
  const atOnce = item.seed % 2 === 1; // or one after the other
  if (atOnce) setActive(model, names);
  const before = snapshot(model);
  if (atOnce) merge(model);
  else for (const name of names) merge(model, [name]);
  expect(merge(model, names)).toEqual([]);
  takeOut(model, built);
  expect(traceLeft(before, model)).toBeUndefined();
  detach(model);
  expect(snapshot(model).values).toEqual(snapshot(buildLayer(kind, item).model).values);
}

onEveryDevice((device) => {
  describe.each(adaptations.filter(changesWeight))("$name on $kind", ({ method, kind }) => {
    test("merging and taking back out restores every bit of the weight", () => {
      fc.assert(
        fc.property(adapterCases({ maxAdapters: 3 }), (item) => checkUnmerge(method, kind, item)),
        { numRuns: runsOf(40, device) },
      );
    });
  });

  test.each(["linear", "embedding", "conv2d"] as const)("on %s the law catches an adapter that is subtracted again", (kind) => {
    const subtract: TakeOut = (_, { layer, adapters }) => {
      const [, weight] = [...layer.ownParameters()][0]!;
      for (const adapter of adapters)
        for (const { method, config, parameters } of layerAdapters(adapter)) {
          const values = Object.fromEntries(Object.entries(parameters).map(([key, parameter]) => [key, parameter.value]));
          const place = [...adapter.layers.values()][0]!;
          const next = sub(weight.stored, place.asStored(method.delta!(place.base(), values, config, 1)));
          realize([next]);
          weight.assign(next);
        }
    };
    expect(() =>
      fc.assert(
        fc.property(adapterCases(), (item) => checkUnmerge(lora, kind, item, subtract)),
        { numRuns: 40, endOnFailure: true },
      ),
    ).toThrow();
  });
});
