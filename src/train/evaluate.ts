/** How well a model predicts text that it has not been trained on. */
import { compile } from "../compile/trace.ts";
import { ConfigError } from "../errors.ts";
import type { Tensor } from "../graph/node.ts";
import type { CausalLM } from "../models/causal-lm.ts";
import { ignoredLabel, type TextDataset } from "../text/dataset.ts";
import { readNumbers, uploadBatch, yieldToOthers } from "./batch.ts";

/** How well text was predicted. */
export interface Evaluation {
  /** Mean cross-entropy per token, natural logarithm. */
  readonly loss: number;
  /** e^loss: how many tokens the model hesitates between, on average. */
  readonly perplexity: number;
  /** Tokens that were predicted. */
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

/** A compiled evaluation of one model; for a single use, `evaluate` is shorter. */
export class Evaluator implements Disposable {
  readonly #model: CausalLM;
  /** Mean over the tokens of a batch. */
  readonly #mean: ReturnType<typeof compile<[Tensor, Tensor], Tensor>>;

  constructor(model: CausalLM) {
    this.#model = model;
    this.#mean = compile((inputIds: Tensor, targets: Tensor) => model.forward({ inputIds, targets }).loss as Tensor);
  }

  /**
   * Mean loss over the held-out tokens of `dataset`, each predicted once.
   *
   * @throws {ConfigError} when nothing was held out; the signal's reason when it was aborted
   */
  async run(dataset: TextDataset, options: EvaluateOptions = {}): Promise<Evaluation> {
    const { batchSize = 16, maxTokens = Number.POSITIVE_INFINITY, signal, onProgress } = options;
    if (!(maxTokens > 0))
      throw new ConfigError(`\`maxTokens\` (= ${maxTokens}) must be above 0.`, { operation: "evaluate", got: maxTokens });
    const inTraining = this.#model.training;
    this.#model.eval();
    let [loss, tokens] = [0, 0];
    try {
      for (const batch of dataset.evaluationBatches({ batchSize })) {
        signal?.throwIfAborted();
        using inputs = uploadBatch(batch);
        const [mean] = await readNumbers([this.#mean(inputs.inputIds, inputs.targets)]);
        const judged = batch.labels.reduce((count, label) => count + Number(label !== ignoredLabel), 0);
        if (judged > 0) loss += judged * (mean as number);
        tokens += judged;
        onProgress?.(Math.min(1, tokens / Math.min(maxTokens, dataset.heldOutTokens.length)));
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
export async function evaluate(model: CausalLM, dataset: TextDataset, options: EvaluateOptions = {}): Promise<Evaluation> {
  using evaluator = new Evaluator(model);
  return await evaluator.run(dataset, options);
}
