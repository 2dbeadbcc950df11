/**
 * Granite: a Llama with scale factors on the embeddings, on what each block adds, on attention scores and on logits.
 * @see https://huggingface.co/ibm-granite/granite-3.0-8b-base
 */
import type { ConfigReader } from "./config-reader.ts";
import { type LlamaFamilyMember, llamaCausalLM } from "./llama.ts";
import type { LlamaConfig } from "./llama-config.ts";

/** The factors of all of the family. @throws {ConfigError} for a `logits_scaling` of 0 */
export function graniteFactors(config: ConfigReader): Partial<LlamaConfig> {
  const divisor = config.number("logits_scaling", 1);
  if (divisor === 0) config.refuse("logits_scaling", divisor, "must be above 0");
  return {
    inputScale: config.number("embedding_multiplier", 1),
    residualScale: config.number("residual_multiplier", 1),
    attentionScale: config.number("attention_multiplier", 1),
    logitScale: 1 / divisor,
  };
}

const granite: LlamaFamilyMember = {
  modelType: "granite",
  read: (config) => ({ ...graniteFactors(config), mlpBias: config.flag("mlp_bias", false) }),
};

/** A Granite that predicts the next token. */
export const GraniteForCausalLM = llamaCausalLM("GraniteForCausalLM", granite);
