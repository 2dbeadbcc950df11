/** BLOOM: Falcon's sequential block with linear biases (ALiBi) and a norm of the embeddings. @see https://arxiv.org/abs/2211.05100 */
import { alibi } from "./alibi.ts";
import { type FalconConfig, falconLike } from "./falcon.ts";
import { questionAnswerer, sequenceClassifier, tokenClassifier } from "./family.ts";
import { type LlamaFamilyMember, llamaCausalLM, llamaFamily } from "./llama.ts";

const bloom: LlamaFamilyMember = {
  ...falconLike,
  modelType: "bloom",
  parts: { ...falconLike.parts, embeddingNorm: "word_embeddings_layernorm" },
  keys: { hidden_size: "n_embed", num_hidden_layers: "n_layer", num_attention_heads: "n_head" },
  defaults: { hidden_dropout: 0, tie_word_embeddings: true },
  read(config, { numAttentionHeads, numHiddenLayers, hiddenSize }) {
    const dropout = config.probability("hidden_dropout", 0);
    const own: Partial<FalconConfig> = {
      normType: "layer",
      rmsNormEps: config.number("layer_norm_epsilon", 1e-5),
      numKeyValueHeads: numAttentionHeads,
      intermediateSize: 4 * hiddenSize,
      hiddenAct: "gelu_pytorch_tanh",
      attentionBias: true,
      outputBias: true,
      mlpBias: true,
      residualDropout: dropout,
      betweenDropout: dropout,
      residualIsNormed: config.flag("apply_residual_connection_post_layernorm", false),
      parallelResidual: false,
      twoNorms: false,
      alibi: true,
      layerRopes: new Array<null>(numHiddenLayers).fill(null),
    };
    return own;
  },
  scoreBias: ({ numAttentionHeads }, { attention: { keyMask } }, keys) =>
    alibi(numAttentionHeads, keyMask?.shape[1] ?? keys, keyMask),
};

/** A BLOOM that predicts the next token. */
export const BloomForCausalLM = llamaCausalLM("BloomForCausalLM", bloom);

/** A BLOOM that classifies texts. */
export const BloomForSequenceClassification = sequenceClassifier("BloomForSequenceClassification", llamaFamily(bloom));

/** A BLOOM that classifies every token. */
export const BloomForTokenClassification = tokenClassifier("BloomForTokenClassification", llamaFamily(bloom), "classifier");

/** A BLOOM that extracts the answer to a question from a text. */
export const BloomForQuestionAnswering = questionAnswerer("BloomForQuestionAnswering", llamaFamily(bloom), {
  countsPadding: true,
});
