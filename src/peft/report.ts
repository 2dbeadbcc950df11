/** How much of a model is trained. */
import { type Module, requireModule } from "../nn/module.ts";
/** What training changes, counted. */
export interface TrainableReport {
  /** Values that training changes. */
  readonly trainable: number;
  /** Values of the model with its adapters. */
  readonly total: number;
  readonly percent: number;
  /** `trainable params: 12,288 || all params: 1,234,567 || trainable%: 0.9953`, as PEFT prints it. */
  readonly text: string;
}

/** How many values of a model training changes, in numbers and as a sentence. */
export function trainableReport(model: Module): TrainableReport {
  requireModule("trainableReport", model);
  const [trainable, total] = [model.numParameters({ trainable: true }), model.numParameters()];
  const percent = total === 0 ? 0 : (100 * trainable) / total;
  const words = (count: number) => count.toLocaleString("en-US");
  const text = `trainable params: ${words(trainable)} || all params: ${words(total)} || trainable%: ${percent.toFixed(4)}`;
  return { trainable, total, percent, text };
}
