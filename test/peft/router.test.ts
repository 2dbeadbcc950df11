/** Mixtures of LoRA experts, token by token: Arrow and X-LoRA. */
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { currentDevice, downloadSync, upload, useDevice } from "../../src/compile/program.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import { createModel } from "../../src/models/create-model.ts";
import { normal } from "../../src/nn/init.ts";
import { AdamW } from "../../src/optim/adam.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import {
  attach,
  createXlora,
  deleteAdapter,
  detach,
  disabled,
  dora,
  loadAdapter,
  loadArrow,
  loadXlora,
  lora,
  merge,
  renameAdapter,
  saveAdapter,
  saveArrow,
  saveXlora,
  setActive,
  withAdapters,
  xloraScalings,
} from "../../src/peft/index.ts";
import { arrow } from "../../src/peft/router/arrow.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { complete } from "../../src/train/generation.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const folder = temporaryFolder();

const make = (): CausalLM => {
  const sizes = { hidden_size: 12, intermediate_size: 16, num_attention_heads: 3, num_key_value_heads: 3 };
  const config = { model_type: "llama", vocab_size: 23, num_hidden_layers: 2, ...sizes };
  return createModel(config, { task: "CausalLM", init: normal({ std: 0.5, generator: new TorchGenerator(1) }) }).eval();
};
const ids = (tokens: readonly number[]): Tensor => upload(currentDevice(), Int32Array.from(tokens), [1, tokens.length], "int32");
const values = (x: Tensor): number[] => Array.from(downloadSync(x) as Float32Array);
const run = (model: CausalLM, tokens: readonly number[] = [3, 4, 5, 6]): number[] =>
  values(model.forward({ inputIds: ids(tokens) }).logits);
const expectClose = (got: readonly number[], want: readonly number[]) => {
  expect(got.length).toBe(want.length);
  expect(Math.max(...got.map((value, i) => Math.abs(value - want[i]!)))).toBeLessThan(1e-4);
};

const at = (name: string): string => join(folder, name);
const targetModules = ["q_proj", "down_proj"];
beforeAll(async () => {
  useDevice(createWasm({ threads: 1 }));
  const write = async (name: string, seed: number, options: object = {}, method = lora) => {
    const model = make();
    attach(model, method({ r: 2, loraAlpha: 3, targetModules, initLoraWeights: false, ...options }), { seed });
    await saveAdapter(model, at(name));
  };
  await write("a", 1);
  await write("b", 2);
  await write("c", 3);
  await write("wide", 4, { r: 3 });
  await write("elsewhere", 5, { targetModules: ["q_proj"] });
  await write("embedding", 6, { targetModules: ["embed_tokens", "q_proj"] });
  await write("dora", 7, {}, dora as unknown as typeof lora);
});

const alone = async (name: string): Promise<CausalLM> => {
  const model = make();
  await loadAdapter(model, at(name));
  return model;
};
/** The most likely words, each found by running the whole text again. */
const continued = (model: CausalLM, count: number): number[] => {
  const tokens = [3, 4, 5];
  while (tokens.length < 3 + count) {
    const last = run(model, tokens).slice(-23);
    tokens.push(last.indexOf(Math.max(...last)));
  }
  return tokens.slice(3);
};

describe("what mixes adapters", () => {
  const mixtures: Record<string, (model: CausalLM) => Promise<unknown>> = {
    Arrow: (model) => loadArrow(model, [at("a"), at("b")], { topK: 1 }),
    "X-LoRA": (model) => createXlora(model, { a: at("a"), b: at("b") }, {}, { seed: 3 }),
  };
  describe.each(Object.entries(mixtures))("%s", (_, mix) => {
    it("ends with setActive, and leaves no trace when it is taken off", async () => {
      const model = make();
      const before = { logits: run(model), keys: Reflect.ownKeys(model), paths: [...model.namedParameters()].map(([p]) => p) };
      await mix(model);
      const mixed = run(model);
      expect(mixed).not.toEqual(before.logits);
      expect(disabled(model, () => run(model))).toEqual(before.logits);
      expect(run(model)).toEqual(mixed);
      setActive(model, names(model)[0] as string);
      expectClose(run(model), run(await alone("a")));
      detach(model);
      expect(run(model)).toEqual(before.logits);
      expect(Reflect.ownKeys(model)).toEqual(before.keys);
      expect([...model.namedParameters()].map(([path]) => path)).toEqual(before.paths);
      await mix(model);
      expect(run(model)).toEqual(mixed);
      detach(model);
      expect(Reflect.ownKeys(model)).toEqual(before.keys);
    });

    it("refuses what would change its adapters", async () => {
      const model = make();
      await mix(model);
      const [name] = names(model) as [string];
      expect(() => merge(model)).toThrow(/mixes/);
      expect(() => deleteAdapter(model, name)).toThrow(/mixes/);
      expect(() => renameAdapter(model, name, "other")).toThrow(/mixes/);
      expect(() => withAdapters(model, [name], () => 0)).toThrow(/mixes/);
      expect(() => attach(model, lora({ r: 1, targetModules }), { name: "more" })).toThrow(/mixes/);
      await expect(mix(model)).rejects.toThrow(/has adapters/);
    });

    it.each([true, false])("continues a text with a cache as without (compiled: %s)", async (compiled) => {
      const model = make();
      await mix(model);
      const want = continued(model, 4);
      expect(await complete(model, [3, 4, 5], { temperature: 0, maxNewTokens: 4, compiled })).toEqual(want);
      expect(await complete(model, [3, 4, 5], { temperature: 0, maxNewTokens: 4, compiled })).toEqual(want);
    });
  });
});
const names = (model: CausalLM): string[] => [
  ...new Set([...model.namedParameters()].flatMap(([path]) => /lora_A\.(\w+)\.weight/.exec(path)?.[1] ?? [])),
];

