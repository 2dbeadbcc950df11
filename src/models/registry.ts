/** All models, by the `model_type` of their `config.json`. */
import { ConfigError, checkOptions, isRecord, nearestName, requireKind, requireOption, wordJson } from "../errors.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import type { Module } from "../nn/module.ts";
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
import { isOfOutput, isOfPooler } from "./checkpoint-name.ts";
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
import { withoutOutput } from "./feature-extractor.ts";
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
import { type ModelByTask, type Task, taskOf } from "./task.ts";
import { ViTForImageClassification } from "./vit.ts";

/** A class that builds a model from a config.json. */
type ModelClass<T extends Task = Task> = (new (
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
  mt5: { MT5ForConditionalGeneration },
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
  t5: { T5ForConditionalGeneration },
  umt5: { UMT5ForConditionalGeneration },
  vit: { ViTForImageClassification },
  "xlm-roberta": {
    XLMRobertaForMaskedLM,
    XLMRobertaForQuestionAnswering,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
  },
} as const satisfies Record<string, ModelClasses>;

/**
 * The `config.json` of the same model with an output layer for other classes, as transformers writes it.
 *
 * @param labels how many classes, or their names
 * @throws {ConfigError} for a task without classes, and when the model has no such output layer
 */
export function withLabels(config: ConfigJson, task: Task, labels: number | readonly string[]): ConfigJson {
  const operation = "loadModel";
  if (typeof labels === "number") requireOption(operation, "a whole number from 1 below 2³¹", "labels", labels);
  const names = typeof labels === "number" ? Array.from({ length: labels }, (_, i) => `LABEL_${i}`) : labels;
  if (!Array.isArray(names) || names.length === 0 || names.some((name) => typeof name !== "string"))
    throw new ConfigError(`\`labels\` (= ${wordJson(labels)}) must be how many classes there are, or a list of their names.`, {
      operation,
      got: labels,
    });
  const type = config["model_type"] as keyof typeof models;
  const found = Object.keys(Object.hasOwn(models, type) ? models[type] : {}).find((name) => taskOf(name) === task);
  if (!task.endsWith("Classification") || !found)
    throw new ConfigError(`\`labels\` are for classifiers, and ${type} has none for ${task}.`, {
      operation,
      got: task,
      hint: 'Say for which: { task: "SequenceClassification" }.',
    });
  const { num_labels, ...others } = config;
  return {
    ...others,
    architectures: [found],
    id2label: Object.fromEntries(names.map((name, i) => [i, name])),
    label2id: Object.fromEntries(names.map((name, i) => [name, i])),
  };
}

/** @throws {ConfigError} for a model type that there is not, naming those there are */
function checkType(config: ConfigJson): keyof typeof models {
  const type = config["model_type"];
  if (typeof type !== "string" || !Object.hasOwn(models, type)) {
    const near = typeof type === "string" ? nearestName(type, Object.keys(models)) : undefined;
    const { text_config: text } = config;
    const part = isRecord(text) && Object.hasOwn(models, String(text["model_type"])) && text["model_type"];
    const problem = type === undefined ? "is missing" : `(= ${wordJson(type)}) is not supported`;
    throw new ConfigError(`\`model_type\` ${problem}.`, {
      operation: "createModel",
      expected: Object.keys(models),
      got: type,
      hint: part
        ? `Its text part alone, saved as a ${part}, is.`
        : near
          ? `Did you mean "${near}"?`
          : `There are ${Object.keys(models).join(", ")}.`,
    });
  }
  return type as keyof typeof models;
}

/** The class by which a type's models are built without an output layer, and what they are called then. */
function withoutOutputClass(config: ConfigJson): readonly [name: string, family: AnyFamily] {
  const type = config["model_type"] as keyof typeof models;
  const classes: Readonly<Record<string, ModelClass>> = models[type];
  for (const [name, { family }] of Object.entries(classes).reverse())
    if (family) return [name.replace(/(For[A-Z]|LMHead).*$/, "Model"), family];
  throw new ConfigError(`there is no ${type} for FeatureExtraction.`, {
    operation: "createModel",
    expected: Object.keys(classes),
    got: "FeatureExtraction",
    hint: `There are ${Object.keys(classes).join(", ")}.`,
  });
}

/**
 * The `config.json` of the same model for a task that any checkpoint of its type will do for, where some or all of what stands behind
 * the layers is drawn: without an output layer, or with one that finds answers.
 *
 * @returns it, and which paths are drawn where the checkpoint has none; `undefined` where the checkpoint is for that task, and has all
 * @throws {ConfigError} when the type has no such model
 */
export function forTask(
  config: ConfigJson,
  task: Task,
): readonly [config: ConfigJson, isNew: (path: string) => boolean] | undefined {
  if (task === "FeatureExtraction") {
    checkType(config);
    return [{ ...config, architectures: [withoutOutputClass(config)[0]] }, isOfPooler];
  }
  if (task !== "QuestionAnswering") return undefined;
  const found = Object.keys(models[checkType(config)]).find((name) => taskOf(name) === task);
  const [given]: unknown[] = Array.isArray(config["architectures"]) ? config["architectures"] : [];
  if (!found || given === found) return undefined;
  const { num_labels, id2label, label2id, ...others } = config;
  return [{ ...others, architectures: [found] }, isOfOutput];
}

/** The type of the text part by that of the whole. */
const textTypes: ReadonlyMap<string, string> = new Map([
  ["qwen3_5", "qwen3_5_text"],
  ["qwen3_5_moe", "qwen3_5_moe_text"],
  ["mistral3", "mistral"],
]);

/** Of a model that reads images, too, the `config.json` of its text part, where that reads the whole checkpoint; any other as it is. */
export function textPart(config: ConfigJson): ConfigJson {
  const { model_type, text_config: text, tie_word_embeddings = false } = config;
  const type = typeof model_type === "string" ? textTypes.get(model_type) : undefined;
  return type && isRecord(text) ? { model_type: type, tie_word_embeddings, ...text } : config;
}

/**
 * Builds the model that a `config.json` describes.
 *
 * @param options.init first values of its matrices; zeros, for loading a checkpoint, when absent
 * @param options.task what the caller wants the model for; `"CausalLM"`, continuing a text, when absent
 * @throws {ConfigError} when the model type or architecture is unknown, naming those there are, or the model is for something else
 */
export function createModel<T extends Task = "CausalLM">(
  config: ConfigJson,
  options: { readonly init?: Initializer; readonly task?: T } = {},
): ModelByTask[T] {
  const { init = zeros, task } = checkOptions<{ init?: Initializer; task?: Task }>("createModel", options, {
    init: "a function",
    task: "a text",
  });
  requireKind("createModel", "an object", { config });
  const type = checkType(config);
  const classes: Readonly<Record<string, ModelClass>> = models[type];
  const names = Object.keys(classes);
  const wanted: Task = task ?? "CausalLM";
  // whatever output layer the checkpoint has
  if (wanted === "FeatureExtraction")
    return withoutOutput(withoutOutputClass(config)[1], config, init) as Module as ModelByTask[T];
  const usual = names.find((name) => taskOf(name) === wanted) ?? names[0];
  const [given = usual]: unknown[] = Array.isArray(config["architectures"]) ? config["architectures"] : [];
  // a checkpoint without the tied output layer, such as facebook/bart-base, of a type that has no model without it
  const isWithout = typeof given === "string" && taskOf(given) === "FeatureExtraction";
  const architecture = isWithout && usual && taskOf(usual) === wanted && wanted === "Seq2SeqLM" ? usual : given;
  const name = typeof architecture === "string" ? architecture : "";
  const found = Object.hasOwn(classes, name) ? classes[name] : undefined;
  const own = taskOf(name);
  if (!found && own !== "FeatureExtraction")
    throw new ConfigError(`architecture ${wordJson(architecture)} of ${type} is not supported.`, {
      operation: "createModel",
      expected: names,
      got: architecture,
      hint: `There are ${names.join(", ")}.`,
    });
  if (!found || own !== wanted)
    throw new ConfigError(`${name} is a model for ${own}, not for ${wanted}.`, {
      operation: "createModel",
      expected: wanted,
      got: own,
      hint: `Ask for it with { task: ${wordJson(own)} }${wanted.endsWith("Classification") ? ", or for a new output layer with { labels }" : ""}.`,
    });
  return new found(config, { init }) as ModelByTask[T];
}
