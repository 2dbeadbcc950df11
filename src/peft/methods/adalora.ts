/**
 * Adaptive budget allocation: W′ = W + s·B·diag(E)·A, a change in the form of a singular value decomposition: A [k, in] and B [out, k] are
 * held near to orthonormal by a term in the loss, and a schedule zeroes the values E whose loss matters least, so that layers
 * get the ranks that they need. All three are trained; E starts at zero. It equals LoRA with its middle values taken out.
 *
 * PEFT divides by k at the start (`initR`), which stays the same when values are zeroed, and takes α for s as it is. The schedule
 * (schedules/rank-budget.ts) writes into `rankPattern` which values are left, and only those are in the file.
 */
import { ConfigError } from "../../errors.ts";
import { boolean, configSchema, float, integer, key, loraSchema, object } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, mul, sqrt, sub } from "../../graph/elementwise.ts";
import { reshape, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { reduceSum } from "../../graph/reduction.ts";
import { identity } from "../../linalg/cayley.ts";
import { refuseGroups } from "../convolution-layer.ts";
import { type Base, defineMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { product } from "../scale.ts";
import { rankBudget } from "../schedules/rank-budget.ts";
import { convolutionChange, linearChange, times, type WeightChange } from "../weight-change.ts";

const schema = configSchema("ADALORA", "lora_", {
  ...loraSchema.keys,
  rank_pattern: key(null, object()),
  init_lora_weights: key(true, boolean),
  target_r: key(8, integer(1)),
  init_r: key(12, integer(1)),
  tinit: key(0, integer(0)),
  tfinal: key(0, integer(0)),
  deltaT: key(1, integer(1)),
  beta1: key(0.85, float(0, 1)),
  beta2: key(0.85, float(0, 1)),
  orth_reg_weight: key(0.5, float(0)),
  total_step: key(null, integer(1)),
});
type Config = MethodConfig<typeof schema>;

/** Which values of a layer are left; `null` for all. */
function keptValues(path: string, { rankPattern }: Config): readonly boolean[] | null {
  const kept = rankPattern?.[`base_model.model.${path}.lora_E`] ?? rankPattern?.[`${path}.lora_E`];
  return Array.isArray(kept) ? kept : null;
}

/** How many values a layer has left. */
const rank = ({ path }: Base, config: Config): number => keptValues(path, config)?.filter(Boolean).length ?? config.initR;

/** ‖M·Mᵀ − I‖. */
export function offOrthonormal(M: Tensor): Tensor {
  const off = sub(matmul(M, transpose(M)), identity(M.shape[0] as number));
  return reshape(sqrt(reduceSum(mul(off, off), [0, 1])), []);
}

const change = {
  files: { A: "lora_A", E: "lora_E", B: "lora_B" },
  parameters(base, c) {
    const k = rank(base, c);
    return { A: { shape: [k, base.in] }, E: { shape: [k, 1] }, B: { shape: [base.out, k] } };
  },
  initialise(base, c, random) {
    const k = rank(base, c);
    const draw = (count: number) => random.normal(count, 0, c.initLoraWeights ? 0.02 : 1);
    const A = draw(k * base.in);
    const E = c.initLoraWeights ? new Float32Array(k) : draw(k);
    return { values: { A, E, B: draw(base.out * k) } };
  },
  delta: (_, { A, E, B }, { loraAlpha, initR }, scale) =>
    times(matmul(B, mul(A, E)), product((loraAlpha > 0 ? loraAlpha : initR) / (initR + 1e-5), scale)),
  savedPart(name, path, config) {
    const kept = keptValues(path, config);
    return kept && { axis: name === "B" ? 1 : 0, kept };
  },
  dropout: ({ loraDropout }) => loraDropout,
} satisfies WeightChange<Config, "A" | "E" | "B">;

/** AdaLoRA: `adalora({ initR: 12, targetR: 8, totalStep: 1000, targetModules: ["q_proj"] })`. */
export const adalora = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2303.10512"],
  formula: "W + s·B·diag(E)·A",
  keys: [
    ...["initR", "targetR", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orthRegWeight", "totalStep", "rankPattern"],
    ...["r", "loraAlpha", "loraDropout", "initLoraWeights", "bias"],
  ] as (keyof Config & string)[],
  check({ totalStep, tinit, tfinal }) {
    if (totalStep === null || tinit >= totalStep - tfinal)
      throw new ConfigError(
        `\`totalStep\` (= ${totalStep}) must be more than \`tinit\` (= ${tinit}) + \`tfinal\` (= ${tfinal}).`,
        {
          operation: "adalora",
          got: totalStep,
          hint: "It is the number of training steps.",
        },
      );
  },
  startsAtZero: ({ initLoraWeights }) => initLoraWeights,
  /** λ · the mean of ‖A·Aᵀ − I‖ and ‖Bᵀ·B − I‖ over all layers. */
  penalty(layers, { orthRegWeight }) {
    const terms = layers.flatMap(({ A, B }) => [offOrthonormal(A as Tensor), offOrthonormal(transpose(B as Tensor))]);
    return times(terms.reduce(add), orthRegWeight / terms.length);
  },
  schedule: rankBudget,
  layers: {
    linear: linearChange<Config, "A" | "E" | "B">(change),
    conv2d: convolutionChange<Config, "A" | "E" | "B">({
      ...change,
      parameters(base, c) {
        refuseGroups("AdaLoRA", base);
        return change.parameters(base, c);
      },
    }),
  },
  samples: (draw, { groups = 1 }) =>
    groups > 1 ? null : { initR: draw.integer(1, 5), loraAlpha: draw.integer(1, 8) / 2, totalStep: 10 },
});
