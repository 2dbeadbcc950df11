/** `lorikeet finetune`, the main job: a pretrained model, a text, an adapter; what it was like before and after. */
import { basename, resolve } from "node:path";
import process from "node:process";
import { type Command, Option } from "commander";
import { currentDevice } from "../compile/program.ts";
import { ConfigError } from "../errors.ts";
import { writeFileAtomically } from "../formats/atomic-file.ts";
import type { CausalLM } from "../models/causal-lm.ts";
import type { Adapter } from "../peft/adapted-model.ts";
import { saveAdapter } from "../peft/adapter-file.ts";
import { attach } from "../peft/attach.ts";
import { type AnyAdapterConfig, planAttach } from "../peft/attach-plan.ts";
import { mergeAndUnload, mergeDifference, mergeRefusal } from "../peft/merge.ts";
import { methods } from "../peft/method-registry.ts";
import { readSourceTasks } from "../peft/prompt/source-task.ts";
import { trainableReport } from "../peft/report.ts";
import type { TextDataset } from "../text/dataset.ts";
import { uploadBatch } from "../train/batch.ts";
import { evaluate } from "../train/evaluate.ts";
import { finetuning } from "../train/finetune.ts";
import type { LoadedModel } from "../train/load-model.ts";
import type { Trainer } from "../train/trainer.ts";
import { nodeDrawing } from "./drawing.ts";
import { showPlan } from "./dry-run.ts";
import { lockFolder } from "./folder-lock.ts";
import { interruptedExitCode, listenForInterrupt } from "./interrupt.ts";
import { saveFolder } from "./merged-folder.ts";
import { adapterOf, assigned, type MethodOptions, withDefaults } from "./method-option.ts";
import { nonNegative, path, positive, whole } from "./option.ts";
import { clock, megabytes, words } from "./quantity.ts";
import { type Drawing, evaluationsOf, renderReport, type Sample, sampling } from "./report.ts";
import { goOn, RunFolder, type Settings, type Summary } from "./run-folder.ts";
import { drawSamples, sampleLines } from "./samples.ts";
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

interface FinetuneOptions extends MethodOptions, TextTask {
  readonly steps: number;
  readonly targets: readonly string[];
  /** `key=value`: other keys of the method's config. */
  readonly set: readonly string[];
  readonly out: string;
  readonly dryRun?: boolean;
  readonly fresh?: boolean;
  readonly json?: boolean;
  readonly prompt: readonly string[];
}

const prompts = ["The captain", "The whale", "At last the ship"];
/** Seconds between two checkpoints. */
const checkpointSeconds = 20;

/** Adds `lorikeet finetune`, which is also what runs where no command is named. */
export function addFinetune(program: Command): void {
  const command = withSources(
    program
      .command("finetune", { isDefault: true })
      .description("fine-tune a model with an adapter on a text; resumes a run that was stopped"),
  )
    .addOption(new Option("--method <name>", "kind of adapter").choices(Object.keys(methods)).default("lora"))
    .option("--rank <n>", "rank of the adapter; 16 for LoRA when absent, or the method's own", whole())
    .option("--alpha <x>", "scale of the adapter; twice the rank for LoRA when absent, or the method's own", positive)
    .option("--dropout <x>", "dropout on the adapter's inputs", nonNegative);
  withTargets(command).option("--set <key=value...>", "other keys of the method's config, as PEFT names them", []);
  withTraining(command)
    .option("--out <folder>", "for the adapter, the merged model and the report", path, "out/finetune")
    .option("--fresh", "start over instead of resuming")
    .option("--prompt <texts...>", "prompts for the samples", prompts)
    .option("--dry-run", "train nothing: tell what the run would train and write, its memory and its time")
    .option("--json", "end with one line of JSON on standard output")
    .action((options: FinetuneOptions) => {
      const all = withDefaults({ ...options, targets: nameList(options.targets) }, assigned(options.set));
      return all.dryRun ? planOnly(all) : finetune(all);
    });
  program.addHelpText("after", () => `\nWithout a command, finetune is run:\n\n${command.helpInformation()}`);
}

/** What was there before training; kept in checkpoints, so that a resumed run can compare. */
type Before = {
  readonly perplexity: number;
  readonly samples: readonly Sample[];
};

