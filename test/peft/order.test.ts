/** Several adapters of one method that act together do so in PEFT's order, in the layers and in the weights; values of order/make.py. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { currentDevice, upload } from "../../src/compile/program.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import { createModel } from "../../src/models/create-model.ts";
import { attach, merge, methods, setActive, unmerge } from "../../src/peft/index.ts";
import type { AnyMethod } from "../../src/peft/method.ts";
import { toCamel } from "../../src/peft/method-config.ts";
import { numbers } from "./small-model.ts";

type Values = { readonly shape: readonly number[]; readonly values: readonly number[] };
const {
  config,
  base,
  ids,
  methods: cases,
} = JSON.parse(readFileSync(new URL("order/order.json", import.meta.url), "utf8")) as {
  readonly config: { readonly model_type: string };
  readonly base: Readonly<Record<string, Values>>;
  readonly ids: readonly (readonly number[])[];
  readonly methods: Readonly<
    Record<
      string,
      {
        readonly type: string;
        readonly options: object;
        readonly parameters: Readonly<Record<string, Values>>;
        readonly logits: Readonly<Record<"one,two" | "two,one" | "merged", Values>>;
      }
    >
  >;
};

const tensor = ({ shape, values }: Values) => upload(currentDevice(), Float32Array.from(values), [...shape], "float32");
const inputIds = upload(currentDevice(), Int32Array.from(ids.flat()), [ids.length, ids[0]!.length], "int32");

function adapted(name: string) {
  const { type, options, parameters } = cases[name]!;
  const model = (createModel(config, { task: "CausalLM" }) as CausalLM).eval();
  const weights = new Map(model.namedParameters());
  for (const [key, value] of Object.entries(base)) weights.get(key)!.assign(tensor(value));
  const method =
    name === "DORA" ? methods.dora : (Object.values(methods) as AnyMethod[]).find(({ peftType }) => peftType === type)!;
  for (const adapter of ["one", "two"]) attach(model, method(toCamel(options)), { name: adapter });
  const own = [...model.namedParameters()].filter(([key]) => /\.(one|two)(\.|$)/.test(key));
  for (const [key, parameter] of own) {
    const file = `base_model.model.${key}`;
    parameter.assign(tensor((parameters[file] ?? parameters[`${file}.weight`])!));
  }
  return { model, logits: () => model.forward({ inputIds }).logits };
}

/** PEFT merges the last adapter outermost, which for two OFT adapters is not what they do beside the weights. */
const mergesOtherwise = ["OFT"];

/** Their change is made of the layer's own weight, which after merging only one of two is another. */
const dependsOnOriginal = ["DORA", "HIRA"];

describe("several active adapters", () => {
  const close = (logits: Tensor, { values }: Values) => {
    const got = numbers(logits);
    const most = got.reduce((most, value, i) => Math.max(most, Math.abs(value - values[i]!)), 0);
    expect(got).toHaveLength(values.length);
    expect(most).toBeLessThan(2e-5);
  };
  it.each(Object.keys(cases))("of %s act in PEFT's order", (name) => {
    const { model, logits } = adapted(name);
    const want = cases[name]!.logits;
    for (const order of ["two,one", "one,two"] as const) {
      setActive(model, order.split(","));
      close(logits(), want[order]);
    }
    merge(model);
    close(logits(), want[mergesOtherwise.includes(name) ? "one,two" : "merged"]);
    unmerge(model);
    merge(model, ["two"]); // the other stays beside it
    const partly = numbers(logits());
    unmerge(model);
    const { difference } = merge(model, ["two"], { report: true, tell: () => {}, probe: logits });
    if (!dependsOnOriginal.includes(name)) expect(difference).toBeLessThan(2e-5);
    expect(numbers(logits())).toEqual(partly);
  });
});
