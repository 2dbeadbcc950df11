/** Tokens and classes that a model does not have are found before a program runs on a batch, so that nothing is learned from them. */
import { ShapeError } from "../errors.ts";
import type { Tensor } from "../graph/node.ts";
import { ignoredLabel } from "../text/dataset.ts";
import type { Batch, Column, TrainableModel } from "./training-data.ts";

/** How many classes, or words, the logits of a model have; known once a program of it has been made. */
const classesOf = new WeakMap<TrainableModel, number>();

/** What configurations say of what goes in; models of other makers may say nothing. */
interface Known {
  readonly vocabSize?: number;
  readonly problemType?: string | null;
}

/** The loss of a model on these inputs, if it gives one; its number of classes is noted. */
export function lossAndClasses(model: TrainableModel, inputs: Readonly<Record<string, Tensor>>): Tensor | undefined {
  const { loss, logits } = model.forward(inputs as never) as { readonly loss?: Tensor; readonly logits?: Tensor };
  if (logits) classesOf.set(model, logits.shape[logits.rank - 1] as number);
  return loss;
}

/**
 * @param trace makes the program for such a batch without running it, where there is none yet
 * @throws {ShapeError} for a token outside of the vocabulary, and for a label that is neither a class nor −100
 */
export function checkBatch(operation: string, model: TrainableModel, { inputs }: Batch, trace: () => void): void {
  const { config } = model as TrainableModel & { readonly config?: Known };
  if (config === undefined) return;
  for (const name of ["inputIds", "decoderInputIds"]) check(operation, name, inputs[name], config.vocabSize, "token");
  const labels = inputs["targets"] ?? inputs["labels"];
  // numbers to be met, or a 0 or 1 for each class, are no classes
  if (!labels || (config.problemType ?? "single_label_classification") !== "single_label_classification") return;
  if (!classesOf.has(model)) trace();
  const classes = classesOf.get(model);
  if (classes !== 1) check(operation, "targets" in inputs ? "targets" : "labels", labels, classes, "class", ignoredLabel);
}

function check(
  operation: string,
  name: string,
  column: Column | undefined,
  count: number | undefined,
  what: "token" | "class",
  ignored?: number,
): void {
  if (!(column?.values instanceof Int32Array) || count === undefined) return;
  const wrong = column.values.find((value) => value !== ignored && !(value >= 0 && value < count));
  if (wrong === undefined) return;
  const row = Math.floor(column.values.indexOf(wrong) / (column.values.length / (column.shape[0] as number)));
  const hint =
    what === "token" ? "Use the tokenizer that belongs to the model." : `Rows that are not judged have ${ignoredLabel}.`;
  throw new ShapeError(
    `\`${name}\` holds ${wrong} in row ${row} of a batch; the model has ${count} ${what === "token" ? "tokens" : "classes"}, from 0 to ${count - 1}.`,
    { operation, expected: count, got: wrong, hint },
  );
}
