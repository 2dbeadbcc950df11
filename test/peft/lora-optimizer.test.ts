/** LoRA+, LoRA-FA and Riemannian steps beside what golden values say (test/golden/peft-trace.test.ts). */
import { describe, expect, it } from "vitest";
import "../../src/devices/choose.ts";
import { currentDevice, downloadSync, upload } from "../../src/compile/program.ts";
import { matmul } from "../../src/graph/contraction.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { Linear } from "../../src/nn/linear.ts";
import type { Parameter } from "../../src/nn/module.ts";
import { AdamW } from "../../src/optim/adam.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import { attach, ia3, LoraFA, lora, loraPlusGroups, riemannian } from "../../src/peft/index.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { sum } from "../../src/tensor/statistics.ts";
import { Holder } from "../arbitrary/adapter.ts";

const sizeOf = (shape: readonly number[]): number => shape.reduce((size, extent) => size * extent, 1);
const floats = (seed: number, ...shape: readonly number[]): Tensor =>
  upload(currentDevice(), new TorchGenerator(seed).randn(sizeOf(shape)), shape, "float32");

/** A layer with a LoRA whose B is not zero, and a loss of it. */
function made() {
  const model = new Holder(new Linear(6, 5, { bias: false, init: (shape) => new TorchGenerator(1).randn(sizeOf(shape)) }));
  const adapter = attach(model, lora({ r: 2, loraAlpha: 6, targetModules: ["layer"] }), { seed: 1 });
  const { A, B } = [...adapter.layers.values()][0]!.adapters.get("default")!.parameters as { A: Parameter; B: Parameter };
  B.assign(floats(2, 5, 2));
  const x = floats(3, 4, 6);
  return { model, A, B, loss: () => sum(model.forward(x).mul(model.forward(x))) };
}
const values = (parameter: Parameter) => downloadSync(parameter.stored);

describe("LoRA+", () => {
  it("with a ratio of 1 is LoRA, bit for bit", () => {
    const [one, other] = [made(), made()];
    const optimizers = [
      new AdamW(loraPlusGroups(one.model, { lr: 0.1, ratio: 1 }), { weightDecay: 0 }),
      new AdamW(other.model.trainableParameters(), { lr: 0.1, weightDecay: 0 }),
    ];
    for (let step = 0; step < 3; step++)
      for (const [i, { model, loss }] of [one, other].entries())
        optimizers[i]!.step(gradientsOf(loss(), model.trainableParameters()));
    expect(values(one.A)).toEqual(values(other.A));
    expect(values(one.B)).toEqual(values(other.B));
  });

  it("puts every trained parameter into one group", () => {
    const { model, A, B } = made();
    const groups = loraPlusGroups(model, { lr: 0.1, ratio: 8, weightDecay: 0.5 });
    expect(groups.map(({ lr, weightDecay, parameters }) => [lr, weightDecay, parameters])).toEqual([
      [0.1, 0.5, [A]],
      [0.8, 0.5, [B]],
    ]);
  });

  it("says when there is nothing to train", () => {
    expect(() => loraPlusGroups(new Holder(new Linear(2, 2)).eval(), { lr: 1, ratio: 2 })).not.toThrow();
    const { model } = made();
    for (const parameter of model.trainableParameters()) parameter.requiresGrad = false;
    expect(() => loraPlusGroups(model, { lr: 1, ratio: 2 })).toThrow("no parameter of the model is trained");
  });
});

describe("LoRA-FA", () => {
  it("leaves A as it is, to the bit", () => {
    const { model, A, B, loss } = made();
    const before = [values(A), values(B)];
    const optimizer = new LoraFA(model, { lr: 0.1, weightDecay: 0.1 });
    for (let step = 0; step < 3; step++) optimizer.step(gradientsOf(loss(), model.trainableParameters()));
    expect(values(A)).toEqual(before[0]);
    expect(values(B)).not.toEqual(before[1]);
    expect(A.requiresGrad).toBe(false);
  });

  it("takes the gradients that backward left, too", () => {
    const [one, other] = [made(), made()];
    const [first, second] = [one, other].map(({ model }) => new LoraFA(model, { lr: 0.1 }));
    const gradients = gradientsOf(one.loss(), one.model.trainableParameters());
    first!.step(gradients);
    other.B.grad = gradientsOf(other.loss(), other.model.trainableParameters()).get(other.B)!;
    second!.step();
    expect(values(one.B)).toEqual(values(other.B));
  });
});

describe("Riemannian preconditioning", () => {
  it("makes the step of B·A that does not depend on how the product is split", () => {
    const [one, other] = [made(), made()];
    // the same product: A times 4, B by 4
    other.A.assign(one.A.stored.mul(4));
    other.B.assign(one.B.stored.div(4));
    const steps = [one, other].map(({ model, A, B, loss }) => {
      const changed = riemannian(model, gradientsOf(loss(), [A, B]), { reg: 1e-7 });
      // to first order the product changes by ΔB·A + B·ΔA
      return downloadSync(matmul(changed.get(B)!, A.value).add(matmul(B.value, changed.get(A)!)));
    });
    for (const [i, value] of steps[0]!.entries()) expect(steps[1]![i] as number).toBeCloseTo(value as number, 2);
  });

  it("is for LoRA", () => {
    const model = new Holder(new Linear(2, 2));
    attach(model, ia3({ targetModules: ["layer"], feedforwardModules: [] }));
    expect(() => riemannian(model, new Map())).toThrow("no active adapter is a LoRA on linear layers");
  });
});
