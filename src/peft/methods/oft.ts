/**
 * Orthogonal fine-tuning: y = W·(R·x) + b in PEFT's orientation, W′ = W·Rᵀ, with R block-diagonal and orthogonal. Each block comes from
 * a skew-symmetric matrix Q, whose upper triangle is trained: R = (I − Q)·(I + Q)⁻¹ (Cayley), or by default the first terms of the
 * series of (I + Q)·(I − Q)⁻¹, which turns the other way. Q = 0 at the start, so a fresh adapter changes nothing. Angles between
 * inputs stay as they are; it equals no LoRA. An embedding's rows are turned.
 *
 * Size or number of the blocks is given; one that does not divide the layer becomes the nearest that does, as in PEFT.
 * `setScale(s)` takes s·Q, which PEFT does not have. With `coft` Q is kept small, ‖Q‖ ≤ ε/√(number of blocks): a block that has grown
 * beyond that is shortened to it before each use. `moduleDropout` replaces that share of the blocks with the identity, in training;
 * PEFT declares it and does nothing.
 *
 * PEFT's forward pass of a convolution is no change of the weight unless the kernel is 1×1. It turns the windows of the input, at
 * every place and without padding, and puts them together again: overlapping values are added up, and a window's values are taken
 * for those of others (`_fold` views [places, kernel] as [kernel, places]). What was trained like that needs it, so it is done here,
 * too. Even a fresh adapter changes the output then, and merging, which turns the kernel as a matrix, gives another function, as in
 * PEFT; `mergeDifference` tells how far off.
 */
