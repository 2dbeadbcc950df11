/**
 * Nothing leaks: whatever a piece of work allocates on a device is freed once it is done and its results are dropped.
 *
 *   buffers, bytes and bound launches after = before
 *
 * Without `dispose` JavaScript's garbage collector decides when, so the test makes it run. A training step, which is repeated thousands
 * of times, must not depend on it.
 *
 * @see src/devices/device.ts, DeviceStatistics
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { pullback } from "../../src/autograd/grad.ts";
import { realize, releaseArena, upload, useDevice } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import type { Device } from "../../src/devices/device.ts";
import { isFloat } from "../../src/graph/dtype.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Draw, Primitive, Sample } from "../../src/graph/primitive.ts";
import { primitives } from "../../src/graph/primitives.ts";
import { dropoutState } from "../../src/nn/dropout.ts";
import { attach, detach, merge, mergeAndUnload, unmerge } from "../../src/peft/index.ts";
import { lora } from "../../src/peft/methods/lora.ts";
import { complete, generate } from "../../src/train/generation.ts";
import { Trainer } from "../../src/train/trainer.ts";
import {
  type AdapterCase,
  adaptations,
  adapterCases,
  buildLayer,
  nameOf,
  optionsOf,
  sampleOptions,
  shake,
} from "../arbitrary/adapter.ts";
import { cases } from "../arbitrary/cases.ts";
import { composites } from "../arbitrary/composites.ts";
import { draws, randomTensor } from "../arbitrary/draw.ts";
import { elementwiseFunction } from "../arbitrary/graph-move.ts";
import { devices } from "../devices.ts";
import { smallDataset, smallModel } from "../train/small-run.ts";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;
/** Each registry of finalizers has its turn of the event loop. */
async function collect(): Promise<void> {
  collectGarbage();
  for (let turn = 0; turn < 5; turn++) await new Promise((resume) => setTimeout(resume, 1));
}

interface InUse {
  readonly buffers: number;
  readonly bytes: number;
  /** Launches that are bound and not released: code and addresses in the device's own memory. */
  readonly launches: number;
}

/** A device that counts its launches too. */
interface Counted {
  readonly device: Device;
  inUse(): InUse;
}

function counted(device: Device, changes: Partial<Device> = {}): Counted {
  let launches = 0;
  const own: Partial<Device> = {
    bind(executable, geometry, bindings, label) {
      launches++;
      return device.bind(executable, geometry, bindings, label);
    },
    release(dispatch) {
      launches--;
      device.release(dispatch);
    },
    ...changes,
  };
  const wrapped = Object.assign(Object.create(device) as Device, own);
  const inUse = () => {
    releaseArena(wrapped);
    const { buffers, bytesInUse } = wrapped.statistics;
    return { buffers, bytes: bytesInUse, launches };
  };
  return { device: wrapped, inUse };
}

/** Whether nothing has come to what was in use. */
const noMore = (now: InUse, before: InUse): boolean =>
  now.buffers <= before.buffers && now.bytes <= before.bytes && now.launches <= before.launches;

/** What is in use once the collector finds nothing more to give back. */
async function settled({ inUse }: Counted): Promise<InUse> {
  let now = inUse();
  for (let quiet = 0; quiet < 1; ) {
    await collect();
    const next = inUse();
    quiet = noMore(now, next) ? quiet + 1 : 0;
    now = next;
  }
  return now;
}

/** Throws when `work` leaves something behind on the device. */
async function leavesNothing(counter: Counted, work: () => void | Promise<void>): Promise<void> {
  const before = await settled(counter);
  await work();
  // once is nearly always enough
  for (let round = 0; round < 8 && !noMore(counter.inUse(), before); round++) {
    await collect();
  }
  const after = counter.inUse();
  if (!noMore(after, before)) throw new Error(`in use before: ${JSON.stringify(before)}, after: ${JSON.stringify(after)}`);
}

