/** Gemma: a Llama with scaled embeddings, norms that multiply by 1 + w, and GeGLU. @see https://arxiv.org/abs/2403.08295 */
import { sequenceClassifier, tokenClassifier } from "./family.ts";
import { type LlamaFamilyMember, llamaCausalLM, llamaFamily } from "./llama.ts";

/** Keys that Gemma and Gemma 2 may leave out. */
export const gemmaDefaults = { head_dim: 256, tie_word_embeddings: true, max_position_embeddings: 8192, pad_token_id: 0 };

const gemma: LlamaFamilyMember = {
  modelType: "gemma",
  defaults: { ...gemmaDefaults, hidden_act: "gelu_pytorch_tanh" },
  read(config, { hiddenSize, hiddenAct }) {
    config.fixed("use_bidirectional_attention", false);
    return {
      unitOffset: true,
      embeddingScale: Math.sqrt(hiddenSize),
      // the first published files say gelu and mean its approximation, with which the models were trained
      hiddenAct: hiddenAct === "gelu" ? "gelu_pytorch_tanh" : hiddenAct,
    };
  },
};

/** A Gemma that predicts the next token. */
export const GemmaForCausalLM = llamaCausalLM("GemmaForCausalLM", gemma);

/** A Gemma that classifies texts. */
export const GemmaForSequenceClassification = sequenceClassifier("GemmaForSequenceClassification", llamaFamily(gemma));

/** A Gemma that classifies every token. */
export const GemmaForTokenClassification = tokenClassifier("GemmaForTokenClassification", llamaFamily(gemma), "score");