import { withVjp } from "../../autograd/custom.ts";
import { ConfigError } from "../../errors.ts";
import { boolean, choice, configSchema, float, integer, key, targetKeys } from "../../formats/peft-config.ts";
import { concatenate } from "../../graph/composite.ts";
import { add, cast, div, max, mul, sub } from "../../graph/elementwise.ts";
import { pad, permute, reshape, slice, sliceAxis, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { constant } from "../../graph/source.ts";
import { cayley } from "../../linalg/cayley.ts";
import { norm } from "../../tensor/statistics.ts";
import { convolutionOf, kernelOf, refuseDilation, refuseGroups } from "../convolution-layer.ts";
import { blockMask, withoutBlocks } from "../dropout-mask.ts";
import { type Base, defineMethod, type LayerMethod, type Use } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { neumann, skew, turnBlocks } from "../rotation.ts";
import type { Scale } from "../scale.ts";
import { times } from "../weight-change.ts";

const schema = configSchema("OFT", "oft_", {
  ...targetKeys,
  r: key(0, integer(0)),
  oft_block_size: key(32, integer(0)),
  module_dropout: key(0, float(0, 1)),
  fan_in_fan_out: key(false, boolean),
  bias: key("none", choice("none", "all", "oft_only")),
  init_weights: key(true, boolean),
  coft: key(false, boolean),
  eps: key(6e-5, float(0)),
  block_share: key(false, boolean),
  use_cayley_neumann: key(true, boolean),
  num_cayley_neumann_terms: key(5, integer(1)),
});
type Config = MethodConfig<typeof schema>;

/** The divisor of n that is nearest to `wanted`; of two the smaller. */
function nearestDivisor(n: number, wanted: number): number {
  if (wanted >= n) return n;
  let off = 0;
  while (n % (wanted - off) !== 0 && n % (wanted + off) !== 0) off++;
  return n % (wanted - off) === 0 ? wanted - off : wanted + off;
}

/** How many blocks there are, and how large they are; of what goes into the layer, or of an embedding's rows. */
function blocks(base: Base, { r, oftBlockSize }: Config): readonly [count: number, size: number] {
  const n = base.kind === "embedding" ? base.out : base.kind === "conv2d" ? base.in * convolutionOf(base).groups : base.in;
  if (r > 0) return [nearestDivisor(n, r), n / nearestDivisor(n, r)];
  return [n / nearestDivisor(n, oftBlockSize), nearestDivisor(n, oftBlockSize)];
}

/** The rows of Q's entries [n, b·(b − 1)/2], shortened where ‖Q‖ of a block is more than ε/√n. */
function nearest(rows: Tensor, eps: number): Tensor {
  const limit = constant(Math.max(eps / Math.sqrt(rows.shape[0] as number), 1e-30)); // not 0/0
  const norms = times(norm(rows, { axes: 1, keepDims: true }), Math.SQRT2); // each entry is in Q twice
  return mul(rows, div(limit, max(norms, limit)));
}

function rotation(rows: Tensor, base: Base, c: Config, scale: Scale): Tensor {
  // as if the parameter were there already, which in training it is
  const allowed = c.coft
    ? withVjp(
        (x: Tensor) => nearest(x, c.eps),
        (g) => [g],
      )(rows)
    : rows;
  const Q = times(skew(allowed, blocks(base, c)[1]), scale);
  return c.useCayleyNeumann ? neumann(Q, c.numCayleyNeumannTerms) : cayley(Q);
}

/** The rotation in one call: with dropout some of its blocks are the identity. One that all share has no blocks to drop. */
function rotationInUse(rows: Tensor, base: Base, c: Config, use: Use): Tensor {
  const R = rotation(rows, base, c, use.scale);
  return withoutBlocks(R, c.blockShare ? null : blockMask(use, R.shape[0] as number, c.moduleDropout));
}

const common = {
  parameters(base, c) {
    const [count, size] = blocks(base, c);
    return { rows: { shape: [c.blockShare ? 1 : count, (size * (size - 1)) / 2] } };
  },
  initialise(base, c, random) {
    const [count, size] = blocks(base, c);
    const n = (c.blockShare ? 1 : count) * ((size * (size - 1)) / 2);
    return { values: { rows: c.initWeights ? new Float32Array(n) : random.normal(n, 0, 0.1) } };
  },
  project: (_, { rows }, c) => (c.coft ? { rows: nearest(rows, c.eps) } : null),
} satisfies Partial<LayerMethod<Config, "rows">>;

const turned = (W: Tensor, R: Tensor): Tensor => {
  const wide = cast(W, "float32");
  return sub(turnBlocks(wide, R), wide);
};

const linear: LayerMethod<Config, "rows"> = {
  ...common,
  files: { rows: "oft_R.weight" },
  laterIsInner: true,
  forward: (x, base, { rows }, c, use) => base(turnBlocks(x, rotationInUse(rows, base, c, use))),
  delta: (base, { rows }, c, scale) => turned(base.weight, transpose(rotation(rows, base, c, scale))),
};

const embedding: LayerMethod<Config, "rows"> = {
  ...common,
  files: { rows: "oft_embedding_R.weight" },
  forward: (ids, base, { rows }, c, use) => turnBlocks(base(ids), rotationInUse(rows, base, c, use)),
  delta: (base, { rows }, c, scale) => turned(base.weight, rotation(rows, base, c, scale)),
};

/** Windows of x [N, C, H, W] as large as the kernel, at every place, turned and added up as PEFT does. */
function turnWindows(x: Tensor, kernel: readonly number[], R: Tensor): Tensor {
  const [N, C, H, W] = x.shape as [number, number, number, number];
  const [high, wide] = kernel as [number, number];
  const [rows, columns] = [H - high + 1, W - wide + 1];
  const at = Array.from({ length: high * wide }, (_, i): [number, number] => [Math.floor(i / wide), i % wide]);
  const [K, places] = [at.length, rows * columns];
  const parts = at.map(([i, j]) => reshape(slice(x, [0, 0, i, j], [N, C, i + rows, j + columns]), [N, C, 1, places]));
  const windows = permute(concatenate(parts, 2), [0, 3, 1, 2]);
  const changed = reshape(turnBlocks(reshape(windows, [N * places, C * K]), R), [N, places, C, K]);
  // a channel's values [places, K] count as [K, places] from here on
  const mixed = reshape(permute(changed, [0, 2, 1, 3]), [N, C, K, rows, columns]);
  return at
    .map(([i, j], k) =>
      pad(reshape(sliceAxis(mixed, 2, k, k + 1), [N, C, rows, columns]), [0, 0, i, j], [0, 0, high - 1 - i, wide - 1 - j]),
    )
    .reduce((sum, part) => add(sum, part));
}

const convolution: LayerMethod<Config, "rows"> = {
  ...linear,
  parameters(base, c) {
    refuseDilation("OFT", base);
    return linear.parameters(base, c);
  },
  forward: (x, base, { rows }, c, use) => base(turnWindows(x, kernelOf(base), rotationInUse(rows, base, c, use))),
  delta(base, p, c, scale) {
    refuseGroups("OFT", base);
    return (linear.delta as NonNullable<typeof linear.delta>)(base, p, c, scale);
  },
};

/** OFT: `oft({ oftBlockSize: 32, targetModules: ["q_proj"] })`, or `oft({ r: 4, oftBlockSize: 0 })` for four blocks. */
export const oft = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2306.07280", "https://arxiv.org/abs/2506.19847"],
  formula: "W·Rᵀ, R orthogonal",
  check({ r, oftBlockSize }) {
    if ((r === 0) === (oftBlockSize === 0))
      throw new ConfigError(`one of \`r\` (= ${r}) and \`oftBlockSize\` (= ${oftBlockSize}) must be 0, the other positive.`, {
        operation: "oft",
        got: [r, oftBlockSize],
        hint: "They are the number and the size of the blocks.",
      });
  },
  startsAtZero: ({ initWeights }) => initWeights,
  layers: { linear, embedding, conv2d: convolution },
  samples(draw, { in: into, out, groups = 1, places = 1, dilated = false }) {
    if (into < 2 || out < 2) return null; // one value cannot be turned
    if (groups > 1 || dilated || places > 1) return null; // no change of the weight, or refused
    const size = [2, 3, 4].filter((each) => into % each === 0 && out % each === 0)[draw.integer(0, 2)];
    return {
      oftBlockSize: size ?? 64, // more than there are: one block
      initWeights: draw.integer(0, 3) > 0,
      blockShare: draw.integer(0, 1) === 1,
      coft: draw.integer(0, 3) === 0,
      eps: draw.integer(1, 8) / 8,
      useCayleyNeumann: size === undefined || draw.integer(0, 1) === 1,
      numCayleyNeumannTerms: draw.integer(2, 5),
    };
  },
});
