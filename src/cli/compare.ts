/** `lorikeet compare`: adapter methods side by side, each trained from the same start on the same text. */
import { basename, join, resolve } from "node:path";
import process from "node:process";
import { type Command, InvalidArgumentError } from "commander";
import { currentDevice } from "../compile/program.ts";
import { nearestName } from "../errors.ts";
import { writeFileAtomically } from "../formats/atomic-file.ts";
import type { CausalLM } from "../models/causal-lm.ts";
import type { AnyAdapterConfig } from "../peft/attach-plan.ts";
import { type MethodName, methods } from "../peft/method-registry.ts";
import type { TextDataset } from "../text/dataset.ts";
import { type Comparison, compareMethods, type MethodRefusal, type MethodResult } from "../train/compare.ts";
import { renderComparison } from "./comparison-report.ts";
import { nodeDrawing } from "./drawing.ts";
import { interruptedExitCode, listenForInterrupt } from "./interrupt.ts";
import { adapterOf, fieldsOf, withDefaults } from "./method-option.ts";
import { path, whole } from "./option.ts";
import { clock, megabytes, words, wrapped } from "./quantity.ts";
import { type Drawing, evaluationsOf } from "./report.ts";
import { say, TrainingBar } from "./terminal.ts";
import {
  aboutModel,
  aboutText,
  nameList,
  readTask,
  type TextTask,
  trainingOf,
  withSources,
  withTargets,
  withTraining,
} from "./text-task.ts";

interface CompareOptions extends TextTask {
  readonly methods: readonly MethodName[];
  readonly rank?: number;
  readonly out?: string;
  readonly json?: boolean;
}

/** Adds `lorikeet compare`. */
export function addCompare(program: Command): void {
  const command = withSources(
    program
      .command("compare")
      .description("train several adapter methods from the same start, and tell what each costs and gives")
      .option("--methods <names...>", "methods to compare, such as lora,dora,ia3; all of them when absent", methodNames),
  ).option("--rank <n>", "rank of each adapter that has one; 16 for LoRA when absent, or the method's own", whole());
  withTraining(withTargets(command))
    .option("--out <folder>", "where to write report.html and comparison.json", path)
    .option("--json", "end with one line of JSON on standard output, and put the table on standard error")
    .action((options) => compare({ ...options, targets: nameList(options.targets), methods: options.methods ?? allMethods }));
}

const allMethods = Object.keys(methods) as MethodName[];

function methodNames(text: string, before: readonly MethodName[] = []): MethodName[] {
  const names = nameList([text]);
  for (const name of names) {
    if (Object.hasOwn(methods, name)) continue;
    const near = nearestName(name, allMethods);
    throw new InvalidArgumentError(near ? `There is no method ${name}. Did you mean ${near}?` : `There is no method "${name}".`);
  }
  return [...before, ...(names as MethodName[])];
}

async function compare(options: CompareOptions): Promise<void> {
  const { loaded, dataset } = await readTask("compare", options);
  const { model } = loaded;
  const drawing = options.out === undefined ? undefined : await nodeDrawing();
  say(`
  model     ${aboutModel(options, model.numParameters())}
  text      ${aboutText(options, dataset)}
  methods   ${options.methods.length}, each ${words(options.steps)} steps of ${words(options.batch)} × ${words(options.window)} tokens
  device    ${currentDevice().about}
`);
  const print = (line: string) => (options.json ? say(line) : void process.stdout.write(`${line}\n`));
  using interrupt = listenForInterrupt(() => say("\nStopping ..."));
  const { signal } = interrupt;
  const comparison = await run(options, loaded.model, dataset, signal, print).catch((error) => {
    if (!signal.aborted || error !== signal.reason) throw error;
  });
  if (comparison) {
    const { before, rows } = comparison;
    const unmerged = rows.some((row) => row.refused === null && row.mergeError === null);
    print(`\nWithout an adapter the held-out perplexity is ${before.perplexity.toFixed(2)} (on ${words(before.tokens)} tokens).`);
    print("Loss is of training: the first step's, and the mean of the last tenth. Milliseconds are the median.");
    print("Merge error is the share of a layer's change that rounding takes from it, at most.");
    if (unmerged) print("none: such an adapter is not a change of the weights.");
    if (options.out !== undefined) await keep(options.out, comparison, settingsOf(options), drawing as Drawing);
    const brief = rows.map((row) => (row.refused === null ? { ...row, history: undefined } : row));
    if (options.json) process.stdout.write(`${JSON.stringify({ ...comparison, rows: brief })}\n`);
    if (comparison.finished) return;
  }
  say(comparison ? `Stopped after ${comparison.rows.length} of ${options.methods.length} methods.` : "Stopped.");
  process.exitCode = interruptedExitCode;
}

