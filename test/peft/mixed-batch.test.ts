import { beforeAll, describe, expect, it } from "vitest";
import { currentDevice, upload, useDevice } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { concatenate } from "../../src/graph/composite.ts";
import { mul } from "../../src/graph/elementwise.ts";
import { sliceAxis } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { constant } from "../../src/graph/source.ts";
import { LlamaForCausalLM } from "../../src/models/llama.ts";
import {
  type AdapterConfig,
  attach,
  combineAdapters,
  disabled,
  hra,
  loha,
  lora,
  merge,
  promptTuning,
  renameAdapter,
  setActive,
  withAdapters,
} from "../../src/peft/index.ts";
import type { AnyMethod, Base } from "../../src/peft/method.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { generateBatch } from "../../src/train/generation.ts";
import { mutant } from "../arbitrary/adapter.ts";
import { difference, numbers, SmallModel } from "./small-model.ts";

beforeAll(() => void useDevice(createReference()));

const rows = (...ids: number[][]): Tensor =>
  upload(currentDevice(), Int32Array.from(ids.flat()), [ids.length, ids[0]!.length], "int32");

const configs = {
  a: lora({ r: 2, targetModules: ["q_proj", "embed_tokens"], initLoraWeights: false }),
  b: lora({ r: 3, loraAlpha: 9, targetModules: ["v_proj"], modulesToSave: ["lm_head"], initLoraWeights: false }),
  c: hra({ r: 3, targetModules: ["q_proj", "o_proj"] }),
  d: loha({ r: 2, targetModules: ["o_proj"], initWeights: false }),
} as unknown as Record<string, AdapterConfig>;

function withFour(): SmallModel {
  const model = new SmallModel().eval();
  for (const [name, config] of Object.entries(configs)) attach(model, config, { name, seed: name.charCodeAt(0) });
  const random = new TorchGenerator(3);
  for (const [name, parameter] of model.namedParameters())
    if (name.includes("modules_to_save"))
      parameter.assign(upload(currentDevice(), random.normal(parameter.size, 0, 0.5), parameter.shape, "float32"));
  return model;
}

/** Each row on its own, with its adapter as the only active one. */
function alone(model: SmallModel, names: readonly string[], x: Tensor): Tensor {
  const outputs = names.map((name, i) => {
    const row = sliceAxis(x, 0, i, i + 1);
    if (name === "__base__") return disabled(model, () => model.forward(row));
    setActive(model, name);
    return model.forward(row);
  });
  return concatenate(outputs, 0);
}

const names = ["a", "__base__", "b", "c", "d", "a"];
const x = () => rows([1, 2, 3], [4, 5, 6], [7, 8, 9], [3, 2, 1], [0, 10, 5], [6, 6, 6]);

describe("withAdapters", () => {
  it("gives every row what its adapter alone gives", () => {
    const model = withFour();
    const mixed = withAdapters(model, names, () => model.forward(x()));
    expect(difference(mixed, alone(model, names, x()))).toBeLessThan(1e-12);
    expect(difference(mixed, alone(model, [...names].reverse(), x()))).toBeGreaterThan(1e-2);
  });

  it("leaves the active adapters as they were, whatever happens", async () => {
    const model = withFour();
    setActive(model, ["d", "a"]);
    const before = numbers(model.forward(x()));
    expect(() =>
      withAdapters(model, names, () => {
        throw new Error("stop");
      }),
    ).toThrow("stop");
    await withAdapters(model, names, async () => void (await Promise.resolve()));
    expect(numbers(model.forward(x()))).toEqual(before);
    const inside = withAdapters(model, names, () => [disabled(model, () => model.forward(x())), model.forward(x())] as const);
    expect(
      difference(
        inside[0],
        disabled(model, () => model.forward(x())),
      ),
    ).toBe(0);
    expect(difference(inside[1], alone(model, names, x()))).toBeLessThan(1e-12);
  });

  it("keeps one compiled program for each order of names", () => {
    const model = withFour();
    const step = compile((ids: Tensor) => model.forward(ids));
    const run = (list: readonly string[]) => numbers(withAdapters(model, list, () => step(x())));
    const turned = [...names.slice(1), "a"];
    const first = run(names);
    expect(run(turned)).not.toEqual(first);
    expect(run(names)).toEqual(first);
    expect(numbers(step(x()))).not.toEqual(first);
    expect(step.traces).toBe(3);
    expect(
      difference(
        withAdapters(model, turned, () => step(x())),
        alone(model, turned, x()),
      ),
    ).toBeLessThan(1e-12);
  });

  it("refuses names that are not there, another number of rows, training and merged weights", () => {
    const model = withFour();
    const run = (list: readonly string[]) => withAdapters(model, list, () => model.forward(x()));
    expect(() => run(["a", "e"])).toThrow(/no adapter "e"/);
    expect(() => run([])).toThrow(/got no names/);
    expect(() => run(["a", "b"])).toThrow(/runs on 6 rows, but 2 adapter names/);
    model.train();
    expect(() => run(names)).toThrow(/evaluation mode/);
    model.eval();
    setActive(model, "a");
    merge(model);
    expect(() => run(names)).toThrow(/merged/);
  });

  it("has no base row where an adapter has taken a part of the weights", () => {
    const model = new SmallModel().eval();
    const { initialise } = lora.layers.linear!;
    const taking = mutant(lora as unknown as AnyMethod, "linear", {
      initialise: (base: Base, config: never, random: TorchGenerator) => ({
        ...initialise(base, config, random),
        weight: mul(base.weight, constant(0.5, [], "float32")),
      }),
    });
    attach(model, taking({ r: 2, targetModules: ["q_proj"] }), { name: "p" });
    attach(model, lora({ r: 2, targetModules: ["q_proj"] }), { name: "q" });
    const run = (list: readonly string[]) => withAdapters(model, list, () => model.forward(rows([1, 2], [3, 4])));
    expect(() => run(["p", "__base__"])).toThrow(/"p" has taken a part/);
    expect(difference(run(["p", "q"]), alone(model, ["p", "q"], rows([1, 2], [3, 4])))).toBeLessThan(1e-12);
  });
});

