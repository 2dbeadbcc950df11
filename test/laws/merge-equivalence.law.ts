/**
 * Forward with the adapter equals forward with the changed weight: f(x; W, adapter) = f(x; W + ΔW).
 *
 * For LoRA, base(x) + s·B·A·x = (W + s·B·A)·x + b; several adapters add up. Two ways to sum the same n products differ only by
 * roundings, each at most u relative to the sum of the terms' sizes. Where a method first computes something from its parameters (a
 * norm, an inverse), that acts like a few more roundings. A 16-bit weight is rounded once more when the change is written into it.
 *
 * @see https://arxiv.org/abs/2106.09685, §4.1: "we can explicitly compute and store W = W0 + BA"
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { currentDevice, realize, upload } from "../../src/compile/program.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { mul } from "../../src/graph/elementwise.ts";
import { reshape } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { readValues } from "../../src/linalg/matrix.ts";
import { setActive } from "../../src/peft/adapted-model.ts";
import { mergeEquivalence } from "../../src/peft/check-method.ts";
import type { LayerKind } from "../../src/peft/layer-kind.ts";
import type { AnyMethod } from "../../src/peft/method.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { abs } from "../../src/tensor/math.ts";
import {
  type AdapterCase,
  adaptations,
  adapterCases,
  type Built,
  buildAdapted,
  changesWeight,
  largest,
  largestDifference,
  layerAdapters,
  mutant,
  nameOf,
  numbers,
  roundingOf,
  runsOf,
  shake,
} from "../arbitrary/adapter.ts";
import { onEveryDevice } from "../devices.ts";

/** What the adapters' terms add up to at most when nothing cancels: |ΔW|, and |ΔW| with the absolute values of its factors. */
function sizeOfChange({ adapters }: Built): number {
  return adapters
    .flatMap((adapter) => layerAdapters(adapter).map((own) => ({ adapter, own })))
    .map(({ adapter, own: { method, config, parameters, shared, scale } }) => {
      const layer = [...adapter.layers.values()][0]!;
      const of = (change: (x: Tensor) => Tensor) => {
        const all = Object.entries({ ...shared, ...parameters });
        const values = Object.fromEntries(all.map(([key, parameter]) => [key, change(parameter.value)]));
        return method.delta ? largest(numbers(method.delta(layer.base(), values, config, scale.value))) : 0;
      };
      return Math.max(
        of(abs),
        of((x) => x),
      );
    })
    .reduce((sum, size) => sum + size, 0);
}

/**
 * How far the output moves, relative to the change, when every parameter is off by a small part of itself: the share of
 * rounding errors that comes from what the method computes of its parameters before it multiplies x (a norm, an inverse).
 */
function sensitivity({ adapters, model, x }: Built, output: Tensor, seed: number): number {
  const step = 2 ** -10;
  const random = new TorchGenerator(seed);
  const all = adapters.flatMap((adapter) => layerAdapters(adapter).flatMap((own) => Object.values(own.parameters)));
  const parameters = all.filter(({ dtype }) => dtype !== "int32");
  const values = parameters.map((parameter) => parameter.stored);
  const moved = [0, 1].map(() => {
    for (const [i, parameter] of parameters.entries()) {
      const off = Float32Array.from(random.randint(parameter.size, 0, 2), (side) => 1 + (side === 0 ? step : -step));
      parameter.assign(mul(values[i]!, upload(currentDevice(), off, parameter.shape, "float32")));
    }
    return largestDifference(model.forward(x), output) / step;
  });
  for (const [i, parameter] of parameters.entries()) parameter.replace(values[i]!);
  return Math.max(...moved);
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
  const change = sizeOfChange(built);
  const moved = sensitivity(built, beside, item.seed);
  const u = roundingOf("float32", device);
  const terms = built.terms + 16 * item.adapters + 8;
  const stored = item.dtype === "float32" ? u : roundingOf(item.dtype, device);
  const bias = largest([...layer.ownParameters()].slice(1).flatMap(([, parameter]) => numbers(parameter.stored)));
  const sizes = inputWeight * (W + change);
  const tolerance = 2 * u * terms * (sizes + bias + moved) + 2 * stored * (sizes + bias) + 1e-30;
  expect(mergeEquivalence(model, () => readValues(model.forward(x)), readValues(beside), tolerance)).toBeUndefined();
}

onEveryDevice((device) => {
  describe.each(adaptations.filter(changesWeight))("$name on $kind", ({ method, kind }) => {
    test("merging an adapter does not change the output", () => {
      fc.assert(
        fc.property(adapterCases(), (item) => checkMergeEquivalence(method, kind, item, device)),
        { numRuns: runsOf(40, device) },
      );
    });
  });

  describe.each(["linear", "embedding", "conv2d"] as const)("on %s the law catches", (kind) => {
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
      const matrix = (x: Tensor) => reshape(x, [x.shape[0]!, -1]);
      caught(mutant(lora, kind, { delta: (_: never, { A, B }: Record<string, never>) => matmul(matrix(A!), matrix(B!)) }));
    });
  });
});
