/** Weights of 16 bits stay so in memory: products read them as they lie, and their gradients for x are those of the widened weight. */
import { expect, test } from "vitest";
import { pullback } from "../../src/autograd/grad.ts";
import { currentDevice, realize, upload } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { cast } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { Embedding } from "../../src/nn/embedding.ts";
import { Conv1D, Linear } from "../../src/nn/linear.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { onEveryDevice } from "../devices.ts";
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
