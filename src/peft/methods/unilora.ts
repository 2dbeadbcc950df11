/**
 * Uni-LoRA: W′ = W + B·A, LoRA all of whose factors are made of one short vector θ [D] that the whole adapter trains: every entry of A [r, in]
 * and B [out, r] of every layer is an entry of θ over √(how often it is used). That is a projection of θ to all of LoRA's parameters
 * which keeps lengths and angles. There is no α, and a fresh adapter changes the output a little.
 *
 * Which entry goes where comes from NumPy's generator seeded with `projSeed`: each of θ equally often, those that are over drawn, then
 * shuffled. The file holds θ only, unless `saveIndices` is set; other targets mean other places for all.
 */
import { boolean, choice, configSchema, float, integer, key, plainTargetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, mul } from "../../graph/elementwise.ts";
import { take } from "../../graph/indexing.ts";
import { reshape } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { NumpyGenerator } from "../../random/numpy-generator.ts";
import { defineMethod, type LayerMethod, type SharedParameters } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { through, times } from "../weight-change.ts";

const schema = configSchema("UNILORA", "unilora_", {
  ...plainTargetKeys,
  r: key(4, integer(1)),
  proj_seed: key(42, integer(0)),
  theta_d_length: key(256, integer(1)),
  unilora_dropout: key(0, float(0, 1)),
  fan_in_fan_out: key(false, boolean),
  bias: key("none", choice("none", "all", "unilora_only")),
  init_theta_d_bound: key(0.02, float()),
  init_weights: key(true, boolean),
  save_indices: key(false, boolean),
});

/** What the layer's factors are made of: entries of θ, and 1/√(uses) of each. */
type Places = {
  readonly placesOfA: Int32Array;
  readonly placesOfB: Int32Array;
  readonly factors: Float32Array;
};
type Config = MethodConfig<typeof schema> & Places;

/** The entry of θ, of `length`, at each of `count` places. */
function assignment(count: number, length: number, seed: number): Int32Array {
  const random = new NumpyGenerator(seed);
  const each = Math.floor(count / length);
  const entries = new Int32Array(count);
  for (let i = 0; i < length * each; i++) entries[i] = Math.floor(i / each);
  if (count % length > 0) entries.set(random.choice(length, count % length), length * each);
  return random.shuffle(entries);
}

const shared: SharedParameters<Config> = {
  files: { theta: "unilora_theta_d" },
  parameters: (_, { thetaDLength }) => ({ theta: { shape: [thetaDLength] } }),
  initialise: (_, { thetaDLength: n, initThetaDBound: bound, initWeights }, random) => ({
    theta: initWeights ? random.uniform(n, -bound, bound) : random.randn(n),
  }),
};

/** Entries of θ in the shape of their places. */
const made = (theta: Tensor, places: Tensor, factors: Tensor): Tensor =>
  mul(reshape(take(reshape(theta, [theta.size, 1]), places), places.shape), factors);

const values = ({ placesOfA, placesOfB, factors }: Places) => ({
  placesOfA,
  placesOfB,
  factorsOfA: Float32Array.from(placesOfA, (place) => factors[place] as number),
  factorsOfB: Float32Array.from(placesOfB, (place) => factors[place] as number),
});

const linear: LayerMethod<Config, "placesOfA" | "placesOfB" | "factorsOfA" | "factorsOfB", never, "theta"> = {
  files: {
    placesOfA: "unilora_indices_A",
    placesOfB: "unilora_indices_B",
    factorsOfA: "unilora_scales_A",
    factorsOfB: "unilora_scales_B",
  },
  parameters({ in: into, out }, { r, saveIndices }) {
    const frozen = { trainable: false, derived: !saveIndices } as const;
    const places = { ...frozen, dtype: "int32", storedDType: "I64" } as const;
    return {
      placesOfA: { shape: [r, into], ...places },
      placesOfB: { shape: [out, r], ...places },
      factorsOfA: { shape: [r, into], ...frozen },
      factorsOfB: { shape: [out, r], ...frozen },
    };
  },
  initialise: (_, c) => ({ values: c.saveIndices ? values(c) : {} }),
  derive: (_, c) => (c.saveIndices ? {} : values(c)),
  forward(x, base, p, c, use) {
    const A = made(p.theta, p.placesOfA, p.factorsOfA);
    const B = made(p.theta, p.placesOfB, p.factorsOfB);
    return add(base(x), times(through(through(use.dropout(x, c.uniloraDropout), A), B), use.scale));
  },
  delta: (_, p, __, scale) =>
    times(matmul(made(p.theta, p.placesOfB, p.factorsOfB), made(p.theta, p.placesOfA, p.factorsOfA)), scale),
};

/** Uni-LoRA: `unilora({ r: 4, thetaDLength: 256, targetModules: ["q_proj", "v_proj"] })`. */
export const unilora = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2506.00799"],
  formula: "W + B·A, made of one vector",
  shared,
  perLayer(bases, { r, thetaDLength, projSeed }) {
    const total = bases.reduce((sum, base) => sum + r * (base.in + base.out), 0);
    const entries = assignment(total, thetaDLength, projSeed);
    const uses = new Int32Array(thetaDLength);
    for (const entry of entries) uses[entry]!++;
    const factors = Float32Array.from(uses, (count) => (count > 0 ? 1 / Math.sqrt(count) : 0));
    let at = 0;
    const next = (count: number) => entries.subarray(at, (at += count));
    return bases.map((base) => ({ placesOfA: next(r * base.in), placesOfB: next(base.out * r), factors }) satisfies Places);
  },
  layers: { linear },
  samples: (draw) => ({
    r: draw.integer(1, 4),
    thetaDLength: draw.integer(1, 40),
    projSeed: draw.integer(0, 99),
    initWeights: draw.integer(0, 2) > 0,
    saveIndices: draw.integer(0, 2) === 0,
  }),
});