/** Prints each row as soon as it is there. */
function run(
  options: CompareOptions,
  model: CausalLM,
  dataset: TextDataset,
  signal: AbortSignal,
  print: (line: string) => void,
): Promise<Comparison> {
  const { rank, targets, steps } = options;
  const configOf = (method: MethodName) => (): AnyAdapterConfig => {
    const ranked = rank !== undefined && fieldsOf(method).includes("rank") ? { rank } : {};
    return adapterOf(withDefaults({ method, targets, steps, ...ranked }), model.backbone.sizes.layers, {}) as AnyAdapterConfig;
  };
  const entries = options.methods.map((name) => ({ name, config: configOf(name) }));
  const count = entries.length;
  let bar: TrainingBar | null = null;
  let [done, seconds, began] = [0, 0, performance.now()];
  return compareMethods(model, dataset, entries, {
    ...trainingOf(options),
    evaluationTokens: evaluationsOf(steps).evaluationTokens,
    signal,
    onStep(event) {
      bar ??= new TrainingBar(`${event.method}, ${done + 1} of ${count}: `);
      bar.update(event);
    },
    onMethod(row) {
      bar?.stop();
      bar = null;
      if (done++ === 0) print(header);
      for (const line of tableLines(row)) print(line);
      const now = performance.now();
      // what is refused takes no time, and the first to be trained says how long the others will
      if (row.refused === null && seconds === 0 && done < count) {
        seconds = (now - began) / 1000;
        say(`The other ${count - done} will take about ${clock(seconds * (count - done))}.`);
      }
      began = now;
    },
  }).finally(() => bar?.stop()); // one that was stopped in the middle
}

/** Widths add up to 100. */
const columns = [
  ["method", 15],
  ["values", 11],
  ["share", 8],
  ["memory", 10],
  ["ms/step", 9],
  ["loss", 14],
  ["perplexity", 12],
  ["merge error", 12],
  ["file", 9],
] as const;

const aligned = (cells: readonly string[]): string =>
  cells.map((cell, i) => (i === 0 ? cell.padEnd(columns[i]![1]) : cell.padStart(columns[i]![1]))).join("");

const header = aligned(columns.map(([name]) => name));

/** What the table and the page say of a method. */
const cellsOf = (row: MethodResult): string[] => [
  row.name,
  words(row.trainable),
  `${row.percent.toFixed(2)} %`,
  megabytes(row.memory.planned),
  row.millisecondsPerStep.toFixed(0),
  `${row.lossBefore.toFixed(2)} → ${row.lossAfter.toFixed(2)}`,
  row.perplexity.toFixed(2),
  row.mergeError === null ? "none" : row.mergeError.toExponential(1),
  megabytes(row.fileBytes),
];

const tableLines = (row: MethodResult | MethodRefusal): string[] =>
  row.refused === null
    ? [aligned(cellsOf(row))]
    : wrapped(`refused: ${row.refused}`, 83).map((line, i) => `${(i === 0 ? row.name : "").padEnd(17)}${line}`);

const settingsOf = ({ model, data, quantise, targets, rank, steps, batch, window, lr, seed }: CompareOptions) => ({
  model: resolve(model),
  data: data === undefined ? "moby-dick" : resolve(data),
  ...(quantise && { quantise }),
  targets: targets.join(" "),
  ...(rank && { rank }),
  ...{ steps, batch, window, lr, seed },
});

/** Writes what has come out, for programs and for people. */
async function keep(
  out: string,
  comparison: Comparison,
  settings: ReturnType<typeof settingsOf>,
  drawing: Drawing,
): Promise<void> {
  const [json, report] = [join(out, "comparison.json"), join(out, "report.html")];
  await writeFileAtomically(json, `${JSON.stringify({ settings, ...comparison }, null, 2)}\n`);
  const facts = Object.entries({ ...settings, device: currentDevice().about, Node: process.version });
  const page = renderComparison(
    {
      title: `${comparison.rows.length} methods on ${settings.data === "moby-dick" ? "Moby-Dick" : basename(settings.data)}`,
      head: columns.map(([name]) => name),
      cellsOf,
      facts: facts.map(([name, value]) => [name, String(value)] as const),
      comparison,
    },
    drawing,
  );
  await writeFileAtomically(report, page);
  say(`\nWritten: ${json}, ${report}`);
}
