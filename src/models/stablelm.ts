/**
 * StableLM: a Llama with layer norms, optionally one for both parts of a block, and rotary positions on a part of each head.
 * @see https://arxiv.org/abs/2402.17834
 */
import type { Tensor } from "../graph/node.ts";
import { dropout } from "../nn/dropout.ts";
import type { Initializer } from "../nn/init.ts";
import { GatedMLP } from "../nn/mlp.ts";
import { sequenceClassifier, tokenClassifier } from "./family.ts";
import { LlamaAttention, LlamaDecoderLayer, type LlamaFamilyMember, llamaCausalLM, llamaFamily } from "./llama.ts";
import type { LlamaConfig } from "./llama-config.ts";

/** The feed-forward part, behind which dropout is in training. */
class StableLmMLP extends GatedMLP {
  readonly #dropout: number;

  constructor({ hiddenSize, intermediateSize, hiddenAct, residualDropout }: LlamaConfig, init: Initializer) {
    super(hiddenSize, intermediateSize, { activation: hiddenAct, init });
    this.#dropout = residualDropout;
  }

  override forward(x: Tensor): Tensor {
    return dropout(super.forward(x), this.training ? this.#dropout : 0);
  }
}

const stablelm: LlamaFamilyMember = {
  modelType: "stablelm",
  partialRotary: true,
  defaults: { num_key_value_heads: 32, max_position_embeddings: 4096, partial_rotary_factor: 0.25 },
  // checkpoints have a norm for each head
  names: {
    partsOf(path, [heads = 0]) {
      const [, before, which] = /(.*)\.([qk])_norm\.weight$/.exec(path) ?? [];
      return which ? Array.from({ length: heads }, (_, i) => `${before}.${which}_layernorm.norms.${i}.weight`) : undefined;
    },
  },
  read: (config) => ({
    normType: "layer",
    rmsNormEps: config.number("layer_norm_eps", 1e-5),
    attentionBias: config.flag("use_qkv_bias", false),
    outputBias: false,
    queryKeyNorm: config.flag("qk_layernorm", false) ? "own head" : "none",
    parallelResidual: config.flag("use_parallel_residual", false),
    residualDropout: config.probability("hidden_dropout", 0),
  }),
  layer: (config, index, init) =>
    new LlamaDecoderLayer(
      { ...config, residualDropout: 0 },
      new LlamaAttention(config, index, init),
      new StableLmMLP(config, init),
    ),
};

/** A StableLM that predicts the next token. */
export const StableLmForCausalLM = llamaCausalLM("StableLmForCausalLM", stablelm);

/** A StableLM that classifies texts. */
export const StableLmForSequenceClassification = sequenceClassifier("StableLmForSequenceClassification", llamaFamily(stablelm));

/** A StableLM that classifies every token. */
export const StableLmForTokenClassification = tokenClassifier("StableLmForTokenClassification", llamaFamily(stablelm), "score");
