import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import type { Tensor } from "../../src/graph/node.ts";
import {
  activeAdapters,
  adapterNames,
  attach,
  dora,
  getAdapter,
  hotSwap,
  ia3,
  loadAdapter,
  loha,
  lora,
  merge,
  prepareHotSwap,
  renameAdapter,
  saveAdapter,
  setActive,
  unmerge,
} from "../../src/peft/index.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { difference, ids, numbers, SmallModel, shake } from "./small-model.ts";

const folder = temporaryFolder();
beforeAll(() => void useDevice(createReference()));

const qv = ["q_proj", "v_proj"];
const configs = {
  small: lora({ r: 1, loraAlpha: 3, targetModules: qv }),
  large: lora({ r: 4, loraAlpha: 6, useRslora: true, targetModules: qv }),
  fewer: lora({ r: 2, loraAlpha: 8, targetModules: qv, layersToTransform: [1] }),
  biased: lora({ r: 2, loraAlpha: 5, loraBias: true, targetModules: ["v_proj"] }),
  more: lora({ r: 2, targetModules: [...qv, "o_proj"] }),
  head: lora({ r: 2, targetModules: qv, modulesToSave: ["lm_head"] }),
  dora: dora({ r: 2, loraAlpha: 6, targetModules: qv }),
  doraFewer: dora({ r: 1, targetModules: ["q_proj"] }),
  loha: loha({ r: 2, targetModules: qv, initWeights: false }),
  ia3: ia3({ targetModules: qv, feedforwardModules: [], initIa3Weights: false }),
  ia3Fewer: ia3({ targetModules: ["q_proj"], feedforwardModules: [] }),
} as const;
type Name = keyof typeof configs;
const at = (name: Name) => join(folder, name);
const x = () => ids(1, 5, 2, 7);

beforeAll(async () => {
  for (const [i, name] of (Object.keys(configs) as Name[]).entries()) {
    const model = new SmallModel().eval();
    attach(model, configs[name] as never, { seed: i });
    shake(model, 0.5, i);
    await saveAdapter(model, at(name));
  }
});

async function loaded(name: Name): Promise<SmallModel> {
  const model = new SmallModel().eval();
  await loadAdapter(model, at(name));
  return model;
}
const logitsOf = async (name: Name) => (await loaded(name)).forward(x());

