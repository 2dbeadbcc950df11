/**
 * Work that looks at values, on a device that cannot be read at once: `onHost` gives what the wasm device gives, to the bit, and leaves
 * everything on the device. In Node the device is mode cpu with its synchronous reading taken away, in a browser (test/in-browser) it is
 * mode webgpu.
 */
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { currentDevice, download, downloadSync, realize, upload, useDevice } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import type { Device } from "../../src/devices/device.ts";
import { createGpu } from "../../src/devices/gpu/index.ts";
import { onHost } from "../../src/devices/host.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { DeviceError } from "../../src/errors.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { mul } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { Variable } from "../../src/graph/variable.ts";
import { eigh, qr, svd } from "../../src/linalg/index.ts";
import type { Module } from "../../src/nn/module.ts";
import {
  attach,
  calibrateCorda,
  calibrateEva,
  combineAdapters,
  convertToLora,
  loha,
  lora,
  merge,
  mergeDifference,
  quantise,
  setActive,
  unmerge,
} from "../../src/peft/index.ts";
import "../../src/tensor/methods.ts";
import { Trainer } from "../../src/train/trainer.ts";
import { ids, SmallModel, shake } from "../peft/small-model.ts";
import { smallDataset, smallModel } from "../train/small-run.ts";

/** A device that gives its values to those who wait only. */
async function openDevice(): Promise<Device> {
  if (typeof window !== "undefined") return createGpu({ mode: "webgpu" });
  const device = await createGpu({ mode: "cpu" });
  Reflect.deleteProperty(device, "downloadSync");
  return device;
}

const device = await openDevice();
const wasm = createWasm({ threads: 1 });
beforeEach(() => void useDevice(device));
afterEach(() => void useDevice(device));
afterAll(() => {
  device[Symbol.dispose]();
  wasm[Symbol.dispose]();
});

const targetModules = ["q_proj", "v_proj", "o_proj"];
const started = (initLoraWeights: string, more: object = {}) => ({
  name: `start ${initLoraWeights}`,
  work: (model: SmallModel) =>
    void attach(model, lora({ r: 2, loraAlpha: 4, targetModules, initLoraWeights, ...more } as Parameters<typeof lora>[0])),
});
const calibrated = (model: SmallModel) => {
  const batch = { inputIds: ids(1, 2, 3, 4, 5, 6, 7, 8) };
  const take = (x: { inputIds: Tensor } | Tensor) => SmallModel.prototype.forward.call(model, "inputIds" in x ? x.inputIds : x);
  return [Object.assign(model, { forward: take }) as unknown as Module & { forward(x: typeof batch): Tensor }, [batch]] as const;
};
const withTwo = (model: SmallModel) => {
  for (const name of ["one", "two"]) attach(model, lora({ r: 2, loraAlpha: 4, targetModules, initLoraWeights: false }), { name });
  shake(model);
};

const works: readonly { name: string; prepare?: (model: SmallModel) => void; work(model: SmallModel): unknown }[] = [
  {
    name: "merge with a report",
    prepare: withTwo,
    work: (model) => merge(model, ["one"], { report: true, safe: true, tell: () => {} }),
  },
  { name: "merge and unmerge", prepare: withTwo, work: (model) => [merge(model, ["one"]), unmerge(model)] },
  { name: "the merge law", prepare: withTwo, work: (model) => mergeDifference(model, () => model.forward(ids(1, 2, 3))) },
  ...(["svd", "ties_svd"] as const).map((type) => ({
    name: `combine by ${type}`,
    prepare: withTwo,
    work: (model: SmallModel) => {
      combineAdapters(model, { adapters: ["one", "two"], weights: [1, 0.5], type, density: 0.5, name: "both" });
      setActive(model, "both");
    },
  })),
  {
    name: "convert to LoRA",
    prepare: (model) => void attach(model, loha({ r: 2, alpha: 2, targetModules, initWeights: false })),
    work: (model) => void convertToLora(model, { adapter: "default", rank: 2, name: "converted" }),
  },
  started("pissa"),
  started("pissa_niter_4"),
  started("olora"),
  started("orthogonal"),
  started("loftq", { loftqConfig: { loftq_bits: 4 } }),
  {
    name: "start eva",
    work: (model) => {
      const asked = lora({ r: 2, targetModules, initLoraWeights: "eva" });
      const [trained, batches] = calibrated(model);
      attach(model, calibrateEva(trained, asked, [...batches, ...batches]));
    },
  },
  {
    name: "start corda",
    work: (model) => {
      const [trained, batches] = calibrated(model);
      attach(model, calibrateCorda(trained, lora({ r: 2, targetModules, initLoraWeights: "corda" }), batches));
    },
  },
  ...(["nf4", "int8"] as const).map((type) => ({
    name: `${type} codes, merged into`,
    work: (model: SmallModel) => {
      quantise(model, { type });
      withTwo(model);
      merge(model, ["one"]);
    },
  })),
  { name: "svd, qr, eigh, print and item", work: factorised },
];

/** All of it as numbers. */
function factorised(model: SmallModel): unknown {
  const W = (model.lm_head as unknown as { weight: Variable }).weight.value;
  const S = matmul(W.transpose(), W);
  return [svd(W).S, qr(W).R, eigh(S).values].map((x) => [x.print(), x.sum().item(), x.toArray()]);
}

