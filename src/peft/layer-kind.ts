/** The kinds of layer that adapters can change: one entry a kind says how its weight lies. */
import type { Tensor } from "../graph/node.ts";
import { Embedding } from "../nn/embedding.ts";
import { Linear } from "../nn/linear.ts";
import type { Layer, Module, Parameter } from "../nn/module.ts";

export type LayerKind = "linear" | "embedding";

/** How to see a module as a matrix. */
export interface KindOfLayer {
  is(module: Module): boolean;
  weight(module: Module): Parameter;
  bias(module: Module): Parameter | null;
  /** From the weight's shape to the sizes that go in and come out. */
  sizes(weight: readonly number[]): readonly [into: number, out: number];
  /** From the weight as it is stored to [out, in] (for an embedding [in, out]) and back, where they differ. */
  turn?(matrix: Tensor): Tensor;
  outputScale?(module: Module): number;
  /** Whether `targetModules: "all-linear"` means it. */
  readonly allLinear: boolean;
}

export const layerKinds = {
  linear: {
    is: (module) => module instanceof Linear,
    weight: (module) => (module as Linear).weight,
    bias: (module) => (module as Linear).bias,
    sizes: ([out, into]) => [into!, out!],
    allLinear: true,
  },
  embedding: {
    is: (module) => module instanceof Embedding,
    weight: (module) => (module as Embedding).weight,
    bias: () => null,
    sizes: ([rows, out]) => [rows!, out!],
    allLinear: false,
  },
} as const satisfies Record<LayerKind, KindOfLayer>;

/** The kind of a module, `undefined` when no adapter can change it. */
export function kindOf(module: Module): LayerKind | undefined {
  return (Object.keys(layerKinds) as LayerKind[]).find((kind) => layerKinds[kind].is(module));
}

/** A module of a known kind maps one tensor to one. */
export const isLayer = (module: Module): module is Layer => kindOf(module) !== undefined;
