/**
 * A fresh adapter changes nothing: f(x; adapter at its first values) = f(x), for the methods and initialisers that claim it. Still,
 * training can begin: some gradient is not zero.
 *
 * In LoRA one factor starts at zero, so s·B·A = 0; with both at zero training would never leave the saddle point.
 *
 * @see https://arxiv.org/abs/2106.09685, §4.1: "so ∆W = BA is zero at the beginning of training"
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { currentDevice, realize, upload } from "../../src/compile/program.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { iota } from "../../src/graph/source.ts";
import { readValues } from "../../src/linalg/matrix.ts";
import { zeroStart } from "../../src/peft/check-method.ts";
import type { LayerKind } from "../../src/peft/layer-kind.ts";
import type { AnyMethod } from "../../src/peft/method.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import {
  type AdapterCase,
  adaptations,
  adapterCases,
  buildAdapted,
  largest,
  mutant,
  numbers,
  optionsOf,
  roundingOf,
  runsOf,
} from "../arbitrary/adapter.ts";
import { onEveryDevice } from "../devices.ts";

const coefficients = (y: Tensor, seed: number): Tensor =>
  upload(currentDevice(), new TorchGenerator(seed).randn(y.size), y.shape, "float32");

export function checkZeroStart(method: AnyMethod, kind: LayerKind, item: AdapterCase, device: string): void {
  fc.pre(method.startsAtZero?.(method(optionsOf(method, kind, item)).config) === true);
  const { model, layer, inputWeight, terms, ...built } = buildAdapted(method, kind, { ...item, adapters: 1 });
  // every row of a table, since a method may train only some
  const x = kind === "embedding" ? iota([item.in]) : built.x;
  const plain = layer.forward(x);
  const adapted = model.forward(x);
  realize([plain, adapted]);
  // the same products, but a sum may start from the adapter's share: every term may round once more
  const [weight = 0, ...biases] = [...layer.ownParameters()].map(([, parameter]) => largest(numbers(parameter.stored)));
  const tolerance = 2 * roundingOf("float32", device) * (terms + 2) * (inputWeight * weight + largest(biases));
  fc.pre(largest(numbers(plain)) > 1e-3 && inputWeight > 1e-3);
  // not the squares, whose sum a rotation does not change; of another stream than the weights, for a rotation has no gradient where the two
  // are proportional
  expect(zeroStart(model, readValues(plain), adapted, coefficients(adapted, item.seed + 1_000_003), tolerance)).toBeUndefined();
}

onEveryDevice((device) => {
  describe.each(adaptations.filter(({ method }) => method.startsAtZero))("$name on $kind", ({ method, kind }) => {
    test("a fresh adapter changes nothing and can be trained", () => {
      fc.assert(
        fc.property(adapterCases(), (item) => checkZeroStart(method, kind, item, device)),
        { numRuns: runsOf(40, device) },
      );
    });
  });

  describe.each(["linear", "embedding", "conv2d"] as const)("on %s the law catches", (kind) => {
    const caught = (wrong: AnyMethod) =>
      expect(() =>
        fc.assert(
          fc.property(adapterCases(), (item) => checkZeroStart(wrong, kind, item, device)),
          { numRuns: 40, endOnFailure: true },
        ),
      ).toThrow();
    const zeros = (size: number) => new Float32Array(size);

    test("two random factors", () => caught(mutant(lora, kind, {}, { startsAtZero: () => true })));
    test("two factors that are both zero", () =>
      caught(
        mutant(lora, kind, {
          initialise: (base: { in: number; out: number }, { r }: { r: number }) => ({
            values: { A: zeros(r * base.in), B: zeros(base.out * r) },
          }),
        }),
      ));
  });
});