/** Cases of all operations. Elementwise ones of several arguments, or of integers, are in every composite. */
const operations = (draw: Draw): Sample[] =>
  (Object.entries(primitives) as [string, Primitive][]).flatMap(([name, op]) => {
    if (op.kind !== "elementwise") return op.samples?.(draw) ?? [];
    const [domain] = op.domain;
    if (op.arity > 1 || op.takes === "integer" || !domain || /cast/.test(name)) return [];
    return [{ inputs: [{ shape: draw.shape(2), domain }], apply: elementwiseFunction(name) }];
  });
const everyComposite = (device: Device, draw: Draw): Sample[] =>
  Object.values(composites(device)).flatMap((composite) => composite(draw));

/** Value and derivatives of a sample. */
function evaluate({ apply }: Sample, xs: readonly Tensor[]): Tensor[] {
  const y = apply(...xs);
  if (!isFloat(y.dtype)) return [y];
  return [y, ...pullback([y], [y], xs).filter((gradient) => gradient !== null)];
}
const inputsOf = ({ inputs }: Sample, device: Device): Tensor[] =>
  inputs.map(({ shape, domain }, i) => randomTensor(device, shape, domain, i, "float32"));

/** What is done with the adapters of a method on some layers, which are made here and stay. */
function usesOf({ name, method, kind }: (typeof adaptations)[number]) {
  // not every method knows what to do with every layer
  const suits = (item: AdapterCase) =>
    Array.from({ length: item.adapters }, (_, i) => sampleOptions(method, kind, item, i)).every((options) => options !== null);
  const items = fc.sample(adapterCases(), 60).filter(suits).slice(0, 4);
  expect(items, name).not.toEqual([]);
  const models = items.map((item) => buildLayer(kind, item));
  const use = () =>
    items.forEach((item, i) => {
      const built = models[i]!;
      for (let index = 0; index < item.adapters; index++) {
        const adapter = attach(built.model, method(optionsOf(method, kind, item, index)), { name: nameOf(index), seed: index });
        shake({ ...built, adapters: [adapter] }, item.seed);
      }
      realize([built.model.forward(built.x)]);
      const isChange = method.layers[kind]?.delta !== undefined;
      if (isChange) merge(built.model);
      realize([built.model.forward(built.x)]);
      unmerge(built.model);
      if (i % 2 && isChange) mergeAndUnload(built.model);
      else detach(built.model);
    });
  return { name, models, use };
}

/** A smaller counterexample would take many collections. */
const once = { ...cases(1), endOnFailure: true };

const opened = await Promise.all(devices.map(async ({ name, open }) => ({ name, open, first: await open() })));

