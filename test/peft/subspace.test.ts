/** Methods that start from singular vectors of the weight: what they refuse, and what the laws do not see. */
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import "../../src/devices/choose.ts";
import { currentDevice, downloadSync, upload } from "../../src/compile/program.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { adamss, attach, frod, lily, loadAdapter, merge, osf, psoft, withAdapters } from "../../src/peft/index.ts";
import { loadModel } from "../../src/train/load-model.ts";
import { layerAdapters } from "../arbitrary/adapter.ts";
import { expectClose } from "../golden/suite.ts";
import { difference, ids, SmallModel } from "./small-model.ts";

const targetModules = ["q_proj", "v_proj", "o_proj"];
const x = () => ids(1, 5, 2, 7);
const shapeOf = (model: SmallModel, config: Parameters<typeof attach>[1], key: string) =>
  layerAdapters(attach(model, config)).map(({ parameters }) => parameters[key]!.shape);

describe("FRoD", () => {
  // U·diag(λ)·Vᵀ is the weight, rounded: too far from exact for the law of zero starts
  it("starts as nothing but rounding, with one basis for the layers of a category", () => {
    const model = new SmallModel().eval();
    const before = model.forward(x());
    const adapter = attach(model, frod({ sparseRate: 0.1, targetModules }));
    expect(difference(model.forward(x()), before)).toBeLessThan(1e-4);
    expect(Object.keys(adapter.shared).filter((name) => name.startsWith("V."))).toEqual([
      "V.self_attn_o_proj",
      "V.self_attn_q_proj",
      "V.self_attn_v_proj",
    ]);
    const places = downloadSync(adapter.shared["indices.self_attn_q_proj"]!.stored);
    const half = places.length / 2;
    for (let i = 0; i < half; i++) expect(places[i]).not.toBe(places[half + i]);
  });

  it("refuses files without a basis, and a change that mixes nothing", () => {
    expect(() => frod({ saveProjection: false })).toThrow("`saveProjection` must be true");
    expect(() => frod({ sparseRate: 0 })).toThrow("nothing would be mixed");
  });
});

describe("OSF", () => {
  it("freezes half of the values, a part, a number, or what a pattern says", () => {
    const q = ["q_proj"]; // [7, 6]
    expect(shapeOf(new SmallModel(), osf({ targetModules: q }), "S")).toEqual([[3], [3]]);
    expect(shapeOf(new SmallModel(), osf({ effectiveRank: 0.7, targetModules: q }), "S")).toEqual([[2], [2]]);
    expect(shapeOf(new SmallModel(), osf({ effectiveRank: 5, rankPattern: { "s.1.s": 2 }, targetModules: q }), "S")).toEqual([
      [1],
      [4],
    ]);
  });

  it("says when nothing is left, or nothing is kept", () => {
    expect(() => attach(new SmallModel(), osf({ effectiveRank: 6, targetModules: ["q_proj"] }))).toThrow(
      "`effectiveRank` (= 6) leaves nothing to train in model.layers.0.self_attn.q_proj, which has 6 singular values.",
    );
    expect(() => attach(new SmallModel(), osf({ effectiveRank: 0.1, targetModules: ["q_proj"] }))).toThrow("freezes nothing");
  });

  it("adapts the linear layers of a model that PEFT's table does not know", () => {
    const model = Object.assign(new SmallModel(), { config: { modelType: "a new one" } });
    expect(attach(model, osf()).layers.size).toBe(6); // but the output layer
  });
});

describe("Lily", () => {
  it("looks at the whole batch, so that rows cannot choose", () => {
    const model = new SmallModel().eval();
    attach(model, lily({ r: 2, targetModules }), { name: "mixed" });
    expect(() => withAdapters(model, ["mixed"], () => model.forward(x()))).toThrow(
      'the adapter "mixed" looks at the whole batch',
    );
  });

  it("shares the first factor of neighbours, the second of all layers of one name", () => {
    const model = new SmallModel({ layers: 3 });
    const adapter = attach(model, lily({ r: 2, strideA: 2, targetModules: ["q_proj", "v_proj"] }));
    const of = (key: string) => {
      const all = layerAdapters(adapter).map(({ parameters }) => parameters[key]!);
      return all.map((parameter) => all.indexOf(parameter));
    };
    expect(of("A")).toEqual([0, 1, 0, 1, 4, 5]);
    expect(of("B")).toEqual([0, 1, 0, 1, 0, 1]);
    expect(of("router")).toEqual([0, 1, 2, 3, 4, 5]);
    expect(model.trainableParameters()).toHaveLength(4 + 2 + 6);
  });
});

describe("AdaMSS", () => {
  it("puts every row into one cluster, and warns where rounding decides which", () => {
    const adapter = attach(new SmallModel(), adamss({ r: 3, numSubspaces: 3, targetModules }));
    for (const { parameters } of layerAdapters(adapter)) {
      const order = Array.from(downloadSync(parameters["order"]!.stored) as Int32Array);
      expect(order.toSorted((a, b) => a - b)).toEqual(order.map((_, i) => i));
    }
    expect(adapter.warnings).toEqual([]);
    const square = attach(new SmallModel(), adamss({ r: 9, numSubspaces: 3, targetModules: ["o_proj"] }));
    expect(square.warnings[0]).toContain("its clusters are made by rounding errors");
  });

  it("finds clusters that rounding has made in the file", async () => {
    const here = join(import.meta.dirname, "clusters");
    const base = join(import.meta.dirname, "../fixtures/peft/base/llama");
    const read = async (path: string, name: string) => {
      const stored = (await readSafetensors(path)).tensors.get(name)!;
      return { shape: stored.shape, data: await stored.load() };
    };
    const { shape, data } = await read(join(base, "inputs.safetensors"), "input_ids");
    const want = await read(join(here, "logits.safetensors"), "logits");
    const { model } = await loadModel(base);
    const adapter = await loadAdapter(model.eval(), join(here, "adapter"));
    expect(adapter.warnings).toEqual([]);
    const logits = () => model.forward({ inputIds: upload(currentDevice(), data, shape, "int32") }).logits;
    await expectClose("logits", logits(), want, { rtol: 1e-4, atol: 1e-4 });
    merge(model);
    await expectClose("merged", logits(), want, { rtol: 1e-4, atol: 1e-4 });
  });
});

it("PSOFT wants no more directions than there are", () => {
  expect(() => attach(new SmallModel(), psoft({ r: 7, targetModules: ["q_proj"] }))).toThrow("`r` (= 7) is too much");
});
