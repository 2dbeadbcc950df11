/**
 * Low-rank Hadamard product: W′ = W + s·(A₁·B₁) ⊙ (A₂·B₂), s = α/r, with Aᵢ [out, r] and Bᵢ [r, in] trained. The elementwise product
 * of two matrices of rank r has up to rank r², for the parameters of a LoRA of rank 2r; B₂ starts at zero. It equals LoRA of
 * rank r where one of the factors is constant.
 *
 * From federated learning (FedPara), where it replaces W; as a change of W it is LyCORIS's, which PEFT follows.
 */
import { boolean, configSchema, float, integer, key, number, numberByPattern, targetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { mul } from "../../graph/elementwise.ts";
import { uniform, zeros } from "../init/standard.ts";
import { defineMethod, type MethodConfig } from "../method.ts";
import { linearChange, times } from "../weight-change.ts";

const schema = configSchema("LOHA", "hada_", {
  ...targetKeys,
  rank_pattern: key({}, numberByPattern),
  alpha_pattern: key({}, numberByPattern),
  r: key(8, integer(1)),
  alpha: key(8, number),
  rank_dropout: key(0, float(0, 1)),
  module_dropout: key(0, float(0, 1)),
  use_effective_conv2d: key(false, boolean),
  init_weights: key(true, boolean),
});
type Config = MethodConfig<typeof schema>;

/** LoHa: `loha({ r: 8, alpha: 16, targetModules: ["q_proj"] })`. */
export const loha = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2108.06098", "https://arxiv.org/abs/2309.14859"],
  formula: "W + s·(A₁·B₁) ⊙ (A₂·B₂)",
  keys: ["r", "alpha", "rankPattern", "alphaPattern", "initWeights", "useEffectiveConv2d"], // the last is for convolutions only
  patterns: { rankPattern: "r", alphaPattern: "alpha" },
  startsAtZero: ({ initWeights }) => initWeights,
  layers: {
    linear: linearChange<Config, "A1" | "B1" | "A2" | "B2">({
      files: { A1: "hada_w1_a", B1: "hada_w1_b", A2: "hada_w2_a", B2: "hada_w2_b" },
      parameters: (base, { r }) => {
        const [A, B] = [{ shape: [base.out, r] }, { shape: [r, base.in] }];
        return { A1: A, B1: B, A2: A, B2: B };
      },
      initialise(base, { r, initWeights }, random) {
        const [a, b] = [uniform(r), uniform(base.in)];
        const [A1, B1] = [a(random, base.out * r), b(random, r * base.in)];
        return { values: { A1, B1, A2: a(random, base.out * r), B2: (initWeights ? zeros : b)(random, r * base.in) } };
      },
      delta: (_, { A1, B1, A2, B2 }, { r, alpha }, scale) => times(mul(matmul(A1, B1), matmul(A2, B2)), (alpha / r) * scale),
    }),
  },
  samples: (draw) => ({ r: draw.integer(1, 4), alpha: draw.integer(1, 8) / 2, initWeights: draw.integer(0, 2) > 0 }),
});
