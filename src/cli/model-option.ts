/** The model of a command line, and the adapters on it. */
import { fileURLToPath } from "node:url";
import { type Command, Option } from "commander";
import { ConfigError } from "../errors.ts";
import { wordFolder } from "../formats/folder.ts";
import { type OpenSource, openSource } from "../formats/model-source.ts";
import type { CausalLM } from "../models/causal-lm.ts";
import { type Task, taskOf } from "../models/task.ts";
import type { Module } from "../nn/module.ts";
import type { QuantisedType } from "../nn/quantiser.ts";
import { setActive } from "../peft/adapted-model.ts";
import { loadAdapter } from "../peft/adapter-file.ts";
import { type LoadedModel, type LoadModelOptions, loadModel, readConfig } from "../train/load-model.ts";
import { baseOf, notesOf, taskOfAdapters } from "./adapter-task.ts";
import { path, repeated } from "./option.ts";
import { say, shown } from "./terminal.ts";

/** The model that comes with the package. */
export const tinyModel = shown(fileURLToPath(new URL("../../../models/tiny", import.meta.url)));

/** As a person gives them. */
export interface ModelOptions {
  readonly model?: string;
  readonly adapter?: readonly string[];
  readonly quantise?: QuantisedType;
}

/** What a model may be for beside continuing a text: all that adapters are trained on. */
export const otherTasks: readonly Task[] = [
  "Seq2SeqLM",
  "MaskedLM",
  "SequenceClassification",
  "TokenClassification",
  "QuestionAnswering",
  "ImageClassification",
  "FeatureExtraction",
];

/** `--quantise`. */
export const quantiseOption = (): Option =>
  new Option("--quantise <type>", "quantise the model's weights, as QLoRA does").choices(["nf4", "fp4", "int8"]);

/** Adds `--model`, `--adapter` and `--quantise`. */
export const withModelOptions = (command: Command): Command =>
  command
    .option(
      "--model <folder>",
      "a folder as Hugging Face writes it, a GGUF file or a name on the Hub; when absent the one that the adapter names, or the tiny one",
      path,
    )
    .option("--adapter <folder>", "an adapter on it; given several times, all of them act together", repeated(path))
    .addOption(quantiseOption());

/**
 * The model that these options name, without the adapters, and what it is called. What adapters were trained for says what it is opened as,
 * where that is not writing: their classifier stands on a model that was saved as something else.
 *
 * @param operation the command, for errors
 * @param tasks what it may be for, beside continuing a text
 * @param dtype how its weights are kept; float32 when absent
 * @throws {ConfigError} for a model or an adapter that is for something else, and for an adapter in its place
 */
export async function openModel(
  operation: string,
  { model, adapter = [], quantise }: ModelOptions,
  { tasks = [], dtype }: { readonly tasks?: readonly Task[]; readonly dtype?: LoadModelOptions["dtype"] } = {},
): Promise<{ readonly name: string; readonly loaded: LoadedModel<CausalLM> }> {
  const notes = model === undefined ? await notesOf(adapter, operation) : undefined;
  const name = model ?? (notes?.length ? baseOf(notes, operation) : tinyModel);
  say(`Reading ${shown(name)} ...`);
  const source = await openSource(name, "loadModel").catch((error) => {
    if (model !== undefined || !(error instanceof ConfigError) || adapter.length === 0) throw error;
    const hint = "The adapter calls its model so; say with --model where it is.";
    throw new ConfigError(error.problem, { operation, got: name, hint });
  });
  const own = await taskIn(name, source, tasks);
  const { task: learned, labels } = await taskOfAdapters(notes ?? (await notesOf(adapter, operation)), operation, own);
  const isWriter = learned === undefined || learned === "CausalLM" || learned === "Seq2SeqLM";
  const task = (isWriter ? own : learned) ?? "CausalLM";
  if (task !== "CausalLM" && !tasks.includes(task))
    throw new ConfigError(`${isWriter ? shown(name) : adapter.join(", ")} is for ${task}, not for continuing a text.`, {
      operation,
      got: task,
      hint: isWriter
        ? "lorikeet embed makes embeddings with it; give a model that writes, such as Llama or GPT-2."
        : "lorikeet merge writes a model with it, for transformers.",
    });
  const { folder, file } = source;
  const keep = {
    ...(file !== undefined && { file }),
    ...(quantise && { quantise: { type: quantise } }),
    ...(dtype && { dtype }),
    ...(task !== own && labels !== undefined && { labels }),
  };
  return { name, loaded: (await loadModel(folder, { task, ...keep })) as LoadedModel<CausalLM> };
}

/** What the files of a model say it is for. */
async function taskIn(model: string, { folder, file }: OpenSource, tasks: readonly Task[]): Promise<Task | undefined> {
  if (!folder.files.has("config.json")) {
    if (!folder.files.has("adapter_config.json")) return undefined;
    const hint = "Give it as the adapter.";
    throw new ConfigError(`${wordFolder(folder)} is an adapter, not a model.`, {
      operation: "loadModel",
      got: model,
      hint,
    });
  }
  if (file?.endsWith(".gguf")) return undefined;
  const { architectures, is_encoder_decoder: answers } = await readConfig(folder);
  const [first]: unknown[] = [architectures].flat();
  const own = taskOf(String(first));
  // a checkpoint without the tied output layer, such as facebook/bart-base, can write all the same
  const isWithout = own === "FeatureExtraction" && !tasks.includes(own) && !String(first).endsWith("EncoderModel");
  return isWithout && answers === true ? "Seq2SeqLM" : own;
}

/**
 * Puts these adapters on a model, to act together.
 *
 * @returns their names on it
 * @throws {ConfigError} when one does not fit, or two would stand in for one module
 */
export async function putOn(model: Module, adapters: readonly string[]): Promise<string[]> {
  const names: string[] = [];
  for (const adapter of adapters) {
    const name = adapters.length > 1 ? nameFor(adapter, names) : "default";
    const { warnings } = await loadAdapter(model, adapter, { name });
    for (const warning of warnings) say(`Note: ${warning}`);
    names.push(name);
  }
  if (names.length > 1) setActive(model, names);
  return names;
}

/** What an adapter can be called on a model: a path without what names may not hold, and with a number where it is taken. */
function nameFor(adapter: string, taken: readonly string[]): string {
  const plain = adapter.replace(/^[./\\]+|[./\\]+$/g, "").replace(/[./\\:]+/g, "-") || "adapter";
  return taken.includes(plain) ? `${plain}-${taken.length + 1}` : plain;
}
