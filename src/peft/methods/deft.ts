/**
 * Decompositional efficient fine-tuning: W′ = W + P·(s·R − Qᵀ·W), which takes the part of W in a trained subspace out, W − P·Qᵀ·W, and puts
 * a trained one in its place. P [out, r] and R [r, in] are trained. With `decompositionMethod` "qr" both P and Q stand for the
 * orthonormal factor of P, so that P·Qᵀ is the projection onto its columns; with "relu" Q = max(P, 0). R starts at Qᵀ·W/s: a fresh
 * adapter changes nothing but by rounding. `para: true` puts nothing in its place (PaRa), and a fresh adapter changes the output. s is α/r, or 1.
 */
import { currentDevice, upload } from "../../compile/program.ts";
import { boolean, choice, configSchema, float, integer, key, number, targetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, cast, neg, sub } from "../../graph/elementwise.ts";
import { transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { orthonormal } from "../../linalg/orthonormal.ts";
import { relu } from "../../tensor/math.ts";
import { type Base, defineMethod, type LayerMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { through, times } from "../weight-change.ts";

const schema = configSchema("DEFT", "deft_", {
  ...targetKeys,
  r: key(8, integer(1)),
  decomposition_method: key("relu", choice("relu", "qr")),
  init_scale: key(1, float()),
  alpha: key(null, number),
  para: key(false, boolean),
  fan_in_fan_out: key(false, boolean),
  deft_dropout: key(0, float(0, 1)),
  init_weights: key(true, boolean),
  bias: key("none", choice("none", "all", "deft_only")),
});
type Config = MethodConfig<typeof schema>;

const rankOf = (base: Base, { r }: Config): number => Math.min(r, base.out);
const scaling = (base: Base, c: Config): number => (c.alpha ? c.alpha / rankOf(base, c) : 1);

/** What the subspace is put together with, and what takes its part out of W. */
function projection(P: Tensor, { decompositionMethod }: Config): { readonly left: Tensor; readonly right: Tensor } {
  if (decompositionMethod === "relu") return { left: P, right: relu(P) };
  const Q = orthonormal(P);
  return { left: Q, right: Q };
}

/** Qᵀ·W, of the layer's own weight: several adapters each take their part out of that one. */
const taken = (base: Base, right: Tensor): Tensor => matmul(transpose(right), cast(base.original, "float32"));

const linear: LayerMethod<Config, "P", "R"> = {
  files: { P: "deft_P", R: "deft_R" },
  parameters(base, c) {
    const r = rankOf(base, c);
    return { P: { shape: [base.out, r] }, ...(c.para ? {} : { R: { shape: [r, base.in] } }) };
  },
  initialise(base, c, random) {
    const r = rankOf(base, c);
    const P = random.normal(base.out * r, 0, 0.02);
    if (c.para) return { values: { P } };
    if (!c.initWeights) return { values: { P, R: random.normal(r * base.in, 0, 0.02 * c.initScale) } };
    const { right } = projection(upload(currentDevice(), P, [base.out, r], "float32"), c);
    return { values: { P, R: times(taken(base, right), 1 / scaling(base, c)) } };
  },
  forward(x, base, { P, R }, c, use) {
    const { left, right } = projection(P, c);
    const out = neg(through(x, taken(base, right)));
    const inner = R ? add(out, times(through(use.dropout(x, c.deftDropout), R), scaling(base, c))) : out;
    return add(base(x), times(through(inner, left), use.scale));
  },
  delta(base, { P, R }, c, scale) {
    const { left, right } = projection(P, c);
    const out = taken(base, right);
    return times(matmul(left, R ? sub(times(R, scaling(base, c)), out) : neg(out)), scale);
  },
};

/** DEFT: `deft({ r: 8, targetModules: ["q_proj", "v_proj"] })`. */
export const deft = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2509.22793"],
  formula: "W + P·(s·R − Qᵀ·W)",
  layers: { linear },
  samples: (draw) => ({
    r: draw.integer(1, 4),
    decompositionMethod: draw.integer(0, 1) === 1 ? ("qr" as const) : ("relu" as const),
    alpha: draw.integer(0, 1) === 1 ? draw.integer(1, 16) : null,
    para: draw.integer(0, 3) === 0,
    initWeights: draw.integer(0, 3) > 0,
  }),
});
