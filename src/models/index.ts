/** `lorikeet/models`: models built from a Hugging Face `config.json`. */
import "../devices/choose.ts";
import "../tensor/methods.ts";

export { type CacheSizes, KeyValueCache } from "./cache.ts";
export type { CausalLM, CausalLMInputs, CausalLMOutput, TextInputs } from "./causal-lm.ts";
export { LlamaForCausalLM } from "./llama.ts";
export { type ConfigJson, type LlamaConfig, llamaConfig } from "./llama-config.ts";
export { createModel, models } from "./registry.ts";
