/**
 * A long run takes no more than a short one: after 10,000 training steps there are as many buffers, bytes and compiled
 * kernels as after 1,000, and no larger heap; and a batch of another size finds its kernels already there.
 */
import { queryObjects, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { realize, upload, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { mul } from "../../src/graph/elementwise.ts";
import { constant } from "../../src/graph/source.ts";
import { attach } from "../../src/peft/index.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import { complete } from "../../src/train/generation.ts";
import { Trainer } from "../../src/train/trainer.ts";
import { smallDataset, smallModel } from "../train/small-run.ts";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

let device: Device;
beforeAll(() => {
  device = createWasm({ threads: 2 });
  useDevice(device);
});
afterAll(() => device[Symbol.dispose]());

interface Use {
  readonly step: number;
  readonly buffers: number;
  readonly bytes: number;
  readonly kernels: number;
  /** JavaScript objects: arrays and functions too, strings and numbers not. */
  readonly objects: number;
  readonly heap: number;
}

/** What is in use after the collector has run, its finalizers included. */
async function measure(step: number): Promise<Use> {
  for (let round = 0; round < 4; round++) {
    collectGarbage();
    await new Promise((resume) => setTimeout(resume, 2));
  }
  const { buffers, bytesInUse, kernels } = device.statistics;
  return {
    step,
    buffers,
    bytes: bytesInUse,
    kernels,
    objects: queryObjects(Object, { format: "count" }),
    heap: process.memoryUsage().heapUsed,
  };
}

/** A run is measured so many times on its way from the early step to the late one; each keeps a few objects of its own. */
const parts = 8;
const objectsPerMeasure = 8;

/**
 * Bytes of heap a step. V8 takes some 100 kB for the code of what has become hot, and gives some back, whenever it gets time
 * for that, so the heap tells only of what is large; the count of objects is exact.
 */
const heapPerStep = 256;

function expectNoGrowth(uses: readonly Use[]): void {
  const [early, late] = [uses[0]!, uses.at(-1)!];
  const { buffers, bytes, kernels } = early;
  expect({ buffers: late.buffers, bytes: late.bytes, kernels: late.kernels }).toEqual({ buffers, bytes, kernels });
  expect(late.objects - early.objects).toBeLessThanOrEqual(objectsPerMeasure * (uses.length - 1));
  expect((late.heap - early.heap) / (late.step - early.step)).toBeLessThan(heapPerStep);
}

/** Trains adapters with dropout and measures from `early` to `late` steps; `besides` runs after every step. */
async function training(early: number, late: number, besides: (step: number) => void = () => {}): Promise<Use[]> {
  const model = smallModel();
  attach(model, lora({ r: 2, targetModules: ["q_proj", "v_proj"], loraDropout: 0.1 }));
  const dataset = smallDataset({ window: 8, stride: 4 });
  using trainer = new Trainer(model, dataset, { steps: late, batchSize: 2, evaluateEvery: early / 2, evaluationTokens: 32 });
  const uses: Use[] = [];
  await trainer.run({
    onStep: async ({ step }) => {
      besides(step);
      if (step < early || (step - early) % ((late - early) / parts) !== 0) return;
      // the history is meant to grow
      for (const list of Object.values(trainer.history)) list.length = 0;
      uses.push(await measure(step));
    },
  });
  expect(uses).toHaveLength(1 + parts);
  return uses;
}

test("10,000 training steps take no more memory or kernels than 1,000", async () => {
  expectNoGrowth(await training(1_000, 10_000));
});

test("300 texts from prompts of many lengths take no more memory or kernels than 100", async () => {
  const model = smallModel();
  const uses: Use[] = [];
  for (let text = 1; text <= 300; text++) {
    await complete(model, new Array<number>(2 + (text % 13)).fill(text % 5), {
      maxNewTokens: 2 + (text % 4),
      temperature: 1,
      seed: text,
    });
    if (text === 100 || text === 300) uses.push(await measure(text));
  }
  const [early, late] = uses as [Use, Use];
  const { buffers, bytes, kernels } = early;
  expect(late).toMatchObject({ buffers, bytes, kernels });
  // a program that stayed would be hundreds of objects
  expect((late.objects - early.objects) / 200).toBeLessThan(1);
});

test("batches of other sizes and lengths are trained on and continued with the kernels that are there", async () => {
  const model = smallModel();
  attach(model, lora({ r: 2, targetModules: "all-linear", loraDropout: 0.1 }));
  const train = async (batchSize: number, window: number) => {
    using trainer = new Trainer(model, smallDataset({ window, stride: window }), { steps: 1, batchSize });
    await trainer.run();
    await complete(model, new Array<number>(window).fill(1), { maxNewTokens: batchSize });
    return device.statistics.kernels;
  };
  const kernels = await train(2, 8);
  for (const [batchSize, window] of [[3, 8], [2, 11], [5, 16], [4, 13], [7, 2], [16, 16]] as const) // biome-ignore format: a table
    expect({ batchSize, window, kernels: await train(batchSize, window) }).toEqual({ batchSize, window, kernels });
});

describe("growth is noticed", () => {
  const kept: unknown[] = [];
  const caught = async (besides: (step: number) => void) => {
    const uses = await training(200, 2_200, besides);
    expect(() => expectNoGrowth(uses)).toThrow();
  };
  test("of buffers", () => caught(() => kept.push(upload(device, new Float32Array(1), [1], "float32"))));
  test("of objects", () => caught((step) => kept.push({ step })));
  test("of the heap, by a text a step", () => caught((step) => kept.push(`${step} of many `.repeat(96).split("").join(""))));
  test("of kernels, by a number that becomes part of the code", () =>
    caught((step) => {
      using x = upload(device, new Float32Array(4), [4], "float32");
      using y = mul(x, constant(step));
      realize([y]);
    }));
});
