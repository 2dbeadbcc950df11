/** Fine-tuning in one call: the settings that suit adapters, over the loop of trainer.ts. */
import { checkOptions, type Rules, under } from "../errors.ts";
import { cosineSchedule } from "../optim/schedule.ts";
import type { TextDataset } from "../text/dataset.ts";
import type { TrainingResult } from "./progress.ts";
import { type RunOptions, runOptionRules, Trainer, type TrainerOptions, trainerOptionRules } from "./trainer.ts";
import type { TrainableModel, TrainingData } from "./training-data.ts";

/** What can be set, beyond what training in general takes. */
export interface FinetuneOptions extends TrainerOptions {
  /** Steps in which the learning rate rises; a twentieth of all when absent. Afterwards it falls along a cosine to 0. */
  readonly warmupSteps?: number;
}

/** What can be set. */
export const finetuneRules: Rules<FinetuneOptions> = { ...trainerOptionRules, warmupSteps: "a whole number from 0" };

/**
 * Trains what of the model can be trained: the active adapter after `attach`, everything otherwise. AdamW without weight
 * decay, gradients clipped to norm 1, learning rate with warm-up and cosine.
 *
 * @throws {ConfigError} when nothing can be trained, an option is out of range, or the loss is no number any more
 * @example
 * attach(model, lora({ r: 8, loraAlpha: 16 }));
 * await finetune(model, textDataset("moby-dick.txt", tokenizer), { steps: 20, learningRate: 1e-3 });
 */
export async function finetune(
  model: TrainableModel,
  dataset: TextDataset | TrainingData,
  options: FinetuneOptions & RunOptions,
): Promise<TrainingResult> {
  checkOptions("finetune", options, { ...finetuneRules, ...runOptionRules });
  const { signal, onStep, onEvaluation, ...settings } = options;
  using trainer = under("finetune", () => finetuning(model, dataset, settings));
  return await trainer.run({ signal, ...(onStep ? { onStep } : {}), ...(onEvaluation ? { onEvaluation } : {}) });
}

/** The trainer that `finetune` runs, for those who want to save it and go on later. */
export function finetuning(model: TrainableModel, dataset: TextDataset | TrainingData, options: FinetuneOptions): Trainer {
  checkOptions("finetuning", options, finetuneRules);
  const { warmupSteps, ...settings } = options;
  const totalSteps = settings.steps;
  const all: TrainerOptions = {
    schedule: (step, base) =>
      // the first step would have the rate 0: count from 1
      cosineSchedule({ warmupSteps: warmupSteps ?? Math.ceil(totalSteps / 20), totalSteps: totalSteps + 1 })(step + 1, base),
    ...settings,
  };
  return under("finetuning", () => new Trainer(model, dataset, all));
}
