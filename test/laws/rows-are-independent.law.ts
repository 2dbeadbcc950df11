/**
 * In a batch whose rows have different adapters, every row gets what it would get alone: f(x; a₁ … aₙ)ᵢ = f(xᵢ; aᵢ), where aᵢ is an
 * adapter of any method that acts on rows independently, or none.
 *
 * The base layer runs once for all rows and may sum its products in another order than for one row, which gives roundings of the size
 * of the products.
 *
 * @see https://arxiv.org/abs/2312.05677, https://github.com/huggingface/peft, `LoraLayer._mixed_batch_forward`
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { concatenate } from "../../src/graph/composite.ts";
import { sliceAxis } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Module } from "../../src/nn/module.ts";
import { attach, disabled, setActive, withAdapters } from "../../src/peft/index.ts";
import type { LayerKind } from "../../src/peft/layer-kind.ts";
import type { AnyMethod, Base } from "../../src/peft/method.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import {
  type AdapterCase,
  adaptations,
  adapterCases,
  type Built,
  buildAdapted,
  largest,
  largestDifference,
  mutant,
  nameOf,
  numbers,
  optionsOf,
  roundingOf,
  runsOf,
  shake,
} from "../arbitrary/adapter.ts";
import { onEveryDevice } from "../devices.ts";

type ByRow = (model: Built["model"], names: readonly string[], x: Tensor) => Tensor;
const together: ByRow = (model, names, x) => withAdapters(model, names, () => model.forward(x));

/** Two adapters of the method and one of LoRA, where it may be, in any order over the rows, with some rows that have none. */
export function checkRows(method: AnyMethod, kind: LayerKind, item: AdapterCase, device: string, run = together): void {
  const built = buildAdapted(method, kind, { ...item, adapters: 2, rows: [2 + (item.seed % 5), ...item.rows.slice(0, 1)] });
  const { model, x, inputWeight, layer, terms } = built;
  // a method that takes a part of the weight away is alone on its model
  const third: AnyMethod = method.layers[kind]?.underlay ? method : lora;
  const other = attach(model as Module, third(optionsOf(third, kind, item, 2)), { name: "other" });
  shake({ ...built, adapters: [...built.adapters, other] }, item.seed);
  const all = [nameOf(0), nameOf(1), "other", "__base__"];
  const names = Array.from({ length: x.shape[0]! }, (_, i) => all[(item.options[i % item.options.length]! + i) % all.length]!);
  const alone = names.map((name, i) => {
    const row = sliceAxis(x, 0, i, i + 1);
    if (name === "__base__") return disabled(model, () => model.forward(row));
    setActive(model, name);
    return model.forward(row);
  });
  const expected = concatenate(alone, 0);
  const parameters = [...layer.ownParameters()].map(([, parameter]) => largest(numbers(parameter.stored)));
  const size = inputWeight * Math.max(...parameters) + largest(numbers(expected)) + largest(parameters);
  const tolerance = 8 * roundingOf("float32", device) * (terms + item.out + 16) * size;
  const difference = largestDifference(run(model, names, x), expected);
  if (!(difference <= tolerance)) throw new Error(`rows of ${names} differ by ${difference}, allowed ${tolerance}`);
}

onEveryDevice((device) => {
  describe.each(adaptations.filter(({ method }) => !method.mixesRows))("$name on $kind", ({ method, kind }) => {
    test("every row gets what its adapter alone gives", () => {
      fc.assert(
        fc.property(adapterCases(), (item) => checkRows(method, kind, item, device)),
        { numRuns: runsOf(40, device) },
      );
    });
  });

  const caught = (method: AnyMethod, kind: LayerKind, run: ByRow = together) =>
    expect(() =>
      fc.assert(
        fc.property(adapterCases(), (item) => checkRows(method, kind, item, device, run)),
        { numRuns: 40, endOnFailure: true },
      ),
    ).toThrow();

  test("the law catches rows that get each other's adapters", () => {
    caught(lora, "linear", (model, names, x) => together(model, [...names].reverse(), x));
  });

  test("the law catches a method that looks at the whole batch", () => {
    const right = lora.layers.linear!;
    const first = (x: Tensor) => sliceAxis(x, 0, 0, 1);
    const wrong = mutant(lora as AnyMethod, "linear", {
      forward: (x: Tensor, base: Base, ...more: [never, never, never]) =>
        right.forward(x, (() => base(first(x))) as never, ...more),
    });
    caught(wrong, "linear");
  });
});
