/** A model from its `config.json`: which class of the list it is, and what is refused. */
import { ConfigError, checkOptions, isRecord, nearestName, requireKind, wordJson } from "../errors.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import type { Module } from "../nn/module.ts";
import type { ConfigJson } from "./config-reader.ts";
import type { AnyFamily } from "./family.ts";
import { withoutOutput } from "./feature-extractor.ts";
import { type ModelClass, models } from "./registry.ts";
import { type ModelByTask, type Task, taskOf } from "./task.ts";

/** @throws {ConfigError} for a model type that there is not, naming those there are */
export function checkType(config: ConfigJson): keyof typeof models {
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
export function withoutOutputClass(config: ConfigJson): readonly [name: string, family: AnyFamily] {
  const type = config["model_type"] as keyof typeof models;
  const classes: Readonly<Record<string, ModelClass>> = models[type];
  for (const [name, { family }] of Object.entries(classes).reverse())
    if (family) return [family.nameAlone ?? name.replace(/(For[A-Z]|LMHead).*$/, "Model"), family];
  throw new ConfigError(`there is no ${type} for FeatureExtraction.`, {
    operation: "createModel",
    expected: Object.keys(classes),
    got: "FeatureExtraction",
    hint: `There are ${Object.keys(classes).join(", ")}.`,
  });
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
    task: "a string",
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
  // a checkpoint without the tied output layer, such as facebook/bart-base, but no encoder alone
  const isWithout = typeof given === "string" && taskOf(given) === "FeatureExtraction" && !given.endsWith("EncoderModel");
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
