/** A device or context that is lost while a model is trained: an error that says so, no hang, and the run goes on from its checkpoint. */
import { expect, test } from "vitest";
import { download, upload, useDevice } from "../../src/compile/program.ts";
import { createGpu } from "../../src/devices/gpu/index.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { DeviceError } from "../../src/errors.ts";
import { add } from "../../src/graph/elementwise.ts";
import "../../src/tensor/methods.ts";
import { attach, lora } from "../../src/peft/index.ts";
import { Trainer } from "../../src/train/trainer.ts";
import { smallDataset, smallModel } from "../train/small-run.ts";
import { watchGraphics } from "./graphics.ts";

const steps = 6;
const begin = () => {
  const model = smallModel();
  attach(model, lora({ r: 2, loraAlpha: 4, targetModules: ["q_proj"] }), { seed: 0 });
  return new Trainer(model, smallDataset(), { steps, batchSize: 2, learningRate: 0.01 });
};

test.each(["webgl2", "webgpu"] as const)("mode %s", async (mode) => {
  using graphics = watchGraphics(mode);
  const device = await createGpu({ mode });
  useDevice(device);
  const left = upload(device, Float32Array.of(1, 2), [2], "float32");
  const trainer = begin();
  let kept: Uint8Array<ArrayBuffer> | null = null;
  const losses: number[] = [];
  const onStep = async ({ step, loss }: { step: number; loss: number }) => {
    losses.push(loss);
    if (step === 3) kept = await trainer.encode();
    if (step === 4) graphics.lose();
  };
  const failure = await trainer.run({ onStep }).catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(DeviceError);
  expect(String(failure)).toMatch(/(device|context) was lost\. .* go on from the last checkpoint/);
  expect(losses).toHaveLength(4);
  // what is left on it says the same, and can be given back
  await expect(download(left)).rejects.toThrow("was lost");
  expect(() => add(left, left).realize()).toThrow("was lost");
  left.dispose();
  device[Symbol.dispose]();

  const again = await createGpu({ mode });
  useDevice(again);
  using resumed = begin();
  await resumed.load(kept!);
  const after: number[] = [];
  const result = await resumed.run({ onStep: ({ loss }) => void after.push(loss) });
  expect(result).toMatchObject({ step: steps, finished: true });
  expect(after[0]).toBeCloseTo(losses[3]!, 4);
  // what a run gives that nothing happens to
  using wasm = createWasm();
  useDevice(wasm);
  using whole = begin();
  const { history } = await whole.run();
  expect(after).toHaveLength(3);
  after.forEach((loss, i) => expect(loss).toBeCloseTo(history.loss[3 + i]!, 3));
  again[Symbol.dispose]();
});
