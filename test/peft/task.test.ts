/** Adapters that hold several tasks: which one a row of a batch is for. */
import { beforeAll, describe, expect, it } from "vitest";
import { currentDevice, downloadSync, upload, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { CausalLM, CausalLMInputs } from "../../src/models/causal-lm.ts";
import { createModel } from "../../src/models/create-model.ts";
import { normal } from "../../src/nn/init.ts";
import { attach, multitaskPrompt, poly, withTasks } from "../../src/peft/index.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { complete } from "../../src/train/generation.ts";

beforeAll(() => void useDevice(createReference()));

const llama = {
  ...{ model_type: "llama", vocab_size: 23, hidden_size: 12, intermediate_size: 16 },
  ...{ num_hidden_layers: 1, num_attention_heads: 3, num_key_value_heads: 3 },
};
const configs = {
  poly: () => poly({ r: 2, nTasks: 3, nSkills: 2, initWeights: false, targetModules: ["q_proj", "down_proj"] }),
  multitaskPrompt: () => multitaskPrompt({ numVirtualTokens: 2, numTasks: 3 }),
};
const make = (name: keyof typeof configs): CausalLM => {
  const random = new TorchGenerator(1);
  const model = createModel(llama, { task: "CausalLM", init: normal({ std: 0.5, generator: random }) }).eval();
  attach(model, configs[name]() as never);
  for (const parameter of model.trainableParameters())
    parameter.assign(
      upload(currentDevice(), random.normal(parameter.size + 16, 0, 2).slice(0, parameter.size), parameter.shape, "float32"),
    );
  return model;
};
const int32 = (values: readonly number[], shape: readonly number[]): Tensor =>
  upload(currentDevice(), Int32Array.from(values), shape, "int32");
const inputs = () => ({ inputIds: int32([3, 4, 5, 3, 4, 5], [2, 3]) });
const run = (model: CausalLM, given: object = inputs()): number[] =>
  Array.from(downloadSync(model.forward(given as CausalLMInputs).logits) as Float32Array);

describe.each(Object.keys(configs) as (keyof typeof configs)[])("%s", (name) => {
  it("gives a row what its task gives it, however it is said", () => {
    const model = make(name);
    const all = [0, 1, 2].map((task) => run(model, { ...inputs(), taskIds: int32([task, task], [2]) }));
    expect(all[0]).not.toEqual(all[1]);
    const half = all[0]!.length / 2;
    const mixed = [...all[2]!.slice(0, half), ...all[0]!.slice(half)];
    expect(run(model, { ...inputs(), taskIds: int32([2, 0], [2]) })).toEqual(mixed);
    expect(withTasks(model, [2, 0], () => run(model))).toEqual(mixed);
    expect(withTasks(model, [1], () => run(model))).toEqual(all[1]);
    expect(withTasks(model, [1], () => run(model, { ...inputs(), taskIds: int32([2, 2], [2]) }))).toEqual(all[2]);
  });

  it("is asked for when nobody says it", () => {
    const model = make(name);
    expect(() => run(model)).toThrow(/taskIds.*which of 3 tasks/s);
  });

  it("writes a text for a task as it reads one", async () => {
    const model = make(name);
    const tokens = [3, 4, 5];
    for (let i = 0; i < 3; i++) {
      const logits = run(model, { inputIds: int32(tokens, [1, tokens.length]), taskIds: int32([2], [1]) }).slice(-23);
      tokens.push(logits.indexOf(Math.max(...logits)));
    }
    const written = await withTasks(model, [2], () => complete(model, [3, 4, 5], { temperature: 0, maxNewTokens: 3 }));
    expect(written).toEqual(tokens.slice(3));
  });
});

it.each([[[]], [[-1]], [[0.5]]])("refuses tasks %j", (tasks) => {
  expect(() => withTasks(make("poly"), tasks, () => 0)).toThrow(/whole numbers/);
});
it.each(Object.keys(configs) as (keyof typeof configs)[])("%s refuses another number of tasks than rows", (name) => {
  const model = make(name);
  expect(() => withTasks(model, [0, 1, 2], () => run(model))).toThrow(/2 rows, but 3 tasks/);
});
it("refuses splits that do not fit a layer", () => {
  const model = createModel(llama, { task: "CausalLM" });
  expect(() => attach(model, poly({ nSplits: 5, targetModules: ["q_proj"] }))).toThrow(/nSplits.*5.*divide/s);
});
