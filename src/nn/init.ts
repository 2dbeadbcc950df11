/**
 * First values of parameters, drawn on the host from PyTorch's generator, so that a seed gives the numbers it gives in PyTorch.
 */
import { checkOptions, type Rule, requireKind, ShapeError, wordShape } from "../errors.ts";
import { checkShape, type Shape, sizeOf } from "../graph/shape.ts";
import { TorchGenerator } from "../random/torch-generator.ts";
import { sharedGenerator } from "../tensor/random.ts";

/** Makes the values of a parameter of this shape. */
export type Initializer = (shape: Shape) => Float32Array;

/** Elements of a shape. @throws {ShapeError} where one array cannot hold so many */
function count(operation: string, shape: Shape): number {
  checkShape(operation, shape);
  if (sizeOf(shape) >= 2 ** 32)
    throw new ShapeError(`${wordShape(shape)} has more elements than one array holds.`, { operation, got: shape });
  return sizeOf(shape);
}

interface Fans {
  readonly fanIn: number;
  readonly fanOut: number;
}

interface Drawn {
  /** Where random numbers come from; the one that `manualSeed` restarts when absent. */
  readonly generator?: TorchGenerator;
}

/** Settings are numbers, each with a usual value. */
function drawn<Name extends string>(
  operation: string,
  options: Drawn & { readonly [_ in Name]?: number },
  usual: Readonly<Record<Name, number>>,
  draw: (settings: Readonly<Record<Name, number>>, size: number, generator: TorchGenerator, fans: () => Fans) => Float32Array,
): Initializer {
  const names = Object.keys(usual) as Name[];
  const settingRules = Object.fromEntries(names.map((name): [string, Rule] => [name, "a finite number"]));
  const { generator } = checkOptions<object>(operation, options, { ...settingRules, generator: TorchGenerator }) as Drawn;
  const settings: Record<Name, number> = { ...usual };
  for (const name of names) settings[name] = options[name] ?? usual[name];
  return (shape) => draw(settings, count(operation, shape), generator ?? sharedGenerator(), () => fans(operation, shape));
}

/** All 0. */
export const zeros: Initializer = (shape) => new Float32Array(count("zeros", shape));
/** All 1. */
export const ones: Initializer = (shape) => new Float32Array(count("ones", shape)).fill(1);

/** All the same value. */
export function fill(value: number): Initializer {
  requireKind("fill", "a number", { value });
  return (shape) => new Float32Array(count("fill", shape)).fill(value);
}

/** Uniform in [low, high). */
export function uniform(low: number, high: number, options: Drawn = {}): Initializer {
  requireKind("uniform", "a number", { low, high });
  return drawn("uniform", options, {}, (_, size, generator) => generator.uniform(size, low, high));
}

/** Normal with the given mean and standard deviation. */
export const normal = (options: Drawn & { readonly mean?: number; readonly std?: number } = {}): Initializer =>
  drawn("normal", options, { mean: 0, std: 1 }, ({ mean, std }, size, generator) => generator.normal(size, mean, std));

/**
 * Uniform in ±gain·√(3 / fanIn) with gain = √(2 / (1 + a²)): keeps the variance of activations through layers with a leaky
 * rectifier of slope `a`. PyTorch's Linear uses a = √5, which is ±1/√fanIn.
 * @see https://arxiv.org/abs/1502.01852
 */
export const kaimingUniform = (options: Drawn & { readonly a?: number } = {}): Initializer =>
  drawn("kaimingUniform", options, { a: 0 }, ({ a }, size, generator, fans) => {
    const bound = Math.sqrt(2 / (1 + a * a)) * Math.sqrt(3 / fans().fanIn);
    return generator.uniform(size, -bound, bound);
  });

/** Normal with standard deviation √(2 / (1 + a²) / fanIn). @see https://arxiv.org/abs/1502.01852 */
export const kaimingNormal = (options: Drawn & { readonly a?: number } = {}): Initializer =>
  drawn("kaimingNormal", options, { a: 0 }, ({ a }, size, generator, fans) =>
    generator.normal(size, 0, Math.sqrt(2 / (1 + a * a) / fans().fanIn)),
  );

/** Uniform in ±gain·√(6 / (fanIn + fanOut)). @see https://proceedings.mlr.press/v9/glorot10a.html */
export const xavierUniform = (options: Drawn & { readonly gain?: number } = {}): Initializer =>
  drawn("xavierUniform", options, { gain: 1 }, ({ gain }, size, generator, fans) => {
    const { fanIn, fanOut } = fans();
    const bound = gain * Math.sqrt(6 / (fanIn + fanOut));
    return generator.uniform(size, -bound, bound);
  });

/** Normal with standard deviation gain·√(2 / (fanIn + fanOut)). @see https://proceedings.mlr.press/v9/glorot10a.html */
export const xavierNormal = (options: Drawn & { readonly gain?: number } = {}): Initializer =>
  drawn("xavierNormal", options, { gain: 1 }, ({ gain }, size, generator, fans) => {
    const { fanIn, fanOut } = fans();
    return generator.normal(size, 0, gain * Math.sqrt(2 / (fanIn + fanOut)));
  });

/** How many values one output is made of, and how many outputs one value goes to: a weight is [out, in, ...kernel]. */
function fans(operation: string, shape: Shape): Fans {
  const [out, into, ...kernel] = shape;
  if (out === undefined || into === undefined)
    throw new ShapeError(`${wordShape(shape)} has no fan-in: a weight is [out, in, ...].`, { operation, got: shape });
  return { fanIn: into * sizeOf(kernel), fanOut: out * sizeOf(kernel) };
}