async function finetune(options: FinetuneOptions): Promise<void> {
  const run = new RunFolder(options.out);
  const settings = settingsOf(options);
  const finished = options.fresh ? undefined : run.finished(settings);
  if (finished) {
    say(`This run is finished: its results are in ${options.out}. Start over with --fresh, or change a setting.`);
    show(finished, options);
    return;
  }
  const resumed = run.hasCheckpoint && !options.fresh;
  if (resumed) run.checkSettings(settings);
  const { loaded, dataset } = await readTask("finetune", options, options.prompt);
  const { model } = loaded;
  const base = model.numParameters();
  const adapter = configOf(options, model);
  planAttach(model, adapter as AnyAdapterConfig); // refuses what does not fit, before anything takes time
  const drawing = await nodeDrawing().catch((error: Error) => {
    say(`There will be no page with curves. ${error.message}`);
    return undefined;
  });

  using interrupt = listenForInterrupt(() => say("\nStopping ..."));
  const { signal } = interrupt;
  using _lock = await lockFolder(run.path, "finetune");
  try {
    if (!resumed) {
      await run.claim(settings);
      run.forget();
    }
    const look = async (when: string): Promise<Before> => {
      say(`Measuring the model ${when} training ...`);
      const { perplexity } = await evaluate(model, dataset, { signal });
      return { perplexity, samples: await drawSamples(model, loaded.tokenizer, options.prompt, { seed: options.seed, signal }) };
    };
    let before = resumed ? undefined : await look("before");
    const { warnings } = await putOn(options, loaded, adapter);
    const { trainable, percent } = trainableReport(model);
    say(`
  model     ${aboutModel(options, base)}
  text      ${aboutText(options, dataset)}
  adapter   ${adapterWords(options)}: ${words(trainable)} values to train (${percent.toFixed(1)} %)
  device    ${currentDevice().about}
`);
    for (const warning of warnings) say(`Note: ${warning}`);
    using trainer = finetuning(model, dataset, { ...trainingOf(options), ...evaluationsOf(options.steps) });
    let planned = 0;
    if (resumed) {
      const extra = await goOn(trainer, run.checkpoint, "finetune");
      before = extra["before"] as Before | undefined;
      planned = Number(extra["planned"]);
      say(`Going on after step ${trainer.step} of ${trainer.steps} (--fresh starts over).`);
    }
    if (!before) throw new ConfigError("the checkpoint does not say what was before.", { operation: "finetune" });
    const save = () => trainer.save(run.checkpoint, { before, planned });
    if (trainer.step < trainer.steps) {
      await train(trainer, signal, save);
      planned = trainer.memory().planned;
      await save();
    }
    if (trainer.step < trainer.steps) {
      say(`Stopped after step ${trainer.step} of ${trainer.steps}. The same command goes on from there; --fresh starts over.`);
      process.exitCode = interruptedExitCode;
      return;
    }
    const after = await look("after");
    const summary = await keep({ options, run, loaded, dataset, trainer, before, after, planned, drawing });
    await run.finish(settings, summary);
    showSamples(before.samples, after.samples);
    show(summary, options);
  } catch (error) {
    if (!signal.aborted || error !== signal.reason) throw error;
    say(
      run.hasCheckpoint ? "Stopped. The same command goes on from there; --fresh starts over." : "Stopped before training began.",
    );
    process.exitCode = interruptedExitCode;
  }
}

const adapterWords = ({ method, rank, alpha }: FinetuneOptions): string =>
  [method, ...(rank === undefined ? [] : [`rank ${rank}`]), ...(alpha === undefined ? [] : [`alpha ${alpha}`])].join(", ");

function settingsOf(options: FinetuneOptions): Settings {
  const { method, rank, alpha, dropout, targets, set, steps, batch, window, lr, seed, prompt } = options;
  const data = options.data === undefined ? "moby-dick" : resolve(options.data);
  const adapter = Object.entries({ rank, alpha, dropout }).filter((entry): entry is [string, number] => entry[1] !== undefined);
  const lists = { targets: targets.join(" "), ...(set.length > 0 && { set: set.join(" ") }), prompt: prompt.join(" | ") };
  return {
    model: resolve(options.model),
    data,
    ...(options.quantise && { quantise: options.quantise }),
    method,
    ...Object.fromEntries(adapter),
    ...lists,
    steps,
    batch,
    window,
    lr,
    seed,
  };
}

type Config = ReturnType<typeof adapterOf>;

const configOf = (options: FinetuneOptions, model: CausalLM): Config =>
  adapterOf(options, model.backbone.sizes.layers, assigned(options.set));

async function putOn({ seed }: FinetuneOptions, { model, tokenizer }: LoadedModel, adapter: Config): Promise<Adapter> {
  const source = adapter.config["promptTuningInitStateDictPath"] as string | null | undefined;
  return attach(model, adapter, {
    seed,
    tokenizer: { encode: (text) => tokenizer.encode(text) },
    ...(source && { sourceTasks: await readSourceTasks(source) }),
  });
}

/** `--dry-run`. */
async function planOnly(options: FinetuneOptions): Promise<void> {
  const { loaded, dataset } = await readTask("finetune", options, options.prompt);
  const base = loaded.model.numParameters();
  const { warnings } = await putOn(options, loaded, configOf(options, loaded.model));
  await showPlan(loaded.model, dataset, { ...options, base, adapter: adapterWords(options), warnings });
}

async function train(trainer: Trainer, signal: AbortSignal, save: () => Promise<void>): Promise<void> {
  const bar = new TrainingBar();
  let saved = performance.now();
  try {
    await trainer.run({
      signal,
      onStep: async (event) => {
        bar.update(event);
        if (performance.now() - saved < checkpointSeconds * 1000 || event.step === event.steps) return;
        await save();
        saved = performance.now();
      },
      onEvaluation: ({ step, perplexity, tokens }) =>
        bar.note(`step ${step}: held-out perplexity ${perplexity.toFixed(2)} (on ${words(tokens)} tokens)`),
    });
  } finally {
    bar.stop();
  }
}

