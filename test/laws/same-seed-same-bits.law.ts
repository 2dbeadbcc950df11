/**
 * The same seed gives the same bits: two runs agree in every bit, on any number of threads.
 *
 *   bits(f(seed), threads = 1) = bits(f(seed), threads = n)
 *
 * Therefore work is split over outputs, never over a sum, and every random number comes from a seed and a counter. Random integers and
 * uniform numbers are the same on every device; numbers that need a logarithm only on devices of one kind.
 *
 * @see https://www.thesalmons.org/john/random123/papers/random123sc11.pdf for counter-based random numbers
 */
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { pullback } from "../../src/autograd/grad.ts";
import { downloadSync, realize, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { isFloat } from "../../src/graph/dtype.ts";
import { add } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Draw, Sample } from "../../src/graph/primitive.ts";
import { primitives } from "../../src/graph/primitives.ts";
import { attach } from "../../src/peft/index.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import { chunk } from "../../src/tensor/arrange.ts";
import * as random from "../../src/tensor/random.ts";
import { sum } from "../../src/tensor/statistics.ts";
import { generateBatch } from "../../src/train/generation.ts";
import { Trainer } from "../../src/train/trainer.ts";
import { cases } from "../arbitrary/cases.ts";
import { composites } from "../arbitrary/composites.ts";
import { randomTensor } from "../arbitrary/draw.ts";
import { smallDataset, smallModel } from "../train/small-run.ts";

interface Run {
  readonly name: string;
  readonly device: Device;
}

const onThreads = (threads: number): Run => ({ name: `${threads} threads`, device: createWasm({ threads }) });
/** The second run is a repetition on the very same device. */
const [one, two, three] = [onThreads(1), onThreads(2), onThreads(3)];
const wasm: readonly Run[] = [one, { ...one, name: "the second run" }, two, three];
const reference: Run = { name: "reference", device: createReference() };
const repeated: readonly Run[] = [reference, { ...reference, name: "the second run" }];
afterAll(() => {
  for (const { device } of [one, two, three]) device[Symbol.dispose]();
});

/** The bytes of tensors, or of numbers, as text. */
type Bits = readonly string[];
const bitsOf = (tensors: readonly Tensor[]): Bits => {
  realize(tensors);
  return tensors.map((x) => {
    const { buffer, byteOffset, byteLength } = downloadSync(x);
    return Buffer.from(buffer, byteOffset, byteLength).toString("base64");
  });
};
const bitsOfNumbers = (numbers: readonly number[]): Bits => [Buffer.from(Float64Array.from(numbers).buffer).toString("base64")];

/** Throws where a run gives other bits than the first. */
async function agree(runs: readonly Run[], work: (run: Run) => Bits | Promise<Bits>): Promise<void> {
  let first: Bits | undefined;
  for (const run of runs) {
    useDevice(run.device);
    const bits = await work(run);
    first ??= bits;
    const wrong = bits.findIndex((text, i) => text !== first![i]);
    if (wrong >= 0 || bits.length !== first.length) throw new Error(`${run.name}: other bits in result ${wrong}`);
  }
}

/** Large enough to be split among threads. */
const large: Draw = {
  integer: (_low, high) => high,
  extent: () => 150,
  shape: (maxRank = 3) => [[], [9001], [97, 101], [5, 31, 67]][Math.min(maxRank, 3)]!,
};

/** Value and derivatives of a sample on the current device. */
function evaluate({ inputs, apply }: Sample, device: Device): Bits {
  const xs = inputs.map(({ shape, domain }, i) => randomTensor(device, shape, domain, i, "float32"));
  const y = apply(...xs);
  return bitsOf(isFloat(y.dtype) ? [y, ...pullback([y], [y], xs).filter((gradient) => gradient !== null)] : [y]);
}

