/** How close are softmax, its derivative, and sums to the processor's limits? */
import { crossEntropy } from "../../src/nn/loss.ts";
import { valueAndGrad } from "../../src/tensor/derivative.ts";
import { softmax, sum } from "../../src/tensor/statistics.ts";
import { type Case, square } from "./case.ts";

export const cases: readonly Case[] = [
  { name: "softmax", shapes: [square], run: (x) => softmax(x!), bar: 1.3 },
  { name: "softmax, rows of 128", shapes: [[8192, 128]], run: (x) => softmax(x!), bar: 1.3 },
  {
    name: "cross-entropy and its derivative",
    shapes: [[512, 2048], [512]],
    integers: 2048,
    run: (x, labels) => valueAndGrad((logits) => crossEntropy(logits, labels!))(x!).gradients[0]!,
    bar: 1.3,
  },
  { name: "sum of rows", shapes: [square], run: (x) => sum(x!, -1), bar: 1.3 },
  { name: "sum of columns", shapes: [square], run: (x) => sum(x!, 0), bar: 1.3 },
];
