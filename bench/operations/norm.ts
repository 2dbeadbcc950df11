/** How close are layer norm and RMS norm, and their derivatives, to the processor's limits? */
import { layerNorm, rmsNorm } from "../../src/nn/norm.ts";
import { grad } from "../../src/tensor/derivative.ts";
import { type Case, square } from "./case.ts";

export const cases: readonly Case[] = [
  { name: "RMS norm", shapes: [square, [1024]], run: (x, w) => rmsNorm(x!, w!), bar: 1.3 },
  { name: "layer norm", shapes: [square, [1024], [1024]], run: (x, w, b) => layerNorm(x!, w!, b!), bar: 1.3 },
  {
    name: "RMS norm, derivative by x",
    shapes: [square, [1024], square],
    run: (x, w, g) => grad((y) => rmsNorm(y, w!).mul(g!).sum())(x!)[0]!,
    bar: 1.3,
  },
];