async function stateOf(model: Module): Promise<Record<string, number[]>> {
  const state: Record<string, number[]> = {};
  for (const [name, parameter] of model.namedParameters()) state[name] = Array.from(await download(parameter.stored));
  return state;
}

describe("onHost", () => {
  test.each(works)("$name", async ({ prepare, work }) => {
    useDevice(wasm);
    const plain = new SmallModel({ width: 12, layers: 1 });
    prepare?.(plain);
    const wanted = work(plain);
    const state = await stateOf(plain);

    useDevice(device);
    const model = new SmallModel({ width: 12, layers: 1 });
    prepare?.(model);
    expect(await onHost(() => work(model))).toEqual(wanted);
    expect(currentDevice()).toBe(device);
    expect(await stateOf(model)).toEqual(state);
    for (const [, parameter] of model.namedParameters()) expect(parameter.stored.storage!.device).toBe(device);
    // and it goes on computing there
    const logits = await download(model.forward(model.forward.length ? ids(1, 2, 3) : ids(1)));
    expect(logits.every((value) => Number.isFinite(value))).toBe(true);
  });

  test("a compiled step goes on, also after its variables were read and written", async () => {
    const weight = new Variable(upload(device, Float32Array.of(1, 2, 3), [3], "float32"));
    const step = compile((x: Tensor) => {
      weight.assign(mul(weight.value, x));
      return mul(weight.value, weight.value);
    });
    const two = upload(device, Float32Array.of(2, 2, 2), [3], "float32");
    expect(Array.from(await download(step(two)))).toEqual([4, 16, 36]);
    const seen = await onHost(() => {
      weight.assign(weight.value.add(1).realize());
      return Array.from(downloadSync(step(two)));
    });
    expect(seen).toEqual([36, 100, 196]);
    expect(Array.from(await download(step(two)))).toEqual([144, 400, 784]);
    expect(Array.from(await download(weight.stored))).toEqual([12, 20, 28]);
  });

  test("a run of training goes on as if nothing had been measured in between", async () => {
    const losses = async (measure: boolean): Promise<readonly number[]> => {
      const model = smallModel();
      attach(model, lora({ r: 2, loraAlpha: 4, targetModules: ["q_proj"] }), { seed: 0 });
      const options = { steps: 4, batchSize: 2, learningRate: 0.01 };
      using trainer = new Trainer(model, smallDataset(), options);
      const onStep = async ({ step }: { step: number }) => {
        if (step !== 2 || !measure) return;
        const difference = await onHost(() => mergeDifference(model, () => model.forward({ inputIds: ids(1, 2, 3) }).logits));
        expect(difference).toBeLessThan(1e-5);
        model.train();
      };
      return (await trainer.run({ onStep })).history.loss;
    };
    expect(await losses(true)).toEqual(await losses(false));
  });

  test("what work throws comes through, and everything is on the device again", async () => {
    const x = upload(device, Float32Array.of(1, 2), [2], "float32");
    let made: Tensor | null = null;
    const work = () => {
      made = mul(x, x).realize();
      throw new Error("stop");
    };
    await expect(onHost(work)).rejects.toThrow("stop");
    expect(currentDevice()).toBe(device);
    for (const [tensor, values] of [[x, [1, 2]] as const, [made!, [1, 4]] as const]) {
      expect((tensor as Tensor).storage!.device).toBe(device);
      expect(Array.from(await download(tensor))).toEqual(values);
    }
  });

  test("all dtypes come back to the bit, and nothing is kept", async () => {
    // of its own: on the shared one the collector frees meanwhile what earlier tests left
    using device = await openDevice();
    useDevice(device);
    const tensors = [
      upload(device, Int32Array.of(-(2 ** 31), 2 ** 31 - 1, 2 ** 24 + 1), [3], "int32"),
      upload(device, Uint16Array.of(0x3c00, 1, 0xfbff), [3], "float16"),
      upload(device, Uint16Array.of(0x3f80, 1, 0x7f7f), [3], "bfloat16"),
      upload(device, Uint8Array.of(0, 255, 7), [3], "uint8"),
      upload(device, Float32Array.of(-0, 1e-40, 3e38), [3], "float32"),
      upload(device, new Float32Array(0), [0], "float32"),
    ];
    const before = await Promise.all(tensors.map(download));
    const { buffers, bytesInUse } = device.statistics;
    expect(await onHost(() => tensors.map((tensor) => downloadSync(tensor)))).toEqual(before);
    expect(await Promise.all(tensors.map(download))).toEqual(before);
    expect(device.statistics).toMatchObject({ buffers, bytesInUse });
  });

  test("without it the error says so; where values can be read at once it just does the work", async () => {
    const x = upload(device, Float32Array.of(1, 2), [2], "float32");
    realize([x]);
    expect(() => svd(x.reshape([1, 2]))).toThrow(DeviceError);
    expect(() => x.dataSync()).toThrow("Use await x.data(), or await onHost(() => …) for a function that reads values.");
    useDevice(wasm);
    expect(await onHost(() => currentDevice())).toBe(wasm);
  });
});
