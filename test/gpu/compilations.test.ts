/**
 * A training run compiles a fixed number of kernels: once every shape of batch has been seen, and held-out text has been judged, nothing
 * is compiled any more, whatever the learning rate, the step and the dropout are. In Node on mode cpu, in a browser on webgl2.
 */
import { expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createGpu } from "../../src/devices/gpu/index.ts";
import { cosineSchedule } from "../../src/optim/schedule.ts";
import { attach } from "../../src/peft/attach.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import { Trainer } from "../../src/train/trainer.ts";
import { type Batch, type TrainingData, trainingData } from "../../src/train/training-data.ts";
import { smallDataset, smallModel } from "../train/small-run.ts";

/** The first rows and columns of a batch. */
function cut({ inputs }: Batch, rows: number, columns: number): Batch {
  const parts = Object.entries(inputs).map(([name, { values, shape }]) => {
    const width = shape[1]!;
    const kept = values.filter((_, i) => i < rows * width && i % width < columns);
    return [name, { values: kept, shape: [rows, columns] }] as const;
  });
  return { inputs: Object.fromEntries(parts), judged: rows * columns };
}

/** Batches of several shapes, by turns. */
function varied(shapes: readonly (readonly [rows: number, columns: number])[]): TrainingData {
  const data = trainingData(smallDataset());
  return {
    ...data,
    batches(options) {
      const sampler = data.batches(options);
      let turn = 0;
      return {
        next() {
          const batch = sampler.next();
          return batch && cut(batch, ...shapes[turn++ % shapes.length]!);
        },
        get state() {
          return sampler.state;
        },
      };
    },
  };
}

const inBrowser = typeof window !== "undefined";

test("a training run compiles nothing more once it has seen every shape", async () => {
  using device = await createGpu({ mode: inBrowser ? "webgl2" : "cpu" });
  useDevice(device);
  // compiling takes long on WebGL: the text that is held out is another shape already
  const shapes = (
    [
      [3, 16],
      [2, 12],
    ] as const
  ).slice(0, inBrowser ? 1 : 2);
  const model = smallModel();
  attach(model, lora({ r: 2, loraAlpha: 4, targetModules: inBrowser ? ["q_proj"] : "all-linear", loraDropout: 0.1 }));
  const steps = 4 * shapes.length;
  using trainer = new Trainer(model, varied(shapes), {
    steps,
    batchSize: 3,
    learningRate: 0.01,
    schedule: cosineSchedule({ totalSteps: steps }),
    evaluateEvery: shapes.length,
  });
  const compiled: number[] = [];
  await trainer.run({ onStep: () => void compiled.push(device.statistics.compilations) });
  expect(compiled).toHaveLength(steps);
  // every shape has its own kernels, the first step most of them
  expect(compiled[0]).toBeGreaterThan(30);
  if (shapes.length > 1) expect(compiled[1]).toBeGreaterThan(compiled[0]!);
  const [first, ...later] = compiled.slice(shapes.length);
  expect(later).toEqual(later.map(() => first));
});
