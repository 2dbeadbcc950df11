/** One batch whose rows are for different adapters: taken apart by name and put together again. */
import { currentDevice, upload } from "../compile/program.ts";
import { ConfigError, ShapeError } from "../errors.ts";
import { concatenate } from "../graph/composite.ts";
import { take } from "../graph/indexing.ts";
import { expand, reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import type { Setting } from "../graph/variable.ts";
import type { Reading } from "./invocation.ts";
import type { Router } from "./router/router.ts";

/** In place of an adapter's name: the row is for the base model. */
export const baseRow = "__base__";

/** What all adapted places of a model look at when they run. */
export interface Scope {
  /** While true, every layer is what it was without adapters. */
  readonly off: Setting<boolean>;
  /** While there are names, row i of a batch is for the i-th of them, whichever adapters are active. */
  readonly rows: Setting<readonly string[] | null>;
  /** While there are numbers, the i-th of them is the task of row i of a batch. */
  readonly tasks: Setting<readonly number[] | null>;
  /** What mixes the adapters that act, if something does. */
  router: Router | null;
  /** The texts that the model is reading, while it does. */
  reading: Reading | null;
}

/** [rows] int32; `null` where nothing was said. */
export function saidTasks({ tasks }: Scope): Tensor | null {
  const said = tasks.value;
  return said && upload(currentDevice(), Int32Array.from(said), [said.length], "int32");
}

/**
 * x with one row for each name. Positions come without a batch, as one vector for all rows; they get one.
 *
 * @param path of the place that takes x, for the error
 * @throws {ShapeError} for another number of rows
 */
export function batchOf(x: Tensor, names: readonly string[], path: string): Tensor {
  const operation = "withAdapters";
  if (x.rank === 1 && x.dtype === "int32") return expand(x, [names.length, ...x.shape]);
  if (path.endsWith("relative_attention_bias"))
    throw new ShapeError(`${path} is looked up for pairs of tokens, not for rows of the batch.`, {
      operation,
      got: x.shape,
      hint: "Only an adapter that leaves it alone can be chosen by row.",
    });
  if (x.shape[0] === names.length) return x;
  throw new ShapeError(`${path} runs on ${x.shape[0] ?? 0} rows, but ${names.length} adapter names were given.`, {
    operation,
    expected: names.length,
    got: x.shape,
    hint: "Give one name for each row of the batch.",
  });
}

/** What is thrown for a place that takes more than one tensor: the others are not known to have rows. */
export const severalInputs = (path: string, names: readonly string[]): ConfigError =>
  new ConfigError(`${path} takes more than one tensor, so what acts in it cannot be chosen by row.`, {
    operation: "withAdapters",
    got: names,
    hint: "Give the rows of each adapter a batch of their own.",
  });

/**
 * Runs the rows of each name on their own and puts the results back in the order of the batch.
 *
 * @param x [names.length, ...]
 * @param run gives y of the rows under one name; `pick` takes the same rows from another tensor
 */
export function byRow(
  x: Tensor,
  names: readonly string[],
  run: (rows: Tensor, name: string, pick: (whole: Tensor) => Tensor) => Tensor,
): Tensor {
  const groups = new Map<string, number[]>();
  names.forEach((name, row) => groups.set(name, [...(groups.get(name) ?? []), row]));
  const parts = [...groups].map(([name, rows]) => {
    const pick = (whole: Tensor) => takeRows(whole, rows);
    return run(pick(x), name, pick);
  });
  const order = [...groups.values()].flat();
  return takeRows(
    concatenate(parts, 0),
    names.map((_, row) => order.indexOf(row)),
  );
}

/** These rows of x, in this order. Rows that follow each other are a view. */
function takeRows(x: Tensor, rows: readonly number[]): Tensor {
  const first = rows[0] as number;
  if (rows.every((row, i) => row === first + i)) return sliceAxis(x, 0, first, first + rows.length);
  const index = upload(currentDevice(), Int32Array.from(rows), [rows.length], "int32");
  return reshape(take(reshape(x, [x.shape[0] as number, -1]), index), [rows.length, ...x.shape.slice(1)]);
}
