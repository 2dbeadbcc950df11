/**
 * What changes an adapter during training besides the optimiser: a budget that is given out anew, factors that start again, parameters
 * that are frozen after a while. A method names one; see schedules/rank-budget.ts for an example. The trainer runs them, and so can any
 * other loop:
 *
 * ```ts
 * using schedules = beginSchedules(model);
 * const step = compile((inputIds: Tensor) => {
 *   const { loss } = model.forward({ inputIds, labels: inputIds });
 *   const gradients = gradientsOf(loss, parameters);
 *   optimizer.step(gradients);
 *   schedules.observe(gradients);
 *   return loss;
 * });
 * for (let t = 1; t <= steps; t++) {
 *   step(next());
 *   await schedules.advance(t);
 * }
 * ```
 */
import { FormatError, ShapeError, wordShape } from "../errors.ts";
import type { Tensor } from "../graph/node.ts";
import { sameShape } from "../graph/shape.ts";
import { assignAll, type Variable } from "../graph/variable.ts";
import type { Module } from "../nn/module.ts";
import type { Gradients } from "../optim/optimizer.ts";
import { type Adapter, adaptersOf } from "./adapted-model.ts";

/** A method's schedule. */
export interface MethodSchedule {
  /** Begins with an adapter that is about to be trained; `null` when there is nothing left to do with it. */
  begin(adapter: Adapter): RunningSchedule | null;
}

/** The schedule of one adapter while it is trained. */
export interface RunningSchedule extends Disposable {
  /**
   * A part of the training step, after the optimiser: keeps in variables what has to be known about the gradients. It builds graph only,
   * the same in every step, so that a compiled step stays as it is.
   */
  observe(gradients: Gradients): void;
  /** Between two steps: changes the adapter. @param step training steps done, from 1 */
  advance(step: number): Promise<void>;
  /** What it keeps, for checkpoints. */
  readonly variables: Readonly<Record<string, Variable>>;
  /** What else it keeps, as plain data. */
  readonly data: unknown;
  /** Goes on after `step` with what `data` was then; the variables have their values already. */
  resume(step: number, data: unknown): void;
}

/** The schedules of all adapters of a model that are trained. */
export class Schedules implements Disposable {
  readonly #running: ReadonlyMap<string, RunningSchedule>;

  constructor(running: ReadonlyMap<string, RunningSchedule>) {
    this.#running = running;
  }

  /** Part of the training step, after the optimiser. @param gradients what the optimiser was given */
  observe(gradients: Gradients): void {
    for (const schedule of this.#running.values()) schedule.observe(gradients);
  }

  /** Between two steps. @param step training steps done, from 1 */
  async advance(step: number): Promise<void> {
    for (const schedule of this.#running.values()) await schedule.advance(step);
  }

  /** All that they keep, for a checkpoint. */
  state(): { readonly tensors: Map<string, Tensor>; readonly data: Readonly<Record<string, unknown>> } {
    const tensors = new Map([...this.#variables()].map(([name, { stored }]) => [name, stored]));
    return { tensors, data: Object.fromEntries([...this.#running].map(([name, { data }]) => [name, data])) };
  }

  /**
   * Checks a state that `state` gave.
   *
   * @returns what puts it in place
   * @throws {FormatError} when a value is missing; @throws {ShapeError} when one has another shape
   */
  restoring(tensors: ReadonlyMap<string, Tensor>, data: Readonly<Record<string, unknown>>): (step: number) => void {
    const operation = "resume";
    const pairs = [...this.#variables()].map(([name, variable]) => {
      const value = tensors.get(name);
      if (!value)
        throw new FormatError(`"${name}" of an adapter's schedule is not in the checkpoint.`, { operation, expected: name });
      if (!sameShape(value.shape, variable.shape))
        throw new ShapeError(`"${name}" is ${wordShape(value.shape)} in the checkpoint, ${wordShape(variable.shape)} here.`, {
          operation,
          expected: variable.shape,
          got: value.shape,
        });
      return [variable, value] as const;
    });
    return (step) => {
      if (pairs.length > 0) assignAll(pairs);
      for (const [name, schedule] of this.#running) schedule.resume(step, data[name]);
    };
  }

  [Symbol.dispose](): void {
    for (const schedule of this.#running.values()) schedule[Symbol.dispose]();
  }

  *#variables(): Generator<[name: string, variable: Variable]> {
    for (const [adapter, { variables }] of this.#running)
      for (const [name, variable] of Object.entries(variables)) yield [`${adapter}.${name}`, variable];
  }
}

/** Begins the schedules of the active adapters that training reaches; there may be none. */
export function beginSchedules(model: Module): Schedules {
  const adapted = adaptersOf(model);
  const running = new Map<string, RunningSchedule>();
  for (const name of adapted?.active ?? []) {
    const adapter = adapted?.adapters.get(name) as Adapter;
    const schedule = adapter.trainable ? adapter.method.schedule?.begin(adapter) : null;
    if (schedule) running.set(name, schedule);
  }
  return new Schedules(running);
}
