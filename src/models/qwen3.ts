/** Qwen3: a Llama that normalises queries and keys per head, with heads of their own size. @see https://arxiv.org/abs/2505.09388 */
import { sequenceClassifier, tokenClassifier } from "./family.ts";
import { type LlamaFamilyMember, llamaCausalLM, llamaFamily, llamaQuestionAnswerer } from "./llama.ts";
import { qwenDefaults, qwenWindows } from "./qwen2.ts";

const qwen3: LlamaFamilyMember = {
  modelType: "qwen3",
  defaults: { ...qwenDefaults, head_dim: 128 },
  read: (config, { numHiddenLayers }) => ({ queryKeyNorm: "head", windows: qwenWindows(config, numHiddenLayers) }),
};

/** A Qwen3 that predicts the next token. */
export const Qwen3ForCausalLM = llamaCausalLM("Qwen3ForCausalLM", qwen3);

/** A Qwen3 that classifies texts. */
export const Qwen3ForSequenceClassification = sequenceClassifier("Qwen3ForSequenceClassification", llamaFamily(qwen3));

/** A Qwen3 that classifies every token. */
export const Qwen3ForTokenClassification = tokenClassifier("Qwen3ForTokenClassification", llamaFamily(qwen3), "score");

/** A Qwen3 that extracts the answer to a question from a text. */
export const Qwen3ForQuestionAnswering = llamaQuestionAnswerer("Qwen3ForQuestionAnswering", qwen3);
