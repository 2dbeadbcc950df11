/**
 * Ministral 3: a Mistral whose attention scores grow with the query's position, a step for each original context length.
 * @see https://huggingface.co/mistralai/Ministral-3-8B-Base-2512
 */
import { add, cast, div, floor, log, mul } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { number } from "../graph/source.ts";
import { positionsAfter } from "./causal-lm.ts";
import type { RotaryPass } from "./decoder.ts";
import { questionAnswerer, sequenceClassifier, tokenClassifier } from "./family.ts";
import { gatedMLP, LlamaAttention, LlamaDecoderLayer, type LlamaFamilyMember, llamaCausalLM, llamaFamily } from "./llama.ts";
import type { LlamaConfig } from "./llama-config.ts";
import { mistralNames } from "./mistral.ts";

interface Ministral3Config extends LlamaConfig {
  /** β of 1 + β·ln(1 + ⌊position / length⌋), by which queries are multiplied; and the length. */
  readonly queryGrowth: number;
  readonly queryGrowthLength: number;
}

class Ministral3Attention extends LlamaAttention {
  protected override asked(q: Tensor, pass: RotaryPass): Tensor {
    const { queryGrowth: beta, queryGrowthLength: length } = this.config as Ministral3Config;
    const turned = super.asked(q, pass);
    if (beta === 0 || pass.length <= length) return turned;
    const positions = pass.positions ?? positionsAfter(0, q.shape[1] as number);
    const steps = floor(div(cast(positions, "float32"), number(q, length)));
    const scale = add(mul(log(add(steps, number(q, 1))), number(q, beta)), number(q, 1));
    return mul(turned, reshape(scale, [...positions.shape, 1, 1]));
  }
}

const ministral3: LlamaFamilyMember = {
  modelType: "ministral3",
  names: mistralNames,
  defaults: {
    num_key_value_heads: 8,
    head_dim: 128,
    max_position_embeddings: 262144,
    rms_norm_eps: 1e-5,
    pad_token_id: 11,
    rope_parameters: {
      rope_type: "yarn",
      rope_theta: 1e6,
      factor: 16,
      original_max_position_embeddings: 16384,
      mscale: 1,
      mscale_all_dim: 1,
      llama_4_scaling_beta: 0.1,
    },
  },
  read(config, { numHiddenLayers, maxPositionEmbeddings }) {
    const rope = config.inner("rope_parameters");
    const own: Partial<Ministral3Config> = {
      attentionBias: false,
      outputBias: false,
      windows: config.sameWindows(numHiddenLayers),
      queryGrowth: rope.number("llama_4_scaling_beta", 0),
      queryGrowthLength: rope.count("original_max_position_embeddings", maxPositionEmbeddings),
    };
    return own;
  },
  layer: (config, index, init) =>
    new LlamaDecoderLayer(config, new Ministral3Attention(config, index, init), gatedMLP(config, init)),
};

/** A Ministral 3 that predicts the next token. */
export const Ministral3ForCausalLM = llamaCausalLM("Ministral3ForCausalLM", ministral3);

/** A Ministral 3 that classifies texts. */
export const Ministral3ForSequenceClassification = sequenceClassifier(
  "Ministral3ForSequenceClassification",
  llamaFamily(ministral3),
);

/** A Ministral 3 that classifies every token. */
export const Ministral3ForTokenClassification = tokenClassifier(
  "Ministral3ForTokenClassification",
  llamaFamily(ministral3),
  "score",
);

/** A Ministral 3 that extracts the answer to a question from a text. */
export const Ministral3ForQuestionAnswering = questionAnswerer("Ministral3ForQuestionAnswering", llamaFamily(ministral3), {
  countsPadding: true,
});
