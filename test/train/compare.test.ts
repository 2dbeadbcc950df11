/** Methods are compared from the same start: whatever they are, and however it ends, the model is afterwards what it was, to the bit. */
import { describe, expect, it } from "vitest";
import "../../src/devices/choose.ts";
import { downloadSync } from "../../src/compile/program.ts";
import { ConfigError } from "../../src/errors.ts";
import { mul } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { BatchNorm } from "../../src/nn/channel-norm.ts";
import { Linear } from "../../src/nn/linear.ts";
import { crossEntropy } from "../../src/nn/loss.ts";
import { Module } from "../../src/nn/module.ts";
import { attach } from "../../src/peft/attach.ts";
import { type MethodName, methods } from "../../src/peft/method-registry.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import { type ComparedMethod, compareMethods, type MethodRefusal, type MethodResult } from "../../src/train/compare.ts";
import { finetune } from "../../src/train/finetune.ts";
import { tensorDataset } from "../../src/train/training-data.ts";
import { smallDataset, smallModel } from "./small-run.ts";

const options = { steps: 3, batchSize: 2, learningRate: 0.02, evaluationTokens: 32 };
const small = lora({ r: 2, targetModules: "all-linear", loraDropout: 0.2 });

/** Everything that a model holds, the modules that it is made of, and what of it trains. */
const stateOf = (model: Module) => ({
  training: model.training,
  modules: [...model.namedModules()].map(([path, module]) => [path, module.constructor.name]),
  parameters: [...model.namedParameters()].map(([path, { stored, requiresGrad }]) => [
    path,
    requiresGrad,
    new Uint8Array(downloadSync(stored).slice().buffer),
  ]),
});

const results = (rows: readonly (MethodResult | MethodRefusal)[]) => rows.filter((row) => row.refused === null);

it("every method leaves the model as it was, and is a row with its numbers or with the reason why there are none", async () => {
  const model = smallModel();
  model.eval();
  const before = stateOf(model);
  const names = Object.keys(methods) as MethodName[];
  const told: string[] = [];
  const { rows, finished } = await compareMethods(model, smallDataset(), names, {
    ...options,
    onMethod: ({ name }) => void told.push(name),
  });
  expect(stateOf(model)).toEqual(before);
  expect(finished).toBe(true);
  expect(rows.map(({ name }) => name)).toEqual(names);
  expect(told).toEqual(names);
  for (const row of rows) {
    if (row.refused !== null) {
      expect(row.refused, row.name).toMatch(/^\w+: .+\.$/);
      continue;
    }
    const { trainable, memory, millisecondsPerStep, perplexity, fileBytes, history } = row;
    for (const value of [trainable, memory.planned, millisecondsPerStep, perplexity, fileBytes])
      expect(value, row.name).toBeGreaterThan(0);
    expect(history.loss.length).toBe(options.steps);
    if (row.mergeError === null) expect(row.notMerged, row.name).toMatch(/not a change of the weight/);
    else expect(row.mergeError, row.name).toBeLessThan(1e-2);
  }
  // these ask for what only a person knows
  for (const name of ["cpt", "trainableTokens", "alora"])
    expect(rows.find((row) => row.name === name)?.refused, name).toBeTruthy();
  expect(results(rows).length).toBeGreaterThan(35);
}, 300_000);

describe("the same start", () => {
  it("gives a method twice the same numbers, which are those of finetune, and another seed others", async () => {
    const twice: ComparedMethod[] = ["a", "b"].map((name) => ({ name, config: small }));
    const between: ComparedMethod = { name: "other", config: lora({ r: 3, targetModules: ["q_proj"] }) };
    const { rows } = await compareMethods(smallModel(), smallDataset(), [twice[0]!, between, twice[1]!], { ...options, seed: 5 });
    const [a, other, b] = results(rows);
    expect(b!.history).toEqual(a!.history);
    expect([b!.perplexity, b!.mergeError, b!.fileBytes]).toEqual([a!.perplexity, a!.mergeError, a!.fileBytes]);
    expect(other!.history.loss[0]).toBeCloseTo(a!.history.loss[0]!, 5); // the same batch, and neither has changed anything yet
    expect(other!.history.loss[2]).not.toBe(a!.history.loss[2]);
    const model = smallModel();
    attach(model, small, { seed: 5 });
    expect((await finetune(model, smallDataset(), { ...options, seed: 5 })).history.loss).toEqual(a!.history.loss);
    const seeded = await compareMethods(smallModel(), smallDataset(), twice.slice(1), { ...options, seed: 6 });
    expect(results(seeded.rows)[0]!.history.loss).not.toEqual(a!.history.loss);
  });

  it("gives a method its own learning rate", async () => {
    const entries = [0.01, 0.03].map((learningRate) => ({ name: `${learningRate}`, config: small, learningRate }));
    const { rows } = await compareMethods(smallModel(), smallDataset(), entries, { ...options, schedule: (_, base) => base });
    expect(results(rows).map(({ history }) => history.learningRate[0])).toEqual([0.01, 0.03]);
  });
});