it("leaves adapters with virtual tokens to batches of their own", async () => {
  const config = {
    model_type: "llama",
    vocab_size: 11,
    hidden_size: 8,
    intermediate_size: 8,
    num_hidden_layers: 1,
    num_attention_heads: 2,
  };
  const model = new LlamaForCausalLM(config).eval();
  attach(model, promptTuning({ numVirtualTokens: 2 }) as never, { name: "p" });
  attach(model, configs["a"]!, { name: "a" });
  const inputIds = rows([1, 2], [3, 4]);
  const base = numbers(disabled(model, () => model.forward({ inputIds })).logits);
  expect(numbers(withAdapters(model, ["__base__", "__base__"], () => model.forward({ inputIds })).logits)).toEqual(base);
  expect(() => withAdapters(model, ["a", "p"], () => model.forward({ inputIds }))).toThrow(/"p" puts virtual tokens/);
  setActive(model, "p");
  const before = numbers(model.forward({ inputIds }).logits);
  renameAdapter(model, "p", "q");
  expect(numbers(model.forward({ inputIds }).logits)).toEqual(before);
  expect(() => combineAdapters(model, { adapters: ["a", "q"], weights: [1, 1], name: "c" })).toThrow(/virtual tokens/);
});

describe("generation", () => {
  it("continues every prompt with its adapter, in one batch with a cache, padded or not", async () => {
    const config = {
      ...{ model_type: "llama", vocab_size: 31, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2 },
      ...{ num_attention_heads: 4, num_key_value_heads: 2, initializer_range: 0.4, max_position_embeddings: 64 },
    };
    const model = new LlamaForCausalLM(config).eval();
    const targetModules = ["q_proj", "down_proj"];
    attach(model, lora({ r: 2, loraAlpha: 20, targetModules, initLoraWeights: false }), { name: "a", seed: 1 });
    attach(model, loha({ r: 2, alpha: 20, targetModules, initWeights: false }), { name: "b", seed: 2 });
    const prompts = [
      [1, 2, 3, 4],
      [5, 6],
      [7, 8, 9],
    ];
    const adapters = ["a", "__base__", "b"];
    const all = async (given: readonly number[][], options: object) => {
      const tokens: number[][] = given.map(() => []);
      for await (const step of generateBatch(model, given, { maxNewTokens: 6, temperature: 0, ...options }))
        step.forEach((token, i) => void tokens[i]!.push(token!));
      return tokens;
    };
    const mixed = await all(prompts, { adapters });
    for (const [i, name] of adapters.entries()) {
      if (name !== "__base__") setActive(model, name);
      const run = () => all([prompts[i]!], {});
      expect([name, await (name === "__base__" ? disabled(model, run) : run())]).toEqual([name, [mixed[i]]]);
    }
    expect(new Set(mixed.map(String)).size).toBe(3);
    await expect(all(prompts, { adapters: ["a"] })).rejects.toThrow(/3 prompts/);
    await expect(all(prompts, { adapters: ["a", "b", "x"] })).rejects.toThrow(/no adapter "x"/);
  });
});