describe.each(opened)("$name", ({ open, first }) => {
  const counter = counted(first);
  const { device } = counter;
  const leavesNothingHere = (work: () => void | Promise<void>) => {
    useDevice(device);
    return leavesNothing(counter, work);
  };

  test("operations and composites with their derivatives", async () => {
    await fc.assert(
      fc.asyncProperty(draws(), (draw) =>
        leavesNothingHere(() => {
          for (const sample of [...operations(draw), ...everyComposite(device, draw)])
            realize(evaluate(sample, inputsOf(sample, device)));
        }),
      ),
      once,
    );
  });

  test("operations whose run fails", async () => {
    const run = () => {
      throw new Error("the device is gone");
    };
    const failing = counted(await open(), { run });
    await fc.assert(
      fc.asyncProperty(draws(), async (draw) => {
        useDevice(failing.device);
        await leavesNothing(failing, () => {
          for (const sample of operations(draw)) {
            const tensors = evaluate(sample, inputsOf(sample, failing.device));
            if (tensors.some(({ storage }) => storage === null)) expect(() => realize(tensors)).toThrow("the device is gone");
          }
        });
      }),
      once,
    );
    failing.device[Symbol.dispose]();
  });

  test.each(["disposed", "dropped"] as const)("compiled functions that are %s", async (end) => {
    await fc.assert(
      fc.asyncProperty(draws(), (draw) =>
        leavesNothingHere(() => {
          for (const sample of everyComposite(device, draw)) {
            const compiled = compile((...xs: Tensor[]) => evaluate(sample, xs));
            const xs = inputsOf(sample, device);
            for (let call = 0; call < 2; call++) compiled(...xs);
            if (end === "disposed") compiled.dispose();
          }
        }),
      ),
      once,
    );
  });

  // all methods between two looks: a look is two collections, which take longer than what a method does
  const kinds = [...new Set(adaptations.map(({ kind }) => kind))];
  test.each(kinds)("every method on %s, attached, merged, taken out, taken off", async (kind) => {
    useDevice(device);
    const uses = adaptations.filter((adaptation) => adaptation.kind === kind).map(usesOf);
    try {
      await leavesNothingHere(() => uses.forEach(({ use }) => void use()));
    } catch (error) {
      for (const { name, use } of uses)
        await leavesNothingHere(use).catch((alone) => {
          throw new Error(`${name}: ${alone.message}`, { cause: error });
        });
      throw error;
    }
    for (const { models } of uses) for (const { model, x } of models) realize([model.forward(x)]);
  });

  test("generation, to its end and broken off", async () => {
    useDevice(device);
    const model = smallModel();
    for (const compiled of [true, false]) {
      const write = async () => {
        await complete(model, [1, 2, 3], { maxNewTokens: 6, temperature: 1, compiled });
        for await (const _ of generate(model, [4], { maxNewTokens: 6, compiled })) break;
      };
      await write(); // leaves tables of angles, and a cache with its programs for the next text
      await leavesNothingHere(write);
    }
  });

  test("training, from the first step to the adapter's end; its steps do not wait for the collector", async () => {
    useDevice(device);
    const model = smallModel();
    const dataset = smallDataset();
    dropoutState(); // one generator a device, for good
    await complete(model, [1], { maxNewTokens: 1 });
    await leavesNothingHere(async () => {
      attach(model, lora({ r: 2, targetModules: "all-linear", loraDropout: 0.1 }));
      using trainer = new Trainer(model, dataset, { steps: 12, batchSize: 2, evaluateEvery: 4 });
      const buffers: number[] = [];
      await trainer.run({ onStep: () => void buffers.push(device.statistics.buffers) });
      expect(Math.max(...buffers.slice(2))).toBeLessThanOrEqual(buffers[1]!);
      detach(model);
    });
  });

  describe("the law catches", () => {
    const kept: unknown[] = [];
    const sum = (x: Tensor): Tensor[] => evaluate({ inputs: [], apply: (y) => y!.mul(y!).sum() }, [x]);
    const one = () => upload(device, new Float32Array(8), [8], "float32");

    test("a result that somebody keeps", async () => {
      const work = () => {
        const results = sum(one());
        realize(results);
        kept.push(results);
      };
      await expect(leavesNothingHere(work)).rejects.toThrow("in use before");
    });

    test("a device that does not free", async () => {
      const right = await open();
      const forgetful = counted(right, { allocate: (bytes) => ({ ...right.allocate(bytes), [Symbol.dispose]() {} }) });
      useDevice(forgetful.device);
      const work = () => void upload(forgetful.device, new Float32Array(8), [8], "float32").dispose();
      await expect(leavesNothing(forgetful, work)).rejects.toThrow("in use before");
    });

    test("a program that goes without releasing its launches", async () => {
      const work = () => {
        const { release } = device;
        device.release = () => {};
        const compiled = compile((x: Tensor) => sum(x));
        compiled(one());
        compiled.dispose();
        device.release = release;
      };
      await expect(leavesNothingHere(work)).rejects.toThrow("in use before");
    });

    test("a merge that keeps the adapter's change", async () => {
      const model = smallModel();
      const work = () => {
        attach(model, lora({ r: 2 }));
        merge(model);
        kept.push(
          model.parameters()[0]?.stored,
          [...model.parameters()].map(({ stored }) => stored),
        );
        unmerge(model);
        detach(model);
      };
      await expect(leavesNothingHere(work)).rejects.toThrow("in use before");
    });
  });
});
