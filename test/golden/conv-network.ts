/** The network of `peft/base/conv`: a convolution over three axes, two over two, one over one, and a linear layer. */
import { add, tanh } from "../../src/graph/elementwise.ts";
import { reshape } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { Conv1d, Conv2d, Conv3d } from "../../src/nn/convolution.ts";
import { Linear } from "../../src/nn/linear.ts";
import { crossEntropy } from "../../src/nn/loss.ts";
import { type Layer, Module } from "../../src/nn/module.ts";
import { mean } from "../../src/tensor/statistics.ts";

/** A layer as config.json describes it. */
type LayerJson = {
  readonly type: "Conv1d" | "Conv2d" | "Conv3d" | "Linear";
  readonly in: number;
  readonly out: number;
  readonly kernel: readonly number[];
  readonly stride: readonly number[];
  readonly padding: readonly number[];
};

export type ConvNetworkJson = { readonly layers: Readonly<Record<"c0" | "c1" | "c2" | "c3" | "fc", LayerJson>> };

const classes = { Conv1d, Conv2d, Conv3d };
const make = ({ type, in: into, out, kernel, stride, padding }: LayerJson): Layer =>
  type === "Linear" ? new Linear(into, out) : new classes[type](into, out, kernel, { stride, padding });

export class ConvNetwork extends Module {
  readonly c3: Layer;
  readonly c2: Layer;
  readonly c1: Layer;
  readonly c0: Layer;
  readonly fc: Layer;

  constructor({ layers }: ConvNetworkJson) {
    super();
    this.c3 = make(layers.c3);
    this.c2 = make(layers.c2);
    this.c1 = make(layers.c1);
    this.c0 = make(layers.c0);
    this.fc = make(layers.fc);
  }

  /** @param x [B, channels, depth, height, width], of a depth of which one is left; labels [B] */
  forward({ x, labels }: { readonly x: Tensor; readonly labels?: Tensor }): { logits: Tensor; loss?: Tensor } {
    const deep = tanh(this.c3.forward(x));
    const flat = reshape(deep, [...deep.shape.slice(0, 2), ...deep.shape.slice(3)]);
    const wide = tanh(this.c2.forward(add(flat, this.c0.forward(flat))));
    const line = tanh(this.c1.forward(reshape(wide, [...wide.shape.slice(0, 2), -1])));
    const logits = this.fc.forward(mean(line, -1));
    return { logits, ...(labels ? { loss: crossEntropy(logits, labels) } : {}) };
  }
}
