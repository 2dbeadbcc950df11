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

/** The losses of a run that nothing happens to. */
let undisturbed: readonly number[] | undefined;
async function undisturbedLosses(): Promise<readonly number[]> {
  if (undisturbed) return undisturbed;
  using wasm = createWasm();
  useDevice(wasm);
  using whole = begin();
  const { history } = await whole.run();
  return (undisturbed = history.loss);
}

test.each([
  ["webgl2", "between two steps"],
  ["webgl2", "within a step"],
  ["webgl", "within a step"],
  ["webgpu", "between two steps"],
  ["webgpu", "within a step"],
] as const)("mode %s, %s", async (mode, when) => {
  const whole = await undisturbedLosses();
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
    if (step === 4 && when === "between two steps") graphics.lose();
    if (step === 4 && when === "within a step") graphics.loseAfter(20);
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

  // opened anew, and on another device
  for (const open of [() => createGpu({ mode }), async () => createWasm()]) {
    using again = await open();
    useDevice(again);
    using resumed = begin();
    await resumed.load(kept!);
    const after: number[] = [];
    const result = await resumed.run({ onStep: ({ loss }) => void after.push(loss) });
    expect(result).toMatchObject({ step: steps, finished: true });
    expect(after[0]).toBeCloseTo(losses[3]!, 4);
    expect(after).toHaveLength(3);
    after.forEach((loss, i) => expect(loss).toBeCloseTo(whole[3 + i]!, 3));
  }
});
