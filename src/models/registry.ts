/** The models there are, by the `model_type` of their `config.json`. */
import { ConfigError, nearestName, wordJson } from "../errors.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import type { Module } from "../nn/module.ts";
import type { CausalLM } from "./causal-lm.ts";
import type { ConfigJson } from "./config-reader.ts";
import { GemmaForCausalLM } from "./gemma.ts";
import { Gemma2ForCausalLM } from "./gemma2.ts";
import { GPT2ForSequenceClassification, GPT2LMHeadModel } from "./gpt2.ts";
import { GPTNeoXForCausalLM } from "./gpt-neox.ts";
import { LlamaForCausalLM } from "./llama.ts";
import { MistralForCausalLM } from "./mistral.ts";
import { OPTForCausalLM } from "./opt.ts";
import { PhiForCausalLM } from "./phi.ts";
import { Phi3ForCausalLM } from "./phi3.ts";
import { Qwen2ForCausalLM } from "./qwen2.ts";
import { Qwen3ForCausalLM } from "./qwen3.ts";

/** A class that builds a model from a config.json. */
type ModelClass = new (config: ConfigJson, options: { readonly init?: Initializer }) => Module;

/** By `model_type`, the classes under their names at Hugging Face, the usual one first: one line makes a model loadable. */
export const models = {
  gemma: { GemmaForCausalLM },
  gemma2: { Gemma2ForCausalLM },
  gpt2: { GPT2LMHeadModel, GPT2ForSequenceClassification },
  gpt_neox: { GPTNeoXForCausalLM },
  llama: { LlamaForCausalLM },
  mistral: { MistralForCausalLM },
  opt: { OPTForCausalLM },
  phi: { PhiForCausalLM },
  phi3: { Phi3ForCausalLM },
  qwen2: { Qwen2ForCausalLM },
  qwen3: { Qwen3ForCausalLM },
} as const satisfies Record<string, Record<string, ModelClass>>;

/**
 * Builds the model that a `config.json` describes.
 *
 * @typeParam Model what the caller expects it to be; one that continues text when absent
 * @param options.init first values of its matrices; zeros, for loading a checkpoint, when absent
 * @throws {ConfigError} when the model type or architecture is unknown, naming those there are
 */
export function createModel<Model extends Module = CausalLM>(
  config: ConfigJson,
  { init = zeros }: { readonly init?: Initializer } = {},
): Model {
  const type = config["model_type"];
  if (typeof type !== "string" || !Object.hasOwn(models, type)) {
    const near = typeof type === "string" ? nearestName(type, Object.keys(models)) : undefined;
    const problem = type === undefined ? "is missing" : `(= ${wordJson(type)}) is not supported`;
    throw new ConfigError(`\`model_type\` ${problem}.`, {
      operation: "createModel",
      expected: Object.keys(models),
      got: type,
      hint: near ? `Did you mean "${near}"?` : `There are ${Object.keys(models).join(", ")}.`,
    });
  }
  const classes: Readonly<Record<string, ModelClass>> = models[type as keyof typeof models];
  const names = Object.keys(classes);
  const [architecture = names[0]] = Array.isArray(config["architectures"]) ? config["architectures"] : [];
  const found = Object.hasOwn(classes, String(architecture)) ? classes[String(architecture)] : undefined;
  if (!found)
    throw new ConfigError(`architecture ${wordJson(architecture)} of ${type} is not supported.`, {
      operation: "createModel",
      expected: names,
      got: architecture,
      hint: `There are ${names.join(", ")}.`,
    });
  return new found(config, { init }) as Module as Model;
}
