/** What an entry of a primitive operation is: everything the library knows about it stands in one literal. */
import type { DType, TypedArray } from "./dtype.ts";
import type { Tensor } from "./node.ts";

/** From where to where inputs are drawn. */
export type Interval = readonly [low: number, high: number];

/** One gradient per source; `null` where it is zero everywhere or the source has no gradient. */
type Vjp = (g: Tensor, y: Tensor, ...sources: Tensor[]) => readonly (Tensor | null)[];

/** Random draws for the samples of the laws; a law shrinks them. */
export interface Draw {
  /** Whole number in low…high, both included. */
  integer(low: number, high: number): number;
  /** The size of one axis: 1…`small`, or more where a law reaches past the width of a vector or a tile. */
  extent(small: number): number;
  /** Up to `maxRank` axes of such sizes. */
  shape(maxRank?: number, maxExtent?: number, minRank?: number): number[];
}

/** One case on which the laws try an operation: float inputs are drawn from `domain`, then `apply` builds the graph. */
export interface Sample {
  readonly inputs: readonly { readonly shape: readonly number[]; readonly domain: Interval }[];
  apply(...inputs: Tensor[]): Tensor;
}

interface Common {
  readonly name: string;
  /** As a learner would write it; shown in docs and by `explain()`. */
  readonly formula: string;
  readonly vjp: Vjp;
  /** Cases for the laws. Elementwise entries are sampled from their `domain` instead. */
  samples?(draw: Draw): Sample[];
  /** Allowed relative difference between a device and `reference`; 1e-6 when absent. */
  readonly tolerance?: number;
}

/** Data without sources: buffers, constants, index numbers. */
export interface Source extends Common {
  readonly kind: "source";
}

/** Moves elements without touching them; folded into the reader's view. */
export interface Movement extends Common {
  readonly kind: "movement";
}

/** A register of four lanes in an inner loop being emitted; which one is the emitter's business. */
export interface Lanes {
  readonly dtype: DType;
}

/** The four-lane arithmetic that elementwise entries are written in; int32 lanes where the dtype says so. */
export interface Simd {
  constant(value: number, dtype: DType): Lanes;
  add(x: Lanes, y: Lanes): Lanes;
  sub(x: Lanes, y: Lanes): Lanes;
  mul(x: Lanes, y: Lanes): Lanes;
  div(x: Lanes, y: Lanes): Lanes;
  max(x: Lanes, y: Lanes): Lanes;
  neg(x: Lanes): Lanes;
  sqrt(x: Lanes): Lanes;
  floor(x: Lanes): Lanes;
  exp(x: Lanes): Lanes;
  log(x: Lanes): Lanes;
  sin(x: Lanes): Lanes;
  erf(x: Lanes): Lanes;
  tanh(x: Lanes): Lanes;
  pow(x: Lanes, y: Lanes): Lanes;
  mod(x: Lanes, y: Lanes): Lanes;
  less(x: Lanes, y: Lanes): Lanes;
  equal(x: Lanes, y: Lanes): Lanes;
  and(x: Lanes, y: Lanes): Lanes;
  or(x: Lanes, y: Lanes): Lanes;
  xor(x: Lanes, y: Lanes): Lanes;
  shiftLeft(x: Lanes, y: Lanes): Lanes;
  shiftRight(x: Lanes, y: Lanes): Lanes;
  select(condition: Lanes, x: Lanes, y: Lanes): Lanes;
  cast(x: Lanes, dtype: DType): Lanes;
  bitcast(x: Lanes, dtype: DType): Lanes;
}

/** The same formula at every element. */
export interface Elementwise extends Common {
  readonly kind: "elementwise";
  readonly arity: 1 | 2 | 3;
  /** The meaning, as JavaScript source: run by `reference`, compiled by `gpu`. */
  js(x: readonly string[], types: { readonly from: readonly DType[]; readonly to: DType }): string;
  /** Four lanes of the same meaning. */
  wasm(simd: Simd, x: readonly Lanes[], to: DType): Lanes;
  /** Where the derivative holds; the laws draw their samples here. */
  readonly domain: readonly Interval[];
  /** Dtypes the laws run it in. */
  readonly takes: "float" | "integer" | "both";
  /** Heavier than a few additions: not worth computing twice. */
  readonly heavy?: boolean;
}

/** Folds some axes to size 1. */
export interface Reduction extends Common {
  readonly kind: "reduction";
  readonly identity: number;
  /** The fold of two values, as JavaScript source. */
  js(accumulator: string, x: string): string;
}

/** A kernel's view of one operand or result: element strides over a buffer, no padding. */
export interface Operand {
  readonly shape: readonly number[];
  readonly strides: readonly number[];
  readonly offset: number;
}

/** Sizes and strides of one kernel call; plain numbers, so that a device can pass them as arguments. */
export interface CallGeometry {
  readonly operands: readonly Operand[];
  readonly results: readonly Operand[];
  readonly attributes: Readonly<Record<string, number>>;
}

/** Done by a kernel of its own: contractions and data-dependent operations. */
export interface KernelOperation extends Common {
  readonly kind: "kernel";
  /** Meaning on plain arrays, used wherever a device has no kernel of its own but can see its memory. */
  host(operands: readonly TypedArray[], results: readonly TypedArray[], geometry: CallGeometry): void;
  /** Operands that the kernel can read through any strides; the others are made contiguous first. */
  readonly strided?: readonly number[];
  /** Operand that the first result may overwrite, when its values are not needed afterwards; `operands` is how many there are. */
  overwrites?(operands: number): number | undefined;
}

/**
 * A composition that some devices have a tuned kernel for. `compose` is its meaning: devices without the kernel run that,
 * and its derivative is the composition's unless `vjp` is given.
 */
export interface Fused extends Common {
  readonly kind: "fused";
  compose(sources: readonly Tensor[], attributes: Readonly<Record<string, unknown>>): readonly Tensor[];
  /** Derivative by hand: cotangents of the results (null where nobody asked) to cotangents of the sources; null leaves it to the composition. */
  pullback?(gs: readonly (Tensor | null)[], node: Tensor): readonly (Tensor | null)[] | null;
  /** Numbers for the kernel call. */
  numbers(attributes: Readonly<Record<string, unknown>>): Record<string, number>;
  readonly strided?: readonly number[];
  /** Source that the first result's memory may be, when its values are not needed afterwards. */
  overwrites?(operands: number): number | undefined;
  /** What kernels of it are made for: dtypes of the sources; float32 when absent. Of others the composition runs. */
  readonly operands?: readonly DType[];
  /** Floating-point operations of its matrix products, for reports. */
  flops?(sources: readonly Tensor[]): number;
}

/** What a node's operation can be: nothing else reaches the compiler. */
export type Primitive = Source | Movement | Elementwise | Reduction | KernelOperation | Fused;
