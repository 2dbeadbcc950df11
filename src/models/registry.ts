/** All models, by the `model_type` of their `config.json`. */
import type { Initializer } from "../nn/init.ts";
import {
  AlbertForMaskedLM,
  AlbertForQuestionAnswering,
  AlbertForSequenceClassification,
  AlbertForTokenClassification,
} from "./albert.ts";
import { BartForConditionalGeneration, MBartForConditionalGeneration } from "./bart.ts";
import {
  BartForQuestionAnswering,
  BartForSequenceClassification,
  MBartForQuestionAnswering,
  MBartForSequenceClassification,
} from "./bart-head.ts";
import { BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification } from "./bert.ts";
import {
  BloomForCausalLM,
  BloomForQuestionAnswering,
  BloomForSequenceClassification,
  BloomForTokenClassification,
} from "./bloom.ts";
import { Cohere2ForCausalLM, CohereForCausalLM } from "./cohere.ts";
import type { ConfigJson } from "./config-reader.ts";
import {
  DebertaV2ForMaskedLM,
  DebertaV2ForQuestionAnswering,
  DebertaV2ForSequenceClassification,
  DebertaV2ForTokenClassification,
} from "./deberta-v2.ts";
import {
  DistilBertForMaskedLM,
  DistilBertForQuestionAnswering,
  DistilBertForSequenceClassification,
  DistilBertForTokenClassification,
} from "./distilbert.ts";
import {
  ElectraForMaskedLM,
  ElectraForQuestionAnswering,
  ElectraForSequenceClassification,
  ElectraForTokenClassification,
} from "./electra.ts";
import {
  FalconForCausalLM,
  FalconForQuestionAnswering,
  FalconForSequenceClassification,
  FalconForTokenClassification,
} from "./falcon.ts";
import type { AnyFamily } from "./family.ts";
import { GemmaForCausalLM, GemmaForSequenceClassification, GemmaForTokenClassification } from "./gemma.ts";
import { Gemma2ForCausalLM, Gemma2ForSequenceClassification, Gemma2ForTokenClassification } from "./gemma2.ts";
import { Gemma3ForCausalLM, Gemma3TextForSequenceClassification } from "./gemma3.ts";
import {
  Glm4ForCausalLM,
  Glm4ForSequenceClassification,
  Glm4ForTokenClassification,
  GlmForCausalLM,
  GlmForSequenceClassification,
  GlmForTokenClassification,
} from "./glm.ts";
import {
  GPTNeoForCausalLM,
  GPTNeoForQuestionAnswering,
  GPTNeoForSequenceClassification,
  GPTNeoForTokenClassification,
} from "./gpt-neo.ts";
import {
  GPTNeoXForCausalLM,
  GPTNeoXForQuestionAnswering,
  GPTNeoXForSequenceClassification,
  GPTNeoXForTokenClassification,
} from "./gpt-neox.ts";
import { GptOssForCausalLM, GptOssForSequenceClassification, GptOssForTokenClassification } from "./gpt-oss.ts";
import { GPT2ForQuestionAnswering, GPT2ForSequenceClassification, GPT2ForTokenClassification, GPT2LMHeadModel } from "./gpt2.ts";
import { GPTJForCausalLM, GPTJForQuestionAnswering, GPTJForSequenceClassification } from "./gptj.ts";
import { GraniteForCausalLM } from "./granite.ts";
import { GraniteMoeForCausalLM } from "./granite-moe.ts";
import { Lfm2ForCausalLM } from "./lfm2.ts";
import {
  LlamaForCausalLM,
  LlamaForQuestionAnswering,
  LlamaForSequenceClassification,
  LlamaForTokenClassification,
} from "./llama.ts";
import {
  Ministral3ForCausalLM,
  Ministral3ForQuestionAnswering,
  Ministral3ForSequenceClassification,
  Ministral3ForTokenClassification,
} from "./ministral3.ts";
import {
  MistralForCausalLM,
  MistralForQuestionAnswering,
  MistralForSequenceClassification,
  MistralForTokenClassification,
} from "./mistral.ts";
import {
  MixtralForCausalLM,
  MixtralForQuestionAnswering,
  MixtralForSequenceClassification,
  MixtralForTokenClassification,
} from "./mixtral.ts";
import {
  ModernBertForMaskedLM,
  ModernBertForQuestionAnswering,
  ModernBertForSequenceClassification,
  ModernBertForTokenClassification,
} from "./modernbert.ts";
import {
  MPNetForMaskedLM,
  MPNetForQuestionAnswering,
  MPNetForSequenceClassification,
  MPNetForTokenClassification,
} from "./mpnet.ts";
import { Olmo2ForCausalLM, Olmo2ForSequenceClassification } from "./olmo2.ts";
import { Olmo3ForCausalLM, Olmo3ForSequenceClassification } from "./olmo3.ts";
import { OlmoeForCausalLM } from "./olmoe.ts";
import { OPTForCausalLM, OPTForQuestionAnswering, OPTForSequenceClassification } from "./opt.ts";
import { PhiForCausalLM, PhiForSequenceClassification, PhiForTokenClassification } from "./phi.ts";
import { Phi3ForCausalLM, Phi3ForSequenceClassification, Phi3ForTokenClassification } from "./phi3.ts";
import {
  Qwen2ForCausalLM,
  Qwen2ForQuestionAnswering,
  Qwen2ForSequenceClassification,
  Qwen2ForTokenClassification,
} from "./qwen2.ts";
import {
  Qwen2MoeForCausalLM,
  Qwen2MoeForQuestionAnswering,
  Qwen2MoeForSequenceClassification,
  Qwen2MoeForTokenClassification,
} from "./qwen2-moe.ts";
import {
  Qwen3ForCausalLM,
  Qwen3ForQuestionAnswering,
  Qwen3ForSequenceClassification,
  Qwen3ForTokenClassification,
} from "./qwen3.ts";
import { Qwen3_5ForCausalLM, Qwen3_5TextForSequenceClassification } from "./qwen3-5.ts";
import {
  Qwen3MoeForCausalLM,
  Qwen3MoeForQuestionAnswering,
  Qwen3MoeForSequenceClassification,
  Qwen3MoeForTokenClassification,
} from "./qwen3-moe.ts";
import {
  Qwen3_5MoeForCausalLM,
  Qwen3NextForCausalLM,
  Qwen3NextForQuestionAnswering,
  Qwen3NextForSequenceClassification,
  Qwen3NextForTokenClassification,
} from "./qwen3-next.ts";
import {
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
import {
  SmolLM3ForCausalLM,
  SmolLM3ForQuestionAnswering,
  SmolLM3ForSequenceClassification,
  SmolLM3ForTokenClassification,
} from "./smollm3.ts";
import { StableLmForCausalLM, StableLmForSequenceClassification, StableLmForTokenClassification } from "./stablelm.ts";
import { Starcoder2ForCausalLM, Starcoder2ForSequenceClassification, Starcoder2ForTokenClassification } from "./starcoder2.ts";
import { MT5ForConditionalGeneration, T5ForConditionalGeneration, UMT5ForConditionalGeneration } from "./t5.ts";
import {
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
import type { ModelByTask, Task } from "./task.ts";
import { ViTForImageClassification } from "./vit.ts";

/** A class that builds a model from a config.json. */
export type ModelClass<T extends Task = Task> = (new (
  config: ConfigJson,
  options: { readonly init?: Initializer },
) => ModelByTask[T]) & { readonly family?: AnyFamily };

/** Classes by their names, whose ending says what they are for. */
interface ModelClasses {
  readonly [name: `${string}ForCausalLM` | `${string}LMHeadModel`]: ModelClass<"CausalLM">;
  readonly [name: `${string}ForMaskedLM`]: ModelClass<"MaskedLM">;
  readonly [name: `${string}ForSequenceClassification`]: ModelClass<"SequenceClassification">;
  readonly [name: `${string}ForTokenClassification`]: ModelClass<"TokenClassification">;
  readonly [name: `${string}ForQuestionAnswering`]: ModelClass<"QuestionAnswering">;
  readonly [name: `${string}ForImageClassification`]: ModelClass<"ImageClassification">;
  readonly [name: `${string}ForConditionalGeneration`]: ModelClass<"Seq2SeqLM">;
}

/** By `model_type`, the classes under their names at Hugging Face, the usual one first: one line makes a model loadable. */
export const models = {
  albert: { AlbertForMaskedLM, AlbertForQuestionAnswering, AlbertForSequenceClassification, AlbertForTokenClassification },
  bart: { BartForConditionalGeneration, BartForQuestionAnswering, BartForSequenceClassification },
  bert: { BertForMaskedLM, BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification },
  bloom: { BloomForCausalLM, BloomForQuestionAnswering, BloomForSequenceClassification, BloomForTokenClassification },
  camembert: {
    CamembertForMaskedLM,
    CamembertForQuestionAnswering,
    CamembertForSequenceClassification,
    CamembertForTokenClassification,
  },
  cohere: { CohereForCausalLM },
  cohere2: { Cohere2ForCausalLM },
  "deberta-v2": {
    DebertaV2ForMaskedLM,
    DebertaV2ForQuestionAnswering,
    DebertaV2ForSequenceClassification,
    DebertaV2ForTokenClassification,
  },
  distilbert: {
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
  },
  electra: { ElectraForMaskedLM, ElectraForQuestionAnswering, ElectraForSequenceClassification, ElectraForTokenClassification },
  falcon: { FalconForCausalLM, FalconForQuestionAnswering, FalconForSequenceClassification, FalconForTokenClassification },
  gemma: { GemmaForCausalLM, GemmaForSequenceClassification, GemmaForTokenClassification },
  gemma2: { Gemma2ForCausalLM, Gemma2ForSequenceClassification, Gemma2ForTokenClassification },
  gemma3_text: { Gemma3ForCausalLM, Gemma3TextForSequenceClassification },
  glm: { GlmForCausalLM, GlmForSequenceClassification, GlmForTokenClassification },
  glm4: { Glm4ForCausalLM, Glm4ForSequenceClassification, Glm4ForTokenClassification },
  gpt2: { GPT2LMHeadModel, GPT2ForQuestionAnswering, GPT2ForSequenceClassification, GPT2ForTokenClassification },
  gptj: { GPTJForCausalLM, GPTJForQuestionAnswering, GPTJForSequenceClassification },
  gpt_oss: { GptOssForCausalLM, GptOssForSequenceClassification, GptOssForTokenClassification },
  gpt_neo: { GPTNeoForCausalLM, GPTNeoForQuestionAnswering, GPTNeoForSequenceClassification, GPTNeoForTokenClassification },
  gpt_neox: { GPTNeoXForCausalLM, GPTNeoXForQuestionAnswering, GPTNeoXForSequenceClassification, GPTNeoXForTokenClassification },
  granite: { GraniteForCausalLM },
  lfm2: { Lfm2ForCausalLM },
  llama: { LlamaForCausalLM, LlamaForQuestionAnswering, LlamaForSequenceClassification, LlamaForTokenClassification },
  ministral3: {
    Ministral3ForCausalLM,
    Ministral3ForQuestionAnswering,
    Ministral3ForSequenceClassification,
    Ministral3ForTokenClassification,
  },
  mistral: { MistralForCausalLM, MistralForQuestionAnswering, MistralForSequenceClassification, MistralForTokenClassification },
  mixtral: { MixtralForCausalLM, MixtralForQuestionAnswering, MixtralForSequenceClassification, MixtralForTokenClassification },
  modernbert: {
    ModernBertForMaskedLM,
    ModernBertForQuestionAnswering,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
  },
  mbart: { MBartForConditionalGeneration, MBartForQuestionAnswering, MBartForSequenceClassification },
  mt5: { MT5ForConditionalGeneration, MT5ForQuestionAnswering, MT5ForSequenceClassification, MT5ForTokenClassification },
  mpnet: { MPNetForMaskedLM, MPNetForQuestionAnswering, MPNetForSequenceClassification, MPNetForTokenClassification },
  olmo2: { Olmo2ForCausalLM, Olmo2ForSequenceClassification },
  olmo3: { Olmo3ForCausalLM, Olmo3ForSequenceClassification },
  olmoe: { OlmoeForCausalLM },
  opt: { OPTForCausalLM, OPTForQuestionAnswering, OPTForSequenceClassification },
  phi: { PhiForCausalLM, PhiForSequenceClassification, PhiForTokenClassification },
  phi3: { Phi3ForCausalLM, Phi3ForSequenceClassification, Phi3ForTokenClassification },
  qwen2: { Qwen2ForCausalLM, Qwen2ForQuestionAnswering, Qwen2ForSequenceClassification, Qwen2ForTokenClassification },
  qwen3: { Qwen3ForCausalLM, Qwen3ForQuestionAnswering, Qwen3ForSequenceClassification, Qwen3ForTokenClassification },
  qwen3_moe: {
    Qwen3MoeForCausalLM,
    Qwen3MoeForQuestionAnswering,
    Qwen3MoeForSequenceClassification,
    Qwen3MoeForTokenClassification,
  },
  qwen3_5_text: { Qwen3_5ForCausalLM, Qwen3_5TextForSequenceClassification },
  qwen3_5_moe_text: { Qwen3_5MoeForCausalLM },
  qwen3_next: {
    Qwen3NextForCausalLM,
    Qwen3NextForQuestionAnswering,
    Qwen3NextForSequenceClassification,
    Qwen3NextForTokenClassification,
  },
  qwen2_moe: {
    Qwen2MoeForCausalLM,
    Qwen2MoeForQuestionAnswering,
    Qwen2MoeForSequenceClassification,
    Qwen2MoeForTokenClassification,
  },
  granitemoe: { GraniteMoeForCausalLM },
  roberta: { RobertaForMaskedLM, RobertaForQuestionAnswering, RobertaForSequenceClassification, RobertaForTokenClassification },
  smollm3: { SmolLM3ForCausalLM, SmolLM3ForQuestionAnswering, SmolLM3ForSequenceClassification, SmolLM3ForTokenClassification },
  stablelm: { StableLmForCausalLM, StableLmForSequenceClassification, StableLmForTokenClassification },
  starcoder2: { Starcoder2ForCausalLM, Starcoder2ForSequenceClassification, Starcoder2ForTokenClassification },
  t5: { T5ForConditionalGeneration, T5ForQuestionAnswering, T5ForSequenceClassification, T5ForTokenClassification },
  umt5: { UMT5ForConditionalGeneration, UMT5ForQuestionAnswering, UMT5ForSequenceClassification, UMT5ForTokenClassification },
  vit: { ViTForImageClassification },
  "xlm-roberta": {
    XLMRobertaForMaskedLM,
    XLMRobertaForQuestionAnswering,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
  },
} as const satisfies Record<string, ModelClasses>;