interface Done {
  readonly options: FinetuneOptions;
  readonly run: RunFolder;
  readonly loaded: LoadedModel;
  readonly dataset: TextDataset;
  readonly trainer: Trainer;
  readonly before: Before;
  readonly after: Before;
  readonly planned: number;
  readonly drawing: Drawing | undefined;
}

/** Checks the merge law on the trained weights, and writes adapter, merged model and report; without the model where there is none. */
async function keep(done: Done): Promise<Summary> {
  const { options, run, loaded, dataset, trainer, before, after, planned, drawing } = done;
  const { model } = loaded;
  const result = trainer.result();
  const merges = mergeRefusal(model) === null;
  const merge = merges ? mergeLaw(model, dataset) : null;
  await saveAdapter(model, run.adapter, { baseModel: options.model });
  if (merges) {
    mergeAndUnload(model, undefined, { tell: say });
    await saveFolder(run.merged, options.model, loaded);
  } else run.drop("merged");
  const summary: Summary = {
    perplexityBefore: before.perplexity,
    perplexityAfter: after.perplexity,
    mergeMaxLogitDifference: merge,
    trainSeconds: result.seconds,
    tokensPerSecond: result.tokensPerSecond,
    peakBytes: process.resourceUsage().maxRSS * 1024,
    plannedBytes: planned,
    adapterDir: run.adapter,
    mergedDir: merges ? run.merged : null,
    report: drawing ? run.report : null,
  };
  if (!drawing) {
    run.drop("report");
    return summary;
  }
  const page = renderReport(
    {
      title: `${options.method} on ${options.data === undefined ? "Moby-Dick" : basename(options.data)}`,
      facts: [
        ...Object.entries(settingsOf(options)).map(([name, value]) => [name, String(value)] as const),
        ["device", currentDevice().about],
        ["Node", process.version],
      ],
      results: resultRows(summary),
      history: result.history,
      samples: before.samples.map((sample, i) => ({ before: sample, after: after.samples[i] as Sample })),
      drawn: `Drawn with temperature ${sampling.temperature}, top-p ${sampling.topP} and seed ${options.seed}, before and after.`,
    },
    drawing,
  );
  await writeFileAtomically(run.report, page);
  return summary;
}

/** The largest difference between logits with the adapter beside the weights and in them, on the first rows of held-out text. */
function mergeLaw(model: CausalLM, dataset: TextDataset): number {
  const [batch] = dataset.evaluationBatches({ batchSize: 4 });
  using inputs = uploadBatch(batch as NonNullable<typeof batch>);
  model.eval();
  return mergeDifference(model, () => model.forward({ inputIds: inputs.inputIds }).logits);
}

const percent = (share: number): string => `${share >= 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(1)} %`;

const unmerged = "none: this adapter is not a change of the weights, so there is no merged model";

function resultRows(summary: Summary): (readonly [string, string])[] {
  const { perplexityBefore, perplexityAfter, mergeMaxLogitDifference, trainSeconds, tokensPerSecond } = summary;
  const fall = percent(1 - perplexityAfter / perplexityBefore);
  return [
    ["held-out perplexity", `${perplexityBefore.toFixed(2)} → ${perplexityAfter.toFixed(2)} (${fall})`],
    [
      "merge law",
      mergeMaxLogitDifference === null
        ? unmerged
        : `logits beside and in the weights differ by at most ${mergeMaxLogitDifference.toExponential(1)}`,
    ],
    ["training", `${clock(trainSeconds)}, ${words(tokensPerSecond)} tokens/s`],
    [
      "memory",
      `${megabytes(summary.peakBytes)} at the peak of the process, ${megabytes(summary.plannedBytes)} planned for a step`,
    ],
  ];
}

function show(summary: Summary, { json }: FinetuneOptions): void {
  const rows = [
    ...resultRows(summary),
    ["adapter", `${summary.adapterDir}   (Hugging Face PEFT loads it)`],
    ...(summary.mergedDir === null ? [] : [["merged model", summary.mergedDir] as const]),
    ...(summary.report === null ? [] : [["report", summary.report] as const]),
  ] as const;
  say();
  for (const [name, value] of rows) say(`  ${name.padEnd(21)}${value}`);
  if (json) process.stdout.write(`${JSON.stringify(summary)}\n`);
}

function showSamples(before: readonly Sample[], after: readonly Sample[]): void {
  const width = Math.min(100, (process.stderr.columns ?? 100) - 12);
  before.forEach((sample, i) => {
    say();
    for (const [when, { prompt, text }] of [
      ["before", sample],
      ["after", after[i] as Sample],
    ] as const)
      sampleLines({ prompt, text }, width).forEach((line, row) => say(`  ${(row === 0 ? when : "").padEnd(9)}${line}`));
  });
}
