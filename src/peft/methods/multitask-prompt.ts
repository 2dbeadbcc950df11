/**
 * Multitask prompt tuning: one table P of virtual tokens for all tasks, changed for task t by a matrix of low rank, P ⊙ (Cₜ·Rₜ) with Cₜ [q·n, r]
 * and Rₜ [r, C]. All three are trained and in the file; `taskIds` [B] beside the inputs say which task each text is for. It equals no LoRA.
 *
 * In models that answer a text with q = 2, the last n rows stand in front of the answer, too, when it is learned; as in PEFT not when it is
 * written.
 *
 * A prompt for one new task may start from a file of others (`promptTuningInit`): from their P alone with a new C and R, or with the mean of their
 * C and that of their R over the tasks, which is not the mean of C·R, or with those of one task. Like PEFT, the config keeps the path of that
 * file, and PEFT reads it again whenever it loads the adapter.
 */
import { ConfigError, ShapeError, wordShape } from "../../errors.ts";
import { choice, configSchema, integer, key, object, text } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { mul } from "../../graph/elementwise.ts";
import { take } from "../../graph/indexing.ts";
import { reshape } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { type Shape, sameShape, sizeOf } from "../../graph/shape.ts";
import { constant } from "../../graph/source.ts";
import { defineMethod, type Start } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { type PromptConfig, type PromptMethod, promptKeys } from "../prompt/prompt-method.ts";
import type { SourceTasks } from "../prompt/source-task.ts";
import { checkWordStart, startTable } from "./prompt-tuning.ts";

const schema = configSchema("MULTITASK_PROMPT_TUNING", "multitask_prompt_tuning_", {
  ...promptKeys,
  prompt_tuning_init: key("RANDOM", choice("TEXT", "RANDOM", "AVERAGE_SOURCE_TASKS", "EXACT_SOURCE_TASK", "ONLY_SOURCE_SHARED")),
  prompt_tuning_init_text: key(null, text),
  tokenizer_name_or_path: key(null, text),
  tokenizer_kwargs: key(null, object()),
  prompt_tuning_init_state_dict_path: key(null, text),
  prompt_tuning_init_task: key(0, integer(0)),
  num_ranks: key(1, integer(1)),
  num_tasks: key(1, integer(1)),
});
type Config = MethodConfig<typeof schema>;

const operation = "multitask_prompt_tuning";

const prompt: PromptMethod<Config> = {
  place: "inputs",
  inAnswers: true,
  tables({ numVirtualTokens, numTransformerSubmodules, tokenDim, numTasks, numRanks }) {
    const rows = numVirtualTokens * numTransformerSubmodules;
    return {
      prompt_embeddings: [rows, tokenDim],
      prefix_task_cols: [numTasks, rows, numRanks],
      prefix_task_rows: [numTasks, numRanks, tokenDim],
    };
  },
  initialise(config, random, words) {
    const table = startTable(config, random, words);
    const { prefix_task_cols: C, prefix_task_rows: R } = prompt.tables(config);
    const draw = (shape: readonly number[] = []) => random.normal(sizeOf(shape), 0, 0.02);
    const drawn = { prompt_embeddings: table, prefix_task_cols: draw(C), prefix_task_rows: draw(R) };
    return startsFromTasks(config) ? { ...drawn, ...learnedStart(config, words.learned()) } : drawn;
  },
  rows({ prompt_embeddings: P, prefix_task_cols: C, prefix_task_rows: R }, { numTasks }, { taskIds }) {
    if (!taskIds && numTasks > 1)
      throw new ConfigError(`\`taskIds\` must be given: which of ${numTasks} tasks each text is for.`, {
        operation,
        got: taskIds,
      });
    const ids = taskIds ?? constant(0, [1], "int32");
    const changed = mul(P as Tensor, matmul(take(C as Tensor, ids), take(R as Tensor, ids)));
    return taskIds ? changed : reshape(changed, (P as Tensor).shape);
  },
};

const sourceStarts = ["AVERAGE_SOURCE_TASKS", "EXACT_SOURCE_TASK", "ONLY_SOURCE_SHARED"];
const startsFromTasks = ({ promptTuningInit }: { readonly promptTuningInit: string }) => sourceStarts.includes(promptTuningInit);

/** First values from what other tasks have learned. @throws {ConfigError} when the file does not fit */
function learnedStart(config: Config & PromptConfig, learned: SourceTasks): Start["values"] {
  const { promptTuningInit: start, promptTuningInitTask: task } = config;
  const tables = prompt.tables(config);
  /** A table of the file, of this shape but for the number of tasks. */
  const table = (file: string, expected: Shape) => {
    const found = learned[file];
    if (!found) throw new ConfigError(`${file} is not in the file of source tasks.`, { operation, got: Object.keys(learned) });
    const { shape } = found;
    const fits = sameShape(expected.length === 3 ? [1, ...shape.slice(1)] : shape, expected);
    if (!fits)
      throw new ShapeError(`${file} of the source tasks is ${wordShape(shape)}, ${wordShape(expected)} is wanted.`, {
        operation,
        expected,
        got: shape,
        hint: "`numVirtualTokens`, `numRanks` and the base model must be those of the source.",
      });
    return found;
  };
  const P = { prompt_embeddings: table("prompt_embeddings", tables.prompt_embeddings).data };
  if (start === "ONLY_SOURCE_SHARED") return P;
  const ofTasks = (file: "prefix_task_cols" | "prefix_task_rows"): Float32Array => {
    const { shape, data } = table(file, tables[file] as Shape);
    const [count] = shape as [number];
    const size = data.length / count;
    if (start === "AVERAGE_SOURCE_TASKS")
      return Float32Array.from({ length: size }, (_, i) => {
        let sum = 0;
        for (let each = 0; each < count; each++) sum += data[each * size + i] as number;
        return sum / count;
      });
    if (task >= count)
      throw new ConfigError(`\`promptTuningInitTask\` (= ${task}) is not one of the ${count} source tasks, counted from 0.`, {
        operation,
        got: task,
      });
    return data.slice(task * size, (task + 1) * size);
  };
  return { ...P, prefix_task_cols: ofTasks("prefix_task_cols"), prefix_task_rows: ofTasks("prefix_task_rows") };
}

/** Multitask prompt tuning: `multitaskPrompt({ numVirtualTokens: 20, numTasks: 3 })`. */
export const multitaskPrompt = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2303.02861"],
  formula: "f([P ⊙ (Cₜ·Rₜ); E(ids)])",
  check(config) {
    checkWordStart(config, operation);
    const { promptTuningInit: start, promptTuningInitStateDictPath: path, numTasks, inferenceMode } = config;
    if (inferenceMode || !startsFromTasks(config)) return;
    if (path === null)
      throw new ConfigError(`\`promptTuningInitStateDictPath\` must be given with \`promptTuningInit: "${start}"\`.`, {
        operation,
        got: null,
        hint: "PEFT reads the source tasks from it; `attach` is given them as `sourceTasks`.",
      });
    if (start !== "ONLY_SOURCE_SHARED" && numTasks !== 1)
      throw new ConfigError(`\`promptTuningInit\` (= "${start}") starts one task, not \`numTasks\` (= ${numTasks}).`, {
        operation,
        got: numTasks,
      });
  },
  layers: {},
  prompt,
  samples: (draw) => ({ numVirtualTokens: draw.integer(1, 4), numRanks: draw.integer(1, 2), numTransformerSubmodules: 1 }),
});
