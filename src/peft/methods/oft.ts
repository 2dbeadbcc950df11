/**
 * Orthogonal fine-tuning: y = W·(R·x) + b in PEFT's orientation, W′ = W·Rᵀ, with R block-diagonal and orthogonal. Each block comes from
 * a skew-symmetric matrix Q, whose upper triangle is trained: R = (I − Q)·(I + Q)⁻¹ (Cayley), or by default the first terms of the
 * series of (I + Q)·(I − Q)⁻¹, which turns the other way. Q = 0 at the start, so a fresh adapter changes nothing. Angles between
 * inputs stay as they are; it equals no LoRA. An embedding's rows are turned.
 *
 * Size or number of the blocks is given; one that does not divide the layer becomes the nearest that does, as in PEFT.
 * `setScale(s)` takes s·Q, which PEFT does not have. `coft` is refused: PEFT changes the parameters during the forward pass.
 */
import { ConfigError } from "../../errors.ts";
import { boolean, choice, configSchema, float, integer, key, targetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, cast, sub } from "../../graph/elementwise.ts";
import { transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { cayley, identity } from "../../linalg/cayley.ts";
import { type Base, defineMethod, type LayerMethod, type MethodConfig } from "../method.ts";
import { skew, turnBlocks } from "../rotation.ts";
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
function blocks({ kind, in: into, out }: Base, { r, oftBlockSize }: Config): readonly [count: number, size: number] {
  const n = kind === "embedding" ? out : into;
  if (r > 0) return [nearestDivisor(n, r), n / nearestDivisor(n, r)];
  return [n / nearestDivisor(n, oftBlockSize), nearestDivisor(n, oftBlockSize)];
}

/** I + 2·Q + 2·Q² + … + Qᵐ. PEFT has the same m = 3 for three terms and for four. */
function neumann(Q: Tensor, terms: number): Tensor {
  let R = identity(Q.shape[1] as number);
  if (terms === 1) return add(times(Q, 0), R);
  R = add(R, times(Q, 2));
  if (terms === 2) return R;
  let power = Q;
  const last = Math.max(3, terms - 1);
  for (let m = 2; m <= last; m++) {
    power = matmul(power, Q);
    R = add(R, times(power, m === last ? 1 : 2));
  }
  return R;
}

function rotation(rows: Tensor, base: Base, c: Config, scale: number): Tensor {
  const Q = times(skew(rows, blocks(base, c)[1]), scale);
  return c.useCayleyNeumann ? neumann(Q, c.numCayleyNeumannTerms) : cayley(Q);
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
} satisfies Partial<LayerMethod<Config, "rows">>;

const turned = (W: Tensor, R: Tensor): Tensor => {
  const wide = cast(W, "float32");
  return sub(turnBlocks(wide, R), wide);
};

const linear: LayerMethod<Config, "rows"> = {
  ...common,
  files: { rows: "oft_R.weight" },
  forward: (x, base, { rows }, c, use) => base(turnBlocks(x, rotation(rows, base, c, use.scale))),
  delta: (base, { rows }, c, scale) => turned(base.weight, transpose(rotation(rows, base, c, scale))),
};

const embedding: LayerMethod<Config, "rows"> = {
  ...common,
  files: { rows: "oft_embedding_R.weight" },
  forward: (ids, base, { rows }, c, use) => turnBlocks(base(ids), rotation(rows, base, c, use.scale)),
  delta: (base, { rows }, c, scale) => turned(base.weight, rotation(rows, base, c, scale)),
};

/** OFT: `oft({ oftBlockSize: 32, targetModules: ["q_proj"] })`, or `oft({ r: 4, oftBlockSize: 0 })` for four blocks. */
export const oft = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2306.07280", "https://arxiv.org/abs/2506.19847"],
  formula: "W·Rᵀ, R orthogonal",
  keys: ["r", "oftBlockSize", "bias", "initWeights", "blockShare", "eps", "useCayleyNeumann", "numCayleyNeumannTerms"],
  check({ r, oftBlockSize }) {
    if ((r === 0) === (oftBlockSize === 0))
      throw new ConfigError(`one of \`r\` (= ${r}) and \`oftBlockSize\` (= ${oftBlockSize}) must be 0, the other positive.`, {
        operation: "oft",
        got: [r, oftBlockSize],
        hint: "They are the number and the size of the blocks.",
      });
  },
  startsAtZero: ({ initWeights }) => initWeights,
  layers: { linear, embedding },
  samples(draw, { in: into, out }) {
    if (into < 2 || out < 2) return null; // one value cannot be turned
    const size = [2, 3, 4].filter((each) => into % each === 0 && out % each === 0)[draw.integer(0, 2)];
    return {
      oftBlockSize: size ?? 64, // more than there are: one block
      initWeights: draw.integer(0, 3) > 0,
      blockShare: draw.integer(0, 1) === 1,
      useCayleyNeumann: size === undefined || draw.integer(0, 1) === 1,
      numCayleyNeumannTerms: draw.integer(2, 5),
    };
  },
});
