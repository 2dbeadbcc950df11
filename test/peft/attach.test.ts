import { beforeAll, describe, expect, it } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { constant } from "../../src/graph/source.ts";
import { ones } from "../../src/nn/init.ts";
import { Linear } from "../../src/nn/linear.ts";
import {
  activeAdapters,
  adapterNames,
  attach,
  baseStateDict,
  deleteAdapter,
  detach,
  disabled,
  dora,
  kasa,
  lora,
  merge,
  mergeAndUnload,
  mergeDifference,
  setActive,
  setScale,
  trainableReport,
  unmerge,
} from "../../src/peft/index.ts";
import { Holder } from "../arbitrary/adapter.ts";
import { difference, ids, numbers, SmallModel, shake } from "./small-model.ts";

beforeAll(() => void useDevice(createReference()));

const qv = lora({ r: 2, loraAlpha: 6, targetModules: ["q_proj", "v_proj"] });

describe("attach", () => {
  it("names parameters as PEFT does and freezes the rest", () => {
    const model = new SmallModel();
    const before = [...model.stateDict().keys()];
    attach(model, qv);
    const trained = [...model.namedParameters()].filter(([, p]) => p.requiresGrad).map(([name]) => name);
    expect(trained.slice(0, 4)).toEqual([
      "model.layers.0.self_attn.q_proj.lora_A.default.weight",
      "model.layers.0.self_attn.q_proj.lora_B.default.weight",
      "model.layers.0.self_attn.v_proj.lora_A.default.weight",
      "model.layers.0.self_attn.v_proj.lora_B.default.weight",
    ]);
    expect(trained).toHaveLength(8);
    expect([...model.stateDict().keys()]).toContain("model.layers.0.self_attn.q_proj.base_layer.weight");
    expect([...baseStateDict(model).keys()]).toEqual(before);
  });

  it("adds several adapters up and scales each", () => {
    const model = new SmallModel();
    const x = ids(4, 5);
    attach(model, qv, { name: "a" });
    attach(model, lora({ r: 3, targetModules: ["v_proj", "o_proj"] }), { name: "b", seed: 2 });
    shake(model);
    expect([adapterNames(model), activeAdapters(model)]).toEqual([["a", "b"], ["a"]]);
    const a = model.forward(x);
    setActive(model, ["a", "b"]);
    const both = model.forward(x);
    expect(difference(a, both)).toBeGreaterThan(1e-3);
    setScale(model, 0, { name: "b" });
    expect(difference(model.forward(x), a)).toBeLessThan(1e-12);
    setScale(model, 1, { name: "b" });
    expect(mergeDifference(model, () => model.forward(x))).toBeLessThan(1e-12);
    deleteAdapter(model, "b");
    expect(difference(model.forward(x), a)).toBeLessThan(1e-12);
    detach(model);
    expect(() => model.getModule("model.layers.0.self_attn.q_proj.base_layer")).toThrow("there is no module");
  });

  it("goes on as PEFT does when the active one is deleted: by what the layers have left, the first one before all", () => {
    const model = new SmallModel();
    const put = (name: string, targetModules: readonly string[], modulesToSave: readonly string[] | null = null) =>
      attach(model, lora({ targetModules, modulesToSave }), { name });
    put("c", ["v_proj"]);
    put("b", ["q_proj"], ["lm_head"]);
    put("a", ["v_proj"], ["lm_head"]);
    deleteAdapter(model, "c");
    expect(activeAdapters(model)).toEqual(["b"]);
    expect((model.getModule("lm_head") as unknown as { active: string }).active).toBe("b");
    put("z", ["o_proj"]);
    setActive(model, "b");
    deleteAdapter(model, "b");
    expect(activeAdapters(model)).toEqual(["a"]);
  });

  it("merges and takes back out bit for bit", () => {
    const model = new SmallModel();
    const x = ids(1, 2, 3);
    const weight = model.model.layers[0]!.self_attn.q_proj;
    attach(model, lora({ targetModules: ["q_proj", "embed_tokens"] }));
    shake(model);
    const [beside, before] = [model.forward(x), numbers(baseStateDict(model).get("model.layers.0.self_attn.q_proj.weight")!)];
    expect(merge(model)).toEqual(["model.embed_tokens", "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]);
    expect(merge(model)).toEqual([]);
    expect(difference(model.forward(x), beside)).toBeLessThan(1e-12);
    expect(
      difference(
        disabled(model, () => model.forward(x)),
        beside,
      ),
    ).toBeGreaterThan(1e-3);
    expect(difference(model.forward(x), beside)).toBeLessThan(1e-12);
    unmerge(model);
    expect(numbers(baseStateDict(model).get("model.layers.0.self_attn.q_proj.weight")!)).toEqual(before);
    mergeAndUnload(model);
    expect(difference(model.forward(x), beside)).toBeLessThan(1e-12);
    expect(model.model.layers[0]!.self_attn.q_proj).toBe(weight);
  });

  it("reports what is trained", () => {
    const model = new SmallModel();
    attach(model, qv);
    const report = trainableReport(model);
    expect(report.trainable).toBe(2 * 2 * (2 * 6 + 2 * 7));
    expect(report.text).toMatch(/^trainable params: 104 \|\| all params: \d+ \|\| trainable%: \d+\.\d{4}$/);
  });

  it("is noticed by compiled functions, whenever it changes", () => {
    const model = new SmallModel();
    const x = ids(1, 2, 3);
    const forward = compile((tokens: Tensor) => model.forward(tokens));
    const agree = () => expect(difference(forward(x), model.forward(x))).toBeLessThan(1e-12);
    agree();
    attach(model, qv, { name: "a" });
    attach(model, lora({ r: 1, targetModules: ["o_proj"] }), { name: "b" });
    shake(model);
    agree();
    expect(forward.traces).toBe(1);
    setActive(model, ["a", "b"]);
    agree();
    setScale(model, 0.5);
    agree();
    expect(forward.traces).toBe(3);
    merge(model);
    agree();
    disabled(model, agree);
    unmerge(model);
    agree();
    setScale(model, 1);
    agree();
    expect(forward.traces).toBe(5);
    deleteAdapter(model, "b");
    agree();
    detach(model);
    agree();
    expect(forward.traces).toBe(1);
    forward.dispose();
  });

  it("drops values of the adapter's input in training only, anew in every step, alike for one seed", () => {
    const rows = 400;
    const run = (seed: number) => {
      const model = new Holder(new Linear(1, 1, { bias: false, init: ones }));
      attach(model, lora({ r: 1, loraAlpha: 1, loraDropout: 0.25, targetModules: ["layer"] }), { seed });
      for (const parameter of model.trainableParameters()) parameter.assign(constant(3, [1, 1]));
      const x = constant(2, [rows, 1]);
      const share = (y: number[]) => y.map((value) => value - 2); // without the base layer's
      expect(new Set(share(numbers(model.forward(x))))).toEqual(new Set([18]));
      model.train();
      const forward = compile((input: Tensor) => model.forward(input));
      const [first, second] = [share(numbers(forward(x))), share(numbers(forward(x)))];
      forward.dispose();
      return { first, second };
    };
    const { first, second } = run(1);
    expect(new Set(first)).toEqual(new Set([0, 24])); // 18 / (1 - 0.25)
    const dropped = first.filter((value) => value === 0).length / rows;
    expect(Math.abs(dropped - 0.25)).toBeLessThan(5 * Math.sqrt((0.25 * 0.75) / rows));
    expect(second).not.toEqual(first);
    expect(run(1)).toEqual({ first, second });
    expect(run(2)).not.toEqual({ first, second });
  });
});

describe("a config", () => {
  it.each<[object, string]>([
    [{ r: 0 }, "lora: `r` (= 0) must be a positive integer."],
    [{ rank: 4 }, "lora: `rank` is not an option of LORA."],
    [{ lora_alpha: 4 }, "lora: `lora_alpha` is not an option of LORA. Did you mean `loraAlpha`?"],
    [{ loraAlfa: 4 }, "lora: `loraAlfa` is not an option of LORA. Did you mean `loraAlpha`?"],
    [{ loraDropout: 1 }, "lora: `loraDropout` (= 1) must be less than 1."],
    [{ initLoraWeights: "gausian" }, 'lora: `initLoraWeights` (= "gausian") is not one of true, false, "gaussian", "orthogonal"'],
    [{ megatronCore: "megatron" }, 'lora: `megatronCore` (= "megatron") is not implemented.'],
    [{ bias: "some" }, 'lora: `bias` (= "some") must be one of "none", "all", "lora_only". Did you mean "none"?'],
    [{ bias: "lora_olny" }, 'Did you mean "lora_only"?'],
    [{ taskType: "CAUSALLM" }, 'Did you mean "CAUSAL_LM"?'],
    [{ useDora: true, kasaConfig: {} }, "lora: `useDora` and `kasaConfig` are two forms of LORA, of which an adapter has one."],
    [{ useDora: true, loraBias: true }, "lora: `loraBias` (= true) does not go with `useDora`."],
    [{ useDora: true, initLoraWeights: "mica" }, 'dora: `useDora` does not go with `initLoraWeights` "mica"'],
    [{ layersPattern: "h" }, 'lora: `layersPattern` (= "h") needs `layersToTransform`, the layers\' numbers.'],
    [{ targetModules: "q.*", layersToTransform: 1 }, "lora: `layersToTransform` goes with a list of targetModules"],
    [
      { evaConfig: {} },
      'lora: `evaConfig` does nothing with `initLoraWeights` (= true). Write initLoraWeights: "eva", or leave it out.',
    ],
    [{ initLoraWeights: "eva", loftqConfig: { loftq_bits: 4 } }, "lora: `loftqConfig` does nothing with"],
    [
      { loraBias: true, initLoraWeights: "gaussian" },
      "lora: `loraBias` goes with `initLoraWeights` true or false only, as in PEFT.",
    ],
    [{ rankPattern: { q_proj: 1.5 } }, 'lora: `rankPattern` has 1.5 for "q_proj", which must be a positive integer.'],
    [{ targetModules: 3 }, "lora: `targetModules` (= 3) must be a string or a list of strings."],
  ])("%j is refused", (options, message) => {
    expect(() => lora(options as never)).toThrow(message);
  });

  it("may ask for another form of LoRA by PEFT's key", () => {
    expect(lora({ r: 2, useDora: true })).toEqual(dora({ r: 2 }));
    expect(lora({ kasaConfig: { beta: 1 } }).method).toBe(kasa);
    expect(() => dora({ useDora: false })).toThrow(
      "lora: `useDora` (= false) is not what this method is. Leave it out, or call lora.",
    );
    expect(() => dora({ kasaConfig: {} })).toThrow("`useDora` and `kasaConfig` are two forms");
  });

  it("may name what is not implemented when it is at its default", () => {
    expect(lora({ useDora: false, bias: "none" }).config.useDora).toBe(false);
  });
});

describe("mistakes with adapters", () => {
  const model = () => {
    const made = new SmallModel();
    attach(made, qv);
    return made;
  };
  it.each<[string, () => void, string]>([
    [
      "a name twice",
      () => attach(model(), qv),
      'attach: this model has an adapter "default" already. Give another `name`, or take it off with deleteAdapter.',
    ],
    [
      "a name with a dot",
      () => attach(model(), qv, { name: "a.b" }),
      'attach: the adapter name "a.b" must not be empty or hold any of',
    ],
    [
      "an unknown name",
      () => setActive(model(), "defalt"),
      'setActive: there is no adapter "defalt"; this model has: default. Did you mean "default"?',
    ],
    ["no adapter", () => merge(new SmallModel()), "merge: this model has no adapter. Put one on with attach or loadAdapter."],
    ["a scale that is no number", () => setScale(model(), Number.NaN), "setScale: `scale` is NaN, not a number."],
    [
      "deleting a merged adapter",
      () => {
        const made = model();
        merge(made);
        deleteAdapter(made, "default");
      },
      'deleteAdapter: the adapter "default" is merged. Call unmerge first.',
    ],
    [
      "attaching to merged weights",
      () => {
        const made = model();
        merge(made);
        attach(made, qv, { name: "other" });
      },
      "attach: adapters are merged into this model's weights. Call unmerge first.",
    ],
  ])("%s", (_, mistake, message) => {
    expect(mistake).toThrow(message);
  });

  it("merges nothing when safe and a weight is not finite", () => {
    const made = model();
    shake(made);
    const last = made.trainableParameters().at(-1)!;
    last.assign(constant(Number.POSITIVE_INFINITY, last.shape));
    const before = [...baseStateDict(made).values()].map(numbers);
    expect(() => merge(made, undefined, { safe: true })).toThrow(
      "merge: the weight of model.layers.1.self_attn.v_proj would hold values that are not finite; nothing was merged. The adapter has diverged: train it with a lower learning rate.",
    );
    expect([...baseStateDict(made).values()].map(numbers)).toEqual(before);
    expect(merge(made)).toHaveLength(4);
  });
});
