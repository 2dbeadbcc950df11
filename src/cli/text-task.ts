/** What the commands that train adapters on a text have in common: their options, and reading the model and the text. */
import type { Command } from "commander";
import { ConfigError, FormatError, LorikeetError } from "../errors.ts";
import type { QuantisedType } from "../nn/quantiser.ts";
import { corpusTitles, loadCorpus } from "../text/corpora.ts";
import { readUtf8, type TextDataset, textDataset } from "../text/dataset.ts";
import { fileDataset } from "../text/file-dataset.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { FinetuneOptions } from "../train/finetune.ts";
import type { LoadedModel } from "../train/load-model.ts";
import { openModel, quantiseOption, tinyModel } from "./model-option.ts";
import { path, positive, whole } from "./option.ts";
import { words } from "./quantity.ts";
import { say, shown } from "./terminal.ts";

/** A model, a text, and how long is trained. */
export interface TextTask {
  readonly model: string;
  readonly data?: string;
  readonly quantise?: QuantisedType;
  readonly targets: readonly string[];
  readonly steps: number;
  readonly batch: number;
  readonly window: number;
  readonly lr: number;
  readonly seed: number;
}

/** What texts may be. */
export const dataWords = "plain text, or JSON lines with `text` or chat `messages`";

/** Adds the options for what is trained, and on what. */
export const withSources = (command: Command): Command =>
  command
    .option("--model <folder>", "config.json, safetensors and tokenizer.json, as Hugging Face writes them", path, tinyModel)
    .option("--data <file>", `${dataWords}; the last tenth is held out (default: Moby-Dick)`, path)
    .addOption(quantiseOption());

/** Adds the options for the layers that are adapted. */
export const withTargets = (command: Command): Command =>
  command.option("--targets <modules...>", "layers to adapt, by name; or all-linear", ["all-linear"]);

/** Adds the options for how it is trained. */
export const withTraining = (command: Command): Command =>
  command
    .option("--steps <n>", "training steps", whole(), 300)
    .option("--batch <n>", "batch size", whole(), 8)
    .option("--window <n>", "tokens per row", whole(2), 128)
    .option("--lr <x>", "highest learning rate", positive, 4e-3)
    .option("--seed <n>", "seed for initial values, order of the text, and samples", whole(0), 0);

/** Names with commas between them, or given one by one. */
export const nameList = (texts: readonly string[]): string[] =>
  texts.flatMap((names) => names.split(",").map((name) => name.trim()));

/** How the trainer calls these options. */
export const trainingOf = ({ steps, batch, lr, seed }: TextTask): FinetuneOptions => ({
  steps,
  batchSize: batch,
  learningRate: lr,
  seed,
});

/** What a run is about, for people. */
export const aboutText = ({ data }: TextTask, { trainTokens, heldOutTokens }: TextDataset): string =>
  `${data ?? corpusTitles["moby-dick"]}: ${words(trainTokens.length)} tokens to learn from, ${words(heldOutTokens.length)} held out`;

/** What a run is about, for people. */
export const aboutModel = ({ model, quantise }: TextTask, parameters: number): string =>
  `${shown(model)}, ${words(parameters)} parameters${quantise ? ` as ${quantise}` : ""}`;

/**
 * Reads the model and the text.
 *
 * @param prompts with which samples are to begin
 * @throws {ConfigError} when they do not fit each other
 */
export async function readTask(
  operation: string,
  task: TextTask,
  prompts: readonly string[] = [],
): Promise<{ readonly loaded: LoadedModel; readonly dataset: TextDataset }> {
  const { data, window, seed, quantise } = task;
  say(`Reading ${data ?? corpusTitles["moby-dick"]} ...`);
  const read = await openData(operation, data); // before a large model takes its time
  const { loaded } = await openModel(operation, { model: task.model, ...(quantise && { quantise }) });
  const { tokenizer, config } = loaded;
  const vocabulary = Number(config["vocab_size"]);
  if (tokenizer.vocabularySize > vocabulary)
    throw new ConfigError(`the tokenizer has ${tokenizer.vocabularySize} tokens, the model ${vocabulary}.`, {
      operation,
      hint: "They are not of one model: use the tokenizer that came with the weights.",
    });
  const wordless = prompts.find((text) => tokenizer.encode(text).length === 0);
  if (wordless !== undefined)
    throw new ConfigError(`--prompt ${JSON.stringify(wordless)} has no token to begin with.`, {
      operation,
      hint: "Give one with a word in it.",
    });
  const dataset = read(tokenizer, { window, seed });
  if (dataset.heldOutTokens.length === 0)
    throw new ConfigError("the text is too short to hold a part of it out.", { operation, hint: "Give a longer one." });
  return { loaded, dataset };
}

/** Reads the text that a person names, or the one that comes with the package. @returns what makes rows of it */
export async function openData(
  operation: string,
  data: string | undefined,
): Promise<(tokenizer: Tokenizer, options: Parameters<typeof fileDataset>[3]) => TextDataset> {
  if (data === undefined) {
    const corpus = await loadCorpus("moby-dick");
    return (tokenizer, options) => textDataset(corpus, tokenizer, options);
  }
  if (/\.(csv|tsv|json)$/i.test(data))
    throw new ConfigError(`"${data}" is neither plain text nor JSON lines.`, {
      operation,
      got: data,
      hint: 'Save it as JSON lines, {"text": "…"} in each (.jsonl), or as .txt to take it as it stands.',
    });
  const content = readUtf8(data, operation);
  return (tokenizer, options) => {
    try {
      return fileDataset(data, content, tokenizer, options);
    } catch (error) {
      if (!(error instanceof LorikeetError)) throw error;
      const { problem, got, hint: other } = error;
      const [, hint = other] = waysOut.find(([pattern]) => pattern.test(problem)) ?? [];
      throw new FormatError(problem, { operation, got, ...(hint !== undefined && { hint }) });
    }
  };
}

/** What can be done at a command line, where the library speaks of options of its functions. */
const waysOut: readonly (readonly [RegExp, string])[] = [
  [/has no text under/, 'Write {"text": "…"} in each line, or {"messages": [{"role": "user", "content": "…"}, …]}.'],
  [/fewer than (one|a) row/, "Give more of it, or a smaller --window."],
  [/no chat template/, "Take a model that has one, or write a chat_template into its tokenizer_config.json."],
];
