/**
 * Vector bank LoRA: W′ = W + B·A, whose rows (of A) and columns (of B) are cut into pieces of length b, each a mixture of vectors of one bank
 * [h, b] that all layers share: the k vectors with the largest logits, weighted by the softmax of those. Trained are the bank and the
 * logits. It is LoRA with parameters in common; there is no α, and a fresh adapter changes the output a little.
 *
 * Files with `saveOnlyTopkWeights` hold the mixtures instead of the logits and cannot be trained on; they are refused.
 */
import { ConfigError } from "../../errors.ts";
import { boolean, choice, configSchema, float, integer, key, targetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { mul } from "../../graph/elementwise.ts";
import { take } from "../../graph/indexing.ts";
import { reshape, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { topk } from "../../tensor/pick.ts";
import { softmax, sum } from "../../tensor/statistics.ts";
import { defineMethod, type MethodConfig, type SharedParameters } from "../method.ts";
import { linearChange, times } from "../weight-change.ts";

const schema = configSchema("VBLORA", "vblora_", {
  ...targetKeys,
  r: key(4, integer(1)),
  num_vectors: key(256, integer(1)),
  vector_length: key(256, integer(1)),
  topk: key(2, integer(1)),
  save_only_topk_weights: key(false, boolean),
  vblora_dropout: key(0, float(0, 1)),
  fan_in_fan_out: key(false, boolean),
  bias: key("none", choice("none", "all", "vblora_only")),
  init_vector_bank_bound: key(0.02, float()),
  init_logits_std: key(0.1, float()),
});
type Config = MethodConfig<typeof schema>;

const shared: SharedParameters<Config> = {
  files: { bank: "vblora_vector_bank" },
  parameters: (_, { numVectors, vectorLength }) => ({ bank: { shape: [numVectors, vectorLength] } }),
  initialise: (_, { numVectors, vectorLength, initVectorBankBound: bound }, random) => ({
    bank: random.uniform(numVectors * vectorLength, -bound, bound),
  }),
};

/** [..., h] logits to the mixtures [..., b]. */
function mixtures(logits: Tensor, bank: Tensor, k: number): Tensor {
  const { values, indices } = topk(logits, k);
  const weights = softmax(values);
  return sum(mul(take(bank, indices), reshape(weights, [...weights.shape, 1])), -2);
}

/** VB-LoRA: `vblora({ r: 4, numVectors: 256, vectorLength: 256, targetModules: ["q_proj"] })`. */
export const vblora = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2405.15179"],
  formula: "W + B·A, made of shared vectors",
  keys: ["r", "numVectors", "vectorLength", "topk", "vbloraDropout", "bias", "initVectorBankBound", "initLogitsStd"],
  check({ topk: k, numVectors }) {
    if (k > numVectors)
      throw new ConfigError(`\`topk\` (= ${k}) must not be more than \`numVectors\` (= ${numVectors}).`, {
        operation: "vblora",
        got: k,
      });
  },
  shared,
  layers: {
    linear: linearChange<Config, "A" | "B", never, "bank">({
      files: { A: "vblora_logits_A", B: "vblora_logits_B" },
      parameters({ in: into, out, path }, { r, numVectors: h, vectorLength: b }) {
        if (into % b !== 0 || out % b !== 0)
          throw new ConfigError(`${path} is [${out}, ${into}], which \`vectorLength\` (= ${b}) does not divide.`, {
            operation: "attach",
            got: b,
          });
        return { A: { shape: [r, into / b, h] }, B: { shape: [out / b, r, h] } };
      },
      initialise: ({ in: into, out }, { r, numVectors: h, vectorLength: b, initLogitsStd }, random) => ({
        values: {
          A: random.normal((r * into * h) / b, 0, initLogitsStd),
          B: random.normal((r * out * h) / b, 0, initLogitsStd),
        },
      }),
      delta({ in: into, out }, { A, B, bank }, { r, topk: k }, scale) {
        const low = reshape(mixtures(A, bank, k), [r, into]);
        const high = reshape(transpose(mixtures(B, bank, k)), [out, r]);
        return times(matmul(high, low), scale);
      },
      dropout: ({ vbloraDropout }) => vbloraDropout,
    }),
  },
  samples(draw, { in: into, out }) {
    const vectorLength = [4, 3, 2].find((n) => into % n === 0 && out % n === 0) ?? 1;
    return { r: draw.integer(1, 3), vectorLength, numVectors: draw.integer(3, 6), topk: draw.integer(1, 3) };
  },
});
