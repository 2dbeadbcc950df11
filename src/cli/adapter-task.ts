/** What adapters are for, as their folders say. */
import { ConfigError, under } from "../errors.ts";
import { type Folder, readJson } from "../formats/folder.ts";
import { openSource } from "../formats/model-source.ts";
import { readAdapter } from "../formats/peft-adapter.ts";
import { readSafetensors } from "../formats/safetensors.ts";
import type { Task } from "../models/task.ts";

/** An adapter's folder, and what its config says that another file depends on. */
export interface AdapterNote {
  readonly adapter: string;
  readonly folder: Folder;
  readonly config: { readonly base_model_name_or_path?: unknown; readonly task_type?: unknown };
}

const tasks: ReadonlyMap<unknown, Task> = new Map([
  ["CAUSAL_LM", "CausalLM"],
  ["SEQ_2_SEQ_LM", "Seq2SeqLM"],
  ["SEQ_CLS", "SequenceClassification"],
  ["TOKEN_CLS", "TokenClassification"],
  ["QUESTION_ANS", "QuestionAnswering"],
  ["FEATURE_EXTRACTION", "FeatureExtraction"],
]);

/** The last layer of a classifier that was saved along with an adapter. */
const savedHead = /(^|\.)(score|((classification_head|classifier)\.)?out_proj|classifier)(\.modules_to_save(\.\w+)?)?\.weight$/;

/** Opens adapters, each once: on the Hub that lists its files. */
export const notesOf = (adapters: readonly string[], operation: string): Promise<readonly AdapterNote[]> =>
  Promise.all(adapters.map((adapter) => noteOf(adapter, operation)));

/** The one model that adapters say they are for. @throws {ConfigError} when one does not say, or they do not agree */
export function baseOf(notes: readonly AdapterNote[], operation: string): string {
  const bases = new Set<string>();
  for (const { adapter, config } of notes) {
    const { base_model_name_or_path: base } = config;
    if (typeof base !== "string" || base === "")
      throw new ConfigError(`"${adapter}" does not name the model it is for.`, {
        operation,
        got: base,
        hint: "Say it with --model.",
      });
    bases.add(base);
  }
  return one(bases, operation, "name different models", "Say with --model which one is meant.") as string;
}

/**
 * The one task that adapters were trained for, and of how many classes the output layer is that one of them holds; `undefined` where
 * none says. Adapters of image classifiers hold one without a task.
 *
 * @param own what the model was saved for
 * @throws {ConfigError} when they do not agree
 */
export async function taskOfAdapters(
  notes: readonly AdapterNote[],
  operation: string,
  own: Task | undefined,
): Promise<{ readonly task: Task | undefined; readonly labels: number | undefined }> {
  const named = notes.map(({ config }) => tasks.get(config.task_type));
  const hint = "Take those that were trained for the same.";
  const task = one(new Set(named.filter((each) => each !== undefined)), operation, "are for different tasks", hint);
  const counts = await Promise.all(notes.map(classesIn));
  const labels = counts.find((count) => count !== undefined);
  const isOfImages = task === undefined && labels !== undefined && own === "FeatureExtraction";
  return { task: isOfImages ? "ImageClassification" : task, labels };
}

async function noteOf(adapter: string, operation: string): Promise<AdapterNote> {
  const [{ folder }, file] = [await openSource(adapter, operation), "adapter_config.json"];
  if (!folder.files.has(file)) await under(operation, () => readAdapter(adapter, [])); // says where there are some
  const config = ((await readJson(folder, file, operation)) as AdapterNote["config"] | null) ?? {};
  return { adapter, folder, config };
}

async function classesIn({ folder }: AdapterNote): Promise<number | undefined> {
  const file = "adapter_model.safetensors";
  if (!folder.files.has(file)) return undefined; // said by who loads it
  const { tensors } = await readSafetensors(await folder.open(file));
  const heads = [...tensors.values()].filter(({ name }) => savedHead.test(name));
  return (heads.find(({ name }) => name.includes("out_proj")) ?? heads[0])?.shape[0];
}

function one<Value>(values: ReadonlySet<Value>, operation: string, disagree: string, hint: string): Value | undefined {
  if (values.size < 2) return [...values][0];
  throw new ConfigError(`the adapters ${disagree}: ${[...values].map((value) => `"${value}"`).join(" and ")}.`, {
    operation,
    got: [...values],
    hint,
  });
}
