/** `lorikeet/train`: models from folders, training and fine-tuning, evaluation, generation. */
import "../devices/choose.ts";
import "../tensor/methods.ts";

export { type EvaluateOptions, type Evaluation, Evaluator, evaluate } from "./evaluate.ts";
export { type FinetuneOptions, finetune, finetuning } from "./finetune.ts";
export { complete, type GenerateOptions, generate, generateBatch, type TextGenerator } from "./generation.ts";
export { type LoadedModel, loadModel, type SavedDType, type SaveOptions, saveModel } from "./load-model.ts";
export type { SamplingOptions } from "./sampling.ts";
export {
  type AnyOptimizer,
  type EvaluationEvent,
  type History,
  type MemoryReport,
  type RunOptions,
  type StepEvent,
  type TrainedParameters,
  Trainer,
  type TrainerOptions,
  type TrainingResult,
} from "./trainer.ts";
