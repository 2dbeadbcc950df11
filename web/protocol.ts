/** What the page and the engine's Worker say to each other. */
import type { MethodField } from "../src/cli/method-option.ts";
import type { MethodName } from "../src/peft/method-registry.ts";
import type { WrittenExample } from "../src/peft/prompt/example-tokens.ts";
import type { EvaluationEvent, History, MemoryReport, StepEvent } from "../src/train/index.ts";

/** Where the engine computes. `automatic` is the fastest that works here. */
export type DeviceWish = "automatic" | "wasm" | "gpu";

/** Everything that decides the numbers of a run; kept with it. */
export interface Settings {
  /** `null` for the model that comes with the page, else what the given files are called. */
  readonly model: string | null;
  /** `null` for Moby-Dick, else the name of the given file. */
  readonly text: string | null;
  readonly method: MethodName;
  readonly rank?: number;
  readonly alpha?: number;
  readonly dropout?: number;
  readonly targets: readonly string[];
  /** What context-aware prompt tuning starts from. */
  readonly examples?: readonly WrittenExample[];
  readonly steps: number;
  readonly batch: number;
  readonly window: number;
  readonly learningRate: number;
  readonly seed: number;
  readonly prompts: readonly string[];
  readonly device: DeviceWish;
}

/** A method and which of the form's fields it has. */
export interface MethodChoice {
  readonly name: MethodName;
  readonly fields: readonly MethodField[];
}

/** `reading` and `measuring` lead to `training`; `paused` and `finished` wait for the person. */
export type Phase = "idle" | "reading" | "measuring" | "training" | "paused" | "finishing" | "finished";

/** What is known of the run once the model is read. */
export interface Facts {
  readonly parameters: number;
  readonly trainable: number;
  readonly trainTokens: number;
  readonly heldOutTokens: number;
  /** The device in words. */
  readonly device: string;
  readonly plan: MemoryReport;
  /** Virtual tokens have no scale. */
  readonly scales: boolean;
  /** Some adapters are no change of the weights. */
  readonly merges: boolean;
  /** Whether llama.cpp can have the adapter. */
  readonly fitsGguf: boolean;
  /** What is to be known of the settings. */
  readonly warnings: readonly string[];
}

/** Which of the two texts of a prompt is written. */
export type Side = "base" | "adapted";

/** How a finished run ended. */
export interface Outcome {
  readonly perplexityBefore: number;
  readonly perplexityAfter: number;
  /** `null` where there is no merged model. */
  readonly mergeDifference: number | null;
  readonly seconds: number;
  readonly tokensPerSecond: number;
  readonly peakBytes: number;
}

/** All that the page shows of a run that was kept. */
export interface KeptRun {
  readonly settings: Settings;
  readonly steps: number;
  readonly step: number;
  readonly history: History;
  readonly perplexityBefore: number | null;
  /** By prompt. */
  readonly samples: Readonly<Record<Side, readonly string[]>>;
  readonly outcome: Outcome | null;
}

/** To the engine. */
export type Command =
  | { readonly type: "start"; readonly settings: Settings; readonly modelFiles: readonly File[]; readonly textFile: File | null }
  | { readonly type: "continue" }
  | { readonly type: "pause" }
  /** Writes the adapted texts anew, with the adapter's share multiplied by `scale`. */
  | { readonly type: "scale"; readonly scale: number }
  /** Continues a text of the person's, on both sides. */
  | { readonly type: "try"; readonly prompt: string }
  | { readonly type: "adapter" }
  | { readonly type: "gguf" }
  | { readonly type: "merged" }
  /** Forgets the run and all that was kept of it. */
  | { readonly type: "discard" };

/** To the page. */
export type EngineEvent =
  | {
      readonly type: "ready";
      readonly methods: readonly MethodChoice[];
      readonly devices: readonly DeviceWish[];
      readonly keeps: boolean;
    }
  /** `note` says what is going on, for people. */
  | { readonly type: "phase"; readonly phase: Phase; readonly note: string }
  /** A run that was kept is being read again. */
  | { readonly type: "opening"; readonly settings: Settings }
  | { readonly type: "kept"; readonly run: KeptRun }
  | { readonly type: "facts"; readonly facts: Facts }
  | { readonly type: "before"; readonly perplexity: number }
  | { readonly type: "step"; readonly event: StepEvent; readonly bytesInUse: number }
  | { readonly type: "evaluation"; readonly event: EvaluationEvent }
  /** The text that is written so far; `prompt` counts from 0, and is −1 for the person's own. */
  | { readonly type: "sample"; readonly side: Side; readonly prompt: number; readonly text: string; readonly done: boolean }
  | { readonly type: "outcome"; readonly outcome: Outcome }
  /** Whether the run is being kept again, or why it no longer is. */
  | { readonly type: "keeping"; readonly problem: string | null }
  /** Answers `adapter`, `gguf` and `merged`. */
  | { readonly type: "file"; readonly name: string; readonly blob: Blob }
  /** The command came to nothing, or the run stopped; the sentence is for people. */
  | { readonly type: "problem"; readonly message: string };
