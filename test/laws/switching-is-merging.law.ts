/**
 * Switching merged weights from one adapter to another equals merging the other into the original weight. Where the original is kept,
 * this holds bit for bit, and switching back and unmerging restores every bit. Where it is not kept, W − ΔA + ΔB is within three
 * roundings: u·(|W + ΔA| + |W| + |W + ΔB|).
 *
 * @see https://arxiv.org/abs/2106.09685, §4.2: "we can recover W0 by subtracting BA and then adding a different B′A′"
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { merge, switchMerged, unmerge } from "../../src/peft/index.ts";
import type { LayerKind } from "../../src/peft/layer-kind.ts";
import type { AnyMethod } from "../../src/peft/method.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import {
  type AdapterCase,
  adaptations,
  adapterCases,
  type Built,
  buildAdapted,
  changesWeight,
  largest,
  nameOf,
  numbers,
  roundingOf,
  runsOf,
  shake,
} from "../arbitrary/adapter.ts";
import { onEveryDevice } from "../devices.ts";

const [a, b] = [nameOf(0), nameOf(1)] as const;
const weightsOf = ({ layer }: Built) => [...layer.ownParameters()].map(([, parameter]) => numbers(parameter.stored));

export function checkSwitch(
  method: AnyMethod,
  kind: LayerKind,
  item: AdapterCase,
  device: string,
  switched = switchMerged,
): void {
  const built = buildAdapted(method, kind, { ...item, adapters: 2 });
  const { model, adapters } = built;
  shake(built, item.seed);
  const original = weightsOf(built);
  const mergedOnly = [a, b].map((name) => {
    unmerge(model);
    merge(model, [name]);
    return weightsOf(built);
  });
  unmerge(model);
  merge(model, [a]);
  switched(model, [b]);
  expect(weightsOf(built)).toEqual(mergedOnly[1]);
  switched(model, [a]);
  expect(weightsOf(built)).toEqual(mergedOnly[0]);
  unmerge(model);
  expect(weightsOf(built)).toEqual(original);

  const layer = [...adapters[0]!.layers.values()][0]!;
  if ([a, b].some((name) => layer.change([name]).fromWeight)) {
    expect(() => merge(model, [a, b], { keep: false })).toThrow(/depends on the weight/);
    expect(weightsOf(built)).toEqual(original);
    return;
  }
  merge(model, [a], { keep: false });
  switched(model, [b]);
  // sums and differences are rounded in float32 at least, then as the weight is kept
  const u = Math.max(2 ** -24, roundingOf(item.dtype, device));
  const near = (wanted: readonly number[][]) => {
    for (const [i, values] of weightsOf(built).entries()) {
      const size = [original, ...mergedOnly].reduce((most, each) => most + largest(each[i]!), 0);
      const off = largest(values.map((value, j) => value - wanted[i]![j]!));
      if (!(off <= 4 * u * size)) throw new Error(`switched weights differ by ${off}, allowed ${4 * u * size}`);
    }
  };
  near(mergedOnly[1]!);
  unmerge(model);
  near(original);
}

onEveryDevice((device) => {
  describe.each(adaptations.filter(changesWeight))("$name on $kind", ({ method, kind }) => {
    test("switching merged adapters is merging the other one", () => {
      fc.assert(
        fc.property(adapterCases(), (item) => checkSwitch(method, kind, item, device)),
        { numRuns: runsOf(16, device) / 2 },
      );
    });
  });

  test("the law catches adapters that pile up", () => {
    expect(() =>
      fc.assert(
        fc.property(adapterCases(), (item) =>
          checkSwitch(lora as unknown as AnyMethod, "linear", item, device, (model, names) => merge(model, names)),
        ),
        { numRuns: 20, endOnFailure: true },
      ),
    ).toThrow();
  });
});
