/**
 * Hadamard high-rank adaptation: W′ = W + W ⊙ (B·A), with A [r, in] and B [out, r] trained. The elementwise product with the frozen weight
 * makes a change of high rank of LoRA's two factors; B starts at zero. There is no α. It equals LoRA where W is constant.
 *
 * PEFT gives the first adapter of a model the rank `r` in all layers, whatever `rankPattern` says, and those after it the pattern's. So a
 * file's ranks are those of its tensors; one of ours with a pattern is for PEFT a second adapter, or wants the pattern taken out.
 */
import { boolean, choice, configSchema, float, integer, key, numberByPattern, targetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { mul } from "../../graph/elementwise.ts";
import { reshape, transpose } from "../../graph/movement.ts";
import { convolutionOf, kernelOf, refuseGroups } from "../convolution-layer.ts";
import { normal, uniform, zeros } from "../init/standard.ts";
import { type Base, defineMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { convolutionChange, embeddingChange, linearChange, times } from "../weight-change.ts";

const schema = configSchema("HIRA", "hira_", {
  ...targetKeys,
  r: key(32, integer(1)),
  hira_dropout: key(0, float(0, 1)),
  fan_in_fan_out: key(false, boolean),
  init_weights: key(true, boolean, choice("gaussian")),
  rank_pattern: key({}, numberByPattern),
});
type Config = MethodConfig<typeof schema>;

const parameters = (base: Base, { r }: Config) => ({ A: { shape: [r, base.in] }, B: { shape: [base.out, r] } });

const convolution = convolutionChange<Config, "A" | "B">({
  files: { A: "hira_A", B: "hira_B" },
  parameters(base, { r }) {
    refuseGroups("HiRA", base);
    const kernel = kernelOf(base);
    return {
      A: { shape: [r, convolutionOf(base).inChannels, ...kernel] },
      B: { shape: [base.out, r, ...kernel.map(() => 1)] },
    };
  },
  // PEFT knows no "gaussian" here
  initialise: (base, { r, initWeights }, random) => ({
    values: {
      A: (initWeights === false ? normal(1) : uniform(base.in))(random, r * base.in),
      B: (initWeights === false ? normal(1) : zeros)(random, base.out * r),
    },
  }),
  delta: (base, { A, B }, { r }, scale) =>
    mul(base.original, times(matmul(reshape(B, [base.out, r]), reshape(A, [r, base.in])), scale)),
  dropout: ({ hiraDropout }) => hiraDropout,
});

/** HiRA: `hira({ r: 32, targetModules: ["q_proj"] })`. */
export const hira = defineMethod({
  schema,
  papers: ["https://openreview.net/forum?id=TwJrTz9cRS"],
  formula: "W + W ⊙ (B·A)",
  patterns: { rankPattern: "r" },
  leavesOrientation: true,
  startsAtZero: ({ initWeights }) => initWeights !== false,
  keptInFile: (tensors, { rankPattern }) =>
    new Map(
      [...(Object.keys(rankPattern).length > 0 ? tensors : [])].flatMap(([name, { shape }]) => {
        const [, path] = /^base_model\.model\.(.*)\.hira_(?:embedding_)?A$/.exec(name) ?? [];
        return path === undefined ? [] : [[path, { r: shape[0] }]];
      }),
    ),
  layers: {
    linear: linearChange<Config, "A" | "B">({
      files: { A: "hira_A", B: "hira_B" },
      parameters,
      initialise(base, { r, initWeights }, random) {
        const A = initWeights === true ? uniform(base.in) : normal(initWeights === false ? 1 : 1 / r);
        const B = initWeights === false ? normal(1) : zeros;
        return { values: { A: A(random, r * base.in), B: B(random, base.out * r) } };
      },
      delta: (base, { A, B }, _, scale) => mul(base.original, times(matmul(B, A), scale)),
      dropout: ({ hiraDropout }) => hiraDropout,
    }),
    embedding: embeddingChange<Config, "A" | "B">({
      files: { A: "hira_embedding_A", B: "hira_embedding_B" },
      parameters,
      initialise: (base, { r, initWeights }, random) => ({
        values: {
          A: (initWeights === false ? normal(1) : zeros)(random, r * base.in),
          B: normal(1)(random, base.out * r),
        },
      }),
      delta: (base, { A, B }, _, scale) => mul(base.original, times(matmul(transpose(A), transpose(B)), scale)),
    }),
    conv1d: convolution,
    conv2d: convolution,
    conv3d: convolution,
  },
  samples: (draw, { groups = 1 }) =>
    groups > 1 ? null : { r: draw.integer(1, 4), initWeights: ([true, false, "gaussian"] as const)[draw.integer(0, 2)]! },
});
