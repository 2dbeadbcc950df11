/** The `config.json` of a model that is loaded for something else than it was saved for. */
import { ConfigError, isRecord, requireOption, wordJson } from "../errors.ts";
import { isOfOutput, isOfPooler } from "./checkpoint-name.ts";
import type { ConfigJson } from "./config-reader.ts";
import { checkType, withoutOutputClass } from "./create-model.ts";
import { models } from "./registry.ts";
import { type Task, taskOf } from "./task.ts";

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
