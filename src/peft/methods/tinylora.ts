/**
 * TinyLoRA: W′ = W + B·(Σᵢ vᵢ·Pᵢ)·A. A = √S·Vᵀ [r, in] and B = U·√S [out, r] are the weight's first r singular values and directions, Pᵢ
 * [r, r] are random, all of them frozen; trained are the few numbers v [u], which neighbouring layers share: one v for each layer with
 * `weightTying` 0, one for all with 1. v starts at zero. It is LoRA-XS whose core has u directions.
 *
 * P comes from PyTorch's generator seeded with `projectionSeed` + the layer's number among the targets, and may be left out of the file.
 * An embedding's table stands for the weight.
 */
import { boolean, choice, configSchema, float, integer, key, plainTargetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { roundHalfEven } from "../../graph/dtype.ts";
import { add } from "../../graph/elementwise.ts";
import { take } from "../../graph/indexing.ts";
import { reshape } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { svdMatrix } from "../../linalg/svd.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";
import { balanced, weightOf } from "../init/factors.ts";
import { type Base, defineMethod, type LayerMethod, type SharedParameters } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { through, times } from "../weight-change.ts";

const schema = configSchema("TINYLORA", "tinylora_", {
  ...plainTargetKeys,
  r: key(2, integer(1)),
  u: key(64, integer(1)),
  weight_tying: key(0, float(0, 1)),
  projection_seed: key(42, integer()),
  save_projection: key(true, boolean),
  init_v_bound: key(0.02, float()),
  tinylora_dropout: key(0, float(0, 1)),
  fan_in_fan_out: key(false, boolean),
  bias: key("none", choice("none", "all", "tinylora_only")),
  init_weights: key(true, boolean, choice("uniform")),
});

/** The layer's number among the targets, and which v it has. */
type Place = {
  readonly number: number;
  readonly group: number;
};
type Config = MethodConfig<typeof schema> & Place;
type Vector = `v.${number}`;

/** How many v there are for so many layers; Python rounds halves to the even number. */
const groupsOf = (layers: number, { weightTying }: MethodConfig<typeof schema>): number =>
  Math.max(1, roundHalfEven(layers * (1 - weightTying)));

const rank = (base: Base, { r }: Config): number => Math.min(r, base.in, base.out);
const vectors = (bases: readonly Base[], c: Config): Vector[] =>
  Array.from({ length: groupsOf(bases.length, c) }, (_, i): Vector => `v.${i}`);

const shared: SharedParameters<Config> = {
  files: { "v.*": "tinylora_v.*" },
  parameters: (bases, c) => Object.fromEntries(vectors(bases, c).map((name) => [name, { shape: [c.u] }])),
  initialise: (bases, c, random) =>
    Object.fromEntries(
      vectors(bases, c).map((name) => [
        name,
        c.initWeights === true ? new Float32Array(c.u) : random.uniform(c.u, -c.initVBound, c.initVBound),
      ]),
    ),
};

const projections = (base: Base, c: Config): Float32Array => {
  const r = rank(base, c);
  return new TorchGenerator(c.projectionSeed + c.number).normal(c.u * r * r, 0, 1 / Math.sqrt(r));
};

/** Σᵢ vᵢ·Pᵢ: [r, r]. */
function core({ P, ...others }: { readonly P: Tensor }, { group }: Config): Tensor {
  const [u, r] = P.shape as [number, number, number];
  const v = (others as Readonly<Record<Vector, Tensor>>)[`v.${group}`] as Tensor;
  return reshape(matmul(reshape(v, [1, u]), reshape(P, [u, r * r])), [r, r]);
}

const common = {
  files: { A: "tinylora_A", B: "tinylora_B", P: "tinylora_P" },
  initialise(base, c) {
    const { A, B } = balanced(svdMatrix(weightOf(base)), rank(base, c), 1);
    return { values: { A: new Float32Array(A.values), B: new Float32Array(B.values), P: projections(base, c) } };
  },
  derive: (base, c) => (c.saveProjection ? {} : { P: projections(base, c) }),
} satisfies Partial<LayerMethod<Config, "A" | "B" | "P">>;

/** A [r, columns] and B [rows, r] of a weight [rows, columns]. */
const shapes = (base: Base, c: Config, rows: number, columns: number) => {
  const r = rank(base, c);
  return {
    A: { shape: [r, columns], trainable: false },
    B: { shape: [rows, r], trainable: false },
    P: { shape: [c.u, r, r], trainable: false, derived: !c.saveProjection },
  };
};

const linear: LayerMethod<Config, "A" | "B" | "P"> = {
  ...common,
  parameters: (base, c) => shapes(base, c, base.out, base.in),
  forward(x, base, p, c, use) {
    const inner = through(through(use.dropout(x, c.tinyloraDropout), p.A), core(p, c));
    return add(base(x), times(through(inner, p.B), use.scale));
  },
  delta: (_, p, c, scale) => times(matmul(matmul(p.B, core(p, c)), p.A), scale),
};

const embedding: LayerMethod<Config, "A" | "B" | "P"> = {
  ...linear,
  parameters: (base, c) => shapes(base, c, base.in, base.out),
  forward(ids, base, p, c, use) {
    const rows = use.dropout(take(p.B, ids), c.tinyloraDropout);
    const share = matmul(matmul(reshape(rows, [ids.size, p.B.shape[1] as number]), core(p, c)), p.A);
    return add(base(ids), times(times(reshape(share, [...ids.shape, base.out]), base.outputScale), use.scale));
  },
};

/** TinyLoRA: `tinylora({ r: 2, u: 64, targetModules: ["q_proj", "v_proj"] })`. */
export const tinylora = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2602.04118"],
  formula: "W + B·(Σᵢ vᵢ·Pᵢ)·A",
  startsAtZero: ({ initWeights }) => initWeights === true,
  shared,
  perLayer(bases, c) {
    const groups = groupsOf(bases.length, c);
    const size = Math.max(1, Math.floor(bases.length / groups));
    return bases.map((_, i) => ({ number: i, group: Math.min(Math.floor(i / size), groups - 1) }) satisfies Place);
  },
  layers: { linear, embedding },
  samples: (draw) => ({
    r: draw.integer(1, 4),
    u: draw.integer(1, 9),
    weightTying: draw.integer(0, 4) / 4,
    projectionSeed: draw.integer(0, 99),
    saveProjection: draw.integer(0, 2) > 0,
    initWeights: draw.integer(0, 2) > 0 ? true : ("uniform" as const),
  }),
});