describe("Arrow", () => {
  it("with one expert is that LoRA", async () => {
    const model = make();
    await loadArrow(model, [at("a")], { topK: 1 });
    expectClose(run(model), run(await alone("a")));
  });

  it("with the same expert twice is that LoRA, whatever k is", async () => {
    const model = make();
    await loadArrow(model, [at("a"), at("a")], { topK: 2, routerTemperature: 0.3 });
    expectClose(run(model), run(await alone("a")));
  });

  it("takes what is general out of the experts", async () => {
    const model = make();
    await loadArrow(model, [at("a")], { topK: 1, general: [at("a")] });
    expectClose(run(model), run(make()));
  });

  it("is saved and loaded, experts and all, with what is general as it was", async () => {
    const model = make();
    await loadArrow(model, [at("a"), at("b")], { topK: 2, routerTemperature: 0.4, general: [at("c")], seed: 7 });
    await saveArrow(model, at("arrows"), { baseModel: "mine" });
    const again = make();
    const adapters = await loadArrow(again, at("arrows"));
    expect(adapters.map(({ name, config }) => [name, config["baseModelNameOrPath"]])).toEqual([
      ["task_0", "mine"],
      ["task_1", "mine"],
    ]);
    expect(run(again)).toEqual(run(model));
    const within = make();
    await loadAdapter(within, at("arrows/task_0"));
    expectClose(run(within), run(await alone("a")));
    const plain = make();
    await loadArrow(plain, [at("a"), at("b")], { topK: 2, routerTemperature: 0.4, seed: 7 });
    const without = make();
    await loadArrow(without, at("arrows"), { useGks: false });
    expect(run(without)).toEqual(run(plain));
    const others = make();
    await loadArrow(others, at("arrows"), { general: [at("a")], topK: 1 });
    const made = make();
    await loadArrow(made, [at("a"), at("b")], { general: [at("a")], topK: 1, routerTemperature: 0.4, seed: 7 });
    expect(run(others)).toEqual(run(made));
  });

  it("refuses to save or load what is none", async () => {
    const model = make();
    attach(model, lora({ r: 1, targetModules }));
    await expect(saveArrow(model, at("none"))).rejects.toThrow(/not mixed by Arrow/);
    await expect(loadArrow(make(), at("a"))).rejects.toThrow(/arrow_router/);
    const mixed = make();
    await loadArrow(mixed, [at("a")], { topK: 1 });
    await saveArrow(mixed, at("one"));
    await expect(loadAdapter(make(), at("one/arrow_router"))).rejects.toThrow(/`arrowConfig` makes no adapter.*loadArrow/s);
    await expect(loadArrow(make(), [at("a")], { topK: 1, useGks: true })).rejects.toThrow(/Give `general`/);
  });

  it("finds the direction that an expert stretches most", () => {
    // B·A = 3·u·pᵀ + 0.1·…, with p along the second axis
    const A = Float32Array.from([0, 1, 0, 1, 0, 0]);
    const B = Float32Array.from([3, 0, 0, 0.1]);
    const found = arrow({ r: 2, A, B }, 0);
    [0, 1, 0].forEach((value, i) => void expect(Math.abs(found[i]!)).toBeCloseTo(value, 5));
  });

  it.each([
    [["a", "wide"], { topK: 1 }, /not of one rank on the same layers.*rank 3/],
    [["a", "elsewhere"], { topK: 1 }, /not of one rank on the same layers.*down_proj/],
    [["embedding"], { topK: 1 }, /embedding, whose input has no direction/],
    [["a", "dora"], { topK: 1 }, /LORA in a form of its own/],
    [["a"], {}, /topK.*3.*from 1 to the number of experts, 1/],
    [["a"], { topK: 1, routerTemperature: 0 }, /routerTemperature/],
  ])("refuses %j with %j, and leaves the model alone", async (experts, options, message) => {
    const model = make();
    await expect(loadArrow(model, experts.map(at), options)).rejects.toThrow(message);
    expect(names(model)).toEqual([]);
    attach(model, lora({ r: 1, targetModules }));
  });
});

