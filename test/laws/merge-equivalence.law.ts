/**
 * Forward with the adapter equals forward with the changed weight: f(x; W, adapter) = f(x; W + ΔW).
 *
 * For LoRA, base(x) + s·B·A·x = (W + s·B·A)·x + b; several adapters add up. Two ways to sum the same products differ by
 * roundings only: with n terms, each at most u relative to the sum of the terms' sizes. A weight that is kept in 16 bits is
 * rounded once more when the change is written into it.
 *
 * @see https://arxiv.org/abs/2106.09685, §4.1: "we can explicitly compute and store W = W0 + BA"
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { realize } from "../../src/compile/program.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { setActive } from "../../src/peft/adapted-model.ts";
import { disabled, merge, unmerge } from "../../src/peft/index.ts";
import type { LayerKind } from "../../src/peft/layer-kind.ts";
import type { AnyMethod } from "../../src/peft/method.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import { abs } from "../../src/tensor/math.ts";
import {
  type AdapterCase,
  adaptations,
  adapterCases,
  type Built,
  buildAdapted,
  largest,
  largestDifference,
  layerAdapters,
  mutant,
  nameOf,
  numbers,
  roundingOf,
  shake,
} from "../arbitrary/adapter.ts";
import { onEveryDevice } from "../devices.ts";

/** What the adapters' terms add up to at most when nothing cancels: |ΔW| with the absolute values of its factors. */
function sizeOfChange({ adapters, model }: Built): number {
  return adapters
    .flatMap((adapter) => layerAdapters(adapter).map((own) => ({ adapter, own })))
    .map(({ adapter, own: { method, config, parameters, scale } }) => {
      const layer = [...adapter.layers.values()][0]!;
      const values = Object.fromEntries(Object.entries(parameters).map(([key, parameter]) => [key, abs(parameter.value)]));
      return model && method.delta ? largest(numbers(method.delta(layer.base(), values, config, scale.value))) : 0;
    })
    .reduce((sum, size) => sum + size, 0);
}

export function checkMergeEquivalence(method: AnyMethod, kind: LayerKind, item: AdapterCase, device: string): void {
  const built = buildAdapted(method, kind, item);
  const { model, x, inputWeight, layer } = built;
  shake(built, item.seed);
  setActive(
    model,
    built.adapters.map((_, i) => nameOf(i)),
  );
  const beside = model.forward(x);
  realize([beside]);
  const weight = () => [...layer.ownParameters()][0]![1].stored;
  const W = largest(numbers(weight()));
  merge(model);
  const within = model.forward(x);
  realize([within]);
  const change = sizeOfChange(built);
  const u = roundingOf("float32", device);
  const terms = item.in + 16 * item.adapters + 8;
  const stored = item.dtype === "float32" ? u : roundingOf(item.dtype, device);
  const bias = largest([...layer.ownParameters()].slice(1).flatMap(([, parameter]) => numbers(parameter.stored)));
  const tolerance = 2 * u * terms * (inputWeight * (W + change) + bias) + 2 * stored * inputWeight * (W + change) + 1e-30;
  const difference = largestDifference(beside, within);
  if (!(difference <= tolerance)) throw new Error(`merged differs by ${difference}, allowed ${tolerance}`);
  // while disabled the adapters are not there, merged or not
  const without = disabled(model, () => numbers(model.forward(x)));
  unmerge(model);
  expect(disabled(model, () => numbers(model.forward(x)))).toEqual(without);
}

onEveryDevice((device) => {
  describe.each(adaptations)("$name on $kind", ({ method, kind }) => {
    test("merging an adapter does not change the output", () => {
      fc.assert(
        fc.property(adapterCases(), (item) => checkMergeEquivalence(method, kind, item, device)),
        { numRuns: device === "reference" ? 40 : 60 },
      );
    });
  });

  describe.each(["linear", "embedding"] as const)("on %s the law catches", (kind) => {
    const right = lora.layers[kind]!;
    const caught = (wrong: AnyMethod) =>
      expect(() =>
        fc.assert(
          fc.property(adapterCases(), (item) => checkMergeEquivalence(wrong, kind, item, device)),
          { numRuns: 40, endOnFailure: true },
        ),
      ).toThrow();

    test("a change of the weight without its scaling", () => {
      caught(
        mutant(lora, kind, {
          delta: (base: never, p: never, c: never) => right.delta!(base, p, { ...(c as object), loraAlpha: 1 }, 1),
        }),
      );
    });

    test("a forward pass that ignores rank-stabilised scaling", () => {
      caught(
        mutant(lora, kind, {
          forward: (x: never, base: never, p: never, c: never, use: never) =>
            right.forward(x, base, p, { ...(c as object), useRslora: false }, use),
        }),
      );
    });

    test("factors in the wrong order", () => {
      // A·B instead of B·A: fits only where the layer is as wide as it is high
      caught(mutant(lora, kind, { delta: (_: never, { A, B }: Record<string, never>) => matmul(A!, B!) }));
    });
  });
});
