/**
 * Random tensors. Two kinds:
 *
 * - functions of a key, as in JAX: counter-based (Threefry-2x32), made of 32-bit integer operations inside the graph, so that
 *   every device draws the same bits and `compile` can replay them; `Generator` hands out fresh keys;
 * - the streams of `torch.manual_seed`, drawn on the host: `torchUniform`, `torchRandn`, `torchRandperm`.
 *
 * @see https://www.thesalmons.org/john/random123/papers/random123sc11.pdf
 */
import { currentDevice, realize, upload } from "../compile/program.ts";
import { ConfigError, checkOptions, DTypeError, ShapeError, under, wordArgument, wordShape } from "../errors.ts";
import { checkDType, type DType } from "../graph/dtype.ts";
import {
  add,
  cast,
  less,
  log,
  max,
  mod,
  mul,
  neg,
  or,
  shiftLeft,
  shiftRight,
  sin,
  sqrt,
  sub,
  where,
  xor,
} from "../graph/elementwise.ts";
import { argsort } from "../graph/indexing.ts";
import { reshape, slice } from "../graph/movement.ts";
import { requireTensors, Tensor } from "../graph/node.ts";
import { checkShape, type Shape, sizeOf } from "../graph/shape.ts";
import { constant, iota } from "../graph/source.ts";
import { isObserved, Variable } from "../graph/variable.ts";
import { TorchGenerator } from "../random/torch-generator.ts";
import { stack } from "./arrange.ts";
import { asTensor, type TensorLike } from "./create.ts";
import { argmax } from "./statistics.ts";

export { TorchGenerator };

const int = (value: number): Tensor => constant(value, [], "int32");
const rotations = [13, 15, 26, 6, 17, 29, 16, 24] as const;
const rotateLeft = (x: Tensor, by: number): Tensor => or(shiftLeft(x, int(by)), shiftRight(x, int(32 - by)));

/** `threefry2x32` of src/random/threefry.ts on int32 tensors, bit for bit: two words per counter. */
export function threefry(key: Tensor, counter0: Tensor, counter1: Tensor): [Tensor, Tensor] {
  checkKey("threefry", key);
  requireTensors("threefry", { counter0, counter1 });
  for (const { dtype } of [counter0, counter1])
    if (dtype !== "int32") throw new DTypeError(`counters are int32, got ${dtype}.`, { operation: "threefry", got: dtype });
  const [key0, key1] = words(key);
  const keys = [key0, key1, xor(xor(key0, key1), int(0x1bd11bda))] as const;
  let x = add(counter0, key0);
  let y = add(counter1, key1);
  for (let group = 1; group <= 5; group++) {
    const first = group % 2 === 1 ? 0 : 4;
    for (let round = first; round < first + 4; round++) {
      x = add(x, y);
      y = xor(rotateLeft(y, rotations[round]!), x);
    }
    x = add(x, keys[group % 3]!);
    y = add(add(y, keys[(group + 1) % 3]!), int(group));
  }
  return [x, y];
}

/** @throws {ShapeError} for what is no key, such as a plain seed */
function checkKey(operation: string, key: unknown): asserts key is Tensor {
  if (key instanceof Tensor && key.dtype === "int32" && key.rank === 1 && key.shape[0] === 2) return;
  throw new ShapeError(
    `a key is int32 [2], got ${key instanceof Tensor ? `${key.dtype} ${wordShape(key.shape)}` : wordArgument(key)}.`,
    {
      operation,
      expected: [2],
      got: key,
      hint: "Make one with key(seed), or take a row of split(key).",
    },
  );
}

function words(key: Tensor): [Tensor, Tensor] {
  const word = (i: number) => reshape(slice(key, [i], [i + 1]), []);
  return [word(0), word(1)];
}

/** A key from a seed: a whole number below 2⁵³; its high and low 32 bits. */
export function key(seed: number): Tensor {
  if (!Number.isSafeInteger(seed) || seed < 0)
    throw new ConfigError(`\`seed\` (= ${seed}) must be a whole number from 0 to 2⁵³ − 1.`, { operation: "key", got: seed });
  return upload(currentDevice(), Int32Array.of(Math.floor(seed / 2 ** 32), seed | 0), [2], "int32");
}

/** `count` keys that are independent of each other and of `parent`: int32 [count, 2]. */
export function split(parent: Tensor, count = 2): Tensor {
  checkKey("split", parent);
  checkShape("split", [count]);
  const [x, y] = threefry(parent, constant(0, [count], "int32"), iota([count]));
  return stack([x, y], 1);
}

