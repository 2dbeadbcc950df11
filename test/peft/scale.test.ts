/** Setting the scale of adapters while compiled programs run. */
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { LlamaForCausalLM } from "../../src/models/llama.ts";
import {
  activeAdapters,
  adaptionPrompt,
  attach,
  disabled,
  dora,
  lora,
  merge,
  setActive,
  setScale,
} from "../../src/peft/index.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { generate } from "../../src/train/generation.ts";
import {
  type AdapterCase,
  adaptations,
  buildAdapted,
  changesWeight,
  largestDifference,
  sampleOptions,
  shake as shakeBuilt,
} from "../arbitrary/adapter.ts";
import { decoderConfigs } from "../models/configs.ts";
import { difference, ids, numbers, SmallModel, shake } from "./small-model.ts";

const scales = [0.5, -1.25, 1, 0, 0.3];
const item: AdapterCase = {
  ...{ in: 12, out: 8, rows: [2, 3], bias: true, dtype: "float32", adapters: 1, seed: 3 },
  options: [4, 9, 2, 7, 5, 1, 8, 6],
};
beforeAll(() => void useDevice(createReference()));

describe("setScale", () => {
  const fitting = adaptations.filter(({ method, kind }) => sampleOptions(method, kind, item) !== null);

  it("is tried with every kind of layer", () => {
    expect(new Set(fitting.map(({ kind }) => kind))).toEqual(new Set(adaptations.map(({ kind }) => kind)));
    expect(fitting.length).toBeGreaterThan(adaptations.length * 0.9);
  });

  it.each(fitting)("$name on $kind follows it without compiling again", (adaptation) => {
    const { method, kind } = adaptation;
    const [beside, within] = [0, 1].map(() => {
      const built = buildAdapted(method, kind, item);
      shakeBuilt(built, item.seed);
      return built;
    }) as [ReturnType<typeof buildAdapted>, ReturnType<typeof buildAdapted>];
    const { model, x } = beside;
    const step = compile((input: Tensor) => model.forward(input));
    const seen = new Set([numbers(step(x)).join()]);
    for (const scale of scales) {
      setScale(model, scale);
      const y = step(x);
      seen.add(numbers(y).join());
      expect(largestDifference(y, model.forward(x))).toBeLessThan(1e-9); // built with the number
      // the magnitudes of DoRA stay, as in PEFT
      if (scale === 0 && adaptation.name !== "dora")
        expect(
          largestDifference(
            y,
            disabled(model, () => model.forward(x)),
          ),
        ).toBeLessThan(1e-9);
      if (!changesWeight(adaptation)) continue;
      setScale(within.model, scale);
      merge(within.model);
      expect(largestDifference(y, within.model.forward(x))).toBeLessThan(1e-9);
    }
    expect(step.traces).toBe(2);
    expect(seen.size).toBeGreaterThanOrEqual(scales.length);
    step.dispose();
  });

  it("of several adapters, of some layers, by name: each keeps its own", () => {
    const model = new SmallModel().eval();
    const x = ids(1, 5, 2, 7);
    attach(model, lora({ r: 2, targetModules: ["q_proj", "v_proj"] }), { name: "a" });
    attach(model, dora({ r: 2, targetModules: ["v_proj", "o_proj"] }), { name: "b" });
    shake(model);
    setActive(model, ["a", "b"]);
    const step = compile((input: Tensor) => model.forward(input));
    const agree = () => expect(difference(step(x), model.forward(x))).toBeLessThan(1e-12);
    agree();
    setScale(model, 0.5);
    agree();
    const { traces } = step;
    setScale(model, 0.25, { name: "b", where: (path) => path.includes("layers.1") });
    agree();
    setScale(model, 2, { where: (path) => path.endsWith("v_proj") });
    agree();
    expect(step.traces).toBe(traces);
    setActive(model, "b");
    agree();
    expect([activeAdapters(model), step.traces]).toEqual([["b"], traces + 1]);
  });

  it("leaves alone what was built before, computed or not", () => {
    const model = new SmallModel().eval();
    attach(model, lora({ r: 2, targetModules: ["q_proj"], initLoraWeights: false }));
    setScale(model, 2);
    const want = numbers(model.forward(ids(3, 1)));
    const later = model.forward(ids(3, 1));
    setScale(model, -3);
    expect(numbers(later)).toEqual(want);
    expect(numbers(model.forward(ids(3, 1)))).not.toEqual(want);
  });

  it("is refused in a function being traced, and for numbers that float32 cannot hold", () => {
    const model = new SmallModel();
    attach(model, lora({ r: 2, targetModules: ["q_proj"] }));
    const step = compile((x: Tensor) => {
      setScale(model, 0.5);
      return model.forward(x);
    });
    expect(() => step(ids(1))).toThrow("setScale: inside a compiled function it would be set once only, while tracing.");
    expect(() => setScale(model, 1e39)).toThrow("setScale: `scale` (= 1e+39) must be a number that float32 can hold.");
  });
});

describe("a slider", () => {
  const wasm = createWasm({ threads: 2 });
  beforeAll(() => void useDevice(wasm));
  afterAll(() => wasm[Symbol.dispose]());

  it.each([
    ["LoRA", lora({ r: 2, targetModules: ["q_proj", "down_proj", "embed_tokens"], initLoraWeights: false })],
    ["an adaption prompt", adaptionPrompt({ adapterLen: 3, adapterLayers: 2 })],
  ])("moves %s while a text is written", async (_, config) => {
    manualSeed(1);
    const model = new LlamaForCausalLM({ ...decoderConfigs["llama"], initializer_range: 0.4 }).eval();
    attach(model, config as never);
    for (const [name, parameter] of model.namedParameters())
      if (/adaption_gate/.test(name)) parameter.assign(parameter.value.add(3));
    const forward = vi.spyOn(model, "forward"); // runs while tracing only
    const write = async (at: (step: number) => number, compiled: boolean): Promise<[number[], number]> => {
      const tokens: number[] = [];
      setScale(model, at(0));
      const calls = forward.mock.calls.length;
      for await (const token of generate(model, [3, 1, 4], { maxNewTokens: 12, compiled })) {
        tokens.push(token);
        setScale(model, at(tokens.length));
      }
      return [tokens, forward.mock.calls.length - calls];
    };
    const slide = (step: number) => 1 - step / 2;
    const [first] = await write(() => 1, true);
    const [moved, traces] = await write(slide, true);
    expect(traces).toBe(0);
    expect(moved).toEqual((await write(slide, false))[0]);
    expect(moved).not.toEqual(first);
  });
});
