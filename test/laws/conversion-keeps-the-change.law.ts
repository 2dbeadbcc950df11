/**
 * Converting an adapter to LoRA at full rank does not change what it does: W + B·A = W + ΔW. Concatenating adapters gives their weighted
 * sum, [B₁ … Bₙ]·[w₁A₁; …; wₙAₙ] = Σ wᵢ·Bᵢ·Aᵢ, and so does their singular value decomposition at the sum of their ranks.
 *
 * Singular vectors are rounded to float32, relative to the largest singular value, which Σ|ΔW| bounds.
 *
 * @see https://huggingface.co/docs/peft/developer_guides/model_merging
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { add } from "../../src/graph/elementwise.ts";
import { changeOf } from "../../src/peft/compose/lora-adapter.ts";
import { combineAdapters, convertToLora, setActive } from "../../src/peft/index.ts";
import type { LayerKind } from "../../src/peft/layer-kind.ts";
import type { AnyMethod } from "../../src/peft/method.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import { times } from "../../src/peft/weight-change.ts";
import {
  type AdapterCase,
  adaptations,
  adapterCases,
  type Built,
  buildAdapted,
  changesWeight,
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

/** Small ones: every singular value decomposition is of a matrix of its own shape. */
const cases = adapterCases({ dtypes: ["float32"] }).map((item) => ({
  ...item,
  in: 1 + (item.in % 12),
  out: 1 + (item.out % 12),
}));

const sizeOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + Math.abs(value), 0);

export function checkConversion(method: AnyMethod, kind: LayerKind, item: AdapterCase): void {
  optionsOf(lora as unknown as AnyMethod, kind, item); // for LoRA, too, it must be a case
  const built = buildAdapted(method, kind, { ...item, adapters: 1 });
  const { model, x, adapters, inputWeight } = built;
  shake(built, item.seed);
  const before = model.forward(x);
  convertToLora(model, { adapter: nameOf(0), energy: 1, name: "converted" });
  const change = sizeOf(numbers(changeOf("law", [...adapters[0]!.layers.values()][0]!, nameOf(0))));
  setActive(model, "converted");
  // also on the reference device the factors are kept in float32, and so are the values that energies are summed from
  const tolerance = 64 * 2 ** -24 * (inputWeight * change + largest(numbers(before)) + 1e-6);
  const difference = largestDifference(model.forward(x), before);
  if (!(difference <= tolerance)) throw new Error(`converted differs by ${difference}, allowed ${tolerance}`);
}

export function checkSum(method: AnyMethod, kind: LayerKind, item: AdapterCase, device: string): void {
  const built: Built = buildAdapted(method, kind, { ...item, adapters: 2 });
  const { model, adapters } = built;
  shake(built, item.seed);
  const layer = [...adapters[0]!.layers.values()][0]!;
  const weights = [0, 1].map((i) => (item.options[i]! - 0x8000) / 0x4000);
  const parts = adapters.map(({ name }, i) => times(changeOf("law", layer, name), weights[i]!));
  const sum = parts.reduce(add);
  const size = parts.reduce((most, part) => most + sizeOf(numbers(part)), 1e-6);
  const names = adapters.map(({ name }) => name);
  const rank = adapters.reduce((total, { config }) => total + (config["r"] as number), 0);
  for (const [type, rounding] of [["cat", roundingOf("float32", device)] as const, ["svd", 2 ** -24] as const]) {
    combineAdapters(model, { adapters: names, weights, type, name: type, ...(type === "svd" ? { svdRank: rank } : {}) });
    const difference = largestDifference(changeOf("law", layer, type), sum);
    const tolerance = 64 * rounding * (rank + 8) * size;
    if (!(difference <= tolerance)) throw new Error(`${type} differs by ${difference}, allowed ${tolerance}`);
  }
}

/** What a LoRA beside the weight can be: no stack of experts, and nothing that has taken a part of the weight away. */
const convertible = (kind: LayerKind, method: AnyMethod): boolean => kind !== "parameter" && !method.layers[kind]?.underlay;

onEveryDevice((device) => {
  describe.each(adaptations.filter((each) => changesWeight(each) && convertible(each.kind, each.method)))(
    "$name on $kind",
    ({ method, kind }) => {
      test("a converted adapter does what it did", () => {
        fc.assert(
          fc.property(cases, (item) => checkConversion(method, kind, item)),
          { numRuns: runsOf(16, device) / 2 },
        );
      });
    },
  );

  const run = (method: AnyMethod, kind: LayerKind) =>
    fc.assert(
      fc.property(cases, (item) => checkSum(method, kind, item, device)),
      { numRuns: 6, endOnFailure: true },
    );
  describe.each((Object.keys(lora.layers) as LayerKind[]).filter((kind) => kind !== "parameter"))("LoRA on %s", (kind) => {
    test("side by side, and by singular values, is the weighted sum", () => run(lora as unknown as AnyMethod, kind));
  });

  test("the law catches a change that is not what the forward pass does", () => {
    const right = lora.layers.linear!;
    const wrong = mutant(lora as unknown as AnyMethod, "linear", {
      delta: (base: never, p: never, c: object) => right.delta!(base, p, { ...c, useRslora: false } as never, 1),
    });
    expect(() =>
      fc.assert(
        fc.property(cases, (item) => checkConversion(wrong, "linear", item)),
        { numRuns: 40, endOnFailure: true },
      ),
    ).toThrow();
  });
});
