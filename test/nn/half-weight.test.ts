/** Weights of 16 bits stay so in memory: products read them as they lie, and their gradients for x are those of the widened weight. */
import { expect, test } from "vitest";
import { pullback } from "../../src/autograd/grad.ts";
import { currentDevice, realize, upload } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { cast, mul } from "../../src/graph/elementwise.ts";
import { reshape } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { BatchNorm } from "../../src/nn/channel-norm.ts";
import { Embedding } from "../../src/nn/embedding.ts";
import { Conv1D, Linear } from "../../src/nn/linear.ts";
import { Module } from "../../src/nn/module.ts";
import { QuantisedLinear } from "../../src/nn/quantised-linear.ts";
import { quantiseWeight } from "../../src/nn/quantiser.ts";
import { AdamW } from "../../src/optim/adam.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { mean } from "../../src/tensor/statistics.ts";
import { onEveryDevice } from "../devices.ts";
import { values } from "../nn/tensors.ts";
import { difference, ids } from "../peft/small-model.ts";

const random = (shape: readonly [number, number], seed: number): Tensor =>
  upload(currentDevice(), new TorchGenerator(seed).randn(shape[0] * shape[1]), shape, "float32");

onEveryDevice(() => {
  test.each(["bfloat16", "float16"] as const)("%s: values, gradients, and no copy in float32", (dtype) => {
    for (const [rows, make] of [
      [1, () => new Linear(24, 40)],
      [9, () => new Linear(24, 40)],
      [9, () => new Conv1D(24, 40)],
    ] as const) {
      const [layer, wide] = [make(), make()];
      const narrow = cast(layer.weight.stored, dtype);
      realize([narrow]);
      wide.weight.assign(cast(narrow, "float32"));
      wide.bias!.assign(layer.bias!.stored);
      layer.weight.replace(narrow);
      expect(layer.weight.dtype).toBe(dtype);
      const x = random([rows, 24], 1);
      const g = random([rows, 40], 2);
      const both = (of: typeof layer) =>
        compile((x: Tensor, g: Tensor) => {
          const y = of.forward(x);
          return [y, pullback([y], [g], [x])[0]!];
        });
      const [lean, full] = [both(layer), both(wide)];
      const [got, wanted] = [lean(x, g), full(x, g)] as [Tensor[], Tensor[]];
      got.forEach((each, i) => expect(difference(each, wanted[i]!)).toBeLessThan(1e-5));
      expect(lean.memory().arenaBytes).toBeLessThan(24 * 40 * 4);
      expect(lean.schedule()!.steps.filter(({ label }) => label.includes("cast"))).toEqual([]);
    }
  });

  test("to: a module is cast in place, tied weights stay tied, what was compiled and the optimiser go on", () => {
    class Tied extends Module {
      readonly table = new Embedding(7, 4);
      readonly norm = new BatchNorm(4);
      readonly head = new Linear(4, 7, { bias: false });
      forward(x: Tensor): Tensor {
        return this.head.forward(this.norm.forward(this.table.forward(x)));
      }
    }
    const net = new Tied().train();
    Object.assign(net.head, { weight: net.table.weight });
    const optimizer = new AdamW(net.trainableParameters(), { lr: 1e-2 });
    const step = compile((x: Tensor) => {
      const loss = mean(mul(net.forward(x), net.forward(x)));
      optimizer.step(gradientsOf(loss, net.trainableParameters()));
      return loss;
    });
    const x = reshape(ids(3, 1), [-1]);
    const losses = [values(step(x))[0]!, values(step(x))[0]!];
    expect(net.to("bfloat16")).toBe(net);
    expect(net.head.weight).toBe(net.table.weight);
    // the count of batches of the norm has no fractions
    expect(net.parameters().map(({ dtype }) => dtype)).toEqual([...new Array<string>(5).fill("bfloat16"), "int32"]);
    expect([...optimizer.stateDict().values()].every(({ dtype }) => dtype === "float32")).toBe(true);
    for (let i = 0; i < 3; i++) losses.push(values(step(x))[0]!);
    expect(losses).toEqual([...losses].sort((a, b) => b - a));
    expect(net.to("float32").head.weight.dtype).toBe("float32");
    const codes = quantiseWeight(new Float32Array(64).fill(1), [8, 8], { type: "int8", blockSize: 64, doubleQuantise: false });
    const quantised = new QuantisedLinear(codes, new Linear(8, 8).bias).to("float16");
    expect(
      quantised
        .parameters()
        .map(({ dtype }) => dtype)
        .sort(),
    ).toEqual(["float16", "float32", "uint8"]);
    expect(() => net.to("int32")).toThrow("to: needs floating-point values, got int32.");
    expect(() => compile(() => net.to("float16").table.weight.value)()).toThrow("to: inside a compiled function");
  });

  test("rows of a table of 16 bits come as float32", () => {
    const table = new Embedding(7, 4);
    const before = table.forward(ids(3, 1));
    const narrow = cast(table.weight.stored, "bfloat16");
    realize([before, narrow]);
    table.weight.replace(narrow);
    const y = table.forward(ids(3, 1));
    expect(y.dtype).toBe("float32");
    expect(difference(y, before)).toBeLessThan(0.02);
  });
});
