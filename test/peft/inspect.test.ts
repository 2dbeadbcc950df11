/** What is told of an adapter is what its change has, however it is written; two adapters are as alike as their changes are. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { matmul, type Tensor, tensor } from "../../src/index.ts";
import { svdvals } from "../../src/linalg/index.ts";
import { Linear, Module } from "../../src/nn/index.ts";
import {
  attach,
  compareAdapters,
  convertToLora,
  getAdapter,
  inspectAdapter,
  loha,
  lora,
  merge,
  setScale,
} from "../../src/peft/index.ts";
import { cases } from "../arbitrary/cases.ts";
import { numbers, SmallModel } from "./small-model.ts";

class One extends Module {
  readonly layer: Linear;
  constructor(into: number, out: number) {
    super();
    this.layer = new Linear(into, out, { bias: false });
  }
}

/** A model of one layer with an adapter that is s·B·A, s = 2. */
function withFactors(B: Tensor, A: Tensor, name = "default", model = new One(A.shape[1]!, B.shape[0]!)): One {
  const r = A.shape[0]!;
  attach(model, lora({ r, loraAlpha: 2 * r, targetModules: ["layer"] }), { name });
  const { parameters } = getAdapter(model, name).layers.get("layer")!.adapters.get(name)!;
  parameters["A"]!.assign(A);
  parameters["B"]!.assign(B);
  return model;
}

const values = (random: () => number, rows: number, columns: number) =>
  tensor(Array.from({ length: rows }, () => Array.from({ length: columns }, () => Math.fround(2 * random() - 1))));
