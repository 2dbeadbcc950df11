/** The folder of one fine-tuning run: which settings it is of, what can be gone on with, and what is finished. */
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ConfigError, FormatError, LorikeetError } from "../errors.ts";
import { writeFileAtomically } from "../formats/atomic-file.ts";
import type { Trainer } from "../train/trainer.ts";

/** What decides the numbers of a run. */
export type Settings = Readonly<Record<string, string | number | boolean>>;

/** What `--json` prints and a finished run keeps. */
export interface Summary {
  readonly perplexityBefore: number;
  readonly perplexityAfter: number;
  /** `null` for an adapter that is no change of the weights. */
  readonly mergeMaxLogitDifference: number | null;
  readonly trainSeconds: number;
  readonly tokensPerSecond: number;
  /** Of the whole process, as the system measured it. */
  readonly peakBytes: number;
  /** Of a training step with weights and optimiser state, as it was planned. */
  readonly plannedBytes: number;
  readonly adapterDir: string;
  /** `null` where there is no merged model. */
  readonly mergedDir: string | null;
  /** `null` where nothing draws it. */
  readonly report: string | null;
}

const numbers = ["perplexityBefore", "perplexityAfter", "trainSeconds", "tokensPerSecond", "peakBytes", "plannedBytes"] as const;

interface Finished {
  readonly settings: Settings;
  readonly summary: Summary;
}

/** Paths in the folder of a run, and what it holds of an earlier one. */
export class RunFolder {
  readonly path: string;
  readonly checkpoint: string;
  readonly adapter: string;
  readonly merged: string;
  readonly report: string;
  readonly #settings: string;
  readonly #result: string;

  constructor(path: string) {
    this.path = path;
    this.checkpoint = join(path, "checkpoint.safetensors");
    this.adapter = join(path, "adapter");
    this.merged = join(path, "merged");
    this.report = join(path, "report.html");
    this.#settings = join(path, "settings.json");
    this.#result = join(path, "result.json");
  }

  get hasCheckpoint(): boolean {
    return existsSync(this.checkpoint);
  }

  /** The summary of a run with these settings that has been finished here and of which everything is there, if there is one. */
  finished(settings: Settings): Summary | undefined {
    if (this.hasCheckpoint) return undefined;
    const { settings: of, summary } = (readJson(this.#result) ?? {}) as Partial<Finished>;
    if (summary === undefined || difference(of, settings) !== "" || !numbers.every((key) => typeof summary[key] === "number"))
      return undefined;
    // the folder may have been moved
    const { mergedDir, report } = summary;
    const here = { adapterDir: this.adapter, mergedDir: mergedDir && this.merged, report: report && this.report };
    return Object.values(here).every((path) => path === null || existsSync(path)) ? { ...summary, ...here } : undefined;
  }

  /** @throws {ConfigError} naming what differs between the run that has been stopped here and this one */
  checkSettings(settings: Settings): void {
    const found = readJson(this.#settings) as Settings | undefined;
    if (found === undefined)
      throw new ConfigError(`"${this.checkpoint}" is of an unfinished run, but "${this.#settings}" cannot be read.`, {
        operation: "finetune",
        hint: "Give --fresh to start over, or another --out.",
      });
    const differs = difference(found, settings);
    if (differs !== "")
      throw new ConfigError(`"${this.checkpoint}" is of an unfinished run with other settings: ${differs}.`, {
        operation: "finetune",
        hint: "Give the same to go on with it, --fresh to start over, or another --out.",
      });
  }

  /** Finds out before the work whether its results can be kept. @throws {ConfigError} when the folder cannot be written */
  async claim(settings: Settings): Promise<void> {
    await writeFileAtomically(this.#settings, `${JSON.stringify(settings, null, 2)}\n`);
  }

  /** A run from the beginning: what another left behind to be gone on with is not needed any more. */
  forget(): void {
    for (const file of [this.checkpoint, this.#result]) rmSync(file, { recursive: true, force: true });
  }

  /** What an earlier run left here and this run does not write is not of this run's adapter. */
  drop(what: "merged" | "report"): void {
    rmSync(this[what], { recursive: true, force: true });
  }

  /** Keeps the summary; there is nothing left to go on with. */
  async finish(settings: Settings, summary: Summary): Promise<void> {
    await writeFileAtomically(this.#result, `${JSON.stringify({ settings, summary } satisfies Finished, null, 2)}\n`);
    rmSync(this.checkpoint, { force: true });
  }
}

/** Takes a training run up again. @returns what was kept beside it @throws {FormatError} when the file is damaged */
export async function goOn(trainer: Trainer, checkpoint: string, operation: string): ReturnType<Trainer["load"]> {
  return trainer.load(checkpoint).catch((error) => {
    if (!(error instanceof LorikeetError)) throw error;
    const { problem } = error;
    throw new FormatError(`there is nothing to resume: ${problem}`, {
      operation,
      got: checkpoint,
      hint: "Give --fresh to start over.",
    });
  });
}

/** `undefined` when there is no such file, or it is not ours. */
function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch {
    return undefined;
  }
}

/** `steps 300, not 20; …`; empty when nothing differs. */
function difference(saved: Settings | undefined, settings: Settings): string {
  return Object.keys({ ...saved, ...settings })
    .filter((key) => saved?.[key] !== settings[key])
    .map((key) => `${key} ${saved?.[key]}, not ${settings[key]}`)
    .join("; ");
}
