import { beforeAll, describe, expect, it } from "vitest";
import { currentDevice, upload, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { add } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { changeOf } from "../../src/peft/compose/lora-adapter.ts";
import { keepLargest, maskFrom } from "../../src/peft/compose/prune.ts";
import { disjointMean, electedSigns } from "../../src/peft/compose/sign-election.ts";
import {
  activeAdapters,
  adapterNames,
  attach,
  type CombineOptions,
  combineAdapters,
  convertToLora,
  disabled,
  getAdapter,
  ia3,
  loha,
  lora,
  merge,
  setActive,
  setScale,
} from "../../src/peft/index.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { difference, ids, numbers, SmallModel, shake } from "./small-model.ts";

beforeAll(() => void useDevice(createReference()));

const vector = (...values: number[]): Tensor => upload(currentDevice(), Float32Array.from(values), [values.length], "float32");
type LoraOptions = NonNullable<Parameters<typeof lora>[0]>;

function model(a: LoraOptions = {}, b: LoraOptions = {}): SmallModel {
  const made = new SmallModel().eval();
  attach(made, lora({ r: 2, loraAlpha: 6, targetModules: ["q_proj", "v_proj"], ...a }), { name: "a" });
  attach(made, lora({ r: 2, loraAlpha: 3, targetModules: ["q_proj", "o_proj"], ...b }), { name: "b" });
  shake(made);
  return made;
}
const both = { adapters: ["a", "b"], weights: [0.7, -0.4], name: "c" };
const layerOf = (made: SmallModel, path: string) =>
  [...getAdapter(made, "c").layers.values()].find((layer) => layer.path.endsWith(path))!;

describe("what the ways are made of", () => {
  it("keeps the largest values by size", () => {
    expect(numbers(keepLargest(vector(1, -4, 3, 0.5, -2), 0.5))).toEqual([0, -4, 3, 0, -0]);
    expect(numbers(keepLargest(vector(1, -4), 0.4))).toEqual([0, 0]);
    expect(numbers(keepLargest(vector(1, -4), 1))).toEqual([1, -4]);
  });

  it("draws the masks of torch.bernoulli", () => {
    // torch.manual_seed(5); torch.bernoulli(torch.full((40, 33), 0.6)).flatten()[:12]
    const mask = maskFrom(new TorchGenerator(5))([40, 33], 0.6);
    expect(numbers(mask).slice(0, 12)).toEqual([0, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 1]);
  });

  it("elects signs by size or by number; a draw goes to plus, and zeros have none", () => {
    const changes = [vector(3, -1, 0, 2), vector(-1, 1, 0, 0), vector(-1, 0, 0, -5)];
    expect(electedSigns(changes, "total").map(numbers)).toEqual([
      [1, 0, 0, 0],
      [0, 1, 0, 0],
      [0, 0, 0, 1],
    ]);
    expect(electedSigns(changes, "frequency").map(numbers)).toEqual([
      [0, 0, 0, 1],
      [1, 1, 0, 0],
      [1, 0, 0, 0],
    ]);
    expect(numbers(disjointMean(changes, electedSigns(changes, "frequency")))).toEqual([-1, 1, 0, 2]);
  });
});

describe("combineAdapters", () => {
  it("adds up layers of all adapters, each with its scaling, and leaves everything else as it is", () => {
    const made = model({ useRslora: true }, { layersToTransform: [1] });
    setScale(made, 0.5, { name: "b" });
    const combined = combineAdapters(made, { ...both, type: "cat" });
    expect(activeAdapters(made)).toEqual(["a"]);
    expect(combined.config).toMatchObject({ r: 4, loraAlpha: 4, useRslora: false, initLoraWeights: true });
    expect([...combined.layers.keys()].filter((path) => path.includes("o_proj"))).toEqual(["model.layers.1.self_attn.o_proj"]);
    const x = ids(1, 2, 3);
    setActive(made, ["a", "b"]);
    setScale(made, 0.7, { name: "a" });
    setScale(made, -0.2, { name: "b" });
    const sum = numbers(made.forward(x));
    setActive(made, "c");
    expect(
      difference(made.forward(x), upload(currentDevice(), Float64Array.from(sum), made.forward(x).shape, "float64")),
    ).toBeLessThan(1e-6);
  });

  it("combines A and B on their own, the sign in A", () => {
    const made = model({ targetModules: ["q_proj"] }, { targetModules: ["q_proj"] });
    combineAdapters(made, { ...both, type: "linear" });
    const { adapters } = layerOf(made, "0.self_attn.q_proj");
    const values = (name: string, key: string) => numbers(adapters.get(name)!.parameters[key]!.stored);
    const roots = [Math.sqrt(0.7 * 3), Math.sqrt(0.4 * 1.5)];
    for (const [key, sign] of [["A", -1] as const, ["B", 1] as const]) {
      const [a, b] = [values("a", key), values("b", key)];
      for (const [i, value] of values("c", key).entries())
        expect(value).toBeCloseTo(roots[0]! * a[i]! + sign * roots[1]! * b[i]!, 5);
    }
  });

  it("takes changes of any method by singular values", () => {
    const made = model();
    attach(made, loha({ r: 2, targetModules: ["q_proj"], initWeights: false }), { name: "h" });
    combineAdapters(made, { adapters: ["h", "a"], weights: [1, 2], name: "c", svdRank: 6 });
    const layer = layerOf(made, "1.self_attn.q_proj");
    const [h, a, c] = ["h", "a", "c"].map((name) => numbers(changeOf("test", layer, name)));
    for (const [i, value] of c!.entries()) expect(value).toBeCloseTo(h![i]! + 2 * a![i]!, 5);
    expect(() => combineAdapters(made, { adapters: ["h", "a"], weights: [1, 1], name: "d", type: "linear" })).toThrow(
      /"h" \(LOHA\)/,
    );
    expect(() => combineAdapters(made, { adapters: ["h", "h"], weights: [1, 1], name: "d" })).toThrow(/no rank of their own/);
  });

  it("fills ranks that differ by layer with zeros, and refuses to add A and B of different ranks", () => {
    const ranks = { rankPattern: { "layers.1.self_attn.q_proj": 1 }, targetModules: ["q_proj"] };
    const made = model(ranks, ranks);
    combineAdapters(made, { ...both, type: "ties", density: 0.5 });
    expect(layerOf(made, "1.self_attn.q_proj").adapters.get("c")!.parameters["A"]!.shape).toEqual([2, 6]);
    const other = model(ranks, { targetModules: ["q_proj"] });
    expect(() => combineAdapters(other, { ...both, type: "linear" })).toThrow(/ranks 1 and 2 on model.layers.1/);
    expect(adapterNames(other)).toEqual(["a", "b"]);
  });

  it("scales one adapter, clamps, and draws the same masks for the same seed", () => {
    const made = model();
    combineAdapters(made, { adapters: ["a"], weights: [-2], name: "c" });
    const layer = layerOf(made, "0.self_attn.v_proj");
    const [a, c] = ["a", "c"].map((name) => numbers(changeOf("test", layer, name)));
    for (const [i, value] of c!.entries()) expect(value).toBeCloseTo(-2 * a![i]!, 5);
    const clampedTo = combineAdapters(made, { ...both, name: "d", svdClamp: 0.9 });
    const { A, B } = [...clampedTo.layers.values()][0]!.adapters.get("d")!.parameters;
    const sizes = [...numbers(A!.stored), ...numbers(B!.stored)].map(Math.abs);
    expect(sizes.filter((size) => size === Math.max(...sizes)).length).toBeGreaterThan(1);
    const dare = (name: string, seed: number) => {
      combineAdapters(made, { ...both, name, type: "dare_linear", density: 0.5, seed });
      return numbers(changeOf("test", layer, name));
    };
    expect(dare("e", 1)).toEqual(dare("f", 1));
    expect(dare("g", 2)).not.toEqual(dare("h", 1));
  });

  it("keeps a module that one of them trains as a whole, and refuses two", () => {
    const made = model({ modulesToSave: ["lm_head"] });
    for (const [name, parameter] of made.namedParameters())
      if (name.includes("modules_to_save")) parameter.assign(add(parameter.stored, parameter.stored));
    const combined = combineAdapters(made, { ...both, type: "cat" });
    const copies = combined.saved.get("lm_head")!.copies;
    expect(numbers(copies.get("c")!.get("weight")!.stored)).toEqual(numbers(copies.get("a")!.get("weight")!.stored));
    expect(() => combineAdapters(made, { adapters: ["a", "c"], weights: [1, 1], name: "d" })).toThrow(/all have a lm_head/);
  });

  it.each<[RegExp, Partial<CombineOptions>]>([
    [/no adapter "x"/, { adapters: ["a", "x"] }],
    [/got no adapters/, { adapters: [], weights: [] }],
    [/one number for each of the 2/, { weights: [1] }],
    [/one number for each of the 2/, { weights: [1, Number.NaN] }],
    [/has an adapter "a" already/, { name: "a" }],
    [/"tie"/, { type: "tie" as "ties" }],
    [/"linear_svd"/, { type: "linear_svd" as "svd" }],
    [/`density` \(= undefined\)/, { type: "ties" }],
    [/`density` \(= 0\)/, { type: "dare_linear_svd", density: 0 }],
    [/`density` \(= 1.5\)/, { type: "magnitude_prune", density: 1.5 }],
    [/neither "total" nor "frequency"/, { type: "ties", density: 0.5, majoritySignMethod: "most" as "total" }],
    [/`svdRank` \(= 0\)/, { svdRank: 0 }],
    [/`svdClamp` \(= 2\)/, { svdClamp: 2 }],
  ])("refuses, with nothing changed: %s", (message, options) => {
    const made = model();
    const before = [...made.stateDict().keys()];
    expect(() => combineAdapters(made, { ...both, ...options } as CombineOptions)).toThrow(message);
    expect([...made.stateDict().keys()]).toEqual(before);
  });

  it("refuses what would not add up", () => {
    const one = { adapters: ["a"], weights: [1], name: "c", type: "tis" } as unknown as CombineOptions;
    expect(() => combineAdapters(model(), one)).toThrow(/`type` \(= "tis"\) is none of .*Did you mean/);
    expect(() => combineAdapters(model({ bias: "lora_only" }), both)).toThrow(/biases of the model in place/);
    expect(() => combineAdapters(model({ loraBias: true, targetModules: ["v_proj"] }), both)).toThrow(
      /changes the bias of .*v_proj/,
    );
    const merged = model();
    merge(merged);
    expect(() => combineAdapters(merged, both)).toThrow(/merged/);
  });

  it("adds up the vectors of IA3", () => {
    const made = new SmallModel().eval();
    const options = { initIa3Weights: false, feedforwardModules: ["o_proj"] };
    attach(made, ia3({ ...options, targetModules: ["o_proj"] }), { name: "a", seed: 1 });
    attach(made, ia3({ ...options, targetModules: ["q_proj", "o_proj"] }), { name: "b", seed: 2 });
    const combined = combineAdapters(made, both);
    expect(combined.config["targetModules"]).toEqual(["o_proj", "q_proj"]);
    const l = (name: string, path: string) => layerOf(made, path).adapters.get(name)!.parameters["l"]!.stored;
    const [a, b] = ["a", "b"].map((name) => numbers(l(name, "0.self_attn.o_proj")));
    const want = a!.map((value, i) => 0.7 * value - 0.4 * b![i]!);
    expect(numbers(l("c", "0.self_attn.o_proj"))).toEqual(want.map((value) => expect.closeTo(value, 6)));
    expect(() => combineAdapters(made, { ...both, name: "d", type: "svd" })).toThrow(/IA3/);
  });
});

describe("convertToLora", () => {
  const converted = (make: () => Parameters<typeof attach>[1]) => {
    const made = new SmallModel().eval();
    attach(made, make(), { name: "from", seed: 3 });
    return made;
  };
  const x = () => ids(3, 1, 4);

  it("takes ranks by layer from the energy, up to all of it", () => {
    const made = converted(() => loha({ r: 2, targetModules: ["q_proj", "v_proj"], initWeights: false }) as never);
    const most = convertToLora(made, { adapter: "from", energy: 0.9, name: "most" });
    const rankOf = (path: string, name: string) => most.layers.get(path)!.adapters.get(name)!.parameters["A"]!.shape[0]!;
    const ranks = [...most.layers.keys()].map((path) => rankOf(path, "most"));
    expect(Math.max(...ranks)).toBeLessThan(4);
    expect(most.config["r"]).toBe(Math.max(...ranks));
    convertToLora(made, { adapter: "from", energy: 1, name: "all" });
    const before = made.forward(x());
    setActive(made, "all");
    expect(difference(made.forward(x()), before)).toBeLessThan(1e-5);
    setActive(made, "most");
    expect(difference(made.forward(x()), before)).toBeGreaterThan(1e-3);
  });

  it("takes a change of the bias along", () => {
    const options = { targetModules: ["v_proj", "o_proj"], feedforwardModules: ["o_proj"], initIa3Weights: false };
    const made = converted(() => ia3(options) as never);
    const to = convertToLora(made, { adapter: "from", energy: 1, name: "to" });
    expect(to.config["loraBias"]).toBe(true);
    const before = made.forward(x());
    setActive(made, "to");
    expect(difference(made.forward(x()), before)).toBeLessThan(1e-5);
    expect(
      difference(
        disabled(made, () => made.forward(x())),
        before,
      ),
    ).toBeGreaterThan(1e-2);
  });

  it("refuses what LoRA is not, and settings out of range", () => {
    const made = converted(() => loha({ r: 2, targetModules: ["q_proj"], initWeights: false }) as never);
    const convert = (options: object) => () => convertToLora(made, { adapter: "from", name: "to", ...options });
    expect(convert({})).toThrow(/either `rank` or `energy`/);
    expect(convert({ rank: 2, energy: 0.5 })).toThrow(/either/);
    expect(convert({ rank: 1.5 })).toThrow(/`rank` \(= 1.5\)/);
    expect(convert({ energy: 0 })).toThrow(/`energy` \(= 0\)/);
    expect(convert({ adapter: "x", rank: 1 })).toThrow(/no adapter "x"/);
    const base = numbers(disabled(made, () => made.forward(x())));
    expect(convert({ rank: 100 })().layers.size).toBe(2);
    expect(numbers(disabled(made, () => made.forward(x())))).toEqual(base);
  });
});