const sizes = { into: fc.integer({ min: 2, max: 9 }), out: fc.integer({ min: 2, max: 9 }), r: fc.integer({ min: 1, max: 6 }) };
/** Numbers from a seed, so that a failing case is short. */
function stream(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
const only = (model: Module, options = {}) => {
  const { modules } = inspectAdapter(model, options);
  expect(modules.length).toBe(1);
  return modules[0]!;
};
/** Near, in parts of the largest. */
function expectNear(found: readonly number[], wanted: readonly number[], tolerance = 1e-5): void {
  const size = Math.max(1e-3, ...wanted.map(Math.abs));
  for (const [i, value] of wanted.entries()) expect(Math.abs((found[i] ?? 0) - value)).toBeLessThan(tolerance * size);
}

describe("inspectAdapter", () => {
  it("finds the singular values of the whole ΔW, and the norms", () =>
    fc.assert(
      fc.property(fc.record({ ...sizes, seed: fc.nat() }), ({ into, out, r, seed }) => {
        const random = stream(seed);
        const [B, A] = [values(random, out, r), values(random, r, into)];
        const { spectrum, norm, scale, rank, parameters } = only(withFactors(B, A));
        const whole = numbers(svdvals(matmul(B, A))).map((value) => 2 * value);
        expectNear(spectrum!.singularValues, whole);
        expectNear([norm!, spectrum!.spectralNorm], [Math.hypot(...whole), whole[0]!]);
        expect([scale, rank, parameters]).toEqual([2, r, r * (into + out)]);
        expect(spectrum!.stableRank).toBeLessThanOrEqual(spectrum!.effectiveRank ** 2 + 1e-6);
        expect(spectrum!.effectiveRank).toBeLessThanOrEqual(Math.min(r, into, out) + 1e-6);
        expect(spectrum!.energyError).toBeLessThanOrEqual(0.1 + 1e-6); // √(1 − 0.99)
      }),
      cases(30),
    ));

  it("sees ΔW and not its factors: B·R and R⁻¹·A are the same adapter", () =>
    fc.assert(
      fc.property(fc.record({ ...sizes, seed: fc.nat() }), ({ into, out, seed }) => {
        const random = stream(seed);
        const [B, A] = [values(random, out, 2), values(random, 2, into)];
        // of determinant 1, so that the inverse is exact
        const [R, inverse] = [
          tensor([
            [2, 3],
            [1, 2],
          ]),
          tensor([
            [2, -3],
            [-1, 2],
          ]),
        ];
        const [one, other] = [only(withFactors(B, A)), only(withFactors(matmul(B, R), matmul(inverse, A)))];
        expectNear(other.spectrum!.singularValues, one.spectrum!.singularValues);
        const model = withFactors(matmul(B, R), matmul(inverse, A), "b", withFactors(B, A, "a"));
        expect(compareAdapters(model, "a", "b").cosine).toBeCloseTo(1, 5);
      }),
      cases(30),
    ));

  it("tells the ranks of changes that are known", () => {
    const I = tensor([
      [1, 0, 0],
      [0, 1, 0],
      [0, 0, 1],
    ]);
    const equal = only(withFactors(I, I)).spectrum!;
    expect([equal.stableRank, equal.effectiveRank, equal.energyRank, equal.energyError]).toEqual([3, expect.closeTo(3), 3, 0]);
    // two columns of B are the same: of rank 1, whatever r says
    const single = only(
      withFactors(
        tensor([
          [1, 1],
          [2, 2],
          [3, 3],
        ]),
        tensor([
          [1, 0],
          [1, 4],
        ]),
      ),
    ).spectrum!;
    expect([single.stableRank, single.effectiveRank, single.energyRank]).toEqual([expect.closeTo(1), expect.closeTo(1, 4), 1]);
    // 3² and 1² of 10: nine tenths of the energy are in the first
    const two = withFactors(
      tensor([
        [3, 0],
        [0, 1],
      ]),
      tensor([
        [1, 0],
        [0, 1],
      ]),
    );
    expect(only(two, { energy: 0.89 }).spectrum).toMatchObject({ energyRank: 1, stableRank: expect.closeTo(10 / 9) });
    expect(only(two, { energy: 0.89 }).spectrum!.energyError).toBeCloseTo(Math.sqrt(0.1));
    expect(only(two, { energy: 0.91 }).spectrum).toMatchObject({ energyRank: 2, energyError: 0 });
    setScale(two, 0.5);
    expect(only(two)).toMatchObject({ scale: 1, spectrum: { spectralNorm: expect.closeTo(3) } });
    const nothing = only(withFactors(tensor([[0], [0]]), tensor([[1, 2]])));
    expect(nothing).toMatchObject({ norm: 0, spectrum: { stableRank: 0, effectiveRank: 0, energyRank: 0, energyError: 0 } });
  });

  it("counts directions that the weight does not have", () => {
    const model = new One(4, 4);
    const eye = [
      [4, 0, 0, 0],
      [0, 3, 0, 0],
      [0, 0, 2, 0],
      [0, 0, 0, 1],
    ];
    model.layer.weight.assign(tensor(eye));
    withFactors(tensor([[1], [1], [1], [1]]), tensor([[25, -25, 25, 25]]), "default", model);
    expect(only(model).intruders).toBe(null);
    // the new leading direction is (1, 1, 1, 1)/2, at a cosine of about 0.5 with each old one
    expect(only(model, { intruders: true, topK: 1, thresholdEpsilon: 0.6 }).intruders).toBe(1);
    expect(only(model, { intruders: true, topK: 1, thresholdEpsilon: 0.4 }).intruders).toBe(0);
    expect(only(model).relativeNorm).toBeCloseTo(200 / Math.sqrt(30), 4);
  });

  it("measures a start from the weights by what they were before", () => {
    const model = new SmallModel().eval();
    attach(model, lora({ r: 2, targetModules: ["q_proj", "v_proj"], initLoraWeights: "pissa" }), { seed: 1 });
    for (const { norm, relativeNorm, spectrum } of inspectAdapter(model).modules) {
      expect([norm! < 1e-5, relativeNorm! < 1e-5, spectrum!.singularValues.length]).toEqual([true, true, 4]);
    }
  });

  it("has the numbers of every kind of adapter, and cuts ranks as it says", () => {
    const model = new SmallModel().eval();
    const options = { targetModules: ["q_proj", "v_proj"] };
    attach(model, loha({ r: 2, ...options, initWeights: false }) as never, { name: "loha", seed: 3 });
    const before = inspectAdapter(model, { adapter: "loha", energy: 0.9 });
    convertToLora(model, { adapter: "loha", energy: 0.9, name: "cut" });
    const after = inspectAdapter(model, { adapter: "cut", energy: 1 });
    for (const [i, { spectrum, norm, path }] of before.modules.entries()) {
      const cut = after.modules[i]!;
      expect([cut.path, cut.spectrum!.energyRank]).toEqual([path, spectrum!.energyRank]);
      expectNear([Math.sqrt(1 - (cut.norm! / norm!) ** 2)], [spectrum!.energyError], 1e-3);
    }
    expect(before.parameters).toBe(before.modules.reduce((sum, { parameters }) => sum + parameters, 0));
    merge(model, "cut");
    expect(() => inspectAdapter(model, { adapter: "loha" })).toThrow(/inspectAdapter.*unmerge/s);
    const prompted = new SmallModel().eval();
    expect(() => inspectAdapter(prompted)).toThrow(/no adapter/);
  });
});

describe("compareAdapters", () => {
  it("is what the angles of known spaces are", () => {
    const [first, second] = [
      tensor([
        [1, 0],
        [0, 1],
        [0, 0],
      ]),
      tensor([
        [0, 0],
        [1, 0],
        [0, 1],
      ]),
    ];
    const turned = tensor([[Math.SQRT1_2], [Math.SQRT1_2], [0]]);
    const I = tensor([
      [1, 0],
      [0, 1],
    ]);
    const model = withFactors(second, I, "b", withFactors(first, I, "a"));
    const [found] = compareAdapters(model, "a", "b").modules;
    expect(found).toMatchObject({ path: "layer", cosine: expect.closeTo(0), normRatio: expect.closeTo(1) });
    expect(found!.columns).toEqual({ largest: expect.closeTo(Math.PI / 2), mean: expect.closeTo(Math.PI / 4) });
    expect(found!.rows).toEqual({ largest: expect.closeTo(0, 3), mean: expect.closeTo(0, 3) });
    withFactors(turned, tensor([[3, 0]]), "c", model);
    const [single] = compareAdapters(model, "c", "b").modules;
    expect(single).toMatchObject({ cosine: expect.closeTo(0.5), normRatio: expect.closeTo(3 / Math.SQRT2) });
    expect(single!.columns).toEqual({ largest: expect.closeTo(Math.PI / 4), mean: expect.closeTo(Math.PI / 4) });
  });

  it("says which layers only one changes", () => {
    const model = new SmallModel().eval();
    attach(model, lora({ r: 2, targetModules: ["q_proj"], initLoraWeights: false }), { name: "a" });
    attach(model, lora({ r: 2, targetModules: ["v_proj"], initLoraWeights: false }), { name: "b" });
    const { modules, only, cosine } = compareAdapters(model, "a", "b");
    expect([modules, cosine]).toEqual([[], 0]);
    expect(only.map((paths) => paths.every((path) => path.endsWith(only[0].includes(path) ? "q_proj" : "v_proj")))).toEqual([
      true,
      true,
    ]);
    expect(only[0].length).toBeGreaterThan(0);
  });
});
