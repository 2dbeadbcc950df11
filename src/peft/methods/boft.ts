/**
 * Butterfly orthogonal fine-tuning: y = s ⊙ (W·Rᵀ·x) + b, W′ = s ⊙ (W·Rᵀ), where R is a product of m block-diagonal rotations with
 * other pairs of inputs side by side in each, so that small blocks reach all inputs. Trained are the matrices of which the
 * rotations are made, S = ½·(R − Rᵀ), (I − S)·(I + S)⁻¹, and the scales s [out]. They start at 0 and 1: a fresh adapter changes nothing.
 * With one factor and s = 1 it is OFT.
 *
 * The paper scales nothing; PEFT does, and not the bias. Files that PEFT wrote without its CUDA kernel have one factor whatever
 * their config says, and are read so. `setScale(t)` takes t·S and 1 + t·(s − 1), which PEFT does not have. `boftDropout` replaces
 * that share of the rotations of one factor, another in each call, with the identity, in training. A convolution's kernel is
 * turned as a matrix.
 */
import { currentDevice, upload } from "../../compile/program.ts";
import { ConfigError } from "../../errors.ts";
import { boolean, choice, configSchema, float, integer, key, targetKeys } from "../../formats/peft-config.ts";
import { add, and, cast, less, mul, sub } from "../../graph/elementwise.ts";
import { take } from "../../graph/indexing.ts";
import { reshape, sliceAxis, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { constant } from "../../graph/source.ts";
import { cayley } from "../../linalg/cayley.ts";
import { lessEqual } from "../../tensor/math.ts";
import { convolved, refuseDilation, refuseGroups } from "../convolution-layer.ts";
import { blockMask, withoutBlocks } from "../dropout-mask.ts";
import { type Base, defineMethod, type LayerMethod, type Use } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { turnBlocks } from "../rotation.ts";
import { product, type Scale } from "../scale.ts";
import { scaledGain, times } from "../weight-change.ts";

const schema = configSchema("BOFT", "boft_", {
  ...targetKeys,
  boft_block_size: key(4, integer(0)),
  boft_block_num: key(0, integer(0)),
  boft_n_butterfly_factor: key(1, integer(1)),
  boft_dropout: key(0, float(0, 1)),
  fan_in_fan_out: key(false, boolean),
  bias: key("none", choice("none", "all", "boft_only")),
  init_weights: key(true, boolean),
});
type Config = MethodConfig<typeof schema>;

function blocks({ in: n, path }: Base, c: Config): readonly [count: number, size: number] {
  const given = c.boftBlockSize || c.boftBlockNum;
  const refuse = (problem: string) => {
    throw new ConfigError(`${path} has ${n} inputs, ${problem}.`, { operation: "attach", got: given });
  };
  if (n % given !== 0) refuse(`which ${c.boftBlockSize ? "blocks of" : "the number of blocks"} ${given} does not divide`);
  const [count, size] = c.boftBlockSize ? [n / given, given] : [given, n / given];
  const factors = c.boftNButterflyFactor;
  if (factors > 1 && (size % 2 !== 0 || count % 2 ** (factors - 1) !== 0))
    refuse(`too few for ${factors} butterfly factors of ${count} blocks of ${size}`);
  return [count, size];
}

/** Where each input goes before factor i: in each of count/2ⁱ segments the even half-blocks first, then the odd ones. */
function butterfly(n: number, count: number, size: number, i: number): Int32Array {
  const [segment, half] = [n / (count / 2 ** i), size / 2];
  const place = (at: number) => {
    const [start, inside] = [at - (at % segment), at % segment];
    const pieces = segment / half;
    const piece = Math.floor(inside / half);
    const from = piece < pieces / 2 ? 2 * piece : 2 * (piece - pieces / 2) + 1;
    return start + from * half + (inside % half);
  };
  return Int32Array.from({ length: n }, (_, at) => place(at));
}

/** Columns of x in another order. */
const reorder = (x: Tensor, order: Int32Array): Tensor =>
  transpose(take(transpose(x), upload(currentDevice(), order, [order.length], "int32")));

const inverseOrder = (order: Int32Array): Int32Array => {
  const back = new Int32Array(order.length);
  for (const [at, from] of order.entries()) back[from] = at;
  return back;
};

/** Blocks of one factor, drawn anew in each call, that dropout replaces with the identity. */
function drop(factors: number, base: Base, c: Config, use: Use): (R: Tensor, i: number) => Tensor {
  const blocked = blockMask(use, blocks(base, c)[0], c.boftDropout);
  if (!blocked) return (R) => R;
  const chosen = mul(use.uniform([]), constant(factors));
  const isChosen = (i: number) => cast(and(lessEqual(constant(i), chosen), less(chosen, constant(i + 1))), "float32");
  return (R, i) => withoutBlocks(R, factors === 1 ? blocked : mul(blocked, isChosen(i)));
}

/** Rows x of a matrix become x·R, R = Mₘ₋₁ ⋯ M₀, or x·Rᵀ. @param change what becomes of the blocks of factor i */
function turn(
  x: Tensor,
  base: Base,
  R: Tensor,
  c: Config,
  scale: Scale,
  back: boolean,
  change: (blocks: Tensor, i: number) => Tensor = (same) => same,
): Tensor {
  const [count, size] = blocks(base, c);
  const factors = R.shape[0] as number;
  const orders = Array.from({ length: factors }, (_, i) => i);
  return (back ? orders : orders.reverse()).reduce((y, i) => {
    const matrices = reshape(sliceAxis(R, 0, i, i + 1), [count, size, size]);
    const rotation = change(cayley(times(sub(matrices, transpose(matrices)), product(0.5, scale))), i);
    const blocksOf = back ? transpose(rotation) : rotation;
    if (factors === 1) return turnBlocks(y, blocksOf);
    // M = P·B·Pᵀ, and row j of P has its 1 in the column order[j]
    const order = butterfly(base.in, count, size, i);
    return reorder(turnBlocks(reorder(y, inverseOrder(order)), blocksOf), order);
  }, x);
}

type Boft = LayerMethod<Config, "R" | "s">;

/** s ⊙ (W·Rᵀ) − W */
function delta(
  base: Base,
  R: Tensor,
  s: Tensor,
  c: Config,
  scale: Scale,
  change?: (blocks: Tensor, i: number) => Tensor,
): Tensor {
  const W = cast(base.weight, "float32");
  return sub(mul(turn(W, base, R, c, scale, true, change), scaledGain(reshape(s, [base.out, 1]), scale)), W);
}

const linear: Boft = {
  files: { R: "boft_R", s: "boft_s" },
  parameters(base, c) {
    const [count, size] = blocks(base, c);
    const R = { shape: [c.boftNButterflyFactor, count, size, size], orShape: [1, count, size, size] };
    return { R, s: { shape: [base.out, 1] } };
  },
  initialise(base, c, random) {
    const [count, size] = blocks(base, c);
    const n = c.boftNButterflyFactor * count * size * size;
    return c.initWeights
      ? { values: { R: new Float32Array(n), s: new Float32Array(base.out).fill(1) } }
      : { values: { R: random.normal(n, 0, 0.1), s: random.normal(base.out, 0, 1) } };
  },
  forward(x, base, { R, s }, c, use) {
    const rows = reshape(x, [x.size / base.in, base.in]);
    const y = base(reshape(turn(rows, base, R, c, use.scale, false, drop(R.shape[0] as number, base, c, use)), x.shape));
    const gain = reshape(scaledGain(s, use.scale), [base.out]);
    return base.bias ? add(mul(sub(y, base.bias), gain), base.bias) : mul(y, gain);
  },
  delta: (base, { R, s }, c, scale) => delta(base, R, s, c, scale),
};

const convolution: Boft = {
  ...linear,
  parameters(base, c) {
    refuseGroups("BOFT", base);
    refuseDilation("BOFT", base);
    return { ...linear.parameters(base, c), s: { shape: [1, base.out] } };
  },
  forward: (x, base, { R, s }, c, use) =>
    add(base(x), convolved(x, base, delta(base, R, s, c, use.scale, drop(R.shape[0] as number, base, c, use)))),
};

/** BOFT: `boft({ boftBlockSize: 4, boftNButterflyFactor: 2, targetModules: ["q_proj"] })`. */
export const boft = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2311.06243"],
  formula: "s ⊙ (W·Rᵀ), R orthogonal",
  check({ boftBlockSize: size, boftBlockNum: count }) {
    if ((size === 0) === (count === 0))
      throw new ConfigError(
        `one of \`boftBlockSize\` (= ${size}) and \`boftBlockNum\` (= ${count}) must be 0, the other positive.`,
        {
          operation: "boft",
          got: [size, count],
        },
      );
  },
  startsAtZero: ({ initWeights }) => initWeights,
  layers: { linear, conv2d: convolution },
  samples(draw, { in: into, groups = 1, dilated = false }) {
    if (groups > 1 || dilated) return null; // refused
    const size = [4, 3, 2, 1][draw.integer(0, 3)]!;
    const initWeights = draw.integer(0, 3) > 0;
    if (into % 8 === 0 && draw.integer(0, 1) === 1)
      return { boftBlockSize: 2, boftNButterflyFactor: draw.integer(2, 3), initWeights };
    return { boftBlockSize: into % size === 0 ? size : 1, initWeights };
  },
});
