/** One method of a comparison: the config that its name stands for, its training, and what has come of it. */
import { ConfigError, checkOptions, LorikeetError, nearestName, type Rules, requireKind, wordArgument } from "../errors.ts";
import { readsText } from "../models/causal-lm.ts";
import type { Module } from "../nn/module.ts";
import { unmerge } from "../peft/adapted-model.ts";
import { adapterFileBytes } from "../peft/adapter-file.ts";
import { attach } from "../peft/attach.ts";
import type { AnyAdapterConfig } from "../peft/attach-plan.ts";
import { merge } from "../peft/merge.ts";
import type { AdapterConfig } from "../peft/method.ts";
import { type MethodName, methods } from "../peft/method-registry.ts";
import { trainableReport } from "../peft/report.ts";
import { usualKeys } from "../peft/usual-config.ts";
import type { TextDataset } from "../text/dataset.ts";
import type { ComparedMethod, MethodResult } from "./compare.ts";
import { type FinetuneOptions, finetuning } from "./finetune.ts";
import type { EvaluationEvent } from "./progress.ts";
import type { RunOptions } from "./trainer.ts";
import type { TrainableModel, TrainingData } from "./training-data.ts";

const operation = "compareMethods";
const methodRules: Rules<ComparedMethod> = { name: "a string", config: null, learningRate: "a number above 0" };

/** A name as the config that it stands for. @throws {ConfigError} for what is neither a method's name nor an entry */
export function entryOf(method: MethodName | ComparedMethod, model: Module, steps: number): ComparedMethod {
  if (typeof method !== "string") {
    checkOptions(operation, method, methodRules);
    const { name, config } = method;
    requireKind(operation, "a string", { name });
    if (typeof config !== "function") requireKind(operation, "an object", { config });
    return method;
  }
  if (!Object.hasOwn(methods, method)) {
    const near = nearestName(method, Object.keys(methods));
    throw new ConfigError(`there is no method ${wordArgument(method)}.`, {
      operation,
      got: method,
      hint: near ? `Did you mean "${near}"?` : "docs/methods.md lists them.",
    });
  }
  const isText = readsText(model);
  const layers = isText ? model.backbone.sizes.layers : undefined;
  const configure: (config: object) => AnyAdapterConfig = methods[method];
  const keys = usualKeys(method, { targets: ["all-linear"], steps, layers });
  return { name: method, config: () => configure({ ...keys, ...(isText && { taskType: "CAUSAL_LM" }) }) };
}

/** Puts the adapter on, trains it, and looks at what has become of it; `null` when it was stopped. The caller takes it off. */
export async function tryMethod(
  name: string,
  adapter: AnyAdapterConfig,
  model: TrainableModel,
  dataset: TextDataset | TrainingData,
  settings: FinetuneOptions & { readonly seed: number },
  run: RunOptions,
): Promise<MethodResult | null> {
  attach(model, adapter as AdapterConfig, { seed: settings.seed });
  using trainer = finetuning(model, dataset, settings);
  const { trainable, percent } = trainableReport(model);
  const memory = trainer.memory();
  const seconds: number[] = [0];
  const { finished, history } = await trainer.run({
    ...run,
    onStep: async (event) => {
      seconds.push(event.seconds);
      await run.onStep?.(event);
    },
  });
  if (!finished) return null;
  const measured = history.evaluations.at(-1);
  const { perplexity } = measured?.step === trainer.step ? (measured as EvaluationEvent) : await trainer.evaluate();
  const { loss } = history;
  const last = loss.slice(-Math.ceil(loss.length / 10));
  const times = seconds.slice(1).map((each, i) => 1000 * (each - (seconds[i] as number)));
  return {
    name,
    refused: null,
    trainable,
    percent,
    memory,
    millisecondsPerStep: median(times.length > 1 ? times.slice(1) : times), // the first makes the program
    lossBefore: loss[0] as number,
    lossAfter: last.reduce((sum, each) => sum + each, 0) / last.length,
    perplexity,
    ...mergeErrorOf(model),
    fileBytes: await adapterFileBytes(model),
    history,
  };
}

function mergeErrorOf(model: Module): Pick<MethodResult, "mergeError" | "notMerged"> {
  model.eval();
  try {
    const { layers } = merge(model, undefined, { report: true, tell: () => {} });
    return { mergeError: Math.max(0, ...layers.map(({ error }) => error)), notMerged: null };
  } catch (error) {
    if (!(error instanceof LorikeetError)) throw error;
    return { mergeError: null, notMerged: error.problem };
  } finally {
    unmerge(model);
  }
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] as number;
