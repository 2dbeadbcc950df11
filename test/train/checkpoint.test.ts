/** Runs that are written by hand, saved and gone on with. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { compile, type Tensor, useDevice } from "../../src/index.ts";
import { Dropout, Linear, Module, mseLoss, seedDropout } from "../../src/nn/index.ts";
import { AdamW, cosineAnnealingSchedule, gradientsOf } from "../../src/optim/index.ts";
import * as random from "../../src/tensor/random.ts";
import { finetuning } from "../../src/train/finetune.ts";
import { encodeCheckpoint, loadCheckpoint, saveCheckpoint } from "../../src/train/index.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { smallDataset, smallModel } from "./small-run.ts";

const folder = temporaryFolder();
beforeAll(() => void useDevice(createWasm({ threads: 1 })));

class Net extends Module {
  readonly layers = [new Linear(3, 20), new Linear(20, 3)] as const;
  readonly dropout = new Dropout(0.5);
  forward(x: Tensor) {
    return this.layers[1].forward(this.dropout.forward(this.layers[0].forward(x).tanh()));
  }
}

function run() {
  const net = new Net().train();
  const optimizer = new AdamW(net.parameters(), { lr: 0.1 });
  const schedule = cosineAnnealingSchedule({ halfPeriod: 10 });
  const step = compile((x: Tensor) => {
    const loss = mseLoss(net.forward(x), x);
    optimizer.step(gradientsOf(loss, net.parameters()));
    return loss;
  });
  const losses = (from: number, to: number) =>
    Array.from({ length: to - from }, (_, i) => {
      optimizer.setLearningRate((base) => schedule(from + i, base));
      return step(random.torchRandn([1, 3])).item(); // three values: one of a pair is left for the next draw
    });
  return { net, optimizer, losses };
}

test("a run that is gone on with has the losses of one that was never stopped, bit for bit", async () => {
  random.manualSeed(5);
  seedDropout(7);
  const { losses, ...parts } = run();
  losses(0, 3);
  const path = join(folder, "new folder", "run.safetensors");
  await saveCheckpoint(path, parts, { step: 3, best: [0.5, { a: null }] });
  const expected = losses(3, 6);
  random.manualSeed(1);
  seedDropout(1);
  const { losses: goingOn, ...others } = run();
  const data = await loadCheckpoint(path, others);
  expect(data).toEqual({ step: 3, best: [0.5, { a: null }] });
  expect(goingOn(3, 6)).toEqual(expected);
  const alone = new Net();
  await loadCheckpoint(path, { net: alone });
  expect(alone.layers[1].bias!.value.toArray()).not.toEqual(others.net.layers[1].bias!.value.toArray());
  expect(readdirSync(join(folder, "new folder"))).toEqual(["run.safetensors"]);
});

test("what does not fit says so, and the random numbers stay where they are", async () => {
  const { net, optimizer } = run();
  const file = await encodeCheckpoint({ net, optimizer }, { step: 1 });
  const [other, otherModel] = [new Linear(3, 2), smallModel()];
  random.manualSeed(9);
  await expect(loadCheckpoint(file, { nets: net })).rejects.toThrow(
    'loadCheckpoint: the checkpoint has no "nets". Did you mean "net"?',
  );
  await expect(loadCheckpoint(file, { net: other })).rejects.toThrow('loadCheckpoint: "weight" is missing.');
  await expect(loadCheckpoint(file, { optimizer: net })).rejects.toThrow("loadCheckpoint");
  using trainer = finetuning(otherModel, smallDataset(), { steps: 1 });
  await expect(loadCheckpoint(await trainer.encode(), { net })).rejects.toThrow("What a Trainer saved, it loads itself.");
  const next = random.torchRandn([2]).toArray();
  random.manualSeed(9);
  expect(random.torchRandn([2]).toArray()).toEqual(next);
  await expect(encodeCheckpoint({ net }, { best: [Number.NaN] })).rejects.toThrow(
    "encodeCheckpoint: `data.best.0` (= NaN) is nothing that JSON has.",
  );
  await expect(encodeCheckpoint({ "a.b": net })).rejects.toThrow('encodeCheckpoint: "a.b" is not a name for a part.');
  await expect(encodeCheckpoint({ net: {} as Net })).rejects.toThrow(
    "encodeCheckpoint: `net.stateDict` is undefined, not a function.",
  );
});
