import { beforeAll, describe, expect, it } from "vitest";
import { currentDevice, upload, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { cast } from "../../src/graph/elementwise.ts";
import { Parameter } from "../../src/nn/module.ts";
import {
  activeAdapters,
  attach,
  detach,
  disabled,
  hra,
  lora,
  merge,
  mergeDifference,
  setActive,
  setScale,
  switchMerged,
  unmerge,
} from "../../src/peft/index.ts";
import { difference, ids, numbers, SmallModel, shake } from "./small-model.ts";

beforeAll(() => void useDevice(createReference()));

const x = () => ids(1, 4, 2);
const qv = { r: 2, loraAlpha: 6, targetModules: ["q_proj", "v_proj"] };

/** Two adapters, "a" (active) and "b", on weights of this dtype. */
function model(dtype: "float32" | "bfloat16" = "float32", size = 0.3): SmallModel {
  const made = new SmallModel().eval();
  for (const [, module] of made.namedModules())
    for (const [name, parameter] of module.ownParameters())
      Object.assign(module, { [name]: new Parameter(cast(parameter.stored, dtype)) });
  attach(made, lora(qv), { name: "a" });
  attach(made, lora({ ...qv, targetModules: ["q_proj", "o_proj"], modulesToSave: ["lm_head"] }), { name: "b" });
  shake(made, size);
  return made;
}
const state = (made: SmallModel) => [...made.stateDict()].map(([name, value]) => [name, numbers(value)]);

describe("a merge's report", () => {
  it("tells for every layer how large the change is and how much of it rounding takes", () => {
    const exact = merge(model(), undefined, {
      report: true,
      probe: () => upload(currentDevice(), new Float32Array(1), [1], "float32"),
    });
    expect(exact.paths).toEqual(exact.layers.map(({ path }) => path));
    expect(exact.difference).toBe(0);
    for (const { dtype, change, error } of exact.layers) {
      expect([dtype, error < 1e-6, change > 0.1]).toEqual(["float32", true, true]);
    }
    const rounded = (size: number) => merge(model("bfloat16", size), undefined, { report: true }).layers[0]!;
    const [large, small, lost] = [rounded(0.3), rounded(0.03), rounded(0.0005)];
    expect([large.dtype, large.error < 0.05, large.error < small.error]).toEqual(["bfloat16", true, true]);
    expect(lost.error).toBeGreaterThan(0.9);
    expect(lost.change).toBeGreaterThan(0);
  });

  it("tells how far the output of a probe moves, which is what mergeDifference tells", () => {
    const made = model("bfloat16");
    const probe = () => made.forward(x());
    const { difference: moved } = merge(made, undefined, { report: true, probe });
    expect(moved).toBeGreaterThan(1e-4);
    unmerge(made);
    expect(mergeDifference(made, probe)).toBe(moved);
  });

  it("compares with the same adapters beside the weights, when others are active", () => {
    const made = model();
    const probe = () => made.forward(x());
    const before = numbers(probe());
    const { difference: moved } = merge(made, ["b"], { report: true, probe });
    expect(moved).toBeLessThan(1e-12);
    expect(activeAdapters(made)).toEqual(["a"]);
    unmerge(made);
    expect(numbers(probe())).toEqual(before);
  });

  it.each([
    ["maxError", { maxError: 1e-3 }, /lose 0\.\d+ of its change to rounding \(bfloat16\)/],
    ["maxDifference", { maxDifference: 1e-6 }, /merged model differs by/],
  ])("past %s nothing is merged", (_, options, message) => {
    const made = model("bfloat16");
    const probe = () => made.forward(x());
    const [before, logits] = [state(made), numbers(probe())];
    expect(() => merge(made, ["a", "b"], { ...options, probe })).toThrow(message);
    expect(state(made)).toEqual(before);
    expect(numbers(probe())).toEqual(logits);
    expect(merge(made, ["a", "b"], { maxError: 1, maxDifference: 10, probe })).toHaveLength(7);
  });

  it("needs a probe for a limit on its difference", () => {
    expect(() => merge(model(), undefined, { maxDifference: 1 })).toThrow(/needs a `probe`/);
  });
});

describe("merging without keeping the original", () => {
  it("subtracts the changes again", () => {
    const made = model("float32");
    setScale(made, 0.5);
    const [before, base] = [numbers(made.forward(x())), numbers(disabled(made, () => made.forward(x())))];
    merge(made, ["a"], { keep: false });
    merge(made, ["b"], { keep: false });
    const both = numbers(made.forward(x()));
    expect(both).not.toEqual(before);
    for (const [i, value] of numbers(disabled(made, () => made.forward(x()))).entries()) expect(value).toBeCloseTo(base[i]!, 10);
    expect(numbers(made.forward(x()))).toEqual(both);
    unmerge(made);
    for (const [i, value] of numbers(made.forward(x())).entries()) expect(value).toBeCloseTo(before[i]!, 10);
    detach(made);
    for (const [i, value] of numbers(made.forward(x())).entries()) expect(value).toBeCloseTo(base[i]!, 10);
  });

  it("is refused where the change depends on the weight", () => {
    const made = model();
    attach(made, hra({ r: 3, targetModules: ["v_proj"] }), { name: "h" });
    const before = state(made);
    expect(() => merge(made, ["a", "h"], { keep: false })).toThrow(/"h" \(HRA\).*depends on the weight/);
    expect(state(made)).toEqual(before);
  });
});

describe("switchMerged", () => {
  it("puts other adapters into the weights and takes the old ones out", () => {
    const made = model();
    const forward = () => numbers(made.forward(x()));
    setActive(made, "b");
    const b = forward();
    setActive(made, "a");
    const a = forward();
    merge(made);
    switchMerged(made, ["b"]);
    for (const [i, value] of forward().entries()) expect(value).toBeCloseTo(b[i]!, 10);
    expect(activeAdapters(made)).toEqual(["b"]);
    switchMerged(made, ["a"]);
    unmerge(made);
    expect(forward()).toEqual(a);
  });

  it.each([true, false])("leaves everything as it was when the other one is refused; originals kept: %s", (keep) => {
    const made = model("bfloat16");
    merge(made, ["a"], { keep });
    const [before, logits] = [state(made), numbers(made.forward(x()))];
    expect(() => switchMerged(made, ["b"], { maxError: 1e-4 })).toThrow(/nothing was merged/);
    expect(() => switchMerged(made, ["c"])).toThrow(/no adapter "c"/);
    expect(state(made)).toEqual(before);
    expect(numbers(made.forward(x()))).toEqual(logits);
    expect(activeAdapters(made)).toEqual(["a"]);
    expect(merge(made, ["a"])).toEqual([]);
    expect(
      difference(
        disabled(made, () => made.forward(x())),
        made.forward(x()),
      ),
    ).toBeGreaterThan(1e-2);
  });
});
