/** How well a model does on what it has not been trained on. */
import { compile } from "../compile/trace.ts";
import { yieldToOthers } from "../compile/turn.ts";
import { ConfigError, checkOptions, type Rules, under } from "../errors.ts";
import type { Tensor } from "../graph/node.ts";
import { requireModule } from "../nn/module.ts";
import type { TextDataset } from "../text/dataset.ts";
import { readNumbers, uploadInputs } from "./batch.ts";
import { checkBatch, lossAndClasses } from "./checked-batch.ts";
import { type TrainableModel, type TrainingData, trainingData } from "./training-data.ts";

declare global {
  // for programs that have the types of neither a browser nor Node; where there are some, this adds nothing
  interface AbortSignal {}
}

/** How well text was predicted. */
export interface Evaluation {
  /** Mean cross-entropy per token, natural logarithm. */
  readonly loss: number;
  /** e^loss: how many tokens the model hesitates between, on average. */
  readonly perplexity: number;
  /** Tokens that were predicted, or texts and images that were put into classes. */
  readonly tokens: number;
}

/** How much is evaluated, and who is told. */
export interface EvaluateOptions {
  /** Rows at once. */
  readonly batchSize?: number;
  /** Stops after the batch in which this many tokens are reached; all when absent. */
  readonly maxTokens?: number;
  readonly signal?: AbortSignal | undefined;
  /** Called after each batch with the share that is done. */
  readonly onProgress?: (share: number) => void;
}

/** The loss of a model on these inputs. @throws {ConfigError} when it gives none */
export function lossOf(model: TrainableModel, inputs: Readonly<Record<string, Tensor>>): Tensor {
  const loss = lossAndClasses(model, inputs);
  if (loss) return loss;
  throw new ConfigError("the model gives no loss for these inputs.", {
    operation: "train",
    got: Object.keys(inputs),
    hint: "Give it `labels`.",
  });
}

const optionRules: Rules<EvaluateOptions> = {
  batchSize: "a whole number from 1 below 2³¹",
  maxTokens: "a number above 0, or Infinity",
  signal: "an AbortSignal",
  onProgress: "a function",
};

/** A compiled evaluation of one model; for a single use, `evaluate` is shorter. */
export class Evaluator implements Disposable {
  readonly #model: TrainableModel;
  /** Mean over the labels of a batch. */
  readonly #mean: ReturnType<typeof compile<[Record<string, Tensor>], Tensor>>;

  constructor(model: TrainableModel) {
    requireModule("evaluate", model);
    this.#model = model;
    this.#mean = compile((inputs: Record<string, Tensor>) => lossOf(model, inputs));
  }

  /**
   * Mean loss over the held-out tokens of `dataset`, each predicted once.
   *
   * @throws {ConfigError} when nothing was held out; @throws {ShapeError} for tokens and labels that the model does not have; the signal's reason when it was aborted
   */
  async run(dataset: TextDataset | TrainingData, options: EvaluateOptions = {}): Promise<Evaluation> {
    checkOptions("evaluate", options, optionRules);
    const { batchSize = 16, maxTokens = Number.POSITIVE_INFINITY, signal, onProgress } = options;
    const data = under("evaluate", () => trainingData(dataset));
    const inTraining = this.#model.training;
    this.#model.eval();
    let [loss, tokens] = [0, 0];
    try {
      for (const batch of data.evaluationBatches({ batchSize })) {
        signal?.throwIfAborted();
        using uploaded = uploadInputs(batch);
        checkBatch("evaluate", this.#model, batch, () => void this.#mean.explain(uploaded.inputs));
        const [mean] = await readNumbers([this.#mean(uploaded.inputs)]);
        const { judged } = batch;
        if (judged > 0) loss += judged * (mean as number);
        tokens += judged;
        onProgress?.(Math.min(1, tokens / Math.min(maxTokens, data.heldOut)));
        if (tokens >= maxTokens) break;
        await yieldToOthers();
      }
    } finally {
      this.#model.train(inTraining);
    }
    return { loss: loss / tokens, perplexity: Math.exp(loss / tokens), tokens };
  }

  [Symbol.dispose](): void {
    this.#mean.dispose();
  }
}

/**
 * Mean loss and perplexity over the held-out tokens of `dataset`.
 *
 * @throws {ConfigError} when nothing was held out
 * @example
 * const { perplexity } = await evaluate(model, dataset);
 */
export async function evaluate(
  model: TrainableModel,
  dataset: TextDataset | TrainingData,
  options: EvaluateOptions = {},
): Promise<Evaluation> {
  checkOptions("evaluate", options, optionRules);
  using evaluator = new Evaluator(model);
  return await evaluator.run(dataset, options);
}
