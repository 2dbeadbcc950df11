/** `lorikeet/models`: models built from a Hugging Face `config.json`. */
import "../devices/choose.ts";
import "../tensor/methods.ts";

export {
  AlbertForMaskedLM,
  AlbertForQuestionAnswering,
  AlbertForSequenceClassification,
  AlbertForTokenClassification,
} from "./albert.ts";
export { BartForConditionalGeneration, MBartForConditionalGeneration } from "./bart.ts";
export { type BartConfig, bartConfig } from "./bart-config.ts";
export {
  BartForQuestionAnswering,
  BartForSequenceClassification,
  MBartForQuestionAnswering,
  MBartForSequenceClassification,
} from "./bart-head.ts";
export {
  type BertConfig,
  BertForMaskedLM,
  BertForQuestionAnswering,
  BertForSequenceClassification,
  BertForTokenClassification,
  bertConfig,
} from "./bert.ts";
export {
  BloomForCausalLM,
  BloomForQuestionAnswering,
  BloomForSequenceClassification,
  BloomForTokenClassification,
} from "./bloom.ts";
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
export { Cohere2ForCausalLM, CohereForCausalLM } from "./cohere.ts";
export type { ConfigJson, ProblemType } from "./config-reader.ts";
export { createModel } from "./create-model.ts";
export {
  DebertaV2ForMaskedLM,
  DebertaV2ForQuestionAnswering,
  DebertaV2ForSequenceClassification,
  DebertaV2ForTokenClassification,
} from "./deberta-v2.ts";
export { type DebertaV2Config, debertaV2Config } from "./deberta-v2-config.ts";
export {
  type DistilBertConfig,
  DistilBertForMaskedLM,
  DistilBertForQuestionAnswering,
  DistilBertForSequenceClassification,
  DistilBertForTokenClassification,
  distilBertConfig,
} from "./distilbert.ts";
export {
  ElectraForMaskedLM,
  ElectraForQuestionAnswering,
  ElectraForSequenceClassification,
  ElectraForTokenClassification,
} from "./electra.ts";
export type { EncoderInputs } from "./encoder.ts";
export {
  FalconForCausalLM,
  FalconForQuestionAnswering,
  FalconForSequenceClassification,
  FalconForTokenClassification,
} from "./falcon.ts";
export { GemmaForCausalLM, GemmaForSequenceClassification, GemmaForTokenClassification } from "./gemma.ts";
export { Gemma2ForCausalLM, Gemma2ForSequenceClassification, Gemma2ForTokenClassification } from "./gemma2.ts";
export { Gemma3ForCausalLM, Gemma3TextForSequenceClassification } from "./gemma3.ts";
export {
  Glm4ForCausalLM,
  Glm4ForSequenceClassification,
  Glm4ForTokenClassification,
  GlmForCausalLM,
  GlmForSequenceClassification,
  GlmForTokenClassification,
} from "./glm.ts";
export {
  type GPTNeoConfig,
  GPTNeoForCausalLM,
  GPTNeoForQuestionAnswering,
  GPTNeoForSequenceClassification,
  GPTNeoForTokenClassification,
  gptNeoConfig,
} from "./gpt-neo.ts";
export {
  type GPTNeoXConfig,
  GPTNeoXForCausalLM,
  GPTNeoXForQuestionAnswering,
  GPTNeoXForSequenceClassification,
  GPTNeoXForTokenClassification,
  gptNeoXConfig,
} from "./gpt-neox.ts";
export { GptOssForCausalLM, GptOssForSequenceClassification, GptOssForTokenClassification } from "./gpt-oss.ts";
export {
  type GPT2Config,
  GPT2ForQuestionAnswering,
  GPT2ForSequenceClassification,
  GPT2ForTokenClassification,
  GPT2LMHeadModel,
  gpt2Config,
} from "./gpt2.ts";
export { GPTJForCausalLM, GPTJForQuestionAnswering, GPTJForSequenceClassification } from "./gptj.ts";
export { GraniteForCausalLM } from "./granite.ts";
export { GraniteMoeForCausalLM } from "./granite-moe.ts";
export { Lfm2ForCausalLM } from "./lfm2.ts";
export {
  LlamaForCausalLM,
  LlamaForQuestionAnswering,
  LlamaForSequenceClassification,
  LlamaForTokenClassification,
} from "./llama.ts";
export { type LlamaConfig, llamaConfig } from "./llama-config.ts";
export {
  Ministral3ForCausalLM,
  Ministral3ForQuestionAnswering,
  Ministral3ForSequenceClassification,
  Ministral3ForTokenClassification,
} from "./ministral3.ts";
export {
  MistralForCausalLM,
  MistralForQuestionAnswering,
  MistralForSequenceClassification,
  MistralForTokenClassification,
} from "./mistral.ts";
export {
  MixtralForCausalLM,
  MixtralForQuestionAnswering,
  MixtralForSequenceClassification,
  MixtralForTokenClassification,
} from "./mixtral.ts";
export {
  type ModernBertConfig,
  ModernBertForMaskedLM,
  ModernBertForQuestionAnswering,
  ModernBertForSequenceClassification,
  ModernBertForTokenClassification,
  modernBertConfig,
} from "./modernbert.ts";
export {
  MPNetForMaskedLM,
  MPNetForQuestionAnswering,
  MPNetForSequenceClassification,
  MPNetForTokenClassification,
} from "./mpnet.ts";
export { Olmo2ForCausalLM, Olmo2ForSequenceClassification } from "./olmo2.ts";
export { Olmo3ForCausalLM, Olmo3ForSequenceClassification } from "./olmo3.ts";
export { OlmoeForCausalLM } from "./olmoe.ts";
export { type OPTConfig, OPTForCausalLM, OPTForQuestionAnswering, OPTForSequenceClassification, optConfig } from "./opt.ts";
export { type PhiConfig, PhiForCausalLM, PhiForSequenceClassification, PhiForTokenClassification, phiConfig } from "./phi.ts";
export { Phi3ForCausalLM, Phi3ForSequenceClassification, Phi3ForTokenClassification } from "./phi3.ts";
export {
  Qwen2ForCausalLM,
  Qwen2ForQuestionAnswering,
  Qwen2ForSequenceClassification,
  Qwen2ForTokenClassification,
} from "./qwen2.ts";
export {
  Qwen2MoeForCausalLM,
  Qwen2MoeForQuestionAnswering,
  Qwen2MoeForSequenceClassification,
  Qwen2MoeForTokenClassification,
} from "./qwen2-moe.ts";
export {
  Qwen3ForCausalLM,
  Qwen3ForQuestionAnswering,
  Qwen3ForSequenceClassification,
  Qwen3ForTokenClassification,
} from "./qwen3.ts";
export { Qwen3_5ForCausalLM, Qwen3_5TextForSequenceClassification } from "./qwen3-5.ts";
export {
  Qwen3MoeForCausalLM,
  Qwen3MoeForQuestionAnswering,
  Qwen3MoeForSequenceClassification,
  Qwen3MoeForTokenClassification,
} from "./qwen3-moe.ts";
export {
  Qwen3_5MoeForCausalLM,
  Qwen3NextForCausalLM,
  Qwen3NextForQuestionAnswering,
  Qwen3NextForSequenceClassification,
  Qwen3NextForTokenClassification,
} from "./qwen3-next.ts";
export { models } from "./registry.ts";
export {
  CamembertForMaskedLM,
  CamembertForQuestionAnswering,
  CamembertForSequenceClassification,
  CamembertForTokenClassification,
  RobertaForMaskedLM,
  RobertaForQuestionAnswering,
  RobertaForSequenceClassification,
  RobertaForTokenClassification,
  XLMRobertaForMaskedLM,
  XLMRobertaForQuestionAnswering,
  XLMRobertaForSequenceClassification,
  XLMRobertaForTokenClassification,
} from "./roberta.ts";
export type { ReadInputs, Seq2SeqInputs, Seq2SeqLM, Seq2SeqOutput } from "./seq2seq-lm.ts";
export {
  SmolLM3ForCausalLM,
  SmolLM3ForQuestionAnswering,
  SmolLM3ForSequenceClassification,
  SmolLM3ForTokenClassification,
} from "./smollm3.ts";
export { StableLmForCausalLM, StableLmForSequenceClassification, StableLmForTokenClassification } from "./stablelm.ts";
export { Starcoder2ForCausalLM, Starcoder2ForSequenceClassification, Starcoder2ForTokenClassification } from "./starcoder2.ts";
export { MT5ForConditionalGeneration, T5ForConditionalGeneration, UMT5ForConditionalGeneration } from "./t5.ts";
export { type T5Config, t5Config } from "./t5-config.ts";
export {
  MT5ForQuestionAnswering,
  MT5ForSequenceClassification,
  MT5ForTokenClassification,
  T5ForQuestionAnswering,
  T5ForSequenceClassification,
  T5ForTokenClassification,
  UMT5ForQuestionAnswering,
  UMT5ForSequenceClassification,
  UMT5ForTokenClassification,
} from "./t5-head.ts";
export {
  type FeatureExtractor,
  type ImageClassifier,
  type ImageInputs,
  type MaskedLM,
  type ModelByTask,
  type QuestionAnswerer,
  type QuestionInputs,
  type QuestionOutput,
  type SequenceClassifier,
  type SequenceInputs,
  type Task,
  type TokenClassifier,
  type TokenInputs,
  type TokenOutput,
  taskOf,
} from "./task.ts";
export { type ViTConfig, ViTForImageClassification, vitConfig } from "./vit.ts";