describe("on any number of threads, values and derivatives of", () => {
  test.each(Object.keys(composites(one.device)))("%s", async (name) => {
    await agree(wasm, ({ device }) => {
      const [first, ...others] = composites(device)[name]!(large);
      return [first!, ...others.slice(0, 1)].flatMap((sample) => evaluate(sample, device));
    });
  });

  test.each(["sum", "product", "scatterAdd", "take"] as const)("the operation %s", async (name) => {
    await agree(wasm, ({ device }) => primitives[name].samples!(large).flatMap((sample) => evaluate(sample, device)));
  });
  test.each(["matmul", "attention"] as const)("the operation %s", async (name) => {
    const draw: Draw = { ...large, shape: () => [3] };
    await agree(wasm, ({ device }) => primitives[name].samples!(draw).flatMap((sample) => evaluate(sample, device)));
  });
});

describe("random numbers", () => {
  const seeds = fc.record({ seed: fc.nat(2 ** 31), size: fc.constantFrom(1, 5, 64, 1001, 5003) });

  test("whole and uniform ones are the same everywhere", async () => {
    await fc.assert(
      fc.asyncProperty(seeds, ({ seed, size }) =>
        agree([...repeated, ...wasm], () => {
          const generator = new random.Generator(seed);
          return bitsOf([
            random.bits(generator.next(), [size]),
            random.uniform(generator.next(), [size], { low: -1, high: 3 }),
            random.bernoulli(generator.next(), 0.3, [size]),
            random.randint(generator.next(), [size], -5, 100),
            random.permutation(generator.next(), Math.min(size, 1001)),
          ]);
        }),
      ),
      cases(5),
    );
  });

  test("normal and categorical ones are the same on any number of threads", async () => {
    await fc.assert(
      fc.asyncProperty(seeds, ({ seed, size }) =>
        agree(wasm, ({ device }) => {
          const generator = new random.Generator(seed);
          const logits = randomTensor(device, [Math.ceil(size / 7), 7], [-2, 2], seed, "float32");
          return bitsOf([random.normal(generator.next(), [size]), random.categorical(generator.next(), logits)]);
        }),
      ),
      cases(5),
    );
  });
});

/** Losses and all parameters after some steps. */
async function train(adapted: boolean, seed: number): Promise<Bits> {
  const model = smallModel(seed);
  if (adapted) attach(model, lora({ r: 4, targetModules: "all-linear", loraDropout: 0.2 }), { seed });
  using trainer = new Trainer(model, smallDataset({ seed }), { steps: 4, batchSize: 40, learningRate: 0.01, evaluateEvery: 2 });
  const { history } = await trainer.run();
  const losses = [...history.loss, ...history.evaluations.map(({ loss }) => loss)];
  return [...bitsOfNumbers(losses), ...bitsOf([...model.parameters()].map(({ stored }) => stored))];
}

async function continuations(seed: number): Promise<Bits> {
  const model = smallModel(seed);
  const tokens: (number | null)[] = [];
  const options = { maxNewTokens: 6, temperature: 1, topP: 0.9, seed };
  for await (const next of generateBatch(model, [[1, 2, 3], [4], [5, 6]], options)) tokens.push(...next);
  return bitsOfNumbers(tokens.map((token) => token ?? -1));
}

describe.each([
  { name: "wasm", runs: wasm },
  { name: "reference", runs: repeated },
])("on $name", ({ runs }) => {
  test.each([true, false])("training with adapters and dropout: %s", async (adapted) => {
    await agree(runs, () => train(adapted, 5));
  });
  test("generation", async () => {
    await agree(runs, () => continuations(3));
  });
});

describe("the law catches", () => {
  const caught = (work: (run: Run) => Bits | Promise<Bits>) => expect(agree(wasm, work)).rejects.toThrow("other bits");

  test("a sum that is split over threads", () =>
    caught(({ device, name }) => {
      const x = randomTensor(device, [10_000], [-1, 1], 1, "float32");
      return bitsOf([
        chunk(x, Number.parseInt(name, 10) || 1, 0)
          .map((part) => sum(part))
          .reduce(add),
      ]);
    }));

  test("random numbers that go on where the last run ended", () => {
    const generators = new Map<Device, random.Generator>();
    return caught(({ device }) => {
      const generator = generators.get(device) ?? new random.Generator(1);
      generators.set(device, generator);
      return bitsOf([random.uniform(generator.next(), [8])]);
    });
  });

  test("a run that takes its seed from the time", () => {
    let time = 0;
    return caught(() => continuations(time++));
  });
});
