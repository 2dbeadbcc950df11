/** `lorikeet finetune --dry-run`: what a run would train and write, and what memory and time it would take. */
import process from "node:process";
import { currentDevice } from "../compile/program.ts";
import { LorikeetError } from "../errors.ts";
import type { CausalLM } from "../models/causal-lm.ts";
import { adapterFileBytes } from "../peft/adapter-file.ts";
import { trainableReport } from "../peft/report.ts";
import type { TextDataset } from "../text/dataset.ts";
import { Evaluator } from "../train/evaluate.ts";
import { finetuning } from "../train/finetune.ts";
import type { Trainer } from "../train/trainer.ts";
import { clock, megabytes, words } from "./quantity.ts";
import { say } from "./terminal.ts";
import { aboutModel, aboutText, type TextTask, trainingOf } from "./text-task.ts";

interface PlannedRun extends TextTask {
  /** Parameters of the model without the adapter. */
  readonly base: number;
  readonly adapter: string;
  readonly warnings: readonly string[];
  readonly json?: boolean;
}

/** A step that is expected to take longer, in seconds, is not tried. */
const longestTrial = 4;

/** A step also goes back through the layers, which takes about twice as long as forward, where the weights are frozen a little less. */
const stepPerForward = 3;

/** Tells it to people, or with `json` in one line on standard output; the adapter is on the model. */
export async function showPlan(model: CausalLM, dataset: TextDataset, run: PlannedRun): Promise<void> {
  const { text, trainable, percent } = trainableReport(model);
  using trainer = finetuning(model, dataset, trainingOf(run));
  const { parameters: weights, program: activations, optimizer, planned: total } = trainer.memory();
  const adapterBytes = await adapterFileBytes(model);
  const time = await stepTime(trainer, model, dataset, run.batch);
  const tokens = run.steps * run.batch * run.window;
  const plan = {
    parameters: run.base,
    trainable,
    percent,
    tokensPerEpoch: dataset.rows * run.window,
    steps: run.steps,
    tokens,
    epochs: (run.steps * run.batch) / dataset.rows,
    memory: { weights, activations, optimizer, total },
    adapterBytes,
    ...time,
  };
  if (run.json) process.stdout.write(`${JSON.stringify(plan)}\n`);
  const how = time.measured ? "measured on one step" : "reckoned from the forward pass of one row, as a step takes long";
  const rows = [
    ["model", aboutModel(run, run.base)],
    ["text", aboutText(run, dataset)],
    ["adapter", `${run.adapter}; a file of ${megabytes(adapterBytes)}`],
    ["", text],
    ["training", `${words(run.steps)} steps of ${words(run.batch)} × ${words(run.window)} tokens: ${words(tokens)} tokens`],
    ["", `${plan.epochs.toFixed(2)} epochs of ${words(plan.tokensPerEpoch)} tokens`],
    ["memory", `${megabytes(total)} for a step, as planned`],
    ["", `weights ${megabytes(weights)} · activations ${megabytes(activations)} · optimiser ${megabytes(optimizer)}`],
    [
      "time",
      time.problem === null
        ? `about ${clock(run.steps * time.secondsPerStep)}: ${(1000 * time.secondsPerStep).toFixed(0)} ms a step, ${how}`
        : `none, as a step cannot run here: ${time.problem}`,
    ],
    ["device", currentDevice().about],
  ];
  say();
  for (const [name, value] of rows) say(`  ${(name as string).padEnd(10)}${value}`);
  for (const warning of run.warnings) say(`\nNote: ${warning}`);
  say("\nNothing was trained or written. Leave --dry-run out to begin.");
}

interface StepTime {
  readonly secondsPerStep: number;
  /** Whether a step was run. */
  readonly measured: boolean;
  /** Why none can run on this device, if so. */
  readonly problem: string | null;
}

/** That of the second step, since the first makes the program; where it would take long, a multiple of one row's forward pass. */
async function stepTime(trainer: Trainer, model: CausalLM, dataset: TextDataset, batch: number): Promise<StepTime> {
  try {
    using evaluator = new Evaluator(model);
    const row = () => evaluator.run(dataset, { batchSize: 1, maxTokens: 1 });
    await row(); // makes the program
    const begin = performance.now();
    await row();
    const reckoned = (stepPerForward * batch * (performance.now() - begin)) / 1000;
    if (reckoned > longestTrial) return { secondsPerStep: reckoned, measured: false, problem: null };
    const seconds: number[] = [];
    const enough = new AbortController();
    await trainer.run({
      signal: enough.signal,
      onStep: (event) => {
        seconds.push(event.seconds);
        if (seconds.length === 2) enough.abort();
      },
    });
    const [first = 0, second = 2 * first] = seconds;
    return { secondsPerStep: second - first, measured: true, problem: null };
  } catch (error) {
    if (!(error instanceof LorikeetError)) throw error;
    return { secondsPerStep: Number.NaN, measured: false, problem: error.message };
  }
}