/** The key number `index` (int32 []) of a family that belongs to `parent`; equal to that row of `split`. */
export function foldIn(parent: Tensor, index: number | Tensor): Tensor {
  checkKey("foldIn", parent);
  if (typeof index !== "number") requireTensors("foldIn", { index });
  const [x, y] = under("foldIn", () => threefry(parent, int(0), typeof index === "number" ? int(index) : index));
  return stack([x, y], 0);
}

/** 32 random bits per element, as int32: both words of counter (0, i) for element i, joined by exclusive or, as in JAX. */
export const bits = (from: Tensor, shape: Shape): Tensor => bitsFor("bits", from, shape);

function bitsFor(operation: string, from: Tensor, shape: Shape): Tensor {
  const [x, y] = drawn(operation, from, shape);
  return xor(x, y);
}

/** Two words per element. */
function drawn(operation: string, from: Tensor, shape: Shape): [Tensor, Tensor] {
  checkKey(operation, from);
  checkShape(operation, shape);
  return threefry(from, constant(0, shape, "int32"), iota(shape));
}

/** [0, 1) from the upper 24 bits: a multiple of 2⁻²⁴, exact in float32; `uniformFromBits` of src/random/threefry.ts. */
const unit = (word: Tensor): Tensor => mul(cast(shiftRight(word, int(8)), "float32"), constant(2 ** -24));

interface RandomOptions {
  readonly dtype?: DType;
}

function checkRange(operation: string, low: number, high: number): void {
  if (!Number.isFinite(low) || !Number.isFinite(high) || high < low)
    throw new ConfigError(`\`low\` (= ${low}) and \`high\` (= ${high}) must be numbers with low ≤ high.`, {
      operation,
      got: [low, high],
    });
}

/** Evenly distributed over [low, high); before scaling a multiple of 2⁻²⁴. */
export function uniform(
  from: Tensor,
  shape: Shape,
  options: RandomOptions & { readonly low?: number; readonly high?: number } = {},
): Tensor {
  checkOptions("uniform", options, { low: "a finite number", high: "a finite number", dtype: null });
  const { low = 0, high = 1, dtype = "float32" } = options;
  checkDType("uniform", dtype);
  checkRange("uniform", low, high);
  const u = unit(bitsFor("uniform", from, shape));
  const scaled = low === 0 && high === 1 ? u : add(mul(u, constant(high - low)), constant(low));
  return cast(scaled, dtype);
}

/**
 * Normally distributed: √(−2·ln(1 − u))·cos(2πv) of two independent uniforms (Box–Muller), |x| ≤ 5.77. The bits behind it are
 * equal on every device, the value to the rounding of the device's logarithm and sine.
 */
export function normal(
  from: Tensor,
  shape: Shape,
  options: RandomOptions & { readonly mean?: number; readonly std?: number } = {},
): Tensor {
  checkOptions("normal", options, { mean: "a finite number", std: "a number from 0", dtype: null });
  const { mean = 0, std = 1, dtype = "float32" } = options;
  checkDType("normal", dtype);
  const [x, y] = drawn("normal", from, shape);
  const radius = sqrt(mul(constant(-2), log(sub(constant(1), unit(x)))));
  // cos(2πv) with v in [0, 1) is −sin(2π(v − ¼)); v − ¼ is exact
  const z = mul(radius, neg(sin(mul(constant(2 * Math.PI), sub(unit(y), constant(0.25))))));
  return cast(add(mul(z, constant(std)), constant(mean)), dtype);
}

/** True with probability p, which may be a tensor that broadcasts to `shape`. */
export function bernoulli(from: Tensor, p: TensorLike, shape: Shape): Tensor {
  if (typeof p === "number" && !(p >= 0 && p <= 1))
    throw new ConfigError(`\`p\` (= ${p}) must be in 0…1.`, { operation: "bernoulli", got: p });
  return under("bernoulli", () => less(unit(bitsFor("bernoulli", from, shape)), asTensor(p)));
}

/** Whole numbers of [low, high) as int32: 31 random bits modulo the range, so that the bias is below range / 2³¹. */
export function randint(from: Tensor, shape: Shape, low: number, high: number): Tensor {
  const isWhole = Number.isInteger(low) && Number.isInteger(high);
  if (!isWhole || high <= low || high - low > 2 ** 31 - 1 || low < -(2 ** 31) || high > 2 ** 31)
    throw new ConfigError(
      `\`low\` (= ${low}) and \`high\` (= ${high}) must be whole numbers of 32 bits with low < high, at most 2³¹ − 1 apart.`,
      { operation: "randint", got: [low, high] },
    );
  return add(mod(shiftRight(bitsFor("randint", from, shape), int(1)), int(high - low)), int(low));
}

/** 0 … n − 1 in random order, as int32. */
export const permutation = (from: Tensor, n: number): Tensor => argsort(bitsFor("permutation", from, [n]), false);

