/** `lorikeet/train`: models from folders, training and fine-tuning, evaluation, generation. */
import "../devices/choose.ts";
import "../tensor/methods.ts";

export {
  type CheckpointData,
  type CheckpointPart,
  type CheckpointSource,
  encodeCheckpoint,
  type Json,
  loadCheckpoint,
  saveCheckpoint,
} from "./checkpoint.ts";
export {
  type ComparedMethod,
  type CompareOptions,
  type Comparison,
  compareMethods,
  type MethodRefusal,
  type MethodResult,
} from "./compare.ts";
export {
  type EmbedOptions,
  type EncodingOptions,
  embed,
  type PairInputs,
  PairModel,
  type PoolingOptions,
  pairDataset,
  similarity,
  type TextReader,
} from "./embedding.ts";
export { type EvaluateOptions, type Evaluation, Evaluator, evaluate } from "./evaluate.ts";
export { type FinetuneOptions, finetune, finetuning } from "./finetune.ts";
export {
  complete,
  completeBatch,
  completeText,
  type GenerateOptions,
  generate,
  generateBatch,
  generateText,
  type TextGenerator,
  type TextPiece,
  type TextWriter,
  type Tokens,
} from "./generation.ts";
export { generationOptions } from "./generation-config.ts";
export { type LoadedModel, type LoadModelOptions, loadModel, type SaveOptions, saveModel } from "./load-model.ts";
export type { SavedDType } from "./load-weights.ts";
export type { Pooling } from "./pooling.ts";
export type { EvaluationEvent, History, StepEvent, TrainingResult } from "./progress.ts";
export { processLogits, type SamplingContext, type SamplingOptions, sampleToken } from "./sampling.ts";
export {
  type AnyOptimizer,
  type MemoryReport,
  type RunOptions,
  type TrainedParameters,
  Trainer,
  type TrainerOptions,
} from "./trainer.ts";
export {
  type Batch,
  type Column,
  type Sampler,
  type TensorDatasetOptions,
  type TrainableModel,
  type TrainingData,
  tensorDataset,
} from "./training-data.ts";
