/**
 * Detaching restores the model exactly: detach(attach(M)) = M, whatever happened in between. The same module and parameter
 * objects are at the same paths, with the same values and trainable flags.
 *
 * @see design: "attach/detach replaces target modules in place and back, exactly"
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Conv1d, Conv2d, Conv3d } from "../../src/nn/convolution.ts";
import type { Module } from "../../src/nn/module.ts";
import { getAdapter } from "../../src/peft/adapted-model.ts";
import { snapshot, traceLeft } from "../../src/peft/check-method.ts";
import {
  activeAdapters,
  adapterNames,
  attach,
  baseStateDict,
  deleteAdapter,
  detach,
  disabled,
  merge,
  mergeAndUnload,
  setActive,
  setScale,
  unmerge,
} from "../../src/peft/index.ts";
import type { AnyMethod } from "../../src/peft/method.ts";
import { methods } from "../../src/peft/method-registry.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import { drawFrom, runsOf } from "../arbitrary/adapter.ts";
import { onEveryDevice } from "../devices.ts";
import { SmallModel, shake } from "../peft/small-model.ts";

interface Story {
  /** Parameters that could be trained before, by number. */
  readonly trainable: readonly boolean[];
  readonly tied: boolean;
  /** Each number is one thing that happens between attaching and detaching. */
  readonly events: readonly number[];
}

const stories: fc.Arbitrary<Story> = fc.record({
  trainable: fc.array(fc.boolean(), { minLength: 12, maxLength: 12 }),
  tied: fc.boolean(),
  events: fc.array(fc.nat(0xffff), { minLength: 1, maxLength: 8 }),
});

/** An output layer tied to the embedding, an adapter on each, merged: once the second kept the first's merged weight as its original. */
const tiedAndMerged: Story = { trainable: [true], tied: true, events: [192, 4] };

/** The model of the law: every kind of layer is in it. Nothing runs it. */
class Model extends SmallModel {
  readonly line = new Conv1d(6, 7, 1);
  readonly image = new Conv2d(6, 7, 1, { bias: false });
  readonly space = new Conv3d(6, 7, 1);
}

/** Targets with what they are, what goes in and comes out. */
const targetsOf = {
  q_proj: ["linear", 6, 7],
  v_proj: ["linear", 6, 7],
  o_proj: ["linear", 7, 6],
  embed_tokens: ["embedding", 11, 6],
  lm_head: ["linear", 6, 11],
  line: ["conv1d", 6, 7],
  image: ["conv2d", 6, 7],
  space: ["conv3d", 6, 7],
} as const;
type Target = keyof typeof targetsOf;
const targets = Object.keys(targetsOf) as Target[];
/** The greatest number that divides all: options that fit it fit all layers. */
const divisor = (numbers: readonly number[]): number =>
  numbers.reduce((a, b) => {
    while (b !== 0) [a, b] = [b, a % b];
    return a;
  });

/** Anything that the interface allows, picked by a number. */
function happen(model: Module, method: AnyMethod, event: number): void {
  const names = adapterNames(model);
  const draw = drawFrom([event >> 3, event >> 5, event >> 7, event >> 9]);
  const name = names[draw.integer(0, Math.max(0, names.length - 1))];
  const pick = event % 8;
  if (pick < 3 || name === undefined) {
    unmergeIfAdapted(model, names);
    const known = targets.filter((target) => targetsOf[target][0] in method.layers);
    const chosen = known.filter((target) => (event >> (3 + targets.indexOf(target))) & 1);
    const wanted = chosen.length ? chosen : known.slice(0, 1);
    if (wanted.length === 0) return; // a method for whole modules
    const facts = wanted.map((target) => targetsOf[target]);
    const options = method.samples(draw, {
      in: divisor(facts.map(([, into]) => into)),
      out: divisor(facts.map(([, , out]) => out)),
    });
    if (options === null) return;
    attach(model, method({ ...options, targetModules: wanted }), {
      name: `adapter${event}x${names.length}`,
      seed: event,
    });
    shake(model, 0.3, event);
  } else if (pick === 3) setActive(model, name);
  else if (pick === 4) {
    if (canMerge(model, name)) merge(model, [name]);
    else expect(() => merge(model, [name])).toThrow("is not a change of the weight");
  } else if (pick === 5) setScale(model, (event % 5) - 1, { name });
  else if (pick === 6) {
    unmergeIfAdapted(model, names);
    deleteAdapter(model, name);
  } else disabled(model, () => expect(activeAdapters(model)).toEqual(activeAdapters(model)));
}

/** Whether each layer has something that the adapter is a change of: its weight, or a bias that is there. */
function canMerge(model: Module, name: string): boolean {
  return [...getAdapter(model, name).layers.values()].every((layer) => {
    const { delta, biasDelta } = layer.adapters.get(name)!.method;
    return delta || (biasDelta && layer.bias);
  });
}

function unmergeIfAdapted(model: Module, names: readonly string[]): void {
  if (names.length > 0) unmerge(model);
}

export function checkDetach(
  method: AnyMethod,
  { trainable, tied, events }: Story,
  takeOff: (model: Module) => void = detach,
): void {
  const model = new Model({ tied });
  model.parameters().forEach((parameter, i) => {
    parameter.requiresGrad = trainable[i % trainable.length]!;
  });
  const before = snapshot(model);
  for (const event of events) happen(model, method, event);
  if (adapterNames(model).length > 0) {
    expect([...baseStateDict(model).keys()].sort()).toEqual(before.parameters.map(([path]) => path).sort());
    takeOff(model);
  }
  expect(traceLeft(before, model)).toBeUndefined();
}

onEveryDevice((device) => {
  test.each(Object.entries(methods) as [string, AnyMethod][])("taking %s off leaves no trace", (_, method) => {
    fc.assert(
      fc.property(stories, (story) => checkDetach(method, story)),
      { numRuns: runsOf(25, device), examples: [[tiedAndMerged]] },
    );
  });

  describe("the law catches", () => {
    const caught = (takeOff: (model: Module) => void) =>
      expect(() =>
        fc.assert(
          fc.property(stories, (story) => checkDetach(lora, story, takeOff)),
          { numRuns: 25, endOnFailure: true },
        ),
      ).toThrow();

    test("weights that keep the adapter", () => caught((model) => mergeAndUnload(model)));
    test("flags that stay as training left them", () => {
      caught((model) => {
        detach(model);
        model.freeze();
      });
    });
    test("a layer that stays wrapped", () => caught((model) => unmerge(model)));
  });
});
