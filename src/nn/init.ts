/**
 * First values of parameters, drawn on the host from PyTorch's generator, so that a seed gives the numbers it gives in PyTorch.
 */
import { ShapeError, wordShape } from "../errors.ts";
import { type Shape, sizeOf } from "../graph/shape.ts";
import type { TorchGenerator } from "../random/torch-generator.ts";
import { sharedGenerator } from "../tensor/random.ts";

/** Makes the values of a parameter of this shape. */
export type Initializer = (shape: Shape) => Float32Array;

interface Drawn {
  /** Where random numbers come from; the one that `manualSeed` restarts when absent. */
  readonly generator?: TorchGenerator;
}

/** All 0. */
export const zeros: Initializer = (shape) => new Float32Array(sizeOf(shape));
/** All 1. */
export const ones: Initializer = (shape) => new Float32Array(sizeOf(shape)).fill(1);

/** All the same value. */
export const fill =
  (value: number): Initializer =>
  (shape) =>
    new Float32Array(sizeOf(shape)).fill(value);

/** Uniform in [low, high). */
export const uniform =
  (low: number, high: number, { generator }: Drawn = {}): Initializer =>
  (shape) =>
    (generator ?? sharedGenerator()).uniform(sizeOf(shape), low, high);

/** Normal with the given mean and standard deviation. */
export const normal =
  ({ mean = 0, std = 1, generator }: Drawn & { readonly mean?: number; readonly std?: number } = {}): Initializer =>
  (shape) =>
    (generator ?? sharedGenerator()).normal(sizeOf(shape), mean, std);

/**
 * Uniform in ±gain·√(3 / fanIn) with gain = √(2 / (1 + a²)): keeps the variance of activations through layers with a leaky
 * rectifier of slope `a`. PyTorch's Linear uses a = √5, which is ±1/√fanIn.
 * @see https://arxiv.org/abs/1502.01852
 */
export const kaimingUniform =
  ({ a = 0, generator }: Drawn & { readonly a?: number } = {}): Initializer =>
  (shape) => {
    const bound = Math.sqrt(2 / (1 + a * a)) * Math.sqrt(3 / fans(shape).fanIn);
    return (generator ?? sharedGenerator()).uniform(sizeOf(shape), -bound, bound);
  };

/** Normal with standard deviation √(2 / (1 + a²) / fanIn). @see https://arxiv.org/abs/1502.01852 */
export const kaimingNormal =
  ({ a = 0, generator }: Drawn & { readonly a?: number } = {}): Initializer =>
  (shape) =>
    (generator ?? sharedGenerator()).normal(sizeOf(shape), 0, Math.sqrt(2 / (1 + a * a) / fans(shape).fanIn));

/** Uniform in ±gain·√(6 / (fanIn + fanOut)). @see https://proceedings.mlr.press/v9/glorot10a.html */
export const xavierUniform =
  ({ gain = 1, generator }: Drawn & { readonly gain?: number } = {}): Initializer =>
  (shape) => {
    const { fanIn, fanOut } = fans(shape);
    const bound = gain * Math.sqrt(6 / (fanIn + fanOut));
    return (generator ?? sharedGenerator()).uniform(sizeOf(shape), -bound, bound);
  };

/** Normal with standard deviation gain·√(2 / (fanIn + fanOut)). @see https://proceedings.mlr.press/v9/glorot10a.html */
export const xavierNormal =
  ({ gain = 1, generator }: Drawn & { readonly gain?: number } = {}): Initializer =>
  (shape) => {
    const { fanIn, fanOut } = fans(shape);
    return (generator ?? sharedGenerator()).normal(sizeOf(shape), 0, gain * Math.sqrt(2 / (fanIn + fanOut)));
  };

/** How many values one output is made of, and how many outputs one value goes to: a weight is [out, in, ...kernel]. */
function fans(shape: Shape): { fanIn: number; fanOut: number } {
  const [out, into, ...kernel] = shape;
  if (out === undefined || into === undefined)
    throw new ShapeError(`${wordShape(shape)} has no fan-in: a weight is [out, in, ...].`, { operation: "init", got: shape });
  return { fanIn: into * sizeOf(kernel), fanOut: out * sizeOf(kernel) };
}
