/** How close are chains of elementwise operations, fused into one pass, to what memory and vector instructions allow? */
import { add, mul, tanh } from "../../src/graph/elementwise.ts";
import { gelu, sigmoid, silu } from "../../src/tensor/math.ts";
import { type Case, square } from "./case.ts";

export const cases: readonly Case[] = [
  { name: "add", shapes: [square, square], run: (x, y) => add(x!, y!), bar: 1.3 },
  { name: "tanh", shapes: [square], run: (x) => tanh(x!), bar: 1.3 },
  {
    name: "tanh(1.5x + 0.3)·σ(x) − x²",
    shapes: [square],
    run: (x) => x!.mul(1.5).add(0.3).tanh().mul(sigmoid(x!)).sub(mul(x!, x!)),
    bar: 1.3,
  },
  { name: "swiglu", shapes: [square, square], run: (x, y) => mul(silu(x!), y!), bar: 1.3 },
  { name: "gelu", shapes: [square], run: (x) => gelu(x!), bar: 1.3 },
];
