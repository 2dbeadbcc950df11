/** Which task each row of a batch is for, where `taskIds` cannot stand beside the inputs: in generation. */
import { ConfigError, requireKind } from "../errors.ts";
import type { Module } from "../nn/module.ts";
import { adaptedModel } from "./adapted-model.ts";
import { afterwards } from "./disabled.ts";

const operation = "withTasks";

/**
 * Runs `body` with a task for each row of the batch, for adapters that have several (multitask prompt tuning, Poly), and puts everything
 * back. `taskIds` beside a model's inputs say the same of one call and go before it.
 *
 * @param tasks one for each row, counted from 0; one alone is that of all rows
 * @param body may be asynchronous
 * @returns what `body` gives
 * @throws {ConfigError} when there are none, or one is not a whole number from 0 on
 * @example
 * attach(model, poly({ r: 2, nTasks: 3 }));
 * const { logits } = withTasks(model, [2], () => model.forward({ inputIds }));
 */
export function withTasks<T>(model: Module, tasks: readonly number[], body: () => T): T {
  const { tasks: setting } = adaptedModel(model, operation);
  requireKind(operation, "a list", { tasks });
  if (tasks.length === 0 || !tasks.every((task) => Number.isSafeInteger(task) && task >= 0))
    throw new ConfigError("tasks are whole numbers from 0 on, one for each row.", { operation, got: tasks });
  const before = setting.stored;
  setting.value = [...tasks];
  return afterwards(operation, body, () => {
    setting.value = before;
  });
}
