/**
 * The layers that adapters can change. A kind is what a method sees (a matrix, a table); an entry says how modules of one
 * class are of that kind, so that a layer that keeps its weight in another way needs an entry and no change in any method.
 */
import { reshape, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { type Shape, sizeOf } from "../graph/shape.ts";
import { GPT2Attention, GPT2Block } from "../models/gpt2.ts";
import { DecoderLayer, type LlamaDecoderLayer, RotaryAttention } from "../models/llama.ts";
import { Conv1d, Conv2d, Conv3d } from "../nn/convolution.ts";
import { Embedding } from "../nn/embedding.ts";
import { Conv1D, Linear } from "../nn/linear.ts";
import type { Module, Parameter } from "../nn/module.ts";
import { QuantisedLinear } from "../nn/quantised-linear.ts";

/**
 * What a layer is to a method. A convolution is a matrix, too, [out, in / groups · places of the kernel]; methods differ in the
 * number of axes that they go with. A parameter is one matrix [out, in] of any module, or several [experts, out, in].
 */
export type LayerKind = "linear" | "embedding" | "conv1d" | "conv2d" | "conv3d" | "attention" | "block" | "parameter";

/** A layer, or a block of layers, as its model calls it: with x and whatever is handed along. */
export interface CalledLayer extends Module {
  forward(x: Tensor, ...more: readonly unknown[]): Tensor;
}

/** How to see modules of one class. */
export interface KindOfLayer {
  readonly kind: LayerKind;
  is(module: Module): boolean;
  weight(module: Module): Parameter;
  bias(module: Module): Parameter | null;
  /** From the weight's shape to the sizes that go in and come out. */
  sizes(weight: readonly number[], module: Module): readonly [into: number, out: number];
  /** From the weight as it is stored to [out, in] (for an embedding [in, out]) and back, where they differ. @param shape that of the result */
  turn?(weight: Tensor, shape: Shape): Tensor;
  /** Its weight is stored as [in, out]: PEFT's `fan_in_fan_out`. */
  readonly fanInFanOut?: boolean;
  outputScale?(module: Module): number;
  /** The weight as [out, in], and what the layer's parameters become for another one, where they hold it as codes. */
  readonly codes?: { matrix(module: Module): Tensor; encoded(module: Module, matrix: Tensor): ReadonlyMap<Parameter, Tensor> };
  /** What the module gives with another weight, turned as methods see it, in the place of its own. */
  run?(module: Module, weight: Tensor, x: Tensor, more: readonly unknown[]): Tensor;
  /** Whether `targetModules: "all-linear"` means it. */
  readonly allLinear: boolean;
}

type Held = Module & { readonly weight: Parameter; readonly bias?: Parameter | null };
/** What modules of a class keep under these names. */
const held = (Of: abstract new (...given: never[]) => Held) => ({
  is: (module: Module) => module instanceof Of,
  weight: (module: Module) => (module as Held).weight,
  bias: (module: Module) => (module as Held).bias ?? null,
});

const linear: KindOfLayer = {
  ...held(Linear),
  kind: "linear",
  sizes: ([out, into]) => [into as number, out as number],
  allLinear: true,
};

/** GPT-2's, which is no convolution. */
const turnedLinear: KindOfLayer = {
  ...held(Conv1D),
  kind: "linear",
  sizes: ([into, out]) => [into as number, out as number],
  turn: (weight) => transpose(weight),
  fanInFanOut: true,
  allLinear: true,
};

const quantisedLinear: KindOfLayer = {
  ...held(QuantisedLinear),
  kind: "linear",
  sizes: (_, module) => [(module as QuantisedLinear).inFeatures, (module as QuantisedLinear).outFeatures],
  codes: {
    matrix: (module) => (module as QuantisedLinear).matrix(),
    encoded: (module, matrix) => (module as QuantisedLinear).encoded(matrix),
  },
  allLinear: true,
};

const embedding: KindOfLayer = {
  ...held(Embedding),
  kind: "embedding",
  sizes: ([rows, out]) => [rows as number, out as number],
  outputScale: (module) => (module as Embedding).scale,
  allLinear: false,
};

const convolution = (kind: LayerKind, of: typeof Conv1d | typeof Conv2d | typeof Conv3d): KindOfLayer => ({
  ...held(of),
  kind,
  sizes: ([out, ...places]) => [sizeOf(places), out as number],
  turn: reshape,
  allLinear: false,
});

/** A whole self-attention; looked at by its output layer, which is as wide as what goes in and comes out. */
const attention: KindOfLayer = {
  kind: "attention",
  is: (module) => module instanceof RotaryAttention || module instanceof GPT2Attention,
  weight: (module) => ((module instanceof GPT2Attention ? module.c_proj : (module as RotaryAttention).o_proj) as Linear).weight,
  bias: () => null,
  sizes: (weight) => [weight[0] as number, weight[0] as number],
  allLinear: false,
};

/** A whole block of a decoder; looked at by one of its norms, which is as wide as what goes in and comes out. */
const block: KindOfLayer = {
  kind: "block",
  is: (module) => module instanceof DecoderLayer || module instanceof GPT2Block,
  weight(module) {
    if (module instanceof GPT2Block) return module.ln_1.weight as Parameter;
    const { post_attention_layernorm, input_layernorm } = module as LlamaDecoderLayer;
    return (post_attention_layernorm ?? input_layernorm).weight as Parameter;
  },
  bias: () => null,
  sizes: ([width]) => [width as number, width as number],
  allLinear: false,
};

const kindsOfLayer: readonly KindOfLayer[] = [
  linear,
  turnedLinear,
  quantisedLinear,
  embedding,
  convolution("conv1d", Conv1d),
  convolution("conv2d", Conv2d),
  convolution("conv3d", Conv3d),
  attention,
  block,
];

/** How to see a module; `undefined` when no adapter can change it. */
export const kindOf = (module: Module): KindOfLayer | undefined => kindsOfLayer.find((each) => each.is(module));