describe("hotSwap", () => {
  it("gives compiled programs the other adapter: other ranks, scalings and layers, without compiling again", async () => {
    const model = await loaded("small");
    const step = compile((input: Tensor) => model.forward(input));
    expect(difference(step(x()), await logitsOf("small"))).toBeLessThan(1e-12);
    prepareHotSwap(model, { rank: 4 });
    expect(getAdapter(model, "default").config).toMatchObject({ r: 4, loraAlpha: 4, useRslora: false });
    expect(difference(step(x()), await logitsOf("small"))).toBeLessThan(1e-6);
    const { traces } = step;
    for (const name of ["large", "fewer", "small"] as const) {
      await hotSwap(model, at(name));
      expect([name, difference(step(x()), await logitsOf(name)) < 1e-5]).toEqual([name, true]);
    }
    expect(step.traces).toBe(traces);
    await saveAdapter(model, join(folder, "again"));
    const again = new SmallModel().eval();
    await loadAdapter(again, join(folder, "again"));
    expect(difference(again.forward(x()), model.forward(x()))).toBeLessThan(1e-6);
  });

  it.each<[Name, Name]>([
    ["dora", "doraFewer"],
    ["loha", "loha"],
    ["ia3", "ia3Fewer"],
    ["head", "head"],
  ])("%s takes the values of %s", async (from, to) => {
    const model = await loaded(from);
    shake(model, 1, 99);
    await hotSwap(model, at(to));
    expect(difference(model.forward(x()), await logitsOf(to))).toBeLessThan(1e-5);
  });

  it("keeps the bias of loraBias in step with the scaling", async () => {
    const model = await loaded("biased");
    prepareHotSwap(model, { rank: 3 });
    expect(difference(model.forward(x()), await logitsOf("biased"))).toBeLessThan(1e-6);
    await hotSwap(model, at("biased"));
    expect(difference(model.forward(x()), await logitsOf("biased"))).toBeLessThan(1e-6);
  });

  it.each<[Name, Name, RegExp]>([
    ["small", "large", /rank of model.layers.0.self_attn.q_proj is 4 in the file, and there is room for 1.*prepareHotSwap/s],
    ["fewer", "small", /adapts model.layers.0.self_attn.q_proj, model.layers.0.self_attn.v_proj, which "default" does not/],
    ["small", "more", /o_proj/],
    ["small", "dora", /or of another kind/],
    ["small", "loha", /LOHA, "default" is one of LORA/],
    ["more", "biased", /another `loraBias` for model.layers.0.self_attn.v_proj/],
    ["small", "head", /other modules as a whole/],
  ])("with %s on the model, %s is refused and nothing changed", async (from, to, message) => {
    const model = await loaded(from);
    const before = [...model.stateDict()].map(([name, value]) => [name, numbers(value)]);
    await expect(hotSwap(model, at(to))).rejects.toThrow(message);
    expect([...model.stateDict()].map(([name, value]) => [name, numbers(value)])).toEqual(before);
    expect(adapterNames(model)).toEqual(["default"]);
  });

  it("refuses merged adapters and ranks that are too small", async () => {
    const model = await loaded("large");
    expect(() => prepareHotSwap(model, { rank: 3 })).toThrow(/at least the 4/);
    expect(() => prepareHotSwap(model, { rank: 4.5 })).toThrow(/`rank` \(= 4.5\)/);
    merge(model);
    await expect(hotSwap(model, at("small"))).rejects.toThrow(/merged/);
    expect(() => prepareHotSwap(model, { rank: 8 })).toThrow(/merged/);
    const other = await loaded("loha");
    expect(() => prepareHotSwap(other, { rank: 8 })).toThrow(/LOHA/);
  });
});

describe("renameAdapter", () => {
  it("keeps an adapter as it is, under its handle, active and merged", () => {
    const model = new SmallModel().eval();
    const a = attach(model, configs.head, { name: "a" });
    attach(model, lora({ r: 2, targetModules: ["o_proj"] }), { name: "b" });
    shake(model);
    setActive(model, ["b", "a"]);
    const before = numbers(model.forward(x()));
    renameAdapter(model, "a", "c");
    expect([adapterNames(model), activeAdapters(model), a.name]).toEqual([["c", "b"], ["b", "c"], "c"]);
    expect(numbers(model.forward(x()))).toEqual(before);
    expect([...model.stateDict().keys()].filter((key) => /\.a(\.|$)/.test(key))).toEqual([]);
    merge(model);
    const merged = numbers(model.forward(x()));
    renameAdapter(model, "b", "a");
    expect(numbers(model.forward(x()))).toEqual(merged);
    expect(merge(model)).toEqual([]);
    unmerge(model);
    expect(numbers(model.forward(x()))).toEqual(before);
  });

  it("makes programs look again when names change places", () => {
    const model = new SmallModel().eval();
    for (const [i, name] of ["a", "b"].entries())
      attach(model, lora({ r: 2, targetModules: qv, initLoraWeights: false }), { name, seed: i });
    const step = compile((input: Tensor) => model.forward(input));
    const first = numbers(step(x()));
    renameAdapter(model, "a", "z");
    renameAdapter(model, "b", "a");
    setActive(model, "a");
    expect(numbers(step(x()))).not.toEqual(first);
    setActive(model, "z");
    expect(numbers(step(x()))).toEqual(first);
  });

  it("refuses names that are taken or none", () => {
    const model = new SmallModel();
    for (const name of ["a", "b"]) attach(model, configs.small, { name });
    expect(() => renameAdapter(model, "a", "b")).toThrow(/has an adapter "b" already/);
    expect(() => renameAdapter(model, "x", "y")).toThrow(/no adapter "x"/);
    expect(() => renameAdapter(model, "a", "__base__")).toThrow(/no adapter at all/);
    expect(() => renameAdapter(model, "a", "x.y")).toThrow(/x\.y/);
  });
});