describe("X-LoRA", () => {
  const experts = { a: at("a"), b: at("b"), c: at("c") };

  it("with one expert is that LoRA", async () => {
    const model = make();
    await createXlora(model, { a: at("a") });
    expectClose(run(model), run(await alone("a")));
  });

  it("gives shares that add up to 1, to every layer its own if it is told to", async () => {
    const model = make();
    await createXlora(model, experts, { layerwiseScalings: true, xloraDepth: 2, xloraSize: 5 });
    const shares = xloraScalings(model, { inputIds: ids([3, 4]) });
    expect(shares.shape).toEqual([1, 2, 4, 3]);
    const all = values(shares);
    for (let i = 0; i < all.length; i += 3) expect(all[i]! + all[i + 1]! + all[i + 2]!).toBeCloseTo(1, 5);
    expect(all.slice(0, 3)).not.toEqual(all.slice(3, 6));
  });

  it("with k = 1 and its share made 1 again is the likeliest expert", async () => {
    const model = make();
    await createXlora(model, experts, { topKLora: 1, enableSoftmax: false, enableSoftmaxTopk: true });
    const bias = [...model.namedParameters()].find(([path]) => path === "internal_xlora_classifier.layers.0.bias")![1];
    bias.assign(upload(currentDevice(), Float32Array.of(0, 50, 0), [3], "float32"));
    expectClose(run(model), run(await alone("b")));
  });

  it("makes all shares add up to 1 at the end where none are chosen", async () => {
    const [last, first] = [make(), make()];
    await createXlora(last, experts, { enableSoftmax: false, enableSoftmaxTopk: true }, { seed: 4 });
    await createXlora(first, experts, {}, { seed: 4 });
    expectClose(run(last), run(first));
    const twice = make();
    await createXlora(twice, experts, { enableSoftmaxTopk: true }, { seed: 4 });
    expect(run(twice)).not.toEqual(run(first));
  });

  it("multiplies with the global weight, and in the first pass with a value that experts act with", async () => {
    const model = make();
    await createXlora(model, { a: at("a") }, { globalScalingWeight: 0 });
    expectClose(run(model), run(make()));
    const other = make();
    await createXlora(other, experts, { scalingPassValue: 0.5 }, { seed: 1 });
    const plain = make();
    await createXlora(plain, experts, {}, { seed: 1 });
    expect(values(xloraScalings(other, { inputIds: ids([3]) }))).not.toEqual(
      values(xloraScalings(plain, { inputIds: ids([3]) })),
    );
  });

  it("learns the network alone, unless the experts may be trained", async () => {
    const model = make();
    await createXlora(model, experts);
    const trained = model.trainableParameters();
    expect(trained.map(({ shape }) => shape)).toEqual([[3, 12], [3]]);
    const inputs = { inputIds: ids([3, 4, 5, 6]), labels: ids([3, 4, 5, 6]) };
    const optimizer = new AdamW(trained, { lr: 0.05 });
    const losses: number[] = [];
    model.train();
    for (let step = 0; step < 4; step++) {
      const { loss } = model.forward(inputs);
      losses.push(values(loss!)[0]!);
      optimizer.step(gradientsOf(loss!, trained));
    }
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
    const free = make();
    await createXlora(free, experts, { useTrainableAdapters: true });
    expect(free.trainableParameters().length).toBe(2 + 3 * 4 * 2);
  });

  it("is saved and loaded, experts and all", async () => {
    const model = make();
    await createXlora(
      model,
      experts,
      { xloraDepth: 3, xloraSize: 4, layerwiseScalings: true, softmaxTemperature: 0.5 },
      { seed: 8 },
    );
    await saveXlora(model, at("mixture"));
    const again = make();
    expect(await loadXlora(again, at("mixture"))).toEqual([]);
    expect(run(again)).toEqual(run(model));
    expect(again.trainableParameters()).toEqual([]);
    const further = make();
    await loadXlora(further, at("mixture"), { trainable: true, adapters: Object.values(experts) });
    expect(further.trainableParameters().length).toBe(6);
  });

  it.each([
    [{ topKLora: 4 }, /topKLora.*4.*3/],
    [{ softmaxTemperature: 0 }, /softmaxTemperature/],
    [{ hiddenSize: 13 }, /hiddenSize.*13.*12/],
    [{ depth: 2 }, /not an option of XLORA/],
  ])("refuses %j, and leaves the model alone", async (options, message) => {
    const model = make();
    await expect(createXlora(model, experts, options as object)).rejects.toThrow(message);
    expect(names(model)).toEqual([]);
    await expect(createXlora(model, {})).rejects.toThrow(/no adapters/);
    expect(() => xloraScalings(model, { inputIds: ids([1]) })).toThrow(/no adapter/);
  });
});
