/**
 * Multitask prompt tuning: one table P of virtual tokens for all tasks, changed for task t by a matrix of low rank, P ⊙ (Cₜ·Rₜ) with Cₜ [q·n, r]
 * and Rₜ [r, C]. All three are trained and in the file; `taskIds` [B] beside the inputs say which task each text is for. It equals no LoRA.
 *
 * In models that answer a text with q = 2, the last n rows stand in front of the answer, too, when it is learned; as in PEFT not when it is
 * written. PEFT starts a target from a file of source tasks; here the source adapter is loaded and trained further.
 */
import { ConfigError } from "../../errors.ts";
import { choice, configSchema, integer, key, object, text } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { mul } from "../../graph/elementwise.ts";
import { take } from "../../graph/indexing.ts";
import { reshape } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { sizeOf } from "../../graph/shape.ts";
import { constant } from "../../graph/source.ts";
import { defineMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { type PromptMethod, promptKeyNames, promptKeys } from "../prompt/prompt-method.ts";
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
    if (config.promptTuningInit !== "TEXT" && config.promptTuningInit !== "RANDOM")
      throw new ConfigError(
        `\`promptTuningInit\` (= "${config.promptTuningInit}") reads a file of source tasks, which attach does not.`,
        {
          operation,
          got: config.promptTuningInit,
          hint: "Load the source adapter with `trainable: true`.",
        },
      );
    const table = startTable(config, random, words);
    const { prefix_task_cols: C, prefix_task_rows: R } = prompt.tables(config);
    const draw = (shape: readonly number[] = []) => random.normal(sizeOf(shape), 0, 0.02);
    return { prompt_embeddings: table, prefix_task_cols: draw(C), prefix_task_rows: draw(R) };
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

/** Multitask prompt tuning: `multitaskPrompt({ numVirtualTokens: 20, numTasks: 3 })`. */
export const multitaskPrompt = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2303.02861"],
  formula: "f([P ⊙ (Cₜ·Rₜ); E(ids)])",
  keys: [
    ...promptKeyNames,
    ...(["promptTuningInit", "promptTuningInitText", "tokenizerNameOrPath", "tokenizerKwargs"] as const),
    ...(["promptTuningInitStateDictPath", "promptTuningInitTask", "numRanks", "numTasks"] as const),
  ],
  check: (config) => checkWordStart(config, operation),
  layers: {},
  prompt,
  samples: (draw) => ({ numVirtualTokens: draw.integer(1, 4), numRanks: draw.integer(1, 2), numTransformerSubmodules: 1 }),
});
