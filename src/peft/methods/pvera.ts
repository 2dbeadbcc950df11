/**
 * Probabilistic VeRA: W′ = W + diag(b)·B·diag(d)·A as in VeRA, with A [2r, in] whose second half makes the logarithm of a variance: in
 * training what goes into B is drawn from N(μ, σ²), (μ, ln σ²) = d ⊙ A·x; otherwise it is μ, and so it is in a merged weight.
 *
 * The noise comes from the seed of the training run, not from PyTorch's generator with `generatorSeed`, which only the file keeps.
 */
import { boolean, choice, configSchema, float, integer, key, plainTargetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, exp, log, mul, neg, sqrt, sub } from "../../graph/elementwise.ts";
import { reshape, sliceAxis } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { constant } from "../../graph/source.ts";
import { cos } from "../../tensor/math.ts";
import { defineMethod, type LayerMethod, type Use } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { through, times } from "../weight-change.ts";
import { columns, projections, rows } from "./vera.ts";

const schema = configSchema("PVERA", "pvera_lambda_", {
  ...plainTargetKeys,
  r: key(256, integer(1)),
  projection_prng_key: key(0, integer()),
  save_projection: key(true, boolean),
  pvera_dropout: key(0, float(0, 1)),
  d_initial: key(0.1, float()),
  fan_in_fan_out: key(false, boolean),
  bias: key("none", choice("none", "all", "pvera_only")),
  init_weights: key(true, boolean),
  sample_at_inference: key(false, boolean),
  generator_seed: key(null, integer()),
});
type Config = MethodConfig<typeof schema>;

/** N(0, 1) of a shape, by Box and Muller. */
export function noise(use: Use, shape: readonly number[]): Tensor {
  const radius = sqrt(times(neg(log(sub(constant(1), use.uniform(shape)))), 2));
  return mul(radius, cos(times(use.uniform(shape), 2 * Math.PI)));
}

const half = (x: Tensor, axis: number, which: 0 | 1): Tensor => {
  const r = (x.shape[axis] as number) / 2;
  return sliceAxis(x, axis, which * r, (which + 1) * r);
};

const linear: LayerMethod<Config, "b" | "d", never, "A" | "B"> = {
  files: { b: "pvera_lambda_b", d: "pvera_lambda_d" },
  parameters: (base, { r }) => ({ b: { shape: [base.out] }, d: { shape: [2 * r] } }),
  initialise: (base, { r, dInitial, initWeights }, random) => ({
    values: initWeights
      ? { b: new Float32Array(base.out), d: new Float32Array(2 * r).fill(dInitial) }
      : { b: new Float32Array(base.out).fill(1), d: random.randn(2 * r) },
  }),
  forward(x, base, { A, B, b, d }, c, use) {
    const inner = mul(through(use.dropout(x, c.pveraDropout), columns(A, base)), d);
    const axis = inner.shape.length - 1;
    const mean = half(inner, axis, 0);
    const z = use.training ? add(mean, mul(noise(use, mean.shape), exp(times(half(inner, axis, 1), 0.5)))) : mean;
    return add(base(x), mul(through(z, rows(B, base)), times(b, use.scale)));
  },
  delta: (base, { A, B, b, d }, _, scale) =>
    matmul(mul(mul(rows(B, base), half(d, 0, 0)), reshape(times(b, scale), [base.out, 1])), half(columns(A, base), 0, 0)),
};

/** PVeRA: `pvera({ r: 256, targetModules: ["q_proj", "v_proj"] })`. */
export const pvera = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2512.07703"],
  formula: "W + diag(b)·B·diag(d)·A, A·x with noise in training",
  keys: ["r", "projectionPrngKey", "saveProjection", "pveraDropout", "dInitial", "bias", "initWeights", "generatorSeed"],
  startsAtZero: ({ initWeights }) => initWeights,
  shared: projections({ A: "pvera_A", B: "pvera_B" }, ({ r }) => 2 * r),
  layers: { linear },
  samples: (draw) => ({
    r: draw.integer(1, 6),
    projectionPrngKey: draw.integer(0, 99),
    saveProjection: draw.integer(0, 1) === 1,
    initWeights: draw.integer(0, 3) > 0,
  }),
});
