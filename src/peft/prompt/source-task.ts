/** What multitask prompts of other tasks have learned, from which one for a new task may start. */
import { ConfigError, checkOptions } from "../../errors.ts";
import { pathIn } from "../../formats/folder.ts";
import { type ModelSource, openSource, type SourceOptions, sourceOptionRules } from "../../formats/model-source.ts";
import { readSafetensors } from "../../formats/safetensors.ts";
import { toFloat32 } from "../../graph/dtype.ts";
import type { Shape } from "../../graph/shape.ts";

/** The tables of a file: `prompt_embeddings`, and for each task a part of `prefix_task_cols` and `prefix_task_rows`. */
export type SourceTasks = Readonly<Record<string, { readonly shape: Shape; readonly data: Float32Array }>>;

const weightsFile = "adapter_model.safetensors";

/**
 * Reads the virtual tokens of other tasks, for `attach`'s `sourceTasks`.
 *
 * @param source the folder of an adapter, its adapter_model.safetensors or such a file of another name, a repository, or `{ files }`
 * @throws {ConfigError} when there is no such file; @throws {FormatError} when it is damaged
 * @example
 * const path = "adapters/source/adapter_model.safetensors"; // a file, for PEFT
 * const start = { promptTuningInit: "AVERAGE_SOURCE_TASKS", promptTuningInitStateDictPath: path } as const;
 * attach(model, multitaskPrompt({ numVirtualTokens: 20, ...start }), { sourceTasks: await readSourceTasks(path) });
 */
export async function readSourceTasks(source: ModelSource, options: SourceOptions = {}): Promise<SourceTasks> {
  const operation = "readSourceTasks";
  checkOptions(operation, options, sourceOptionRules);
  const { folder, file = weightsFile } = await openSource(source, operation, options);
  if (!file.endsWith(".safetensors"))
    throw new ConfigError(`${pathIn(folder, file)} is not a safetensors file.`, {
      operation,
      got: file,
      hint: "Pickles can run code and are not read; save it as safetensors.",
    });
  if (!folder.files.has(file))
    throw new ConfigError(`${pathIn(folder, file)} is not there.`, { operation, got: [...folder.files] });
  const { tensors } = await readSafetensors(await folder.open(file));
  const entries = [...tensors].map(async ([name, tensor]) => {
    return [name, { shape: tensor.shape, data: toFloat32(await tensor.load(), tensor.dtype) }] as const;
  });
  return Object.fromEntries(await Promise.all(entries));
}
