/**
 * Orthogonal fine-tuning in the principal subspace: W′ = W + s·B·(diag(b)·R·diag(a) − I)·A, s = α/r. A [r, in] and B [out, r] are the weight's
 * first r singular directions, B with the values: s·B·A is the weight's part in them, and R [r, r] turns it. R is the Cayley transform
 * (I + Q)·(I − Q)⁻¹ of a skew-symmetric Q, whose upper triangle is trained together with the vectors a and b; or the first terms of its
 * series; or with `psoftOrth: false` any matrix. Q = 0 and a = b = 1 at the start, so a fresh adapter changes nothing.
 *
 * The file has Q, a and b only. A and B are found again in the weight, where the sign of each direction is free but has to be the one
 * in training. It depends on the library of linear algebra, with PEFT as here: signs are those of PyTorch on a CPU (`svdMatrix`). Where two
 * singular values are nearly equal, or PEFT started on a GPU, a direction may have the other sign, and the file means another change.
 */
import { boolean, choice, configSchema, float, integer, key, targetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, div, max, mul, neg, sqrt, sub } from "../../graph/elementwise.ts";
import { reshape } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { constant } from "../../graph/source.ts";
import { cayley, identity } from "../../linalg/cayley.ts";
import { svdMatrix } from "../../linalg/svd.ts";
import { svdLowrankMatrix } from "../../linalg/svd-lowrank.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";
import { square } from "../../tensor/math.ts";
import { sum } from "../../tensor/statistics.ts";
import { balanced, requireRank, weightOf } from "../init/factors.ts";
import { type Base, defineMethod, type LayerMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { neumann, skew } from "../rotation.ts";
import { product } from "../scale.ts";
import { through, times } from "../weight-change.ts";

const schema = configSchema("PSOFT", "psoft_", {
  ...targetKeys,
  r: key(32, integer(1)),
  psoft_alpha: key(32, integer(1)),
  psoft_dropout: key(0, float(0, 1)),
  fan_in_fan_out: key(false, boolean),
  ab_svd_init: key("psoft_init", choice("psoft_init", "pissa_init")),
  psoft_svd: key("full", choice("full", "lowrank")),
  psoft_svd_lowrank_niter: key(10, integer(0)),
  random_seed: key(0, integer()),
  psoft_orth: key(true, boolean),
  psoft_mag_b: key(true, boolean),
  psoft_mag_a: key(true, boolean),
  use_cayley_neumann: key(false, boolean),
  num_cayley_neumann_terms: key(5, integer(1)),
  cayley_neumann_eps: key(null, float(0, 1)),
  init_weights: key(true, boolean),
});
type Config = MethodConfig<typeof schema>;

const scaling = ({ r, psoftAlpha }: Config): number => psoftAlpha / r;

/** A and B of a layer. */
function directions(base: Base, c: Config) {
  requireRank("psoft", base, c.r);
  const W = weightOf(base);
  const random = new TorchGenerator(c.randomSeed);
  const found =
    c.psoftSvd === "full" ? svdMatrix(W, true) : svdLowrankMatrix(W, c.r, { niter: c.psoftSvdLowrankNiter, random }, false, true);
  const { A, B } = balanced(found, c.r, scaling(c));
  if (c.abSvdInit === "psoft_init")
    for (let i = 0; i < c.r; i++) {
      const root = Math.sqrt((found.S[i] as number) / scaling(c));
      for (let j = 0; j < A.columns; j++) A.values[i * A.columns + j] = found.Vt.values[i * A.columns + j] as number;
      for (let j = 0; j < B.rows; j++) B.values[j * c.r + i]! *= root;
    }
  return { A: new Float32Array(A.values), B: new Float32Array(B.values) };
}

/** Q, not longer than `eps`. */
function shortened(Q: Tensor, eps: number | null): Tensor {
  if (eps === null) return Q;
  const length = sqrt(max(sum(square(Q)), constant(eps * eps)));
  return mul(Q, div(constant(eps), length));
}

/** diag(b)·R·diag(a): [r, r]. */
function turn({ R, a, b }: { readonly R: Tensor; readonly a?: Tensor; readonly b?: Tensor }, c: Config): Tensor {
  const rotation = (): Tensor => {
    const Q = skew(reshape(R, [1, R.size]), c.r);
    return reshape(c.useCayleyNeumann ? neumann(shortened(Q, c.cayleyNeumannEps), c.numCayleyNeumannTerms) : cayley(neg(Q)), [
      c.r,
      c.r,
    ]);
  };
  const turned = c.psoftOrth ? rotation() : R;
  const rows = b ? mul(reshape(b, [c.r, 1]), turned) : turned;
  return a ? mul(rows, a) : rows;
}

const linear: LayerMethod<Config, "R" | "A" | "B", "a" | "b"> = {
  files: { R: "psoft_R.weight", a: "psoft_R.vector_a", b: "psoft_R.vector_b", A: "psoft_A", B: "psoft_B" },
  parameters(base, c) {
    requireRank("psoft", base, c.r);
    const found = { trainable: false, derived: true } as const;
    return {
      R: { shape: c.psoftOrth ? [(c.r * (c.r - 1)) / 2] : [c.r, c.r] },
      ...(c.psoftMagB ? { b: { shape: [c.r] } } : {}),
      ...(c.psoftMagA ? { a: { shape: [c.r] } } : {}),
      A: { shape: [c.r, base.in], ...found },
      B: { shape: [base.out, c.r], ...found },
    };
  },
  initialise(_, c, random) {
    const n = c.psoftOrth ? (c.r * (c.r - 1)) / 2 : c.r * c.r;
    const R = c.initWeights ? new Float32Array(n) : random.normal(n, 0, 0.1);
    if (!c.psoftOrth) for (let i = 0; i < c.r; i++) R[i * (c.r + 1)]! += 1;
    const ones = new Float32Array(c.r).fill(1);
    return { values: { R, ...(c.psoftMagB ? { b: ones } : {}), ...(c.psoftMagA ? { a: ones } : {}) } };
  },
  derive: directions,
  forward(x, base, p, c, use) {
    const inner = through(use.dropout(x, c.psoftDropout), p.A);
    const change = sub(through(inner, turn(p, c)), inner);
    return add(base(x), times(through(change, p.B), product(scaling(c), use.scale)));
  },
  delta: (_, p, c, scale) => times(matmul(matmul(p.B, sub(turn(p, c), identity(c.r))), p.A), product(scaling(c), scale)),
};

/** PSOFT: `psoft({ r: 32, psoftAlpha: 32, targetModules: ["q_proj", "v_proj"] })`. */
export const psoft = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2505.11235"],
  formula: "W + s·B·(diag(b)·R·diag(a) − I)·A",
  startsAtZero: ({ initWeights }) => initWeights,
  layers: { linear },
  samples(draw, { in: into, out }) {
    const most = Math.min(into, out, 5);
    return most < 2
      ? null
      : {
          r: draw.integer(2, most),
          psoftAlpha: draw.integer(1, 9),
          abSvdInit: draw.integer(0, 1) === 0 ? ("psoft_init" as const) : ("pissa_init" as const),
          psoftSvd: draw.integer(0, 2) > 0 ? ("full" as const) : ("lowrank" as const),
          psoftOrth: draw.integer(0, 2) > 0,
          psoftMagB: draw.integer(0, 2) > 0,
          psoftMagA: draw.integer(0, 2) > 0,
          useCayleyNeumann: draw.integer(0, 1) === 1,
          numCayleyNeumannTerms: draw.integer(1, 6),
          cayleyNeumannEps: draw.integer(0, 1) === 1 ? 0.9 : null,
          initWeights: draw.integer(0, 2) > 0,
        };
  },
});
