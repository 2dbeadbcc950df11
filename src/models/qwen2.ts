/** Qwen2: a Llama with biases on queries, keys and values; upper layers may have a sliding window. @see https://arxiv.org/abs/2407.10671 */
import type { ConfigReader } from "./config-reader.ts";
import { sequenceClassifier, tokenClassifier } from "./family.ts";
import { type LlamaFamilyMember, llamaCausalLM, llamaFamily, llamaQuestionAnswerer } from "./llama.ts";

/** Keys that Qwen2 and Qwen3 may leave out. */
export const qwenDefaults = { max_position_embeddings: 32768, sliding_window: 4096, max_window_layers: 28 };

/** Windows of the layers from `max_window_layers` on, if there are any. */
export function qwenWindows(config: ConfigReader, layers: number): readonly number[] {
  const used = config.flag("use_sliding_window", false) && config.get("sliding_window") !== undefined;
  return used
    ? config.windows(layers, (i) => i >= config.number("max_window_layers", layers))
    : new Array<number>(layers).fill(0);
}

const qwen2: LlamaFamilyMember = {
  modelType: "qwen2",
  defaults: qwenDefaults,
  read: (config, { numHiddenLayers }) => ({
    attentionBias: true,
    outputBias: false,
    windows: qwenWindows(config, numHiddenLayers),
  }),
};

/** A Qwen2 that predicts the next token. */
export const Qwen2ForCausalLM = llamaCausalLM("Qwen2ForCausalLM", qwen2);

/** A Qwen2 that classifies texts. */
export const Qwen2ForSequenceClassification = sequenceClassifier("Qwen2ForSequenceClassification", llamaFamily(qwen2));

/** A Qwen2 that classifies every token. */
export const Qwen2ForTokenClassification = tokenClassifier("Qwen2ForTokenClassification", llamaFamily(qwen2), "score");

/** A Qwen2 that extracts the answer to a question from a text. */
export const Qwen2ForQuestionAnswering = llamaQuestionAnswerer("Qwen2ForQuestionAnswering", qwen2);
