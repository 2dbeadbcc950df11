import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { currentDevice, downloadSync, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { ConfigError, FormatError, ShapeError } from "../../src/errors.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { constant } from "../../src/graph/source.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import { crossEntropy } from "../../src/nn/loss.ts";
import { cosineSchedule } from "../../src/optim/schedule.ts";
import { getAdapter } from "../../src/peft/adapted-model.ts";
import { attach } from "../../src/peft/attach.ts";
import { merge } from "../../src/peft/merge.ts";
import { adalora } from "../../src/peft/methods/adalora.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import { uploadBatch } from "../../src/train/batch.ts";
import { type Checkpoint, readCheckpointFile, writeCheckpointFile } from "../../src/train/checkpoint.ts";
import { evaluate } from "../../src/train/evaluate.ts";
import { finetune, finetuning } from "../../src/train/finetune.ts";
import type { StepEvent } from "../../src/train/progress.ts";
import { Trainer, type TrainerOptions } from "../../src/train/trainer.ts";
import { onEveryDevice } from "../devices.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { smallDataset, smallModel } from "./small-run.ts";

const folder = temporaryFolder();

const options: TrainerOptions = { steps: 8, batchSize: 4, learningRate: 0.01, schedule: cosineSchedule({ totalSteps: 8 }) };

const valuesOf = (model: CausalLM): Record<string, number[]> =>
  Object.fromEntries([...model.namedParameters()].map(([name, { stored }]) => [name, Array.from(downloadSync(stored))]));

const adapted = (seed = 0) => {
  const model = smallModel();
  attach(model, lora({ r: 2, loraAlpha: 4, targetModules: "all-linear", loraDropout: 0.1 }), { seed });
  return model;
};

onEveryDevice(() => {
  it("brings the loss down and reports every step", async () => {
    const model = smallModel();
    using trainer = new Trainer(model, smallDataset(), { ...options, steps: 30, schedule: (_, base) => base, evaluateEvery: 15 });
    const events: StepEvent[] = [];
    const evaluations: number[] = [];
    const result = await trainer.run({
      onStep: (event) => void events.push(event),
      onEvaluation: ({ step }) => void evaluations.push(step),
    });
    expect(events.map(({ step }) => step)).toEqual(Array.from({ length: 30 }, (_, i) => i + 1));
    expect(events.at(-1)?.loss).toBeLessThan((events[0]?.loss as number) - 0.5);
    expect(result).toMatchObject({ step: 30, finished: true, tokens: 30 * 4 * 16 });
    expect(result.history.loss).toEqual(events.map(({ loss }) => loss));
    expect(events[3]).toMatchObject({ steps: 30, tokens: 4 * 4 * 16, learningRate: 0.01 });
    expect(events[29]?.secondsLeft).toBe(0);
    expect(evaluations).toEqual([0, 15, 30]);
    const [first, , last] = result.history.evaluations;
    expect(last?.loss).toBeLessThan(first?.loss as number);
    expect(trainer.memory().planned).toBeGreaterThan(4 * model.parameters().reduce((sum, { size }) => sum + size, 0));
  });

  it("measures the mean loss over all held-out tokens, whatever the batch", async () => {
    const model = smallModel();
    const dataset = smallDataset();
    let [sum, count] = [0, 0];
    for (const batch of dataset.evaluationBatches({ batchSize: 1 })) {
      using inputs = uploadBatch(batch);
      const { logits } = model.forward({ inputIds: inputs.inputIds });
      sum += downloadSync(crossEntropy(logits, inputs.targets, { reduction: "sum" }))[0] as number;
      count += batch.labels.filter((label) => label >= 0).length;
    }
    expect(count).toBe(dataset.heldOutTokens.length);
    for (const batchSize of [1, 3, 64]) {
      const { loss, perplexity, tokens } = await evaluate(model, dataset, { batchSize });
      expect(tokens).toBe(count);
      expect(loss).toBeCloseTo(sum / count, 5);
      expect(perplexity).toBeCloseTo(Math.exp(sum / count), 3);
    }
    expect((await evaluate(model, dataset, { batchSize: 1, maxTokens: 20 })).tokens).toBe(32);
  });
});

describe("on wasm", () => {
  let device: Device;
  beforeAll(() => {
    device = createWasm({ threads: 2 });
    useDevice(device);
  });
  afterAll(() => device[Symbol.dispose]());

  it("goes on from a checkpoint with the bits of a run that was never stopped", async () => {
    const path = join(folder, "half.safetensors");
    const whole = adapted();
    using uninterrupted = finetuning(whole, smallDataset(), options);
    const expected = await uninterrupted.run();

    const stop = new AbortController();
    using begun = finetuning(adapted(), smallDataset(), options);
    const half = await begun.run({ signal: stop.signal, onStep: ({ step }) => (step === 3 ? stop.abort() : undefined) });
    expect(half).toMatchObject({ step: 3, finished: false });
    await begun.save(path, { note: "mine" });

    const model = adapted(9);
    using resumed = finetuning(model, smallDataset(), options);
    expect(await resumed.load(path)).toEqual({ note: "mine" });
    const result = await resumed.run();
    expect(result.history.loss).toEqual(expected.history.loss);
    expect(result.history.learningRate).toEqual(expected.history.learningRate);
    expect(result).toMatchObject({ step: 8, finished: true, tokens: expected.tokens });
    expect(valuesOf(model)).toEqual(valuesOf(whole));
  });

  it("plans a step without running it, and goes on from bytes in memory, with the same bits", async () => {
    const whole = adapted();
    using uninterrupted = finetuning(whole, smallDataset(), options);
    const expected = await uninterrupted.run();

    const begun = adapted();
    using first = finetuning(begun, smallDataset(), options);
    const before = valuesOf(begun);
    const { planned } = first.memory();
    expect(valuesOf(begun)).toEqual(before);
    const stop = new AbortController();
    await first.run({ signal: stop.signal, onStep: ({ step }) => void (step === 3 && stop.abort()) });
    expect(first.memory().planned).toBe(planned);
    const bytes = await first.encode({ note: "mine" });

    const model = adapted(9);
    using resumed = finetuning(model, smallDataset(), options);
    expect(await resumed.load(new Blob([bytes]))).toEqual({ note: "mine" });
    expect(resumed.memory().planned).toBe(planned);
    expect((await resumed.run()).history.loss).toEqual(expected.history.loss);
    expect(valuesOf(model)).toEqual(valuesOf(whole));
    await expect(resumed.load(bytes.subarray(0, 100))).rejects.toThrow("cut off");
  });

  it("ends in the middle of a measurement, which is made anew when the run goes on", async () => {
    const measuring = { ...options, batchSize: 1, evaluateEvery: 4 };
    using uninterrupted = finetuning(adapted(), smallDataset(), measuring);
    const expected = await uninterrupted.run();

    const dataset = smallDataset();
    const stop = new AbortController();
    const batches = dataset.evaluationBatches.bind(dataset);
    dataset.evaluationBatches = function* (sizes) {
      for (const batch of batches(sizes)) {
        if (trainer.step === 4) stop.abort();
        yield batch;
      }
    };
    using trainer = finetuning(adapted(), dataset, measuring);
    const half = await trainer.run({ signal: stop.signal });
    expect(half).toMatchObject({ step: 4, finished: false });
    expect(half.history.evaluations.map(({ step }) => step)).toEqual([0]);
    expect((await trainer.run()).history).toEqual(expected.history);
  });

  it("goes on with the budget of an adapter where it was", async () => {
    const begin = () => {
      const model = smallModel();
      attach(
        model,
        adalora({ initR: 4, targetR: 2, tinit: 1, tfinal: 2, totalStep: 8, loraAlpha: 4, targetModules: "all-linear" }),
      );
      return { model, trainer: new Trainer(model, smallDataset(), options) };
    };
    const { model: whole, trainer: whole_ } = begin();
    await whole_.run();
    const path = join(folder, "budget.safetensors");
    const stopping = begin();
    const stop = new AbortController();
    await stopping.trainer.run({ signal: stop.signal, onStep: ({ step }) => void (step === 4 && stop.abort()) });
    await stopping.trainer.save(path);
    const { model, trainer } = begin();
    await trainer.load(path);
    await trainer.run();
    expect(valuesOf(model)).toEqual(valuesOf(whole));
    const { rankPattern } = getAdapter(model, "default").config as { rankPattern: Record<string, boolean[]> };
    expect(rankPattern).toEqual(getAdapter(whole, "default").config["rankPattern"]);
    const layers = Object.values(rankPattern);
    expect(layers.flat().filter(Boolean)).toHaveLength(2 * layers.length);
    for (const each of [whole_, stopping.trainer, trainer]) each[Symbol.dispose]();
  });

  it("gives the same bits for the same seed", async () => {
    const runs = [];
    for (const seed of [5, 5, 6]) {
      const model = adapted();
      runs.push((await finetune(model, smallDataset(), { ...options, steps: 3, seed })).history.loss);
    }
    expect(runs[0]).toEqual(runs[1]);
    expect(runs[0]).not.toEqual(runs[2]);
  });

  it("changes the adapter and nothing else", async () => {
    const model = adapted();
    const before = valuesOf(model);
    await finetune(model, smallDataset(), { ...options, steps: 3 });
    const after = valuesOf(model);
    for (const name of Object.keys(before))
      if (name.includes("lora_")) expect(after[name], name).not.toEqual(before[name]);
      else expect(after[name], name).toEqual(before[name]);
  });

  it("keeps no buffers and makes no programs from step to step", async () => {
    const model = adapted();
    using trainer = finetuning(model, smallDataset(), { ...options, steps: 40 });
    const { statistics } = currentDevice();
    const seen: string[] = [];
    await trainer.run({ onStep: () => void seen.push(`${currentDevice().statistics.buffers} ${statistics.kernels}`) });
    // the collector may free what earlier tests left
    const [buffers] = (seen.at(-1) as string).split(" ").map(Number);
    expect(buffers).toBeLessThanOrEqual(Number((seen[1] as string).split(" ")[0]));
  });

  it("refuses what cannot be trained", () => {
    expect(() => new Trainer(smallModel().freeze() as CausalLM, smallDataset(), options)).toThrow(
      new ConfigError("no parameter of this model can be trained.", {
        operation: "train",
        hint: "Put an adapter on with attach, or set requiresGrad of parameters.",
      }),
    );
    expect(() => new Trainer(smallModel(), smallDataset(), { ...options, steps: 0 })).toThrow(
      "train: `steps` (= 0) must be a whole number from 1.",
    );
    expect(() => new Trainer(smallModel(), smallDataset(), { ...options, learningRate: -1 })).toThrow(
      "train: `learningRate` (= -1) must be a number above 0.",
    );
  });

  it("refuses an adapter that is in the weights", async () => {
    const model = adapted();
    merge(model);
    await expect(finetune(model, smallDataset(), options)).rejects.toThrow(
      /train: the loss does not depend on any trained parameter\. An adapter that is merged .*unmerge/,
    );
  });

  it("stops when the loss is no number any more", async () => {
    const model = smallModel();
    const weight = new Map(model.namedParameters()).get("model.norm.weight")!;
    weight.assign(constant(Number.NaN, weight.shape, "float32"));
    using trainer = new Trainer(model, smallDataset(), options);
    await expect(trainer.run()).rejects.toThrow(/train: the loss of step 1 is NaN\. Use a lower learning rate/);
  });

  it("refuses options that it does not know, and values out of range", async () => {
    const [model, data] = [smallModel(), smallDataset()];
    const misspelled = { steps: 1, learningrate: 1 } as unknown as TrainerOptions;
    await expect(finetune(model, data, misspelled)).rejects.toThrow(
      "finetune: `learningrate` is not an option. Did you mean `learningRate`?",
    );
    expect(() => new Trainer(model, data, misspelled)).toThrow("`learningrate` is not an option");
    for (const name of ["evaluationTokens", "evaluateEvery", "batchSize", "steps"])
      expect(() => new Trainer(model, data, { steps: 1, [name]: 0 })).toThrow(
        `train: \`${name}\` (= 0) must be a whole number from 1`,
      );
    expect(() => new Trainer(model, data, { steps: 1, clipNorm: 0 })).toThrow(
      "train: `clipNorm` (= 0) must be a number above 0, or null",
    );
    await expect(evaluate(model, data, { batchsize: 2 } as object)).rejects.toThrow("Did you mean `batchSize`?");
  });

  it("refuses a checkpoint of another run and stays as it was", async () => {
    const model = adapted();
    using trainer = finetuning(model, smallDataset(), options);
    const before = valuesOf(model);
    const refused = async (name: string, make: (path: string) => Promise<void>, error: unknown, sentence: RegExp) => {
      const path = join(folder, `${name}.safetensors`);
      await make(path);
      const caught = await trainer.load(path).catch((thrown) => thrown);
      expect(caught, name).toBeInstanceOf(error);
      expect(caught.message).toMatch(sentence);
      expect(valuesOf(model)).toEqual(before);
      expect(downloadSync(trainer.optimizer.stateDict().get("groups.0.lr") as Tensor)[0]).toBeCloseTo(0.01);
      expect(trainer.step).toBe(0);
    };
    const saveOf = (other: CausalLM, dataset = smallDataset()) => {
      return async (path: string) => {
        using another = finetuning(other, dataset, options);
        await another.save(path);
      };
    };
    await refused("full", saveOf(smallModel()), FormatError, /lora_A\.default\.weight" is not in the checkpoint/);
    const rank = smallModel();
    attach(rank, lora({ r: 3, targetModules: "all-linear" }));
    await refused("rank", saveOf(rank), ShapeError, /is \[3, 16\] in the checkpoint, \[2, 16\] here/);
    await refused("rows", saveOf(adapted(), smallDataset({ stride: 4 })), ConfigError, /the state is of a run with/);
    const plain = (path: string) => writeCheckpointFile(path, { tensors: new Map(), data: {} });
    await refused("plain", plain, FormatError, /is not a checkpoint of a trainer/);
    const tampered = (change: (content: Checkpoint) => Checkpoint) => async (path: string) => {
      await saveOf(adapted())(path);
      await writeCheckpointFile(path, change(await readCheckpointFile(path)));
    };
    const withoutDropout = ({ tensors, data }: Checkpoint) => {
      const left = [...tensors].filter(([name]) => !name.startsWith("dropout."));
      return { data, tensors: new Map([...left, ["optimizer.groups.0.lr", constant(7)]]) };
    };
    await refused("dropout", tampered(withoutDropout), FormatError, /the dropout state "key" is not in the checkpoint/);
    const withoutTimes = ({ tensors, data }: Checkpoint) => ({
      tensors,
      data: { trainer: { ...(data["trainer"] as object), timed: null } },
    });
    await refused("times", tampered(withoutTimes), FormatError, /is not a checkpoint of a trainer/);
    const text = async (path: string) => writeFileSync(path, "not a checkpoint at all");
    await refused("text", text, FormatError, /./);
    expect(readdirSync(folder).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });
});
