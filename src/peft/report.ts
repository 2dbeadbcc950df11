/** How much of a model is trained. */
import type { Module } from "../nn/module.ts";

export interface TrainableReport {
  /** Values that training changes. */
  readonly trainable: number;
  /** Values of the model with its adapters. */
  readonly total: number;
  readonly percent: number;
  /** `trainable params: 12,288 || all params: 1,234,567 || trainable%: 0.9953`, as PEFT prints it. */
  readonly text: string;
}

export function trainableReport(model: Module): TrainableReport {
  let trainable = 0;
  let total = 0;
  for (const parameter of model.parameters()) {
    total += parameter.size;
    if (parameter.requiresGrad) trainable += parameter.size;
  }
  const percent = total === 0 ? 0 : (100 * trainable) / total;
  const words = (count: number) => count.toLocaleString("en-US");
  const text = `trainable params: ${words(trainable)} || all params: ${words(total)} || trainable%: ${percent.toFixed(4)}`;
  return { trainable, total, percent, text };
}
