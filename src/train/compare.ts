/** Several adapter methods on one model and one text, each from the same start: what each costs and what it gives. */
import { realize } from "../compile/program.ts";
import { ConfigError, checkOptions, LorikeetError, type Rules, requireKind, requireOption, under } from "../errors.ts";
import { copy } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { Buffer, type Module, requireModule } from "../nn/module.ts";
import { adapterNames, detach } from "../peft/adapted-model.ts";
import type { AnyAdapterConfig } from "../peft/attach-plan.ts";
import type { MethodName } from "../peft/method-registry.ts";
import type { TextDataset } from "../text/dataset.ts";
import { type Evaluation, evaluate } from "./evaluate.ts";
import { type FinetuneOptions, finetuneRules } from "./finetune.ts";
import type { History, StepEvent } from "./progress.ts";
import { type MemoryReport, type RunOptions, runOptionRules } from "./trainer.ts";
import { type TrainableModel, type TrainingData, trainingData } from "./training-data.ts";

/** A method to be compared. */
export interface ComparedMethod {
  /** What its row is called. */
  readonly name: string;
  /** What `attach` takes, or a function that gives it; if that refuses, so does the row. */
  readonly config: AnyAdapterConfig | (() => AnyAdapterConfig);
  /** That of all when absent. */
  readonly learningRate?: number;
}

/** What a method has come to. */
export interface MethodResult {
  readonly name: string;
  readonly refused: null;
  /** Values that training changes, and how many percent of all they are. */
  readonly trainable: number;
  readonly percent: number;
  /** Of a step, as planned. */
  readonly memory: MemoryReport;
  /** The median; methods are timed one after the other, as they train. */
  readonly millisecondsPerStep: number;
  /** Training loss of the first step, before it has changed anything, and the mean of the last tenth of the steps. */
  readonly lossBefore: number;
  readonly lossAfter: number;
  /** Of held-out text, after training. */
  readonly perplexity: number;
  /** The largest `error` of a layer in the report of `merge`: the share of its change that rounding takes. `null` if it cannot be merged. */
  readonly mergeError: number | null;
  /** Why it cannot be merged, if so. */
  readonly notMerged: string | null;
  /** Bytes of its file of weights. */
  readonly fileBytes: number;
  readonly history: History;
}

/** A method that could not be tried, and why. */
export interface MethodRefusal {
  readonly name: string;
  readonly refused: string;
}

/** What compared methods have come to. */
export interface Comparison {
  /** The model without an adapter, on held-out text. */
  readonly before: Evaluation;
  readonly rows: readonly (MethodResult | MethodRefusal)[];
  /** Whether each method has its row; one that was stopped has none. */
  readonly finished: boolean;
}

/** How methods are trained, and who is told. */
export interface CompareOptions extends FinetuneOptions, Pick<RunOptions, "signal"> {
  readonly onStep?: (event: StepEvent & { readonly method: string }) => void | Promise<void>;
  /** Told of each row as soon as it is there. */
  readonly onMethod?: (row: MethodResult | MethodRefusal) => void | Promise<void>;
}

const operation = "compareMethods";
const { onEvaluation: _, ...whoIsTold } = runOptionRules;
const optionRules: Rules<CompareOptions> = { ...finetuneRules, ...whoIsTold, onMethod: "a function" };

/**
 * Trains one adapter after the other on the same model: each begins with the same weights and the same seed, and sees the same batches in
 * the same order. Afterwards the model is what it was, to the bit. What a method is refused for (it does not fit the model, its loss is no
 * number any more) is its row, and the others go on.
 *
 * @param compared names of methods, which adapt all linear layers and have the defaults of PEFT otherwise, or configs with names of your own
 * @throws {ConfigError} for an unknown method, when the model has adapters already, or nothing is held out; the signal's reason when it is
 *   aborted before the first method
 * @example
 * const { before, rows } = await compareMethods(model, dataset, ["lora", { name: "small", config: lora({ r: 2 }) }], { steps: 2 });
 * for (const row of rows) console.log(row.name, row.refused ?? `${before.perplexity} → ${row.perplexity}`);
 */
export async function compareMethods(
  model: TrainableModel,
  dataset: TextDataset | TrainingData,
  compared: readonly (MethodName | ComparedMethod)[],
  options: CompareOptions,
): Promise<Comparison> {
  checkOptions(operation, options, optionRules);
  requireModule(operation, model);
  requireKind(operation, "a list", { compared });
  requireOption(operation, "a whole number from 1", "steps", options.steps);
  const { signal, onStep, onMethod, ...settings } = options;
  const seed = settings.seed ?? under(operation, () => trainingData(dataset)).seed;
  const { entryOf, tryMethod } = await import("./method-trial.ts"); // all methods: code that is loaded when it is asked for
  const entries = compared.map((each) => entryOf(each, model, settings.steps));
  const taken = adapterNames(model);
  if (taken.length > 0)
    throw new ConfigError(`the model has adapters already: ${taken.join(", ")}.`, {
      operation,
      got: taken,
      hint: "Take them off with detach, or merge them for good with mergeAndUnload.",
    });
  const { evaluationTokens, batchSize } = settings;
  const before = await under(operation, () =>
    evaluate(model, dataset, {
      signal,
      ...(evaluationTokens && { maxTokens: evaluationTokens }),
      ...(batchSize && { batchSize }),
    }),
  );
  const rows: (MethodResult | MethodRefusal)[] = [];
  for (const { name, config, learningRate } of entries) {
    if (signal?.aborted) break;
    // what a callback throws is no refusal of the method
    let thrown: unknown;
    const told = async (event: StepEvent) => {
      try {
        await onStep?.({ ...event, method: name });
      } catch (error) {
        thrown = error;
        throw error;
      }
    };
    const own = learningRate === undefined ? settings : { ...settings, learningRate };
    const restore = remember(model);
    let row: MethodResult | MethodRefusal | null;
    try {
      const adapter = typeof config === "function" ? config() : config;
      row = await tryMethod(name, adapter, model, dataset, { ...own, seed }, { signal, onStep: told });
    } catch (error) {
      if (!(error instanceof LorikeetError) || error === thrown) throw error;
      row = { name, refused: error.message };
    } finally {
      restore();
    }
    if (!row) break;
    rows.push(row);
    await onMethod?.(row);
  }
  return { before, rows, finished: rows.length === entries.length };
}

/** Calling what it gives takes adapters off and puts back what the model holds now. Buffers are copied, as training writes into them. */
function remember(model: Module): () => void {
  const inTraining = model.training;
  const held = [...model.namedParameters()].map(([path, parameter]) => {
    const kept: Tensor | null = parameter instanceof Buffer ? copy(parameter.stored) : null;
    if (kept) realize([kept]);
    return { path, parameter, storage: parameter.stored.storage, kept };
  });
  return () => {
    if (adapterNames(model).length > 0) detach(model);
    model.train(inTraining);
    for (const { path, parameter, storage, kept } of held) {
      if (parameter.stored.storage === storage) continue;
      if (!kept) throw new ConfigError(`${path}, which was not to be trained, has changed.`, { operation, got: path });
      parameter.assign(kept);
    }
  };
}
