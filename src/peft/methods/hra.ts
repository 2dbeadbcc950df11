/**
 * Householder reflection adaptation: W′ = W·H, H = (I − 2·û₀·û₀ᵀ)·(I − 2·û₁·û₁ᵀ)⋯ with r trained vectors u [in] of any length. A product of
 * reflections is orthogonal, as in OFT, and differs from the identity by a matrix of rank r at most, as LoRA's change does. An
 * even r starts with equal pairs, which cancel; with an odd r, or with `applyGS`, a fresh adapter changes the output.
 *
 * `applyGS` makes the vectors orthogonal first (Gram-Schmidt), H = I − 2·Û·Ûᵀ. PEFT starts it, too, with equal pairs when r is even, of
 * which nothing is left after that; here it starts with r different ones. `setScale(s)` takes I + s·(H − I), which PEFT does not have.
 */
import { boolean, choice, configSchema, integer, key, targetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, cast, div, mul, sub } from "../../graph/elementwise.ts";
import { reshape, sliceAxis, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { norm } from "../../tensor/statistics.ts";
import { refuseDilation, refuseGroups } from "../convolution-layer.ts";
import { uniform } from "../init/standard.ts";
import { defineMethod, type LayerMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import type { Scale } from "../scale.ts";
import { convolutionChange, times } from "../weight-change.ts";

const schema = configSchema("HRA", "hra_", {
  ...targetKeys,
  r: key(8, integer(1)),
  apply_GS: key(false, boolean),
  init_weights: key(true, boolean),
  bias: key("none", choice("none", "all", "hra_only")),
});
type Config = MethodConfig<typeof schema>;

const unit = (u: Tensor): Tensor => div(u, norm(u, { axes: 0, keepDims: true }));
/** What of the rows of x [n, in] lies along the unit vector û [in, 1]. */
const along = (x: Tensor, u: Tensor): Tensor => mul(matmul(x, u), transpose(u));

/** Rows x of a matrix become x·H, or x·Hᵀ. */
function reflect(x: Tensor, u: Tensor, { r, applyGS }: Config, scale: Scale, back: boolean): Tensor {
  const columns = Array.from({ length: r }, (_, i) => sliceAxis(u, 1, i, i + 1));
  let y = x;
  if (applyGS) {
    const chosen: Tensor[] = [];
    for (const column of columns)
      chosen.push(unit(chosen.reduce((rest, each) => sub(rest, transpose(along(transpose(rest), each))), column)));
    for (const each of chosen) y = sub(y, times(along(x, each), 2));
  } else for (const column of back ? columns.reverse() : columns) y = sub(y, times(along(y, unit(column)), 2));
  return scale === 1 ? y : add(x, times(sub(y, x), scale));
}

const linear: LayerMethod<Config, "u"> = {
  files: { u: "hra_u" },
  parameters: (base, { r }) => ({ u: { shape: [base.in, r] } }),
  initialise(base, { r, initWeights, applyGS }, random) {
    if (r % 2 !== 0 || applyGS || !initWeights) return { values: { u: uniform(r)(random, base.in * r) } };
    const half = uniform(r / 2)(random, (base.in * r) / 2);
    return { values: { u: Float32Array.from({ length: base.in * r }, (_, i) => half[i >> 1] as number) } };
  },
  forward(x, base, { u }, c, use) {
    const rows = reshape(x, [x.size / base.in, base.in]);
    return base(reshape(reflect(rows, u, c, use.scale, true), x.shape)); // x·(W·H)ᵀ = (x·Hᵀ)·Wᵀ
  },
  delta(base, { u }, c, scale) {
    const W = cast(base.weight, "float32");
    return sub(reflect(W, u, c, scale, false), W);
  },
};

const convolution = convolutionChange<Config, "u">({
  ...(linear as LayerMethod<Config, "u"> & { delta: NonNullable<typeof linear.delta> }),
  parameters(base, c) {
    refuseGroups("HRA", base);
    refuseDilation("HRA", base);
    return linear.parameters(base, c);
  },
});

/** HRA: `hra({ r: 8, targetModules: ["q_proj"] })`. */
export const hra = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2405.17484"],
  formula: "W·H, H a product of reflections",
  startsAtZero: ({ r, initWeights, applyGS }) => initWeights && r % 2 === 0 && !applyGS,
  layers: { linear, conv2d: convolution },
  samples(draw, { in: into, groups = 1, dilated = false }) {
    if (into < 3 || groups > 1 || dilated) return null; // too few for independent vectors, or refused
    const applyGS = draw.integer(0, 3) === 0;
    return { r: draw.integer(1, applyGS ? 2 : 4), applyGS, initWeights: draw.integer(0, 3) > 0 };
  },
});