it("a method that is refused, or diverges, is a row, and the others go on", async () => {
  const model = smallModel();
  const before = stateOf(model);
  const { rows } = await compareMethods(
    model,
    smallDataset(),
    [
      { name: "elsewhere", config: lora({ targetModules: ["c_attn"] }) },
      { name: "fast", config: small, learningRate: 1e30 },
      "ia3",
      { name: "no config", config: () => lora({ r: -1 }) },
    ],
    options,
  );
  expect(rows.map(({ refused }) => refused)).toEqual([
    expect.stringMatching(/^attach: no module matches.*c_attn/),
    expect.stringMatching(/^train: the (held-out )?loss .* is (NaN|Infinity)\./),
    null,
    expect.stringMatching(/^lora: .*r/),
  ]);
  expect(stateOf(model)).toEqual(before);
});

it("can be stopped: there are the rows that were ready, and the model is what it was", async () => {
  const model = smallModel();
  const before = stateOf(model);
  const stop = new AbortController();
  const comparison = await compareMethods(model, smallDataset(), ["lora", "ia3", "vera"], {
    ...options,
    signal: stop.signal,
    onStep: ({ method, step }) => {
      if (method === "ia3" && step === 2) stop.abort();
    },
  });
  expect([comparison.finished, comparison.rows.map(({ name }) => name)]).toEqual([false, ["lora"]]);
  expect(stateOf(model)).toEqual(before);
  await expect(compareMethods(model, smallDataset(), ["lora"], { ...options, signal: stop.signal })).rejects.toBe(
    stop.signal.reason,
  );
});

it("what a callback throws ends it, whatever it is", async () => {
  const model = smallModel();
  const before = stateOf(model);
  const mine = new ConfigError("mine.", { operation: "mine" });
  const onStep = () => {
    throw mine;
  };
  await expect(compareMethods(model, smallDataset(), ["lora"], { ...options, onStep })).rejects.toBe(mine);
  expect(stateOf(model)).toEqual(before);
});

/** Its running mean and variance change in training, whatever is frozen. */
class Normed extends Module {
  readonly norm = new BatchNorm(4);
  readonly head = new Linear(4, 3);
  forward({ x, labels }: { readonly x?: Tensor; readonly labels?: Tensor }) {
    const logits = this.head.forward(this.norm.forward(x!));
    return { logits, loss: crossEntropy(logits, labels!) };
  }
}

it("what training gathers in buffers is put back, too", async () => {
  const model = new Normed();
  const before = stateOf(model);
  const x = { values: Float32Array.from({ length: 48 }, (_, i) => Math.sin(i) + 2), shape: [12, 4] };
  const data = tensorDataset(
    { x, labels: { values: Int32Array.from({ length: 12 }, (_, i) => i % 3), shape: [12] } },
    { heldOut: 0.25 },
  );
  const entry = { name: "lora", config: lora({ r: 2, targetModules: ["head"] }) };
  let gathered: unknown;
  const { rows } = await compareMethods(model, data, [entry, entry], {
    ...options,
    onStep: () => {
      gathered ??= stateOf(model).parameters.filter(([path]) => `${path}`.startsWith("norm.running"));
    },
  });
  expect(gathered).not.toEqual(before.parameters.filter(([path]) => `${path}`.startsWith("norm.running")));
  expect(stateOf(model)).toEqual(before);
  const [first, second] = results(rows);
  expect(second!.history).toEqual(first!.history);
});

it("a weight that somebody changes in between is noticed", async () => {
  const model = smallModel();
  const [, parameter] = [...model.namedParameters()][0]!;
  const config = () => {
    parameter.assign(mul(parameter.value, parameter.value));
    return small;
  };
  await expect(compareMethods(model, smallDataset(), [{ name: "bad", config }], options)).rejects.toThrow(
    /compareMethods: model\.embed_tokens\.weight.* has changed/,
  );
});

it("a model with an adapter, and a method that there is not, are refused", async () => {
  const model = smallModel();
  await expect(compareMethods(model, smallDataset(), ["lorra" as MethodName], options)).rejects.toThrow(
    /no method "lorra".*lora/,
  );
  attach(model, small);
  await expect(compareMethods(model, smallDataset(), ["lora"], options)).rejects.toThrow(/adapters already: default.*detach/);
});
