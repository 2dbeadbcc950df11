/** `lorikeet/models`: models built from a Hugging Face `config.json`. */
import "../devices/choose.ts";
import "../tensor/methods.ts";

export { type BertConfig, BertForMaskedLM, BertForSequenceClassification, bertConfig } from "./bert.ts";
export { type CacheSizes, KeyValueCache } from "./cache.ts";
export type {
  Backbone,
  CausalLM,
  CausalLMInputs,
  CausalLMOutput,
  ModelSizes,
  PastLayer,
  TextInputs,
  TextModel,
} from "./causal-lm.ts";
export type { ClassifierInputs, ClassifierOutput } from "./classifier.ts";
export type { ConfigJson, ProblemType } from "./config-reader.ts";
export {
  type DistilBertConfig,
  DistilBertForMaskedLM,
  DistilBertForSequenceClassification,
  DistilBertForTokenClassification,
  distilBertConfig,
} from "./distilbert.ts";
export type { EncoderInputs } from "./encoder.ts";
export { GemmaForCausalLM } from "./gemma.ts";
export { Gemma2ForCausalLM } from "./gemma2.ts";
export { type GPTNeoXConfig, GPTNeoXForCausalLM, gptNeoXConfig } from "./gpt-neox.ts";
export { type GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, gpt2Config } from "./gpt2.ts";
export { LlamaForCausalLM } from "./llama.ts";
export { type LlamaConfig, llamaConfig } from "./llama-config.ts";
export { MistralForCausalLM } from "./mistral.ts";
export { type OPTConfig, OPTForCausalLM, optConfig } from "./opt.ts";
export { type PhiConfig, PhiForCausalLM, phiConfig } from "./phi.ts";
export { Phi3ForCausalLM } from "./phi3.ts";
export { Qwen2ForCausalLM } from "./qwen2.ts";
export { Qwen3ForCausalLM } from "./qwen3.ts";
export { createModel, models } from "./registry.ts";
export { RobertaForSequenceClassification } from "./roberta.ts";
export type { ReadInputs, Seq2SeqInputs, Seq2SeqLM, Seq2SeqOutput } from "./seq2seq-lm.ts";
export { type T5Config, T5ForConditionalGeneration, t5Config } from "./t5.ts";
export {
  type ImageClassifier,
  type ImageInputs,
  type MaskedLM,
  type ModelByTask,
  type SequenceClassifier,
  type SequenceInputs,
  type Task,
  type TokenClassifier,
  type TokenInputs,
  type TokenOutput,
  taskOf,
} from "./task.ts";
export { type ViTConfig, ViTForImageClassification, vitConfig } from "./vit.ts";
