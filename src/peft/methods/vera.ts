/**
 * Vector-based random matrix adaptation: W′ = W + diag(b)·B·diag(d)·A. A [r, in] and B [out, r] are random, frozen and the same for
 * all layers, which use their first columns and rows; trained are the vectors d [r] and b [out] of each layer. b starts at zero.
 * It is LoRA with frozen factors, rescaled; there is no α.
 *
 * A and B come from PyTorch's generator seeded with `projectionPrngKey`, bit for bit, and may be left out of the file. They are as
 * large as the largest target, so other targets mean other matrices.
 */
import { boolean, choice, configSchema, float, integer, key, plainTargetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, mul } from "../../graph/elementwise.ts";
import { reshape, sliceAxis } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";
import { type Base, defineMethod, type LayerMethod, type SharedParameters } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { through, times } from "../weight-change.ts";

const schema = configSchema("VERA", "vera_lambda_", {
  ...plainTargetKeys,
  r: key(256, integer(1)),
  projection_prng_key: key(0, integer()),
  save_projection: key(true, boolean),
  vera_dropout: key(0, float(0, 1)),
  d_initial: key(0.1, float()),
  fan_in_fan_out: key(false, boolean),
  bias: key("none", choice("none", "all", "vera_only")),
  init_weights: key(true, boolean),
});
type Config = MethodConfig<typeof schema>;

const largest = (bases: readonly Base[], side: "in" | "out"): number => Math.max(...bases.map((base) => base[side]));

/** The random matrices A [rowsOf, in] and B [out, r] of all layers, for VeRA and its kin. */
export const projections = <C extends Pick<Config, "r" | "projectionPrngKey" | "saveProjection">>(
  files: { readonly A: string; readonly B: string },
  rowsOf: (config: C) => number,
): SharedParameters<C> => ({
  files,
  parameters: (bases, c) => ({
    A: { shape: [rowsOf(c), largest(bases, "in")], trainable: false },
    B: { shape: [largest(bases, "out"), c.r], trainable: false },
  }),
  initialise(bases, c) {
    const random = new TorchGenerator(c.projectionPrngKey);
    const draw = (count: number, fanIn: number) => {
      const bound = Math.sqrt(3) * (Math.sqrt(2) / Math.sqrt(fanIn));
      return random.uniform(count, -bound, bound);
    };
    const A = draw(rowsOf(c) * largest(bases, "in"), largest(bases, "in"));
    return { A, B: draw(largest(bases, "out") * c.r, c.r) };
  },
  saved: ({ saveProjection }) => saveProjection,
});

/** What a layer uses of them. */
export const columns = (A: Tensor, { in: into }: Base): Tensor => sliceAxis(A, 1, 0, into);
/** The rows of B [most, r] that a layer uses, [out, r]. */
export const rows = (B: Tensor, { out }: Base): Tensor => sliceAxis(B, 0, 0, out);

const linear: LayerMethod<Config, "b" | "d", never, "A" | "B"> = {
  files: { b: "vera_lambda_b", d: "vera_lambda_d" },
  parameters: (base, { r }) => ({ b: { shape: [base.out] }, d: { shape: [r] } }),
  initialise: (base, { r, dInitial, initWeights }, random) => ({
    values: initWeights
      ? { b: new Float32Array(base.out), d: new Float32Array(r).fill(dInitial) }
      : { b: new Float32Array(base.out).fill(1), d: random.randn(r) },
  }),
  forward(x, base, { A, B, b, d }, c, use) {
    const inner = mul(through(use.dropout(x, c.veraDropout), columns(A, base)), d);
    return add(base(x), mul(through(inner, rows(B, base)), times(b, use.scale)));
  },
  delta: (base, { A, B, b, d }, _, scale) =>
    matmul(mul(mul(rows(B, base), d), reshape(times(b, scale), [base.out, 1])), columns(A, base)),
};

/** VeRA: `vera({ r: 256, targetModules: ["q_proj", "v_proj"] })`. */
export const vera = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2310.11454"],
  formula: "W + diag(b)·B·diag(d)·A",
  startsAtZero: ({ initWeights }) => initWeights,
  shared: projections({ A: "vera_A", B: "vera_B" }, ({ r }) => r),
  layers: { linear },
  samples: (draw) => ({
    r: draw.integer(1, 6),
    projectionPrngKey: draw.integer(0, 99),
    saveProjection: draw.integer(0, 1) === 1,
    initWeights: draw.integer(0, 3) > 0,
  }),
});