/** Draws an index along the last axis with probabilities softmax(logits), by the Gumbel-max trick. int32. */
export function categorical(from: Tensor, scores: TensorLike): Tensor {
  const logits = under("categorical", () => asTensor(scores));
  if (logits.rank === 0 || logits.shape.at(-1) === 0)
    throw new ShapeError(`needs at least one class along the last axis, got ${wordShape(logits.shape)}.`, {
      operation: "categorical",
      got: logits.shape,
    });
  const u = max(unit(bitsFor("categorical", from, logits.shape)), constant(2 ** -25));
  return argmax(sub(logits, log(neg(log(u)))), -1);
}

/** Factors of dropout: 0 with probability p, else 1 / (1 − p). */
export function dropoutMask(from: Tensor, shape: Shape, p: number, dtype: DType = "float32"): Tensor {
  const operation = "dropoutMask";
  if (!(p >= 0 && p < 1)) throw new ConfigError(`\`p\` (= ${p}) must be at least 0 and below 1.`, { operation, got: p });
  checkDType(operation, dtype);
  const kept = under(operation, () => bernoulli(from, 1 - p, shape));
  return where(kept, constant(1 / (1 - p), [], dtype), constant(0, [], dtype));
}

/** x with elements set to 0 with probability p and the others divided by 1 − p. */
export function dropout(from: Tensor, like: TensorLike, p: number): Tensor {
  return under("dropout", () => {
    const x = asTensor(like);
    return p === 0 ? x : mul(x, dropoutMask(from, x.shape, p, x.dtype));
  });
}

/**
 * Hands out fresh keys. The count of keys given lies in a variable, so that inside a compiled function each replay draws anew,
 * and two runs from one seed draw the same.
 *
 * @example
 * const generator = new Generator(0);
 * normal(generator.next(), [2, 3])   // float32 [2, 3]
 */
export class Generator {
  readonly #key: Variable;
  readonly #count: Variable;

  constructor(seed: number) {
    this.#key = new Variable(
      under("Generator", () => key(seed)),
      { requiresGrad: false },
    );
    this.#count = new Variable(upload(currentDevice(), new Int32Array(1), [], "int32"), { requiresGrad: false });
  }

  /** A key that was not given before. */
  next(): Tensor {
    const count = this.#count.value;
    const next = foldIn(this.#key.value, count);
    // the old count is gone after the assignment
    if (!isObserved()) realize([next]);
    this.#count.assign(add(count, int(1)));
    return next;
  }

  /** What the next key depends on, to be saved with a run and set again. */
  get state(): { readonly key: Variable; readonly count: Variable } {
    return { key: this.#key, count: this.#count };
  }

  /** Starts over from `seed`. */
  manualSeed(seed: number): void {
    this.#key.assign(under("manualSeed", () => key(seed)));
    this.#count.assign(int(0));
  }
}

let shared = new TorchGenerator(0);

/** Restarts the generator that `torchUniform` and its kin use when they are given none. */
export function manualSeed(seed: number | bigint): void {
  shared = under("manualSeed", () => new TorchGenerator(seed));
}

/** The generator that is used where none is given: the stream of `torch.manual_seed`, from seed 0 at first. */
export const sharedGenerator = (): TorchGenerator => shared;

interface TorchOptions {
  readonly generator?: TorchGenerator;
}

const onDevice = (values: Float32Array | Int32Array, shape: Shape): Tensor =>
  upload(currentDevice(), values, shape, values instanceof Float32Array ? "float32" : "int32");

/** Uniform over [low, high), drawn as `torch.empty(shape).uniform_(low, high)` does. */
export function torchUniform(
  shape: Shape,
  options: TorchOptions & { readonly low?: number; readonly high?: number } = {},
): Tensor {
  checkOptions("torchUniform", options, { low: "a finite number", high: "a finite number", generator: TorchGenerator });
  const { low = 0, high = 1, generator = shared } = options;
  checkShape("torchUniform", shape);
  checkRange("torchUniform", low, high);
  return onDevice(generator.uniform(sizeOf(shape), low, high), shape);
}

/** Standard normal, drawn as `torch.randn(shape)` does. */
export function torchRandn(shape: Shape, options: TorchOptions = {}): Tensor {
  checkOptions("torchRandn", options, { generator: TorchGenerator });
  const { generator = shared } = options;
  checkShape("torchRandn", shape);
  return onDevice(generator.randn(sizeOf(shape)), shape);
}

/** A permutation of 0 … n − 1 as int32, drawn as `torch.randperm(n)` does. */
export function torchRandperm(n: number, options: TorchOptions = {}): Tensor {
  checkOptions("torchRandperm", options, { generator: TorchGenerator });
  const { generator = shared } = options;
  checkShape("torchRandperm", [n]);
  return onDevice(generator.randperm(n), [n]);
}
