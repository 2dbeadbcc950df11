// The accounting of LoRA's promise against the work that the compiler really schedules. No times.
import { expect, it } from "vitest";
import { accountFor } from "../../bench/lora-promise.ts";
import { llamaOf } from "../../bench/spec-model.ts";
import "../../src/devices/choose.ts";
import { upload, useDevice } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { AdamW } from "../../src/optim/adam.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import { attach } from "../../src/peft/attach.ts";
import { lora } from "../../src/peft/methods/lora.ts";

const sizes = { vocab: 40, dim: 16, layers: 3, heads: 2, ffn: 24, seq: 8, batch: 2, ropeTheta: 1e4, rmsEps: 1e-5, initStd: 0.05 };

function scheduled(kind: "full" | "lora", targets: readonly string[], r: number) {
  const { seq, batch } = sizes;
  const model = llamaOf(sizes);
  if (kind === "lora") attach(model, lora({ r, loraAlpha: r, targetModules: [...targets] }));
  model.train();
  const parameters = [...new Set([...model.namedParameters()].map(([, parameter]) => parameter))].filter((p) => p.requiresGrad);
  const optimizer = new AdamW(parameters, { lr: 1e-3 });
  const step = compile((inputIds: Tensor, targets: Tensor) => {
    const { loss } = model.forward({ inputIds, targets });
    optimizer.step(gradientsOf(loss!, parameters));
    return loss!;
  });
  const ids = () => upload(device, new Int32Array(batch * seq), [batch, seq], "int32");
  step(ids(), ids()).dispose();
  const { steps } = step.schedule()!;
  return {
    flops: steps.reduce((sum, one) => sum + ("instructions" in one.code ? 0 : one.flops), 0),
    trained: parameters.reduce((sum, { size }) => sum + size, 0),
  };
}

const device = createWasm({ threads: 1 });
useDevice(device);

it.each([
  ["full", [], 1],
  ["lora", ["q_proj", "k_proj", "v_proj", "o_proj"], 4],
  ["lora", ["q_proj", "v_proj", "down_proj"], 2],
  ["lora", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], 3],
] as const)("a %s step on %j of rank %i does the work that is counted, and trains the parameters", (kind, targets, r) => {
  const counted = accountFor({ model: sizes, lora: { r, alpha: r, targets } }, kind);
  const found = scheduled(kind, targets, r);
  expect(found.trained).toBe(counted.trained);
  expect(found.flops / counted.flops).toBeCloseTo(1, 6);
});

it("less work than the full step as long as the rank is small", () => {
  const at = (r: number) => accountFor({ model: sizes, lora: { r, alpha: r, targets: ["q_proj", "v_proj"] } }, "lora");
  const full = accountFor({ model: sizes, lora: { r: 1, alpha: 1, targets: [] } }, "full");
  expect(at(1).flops).toBeLessThan(full.flops);
  expect(at(1).bytes).toBeLessThan(full.bytes / 2);
  expect(at(200).flops).toBeGreaterThan(full.flops);
});
