/**
 * Decoupled low-rank adaptation: ΔW = Σᵢ λ/(r·‖bᵢ‖·‖aᵢ‖)·bᵢ·aᵢᵀ, columns multiplied by the norms of W's: each of the r terms has the same
 * size λ/r, whatever its vectors' lengths, so training cannot run away. Trained are A [r, in], B [out, r] and λ; B starts at zero. It
 * equals LoRA up to the lengths of its vectors.
 *
 * PEFT takes norms below 10⁻⁴ as 10⁻⁴, and the norms of W's columns as they were at the start, which are in the file.
 */
import {
  boolean,
  choice,
  configSchema,
  float,
  integer,
  key,
  number,
  numberByPattern,
  targetKeys,
} from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { cast, div, max, mul } from "../../graph/elementwise.ts";
import type { Tensor } from "../../graph/node.ts";
import { constant } from "../../graph/source.ts";
import { norm } from "../../tensor/statistics.ts";
import { uniform, zeros } from "../init/standard.ts";
import { defineMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { product } from "../scale.ts";
import { linearChange, times } from "../weight-change.ts";

const schema = configSchema("DELORA", "delora_", {
  ...targetKeys,
  r: key(8, integer(1)),
  delora_lambda: key(15, number),
  module_dropout: key(0, float(0, 1)),
  bias: key("none", choice("none", "all", "delora_only")),
  init_weights: key(true, boolean),
  rank_pattern: key({}, numberByPattern),
  lambda_pattern: key({}, numberByPattern),
});
type Config = MethodConfig<typeof schema>;

const length = (x: Tensor, axis: number): Tensor => max(norm(x, { axes: axis, keepDims: true }), constant(1e-4));

/** DeLoRA: `delora({ r: 8, deloraLambda: 15, targetModules: ["q_proj"] })`. */
export const delora = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2503.18225"],
  formula: "W + (λ/r)·Σᵢ bᵢ·aᵢᵀ/(‖bᵢ‖·‖aᵢ‖), columns as long as W's",
  keys: ["r", "deloraLambda", "bias", "initWeights", "rankPattern", "lambdaPattern"],
  patterns: { rankPattern: "r", lambdaPattern: "deloraLambda" },
  startsAtZero: ({ initWeights }) => initWeights,
  layers: {
    linear: linearChange<Config, "A" | "B" | "lambda" | "norms">({
      files: { A: "delora_A", B: "delora_B", lambda: "delora_lambda", norms: "delora_w_norm" },
      parameters: (base, { r }) => ({
        A: { shape: [r, base.in] },
        B: { shape: [base.out, r] },
        lambda: { shape: [1] },
        norms: { shape: [base.in], trainable: false },
      }),
      initialise: (base, { r, deloraLambda, initWeights }, random) => ({
        values: {
          A: uniform(base.in)(random, r * base.in),
          B: (initWeights ? zeros : uniform(r))(random, base.out * r),
          lambda: Float32Array.of(deloraLambda),
          norms: norm(cast(base.original, "float32"), { axes: 0 }),
        },
      }),
      delta(_, { A, B, lambda, norms }, { r }, scale) {
        const sized = mul(div(B, length(B, 0)), times(lambda, product(1 / r, scale)));
        return mul(matmul(sized, div(A, length(A, 1))), norms);
      },
    }),
  },
  samples: (draw) => ({ r: draw.integer(1, 4), deloraLambda: draw.integer(1, 20), initWeights: draw.integer(0, 3) > 0 }),
});
