/**
 * The interface of methods carries other mechanisms than LoRA's: scaling of outputs, rotation of inputs, shared frozen
 * matrices, a start from the weight, a forward pass that is no change of the weight. Small stand-ins, not the real methods.
 */
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { currentDevice, upload, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { configSchema, integer, key, targetKeys } from "../../src/formats/peft-config.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { add, mul, sub, tanh } from "../../src/graph/elementwise.ts";
import { reshape, sliceAxis } from "../../src/graph/movement.ts";
import { constant } from "../../src/graph/source.ts";
import { linear } from "../../src/nn/linear.ts";
import {
  attach,
  baseStateDict,
  deleteAdapter,
  detach,
  disabled,
  lora,
  type MethodConfig,
  merge,
  mergeDifference,
  saveAdapter,
  setActive,
  trainableReport,
  unmerge,
} from "../../src/peft/index.ts";
import { defineMethod, type LayerMethod } from "../../src/peft/method.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { difference, ids, numbers, SmallModel } from "./small-model.ts";

beforeAll(() => void useDevice(createReference()));

const plain = {
  papers: ["https://arxiv.org/abs/2106.09685"],
  startsAtZero: () => true,
  samples: () => ({}),
} as const;
const schemaOf = (type: string) => configSchema(type, `${type.toLowerCase()}_`, { ...targetKeys, r: key(2, integer(1)) });
type Config = MethodConfig<ReturnType<typeof schemaOf>>;
const filled = (count: number, value: number) => new Float32Array(count).fill(value);

/** y = l ⊙ (W·x + b): the bias is scaled, too. */
const scaled = defineMethod({
  ...plain,
  schema: schemaOf("SCALED"),
  formula: "l ⊙ y",
  layers: {
    linear: {
      files: { l: "scaled_l" },
      parameters: (base) => ({ l: { shape: [base.out] } }),
      initialise: (base) => ({ values: { l: filled(base.out, 1) } }),
      forward: (x, base, { l }) => mul(base(x), l),
      delta: (base, { l }) => mul(base.weight, reshape(sub(l, constant(1, l.shape)), [base.out, 1])),
      biasDelta: (base, { l }) => mul(base.bias!, sub(l, constant(1, l.shape))),
    } satisfies LayerMethod<Config, "l">,
  },
});

/** y = W·(R·x) with any matrix R, identity at first. */
const rotated = defineMethod({
  ...plain,
  schema: schemaOf("ROTATED"),
  formula: "W·R",
  layers: {
    linear: {
      files: { R: "rotated_R.weight" },
      parameters: (base) => ({ R: { shape: [base.in, base.in] } }),
      initialise: (base) => ({ values: { R: filled(base.in ** 2, 0).map((_, i) => (i % (base.in + 1) === 0 ? 1 : 0)) } }),
      forward: (x, base, { R }) => base(linear(x, R)),
      delta: (base, { R }) => sub(matmul(base.weight, R), base.weight),
    } satisfies LayerMethod<Config, "R">,
  },
});

/** ΔW = B·diag(d)·A with A and B frozen, shared by all layers and cut to size. */
const sharing = defineMethod({
  ...plain,
  schema: schemaOf("SHARING"),
  formula: "W + B·diag(d)·A",
  shared: {
    files: { A: "sharing_A", B: "sharing_B" },
    parameters: (bases, { r }: Config) => ({
      A: { shape: [r, Math.max(...bases.map((base) => base.in))], trainable: false },
      B: { shape: [Math.max(...bases.map((base) => base.out)), r], trainable: false },
    }),
    initialise: (bases, { r }: Config, generator) => ({
      A: generator.randn(r * Math.max(...bases.map((base) => base.in))),
      B: generator.randn(r * Math.max(...bases.map((base) => base.out))),
    }),
  },
  layers: {
    linear: {
      files: { d: "sharing_d" },
      parameters: (_, { r }) => ({ d: { shape: [r] } }),
      initialise: (_, { r }) => ({ values: { d: filled(r, 0) } }),
      forward: (x, base, { A, B, d }) =>
        add(base(x), linear(mul(linear(x, sliceAxis(A, 1, 0, base.in)), d), sliceAxis(B, 0, 0, base.out))),
      delta: (base, { A, B, d }) => matmul(mul(sliceAxis(B, 0, 0, base.out), d), sliceAxis(A, 1, 0, base.in)),
    } satisfies LayerMethod<Config, "d", never, "A" | "B">,
  },
});

/** W is split at the start into a frozen rest and B·A, as PiSSA does: identity although neither factor is zero. */
const splitting = defineMethod({
  ...plain,
  schema: schemaOf("SPLITTING"),
  formula: "(W − B₀·A₀) + B·A",
  layers: {
    linear: {
      files: { A: "splitting_A.weight", B: "splitting_B.weight" },
      parameters: (base, { r }) => ({ A: { shape: [r, base.in] }, B: { shape: [base.out, r] } }),
      initialise: (base, { r }) => {
        const A = matmul(constant(0.1, [r, base.out]), base.weight);
        const B = constant(0.2, [base.out, r]);
        return { values: { A, B }, weight: sub(base.weight, matmul(B, A)) };
      },
      forward: (x, base, { A, B }) => add(base(x), linear(linear(x, A), B)),
      delta: (_, { A, B }) => matmul(B, A),
    } satisfies LayerMethod<Config, "A" | "B">,
  },
});

/** Acts on the output and is no change of the weight; `b` is there when the config asks for it. */
const bent = defineMethod({
  ...plain,
  schema: schemaOf("BENT"),
  formula: "y + tanh(y ⊙ a + b)",
  layers: {
    linear: {
      files: { a: "bent_a", b: "bent_b" },
      parameters: (base, { r }) => ({ a: { shape: [base.out] }, ...(r > 2 ? { b: { shape: [base.out] } } : {}) }),
      initialise: (base) => ({ values: { a: filled(base.out, 0), b: filled(base.out, 0) } }),
      forward: (x, base, { a, b }) => {
        const y = base(x);
        return add(y, tanh(b ? add(mul(y, a), b) : mul(y, a)));
      },
    } satisfies LayerMethod<Config, "a", "b">,
  },
});

const targets = { targetModules: ["q_proj", "v_proj", "o_proj"] };
const x = () => ids(1, 2, 3);
function shake(model: SmallModel): void {
  for (const [i, parameter] of model.trainableParameters().entries()) {
    const change = new TorchGenerator(i).normal(parameter.size, 0, 0.3);
    parameter.assign(add(parameter.stored, upload(currentDevice(), change, parameter.shape, "float32")));
  }
}

describe.each([
  ["a scaling of outputs", scaled],
  ["a rotation of inputs", rotated],
  ["shared frozen matrices", sharing],
  ["a start from the weight", splitting],
] as const)("%s", (_, method) => {
  it("starts as the identity, trains, merges, and comes off without a trace", () => {
    const model = new SmallModel();
    const plainOutput = model.forward(x());
    const before = [...baseStateDict(model)].map(([name, tensor]) => [name, numbers(tensor)]);
    attach(model, method(targets as never));
    expect(difference(model.forward(x()), plainOutput)).toBeLessThan(1e-12);
    shake(model);
    expect(difference(model.forward(x()), plainOutput)).toBeGreaterThan(1e-3);
    expect(mergeDifference(model, () => model.forward(x()))).toBeLessThan(1e-12);
    merge(model);
    expect(
      difference(
        disabled(model, () => model.forward(x())),
        plainOutput,
      ),
    ).toBe(0);
    unmerge(model);
    detach(model);
    expect([...baseStateDict(model)].map(([name, tensor]) => [name, numbers(tensor)])).toEqual(before);
  });
});

it("two methods that do not commute act alike beside the weights and in them", () => {
  const model = new SmallModel();
  attach(model, rotated(targets as never), { name: "turn" });
  attach(model, scaled(targets as never), { name: "scale" });
  attach(model, lora(targets), { name: "low" });
  for (const names of [
    ["turn", "scale", "low"],
    ["low", "turn", "scale"],
    ["scale", "low", "turn"],
  ]) {
    setActive(model, names);
    shake(model);
    expect(mergeDifference(model, () => model.forward(x()))).toBeLessThan(1e-12);
    // one in the weights, the others beside them: the innermost, so that the order is the same
    const beside = model.forward(x());
    merge(model, [names[0]!]);
    expect(difference(model.forward(x()), beside)).toBeLessThan(1e-12);
    unmerge(model);
  }
});

it("shared parameters are counted once, trained or not, and stand under base_model in the file", async () => {
  const model = new SmallModel();
  const adapter = attach(model, sharing(targets as never));
  expect(trainableReport(model).trainable).toBe(6 * 2);
  const names = [...model.namedParameters()].map(([name]) => name).filter((name) => name.includes("sharing_A"));
  expect(names).toEqual(["model.layers.0.self_attn.q_proj.sharing_A.default"]);
  expect(adapter.shared["A"]!.shape).toEqual([2, 7]);
  const folder = temporaryFolder();
  await saveAdapter(model, folder);
  const { tensors } = await readSafetensors(join(folder, "adapter_model.safetensors"));
  expect([...tensors.keys()].filter((name) => !name.includes("sharing_d")).sort()).toEqual([
    "base_model.sharing_A",
    "base_model.sharing_B",
  ]);
});

it("only one adapter may start from the weights", () => {
  const model = new SmallModel();
  attach(model, splitting(targets as never), { name: "first" });
  expect(() => attach(model, splitting(targets as never), { name: "second" })).toThrow(
    'attach: the start of adapter "first" has taken a part of the weights away already. Only one adapter of a model may start from its weights.',
  );
  attach(model, lora(targets), { name: "low" });
  const weight = () => numbers(baseStateDict(model).get("model.layers.0.self_attn.q_proj.weight")!);
  const rest = weight();
  deleteAdapter(model, "first");
  expect(weight()).not.toEqual(rest);
  expect(weight()).toEqual(numbers(baseStateDict(new SmallModel()).get("model.layers.0.self_attn.q_proj.weight")!));
});

it("a method that is not a change of the weight is refused by merge, by name, and its options decide its parameters", () => {
  const model = new SmallModel();
  attach(model, bent({ ...targets, r: 3 } as never), { name: "bend" });
  expect([...model.namedParameters()].some(([name]) => name.endsWith("bent_b.bend"))).toBe(true);
  expect(() => merge(model)).toThrow('merge: the adapter "bend" (BENT) is not a change of the weight. Use it unmerged.');
  const other = new SmallModel();
  attach(other, bent(targets as never), { name: "bend" });
  expect([...other.namedParameters()].some(([name]) => name.endsWith("bent_b.bend"))).toBe(false);
});
