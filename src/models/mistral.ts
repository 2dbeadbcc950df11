/** Mistral: a Llama with sliding-window attention. @see https://arxiv.org/abs/2310.06825 */
import { questionAnswerer, sequenceClassifier, tokenClassifier } from "./family.ts";
import { type LlamaFamilyMember, llamaCausalLM, llamaFamily } from "./llama.ts";

/** Of checkpoints of what reads images, too, the text's part. */
export const mistralNames: NonNullable<LlamaFamilyMember["names"]> = {
  pathOf(path) {
    if (/^model\.(vision_tower|multi_modal_projector)\./.test(path)) return null;
    return path.replace(/^model\.language_model\.(model\.)?/, "model.").replace(/^model\.lm_head\./, "lm_head.");
  },
};

const mistral: LlamaFamilyMember = {
  modelType: "mistral",
  names: mistralNames,
  defaults: { num_key_value_heads: 8, sliding_window: 4096, max_position_embeddings: 131072 },
  read: (config, { numHiddenLayers: layers }) => ({
    attentionBias: false,
    outputBias: false,
    windows: config.sameWindows(layers),
  }),
};

/** A Mistral that predicts the next token. */
export const MistralForCausalLM = llamaCausalLM("MistralForCausalLM", mistral);

/** A Mistral that classifies texts. */
export const MistralForSequenceClassification = sequenceClassifier("MistralForSequenceClassification", llamaFamily(mistral));

/** A Mistral that classifies every token. */
export const MistralForTokenClassification = tokenClassifier("MistralForTokenClassification", llamaFamily(mistral), "score");

/** A Mistral that extracts the answer to a question from a text. */
export const MistralForQuestionAnswering = questionAnswerer("MistralForQuestionAnswering", llamaFamily(mistral), {
  countsPadding: true,
});
