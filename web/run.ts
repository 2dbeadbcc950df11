/** One fine-tuning run in the engine's Worker: read, measured, trained, paused and kept, and what is made of it. */
import { adapterOf, withDefaults } from "../src/cli/method-option.ts";
import { evaluationsOf, sampling } from "../src/cli/report.ts";
import { ConfigError } from "../src/errors.ts";
import { type Folder, filesFolder } from "../src/formats/index.ts";
import { currentDevice, onHost } from "../src/index.ts";
import { ggufRefusal } from "../src/peft/gguf-adapter.ts";
import {
  attach,
  disabled,
  encodeGgufAdapter,
  exampleTokens,
  getAdapter,
  mergeAndUnload,
  mergeDifference,
  saveAdapter,
  setScale,
  trainableReport,
} from "../src/peft/index.ts";
import { mergeRefusal } from "../src/peft/merge.ts";
import { fileDataset } from "../src/text/file-dataset.ts";
import { saveTokenizer, type TextDataset, type Tokenizer, textDataset } from "../src/text/index.ts";
import { uploadBatch } from "../src/train/batch.ts";
import { evaluate, finetuning, generateText, type LoadedModel, loadModel, saveModel, type Trainer } from "../src/train/index.ts";
import type { DeviceWish, EngineEvent, KeptRun, Outcome, Settings, Side } from "./protocol.ts";
import { checkModel, givenText, mobyDick, requireRoom, tinyModel } from "./source.ts";
import { baseName, problemWith, type Store } from "./store.ts";
import { ZipFolder } from "./zip.ts";

/** Where a run's files are, besides the page's own, and where it computes. */
export interface Sources {
  readonly store: Store | undefined;
  /** Makes the engine compute on this device, for a model of so many values. */
  use(wish: DeviceWish, values: number): Promise<void>;
  /** As the person gave them; used where nothing is kept. */
  readonly modelFiles: readonly File[];
  readonly textFile: File | null;
}

type Tell = (event: EngineEvent) => void;

/** What a checkpoint keeps besides the trainer's own. */
interface Notes {
  perplexityBefore: number | null;
  readonly samples: Record<Side, string[]>;
  /** The step after which the adapted texts were written, all of them. */
  writtenAfter: number | null;
  outcome: Outcome | null;
}

/** Keeping the state may take this share of the time. */
const savingShare = 0.05;
/** Seconds between two checkpoints at least. */
const savingPause = 2;

export class Run implements Disposable {
  readonly settings: Settings;
  readonly #sources: Sources;
  readonly #tell: Tell;
  readonly #folder: Folder;
  readonly #loaded: LoadedModel;
  readonly #dataset: TextDataset;
  readonly #trainer: Trainer;
  readonly #notes: Notes = { perplexityBefore: null, samples: { base: [], adapted: [] }, writtenAfter: null, outcome: null };
  #scale = 1;
  #running = false;
  /** Why the newest state could not be kept. */
  #unkept: string | null = null;
  /** What was asked for while a step was running. */
  #between: (() => Promise<void>)[] = [];

  private constructor(
    settings: Settings,
    sources: Sources,
    tell: Tell,
    parts: { readonly folder: Folder; readonly loaded: LoadedModel; readonly dataset: TextDataset; readonly trainer: Trainer },
  ) {
    this.settings = settings;
    this.#sources = sources;
    this.#tell = tell;
    this.#folder = parts.folder;
    this.#loaded = parts.loaded;
    this.#dataset = parts.dataset;
    this.#trainer = parts.trainer;
  }

  /**
   * Reads everything that the run needs, and plans its memory; nothing is computed yet.
   *
   * @param checkpoint what `encode` made, to go on from there
   * @throws {ConfigError} when the files or settings do not fit each other, or the memory does not suffice
   */
  static async open(settings: Settings, sources: Sources, tell: Tell, checkpoint?: Uint8Array): Promise<Run> {
    const note = (text: string) => tell({ type: "phase", phase: "reading", note: text });
    note("Reading the model");
    const folder = await modelFolder(settings, sources);
    await sources.use(settings.device, await checkModel(folder));
    const loaded = await loadModel(folder);
    const { model, tokenizer } = loaded;
    note("Reading the text");
    const dataset = await datasetOf(settings, sources, tokenizer);
    if (dataset.heldOutTokens.length === 0)
      throw new ConfigError("the text is too short to hold a part of it out.", { operation: "read", hint: "Give a longer one." });
    const examples = settings.examples ? exampleTokens(tokenizer, settings.examples) : {};
    const adapter = adapterOf(withDefaults(settings), model.backbone.sizes.layers, examples);
    const { warnings } = attach(model, adapter, { seed: settings.seed, tokenizer: { encode: (text) => tokenizer.encode(text) } });
    const trainer = finetuning(model, dataset, {
      steps: settings.steps,
      batchSize: settings.batch,
      learningRate: settings.learningRate,
      seed: settings.seed,
      ...evaluationsOf(settings.steps),
    });
    const run = new Run(settings, sources, tell, { folder, loaded, dataset, trainer });
    if (checkpoint) Object.assign(run.#notes, await trainer.load(checkpoint));
    const plan = trainer.memory();
    requireRoom(plan.planned, "Training takes");
    const base = model.numParameters() - trainableReport(model).trainable;
    tell({
      type: "facts",
      facts: {
        parameters: base,
        trainable: trainableReport(model).trainable,
        trainTokens: dataset.trainTokens.length,
        heldOutTokens: dataset.heldOutTokens.length,
        device: currentDevice().about,
        plan,
        scales: !getAdapter(model, "default").isPrompt,
        merges: mergeRefusal(model) === null,
        fitsGguf: ggufRefusal(model) === null,
        warnings,
      },
    });
    return run;
  }

  get isRunning(): boolean {
    return this.#running;
  }

  /** What the page shows of it. */
  get kept(): KeptRun {
    const { step, steps, history } = this.#trainer;
    return { settings: this.settings, step, steps, history, ...this.#notes };
  }

  /** Goes on until the last step; when the signal is aborted, until the step, the token or the batch that is being computed is done. */
  async train(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return this.tellPhase();
    this.#running = true;
    const trainer = this.#trainer;
    try {
      if (this.#notes.perplexityBefore === null) await this.#measureBefore(signal);
      // a pause may have come in the middle of them
      const measured = trainer.history.evaluations.at(-1);
      if (measured && measured.step !== this.#notes.writtenAfter) await this.#writeAdapted(measured.step, signal);
      if (trainer.step < trainer.steps) {
        this.#tell({ type: "phase", phase: "training", note: "Training" });
        let [saved, pause] = [performance.now(), savingPause * 1000];
        await trainer.run({
          signal,
          onStep: async (event) => {
            this.#tell({ type: "step", event, bytesInUse: currentDevice().statistics.bytesInUse });
            await this.#serve();
            if (performance.now() - saved < pause || event.step === event.steps) return;
            const begin = performance.now();
            await this.keep();
            saved = performance.now();
            pause = Math.max(savingPause * 1000, (saved - begin) / savingShare);
          },
          onEvaluation: async (event) => {
            this.#tell({ type: "evaluation", event });
            await this.#writeAdapted(event.step, signal);
          },
        });
      }
      await this.keep();
      if (trainer.step >= trainer.steps && !this.#notes.outcome) await this.#finish(signal);
    } catch (error) {
      if (!signal.aborted || error !== signal.reason) throw error;
      await this.keep();
    } finally {
      this.#running = false;
    }
    this.tellPhase();
    await this.#serve();
  }

  /** Says that it waits, and for what. */
  tellPhase(): void {
    const { step, steps } = this.#trainer;
    if (this.#notes.outcome) this.#tell({ type: "phase", phase: "finished", note: "Finished" });
    else
      this.#tell({
        type: "phase",
        phase: "paused",
        note: step === 0 ? "Ready to begin" : `Paused after step ${step} of ${steps}`,
      });
  }

  /** Does it while it runs, when the step that is being computed is done. */
  betweenSteps(task: () => Promise<void>): void {
    this.#between.push(task);
  }

  async #serve(): Promise<void> {
    for (let task = this.#between.shift(); task; task = this.#between.shift()) await task();
  }

  async #measureBefore(signal: AbortSignal): Promise<void> {
    this.#tell({ type: "phase", phase: "measuring", note: "Measuring the model as it is" });
    const { model } = this.#loaded;
    const { perplexity } = await disabled(model, () => evaluate(model, this.#dataset, { signal }));
    await this.#writeAll("base", signal);
    this.#notes.perplexityBefore = perplexity;
    this.#tell({ type: "before", perplexity });
    await this.keep();
  }

  async #finish(signal: AbortSignal): Promise<void> {
    this.#tell({ type: "phase", phase: "finishing", note: "Measuring what was learned" });
    const { model } = this.#loaded;
    const { perplexity } = await evaluate(model, this.#dataset, { signal });
    const [batch] = this.#dataset.evaluationBatches({ batchSize: 4 });
    using inputs = uploadBatch(batch as NonNullable<typeof batch>);
    model.eval();
    const logits = () => model.forward({ inputIds: inputs.inputIds }).logits;
    const merges = mergeRefusal(model) === null;
    const { seconds, tokensPerSecond } = this.#trainer.result();
    const outcome: Outcome = {
      perplexityBefore: this.#notes.perplexityBefore as number,
      perplexityAfter: perplexity,
      mergeDifference: merges ? await onHost(() => mergeDifference(model, logits)) : null,
      seconds,
      tokensPerSecond,
      peakBytes: currentDevice().statistics.peakBytes,
    };
    this.#notes.outcome = outcome;
    await this.keep();
    this.#tell({ type: "outcome", outcome });
  }

  /** Writes the texts of all prompts on one side. */
  async #writeAll(side: Side, signal?: AbortSignal): Promise<void> {
    for (const [index, prompt] of this.settings.prompts.entries())
      this.#notes.samples[side][index] = await this.#write(side, index, prompt, signal);
  }

  async #writeAdapted(step: number, signal: AbortSignal): Promise<void> {
    await this.#writeAll("adapted", signal);
    this.#notes.writtenAfter = step;
  }

  /** The adapted texts anew, with the adapter's share multiplied. */
  async rescale(scale: number): Promise<void> {
    this.#scale = scale;
    await this.#writeAll("adapted");
  }

  /** Continues a text of the person's on both sides. */
  async tryPrompt(prompt: string): Promise<void> {
    for (const side of ["base", "adapted"] as const) await this.#write(side, -1, prompt);
  }

  /** One text as it is being written. */
  async #write(side: Side, index: number, prompt: string, signal?: AbortSignal): Promise<string> {
    const { model, tokenizer } = this.#loaded;
    const stopTokens = tokenizer.eosId === undefined ? [] : [tokenizer.eosId];
    let text = "";
    const tell = (done: boolean) => this.#tell({ type: "sample", side, prompt: index, text, done });
    const draw = async () => {
      tell(false);
      const options = { ...sampling, seed: this.settings.seed, stopTokens, signal };
      for await (const piece of generateText({ model, tokenizer }, prompt, options)) {
        text += piece.text;
        tell(false);
      }
    };
    try {
      if (side === "base") await disabled(model, draw);
      else if (this.#scale === 1) await draw();
      else {
        setScale(model, this.#scale);
        await draw().finally(() => setScale(model, 1));
      }
    } finally {
      tell(true);
    }
    return text;
  }

  /** Puts the state where a reload finds it. A storage that is full stops no training. */
  async keep(): Promise<void> {
    const { store } = this.#sources;
    if (!store) return;
    const problem = await problemWith(async () => store.saveCheckpoint(await this.encode()));
    if (problem !== this.#unkept) this.#tell({ type: "keeping", problem });
    this.#unkept = problem;
  }

  encode(): Promise<Uint8Array<ArrayBuffer>> {
    return this.#trainer.encode({ ...this.#notes } as never);
  }

  /** The adapter's folder, packed. */
  async adapter(): Promise<Blob> {
    const zip = await ZipFolder.create();
    await saveAdapter(this.#loaded.model, zip, { baseModel: this.settings.model ?? "models/tiny" });
    return zip.close();
  }

  /** The adapter for llama.cpp. */
  async gguf(): Promise<Blob> {
    return new Blob([await encodeGgufAdapter(this.#loaded.model)]);
  }

  /** The model's folder with the adapter in the weights, packed. The run cannot be used afterwards: open it again. */
  async merged(): Promise<Blob> {
    this.#trainer[Symbol.dispose]();
    mergeAndUnload(this.#loaded.model);
    const outbox = await this.#sources.store?.outbox();
    // in memory where the storage is full
    return (outbox && (await this.#pack(outbox).catch(() => undefined))) ?? this.#pack();
  }

  /** @param outbox where the file is made, piece by piece */
  async #pack(outbox?: FileSystemDirectoryHandle): Promise<Blob> {
    const { model, config, tokenizer } = this.#loaded;
    await using zip = await ZipFolder.create(outbox);
    await saveModel(zip, model, config);
    await saveTokenizer(zip, tokenizer);
    const generation = "generation_config.json";
    if (this.#folder.files.has(generation)) {
      const { size, read } = await this.#folder.open(generation);
      await zip.write(new Map([[generation, await read(0, size)]]));
    }
    return zip.close();
  }

  /** Gives the memory back at once; the next run may need it. */
  [Symbol.dispose](): void {
    this.#trainer[Symbol.dispose]();
    for (const parameter of this.#loaded.model.parameters()) parameter.stored.dispose();
  }
}

async function modelFolder(settings: Settings, { store, modelFiles }: Sources): Promise<Folder> {
  if (settings.model === null) return tinyModel();
  return store ? store.model() : filesFolder(Object.fromEntries(modelFiles.map((file) => [baseName(file), file])), "loadModel");
}

async function datasetOf(settings: Settings, { store, textFile }: Sources, tokenizer: Tokenizer): Promise<TextDataset> {
  const { text, window, seed } = settings;
  if (text === null) return textDataset(await mobyDick(), tokenizer, { window, seed });
  const content = await givenText(store ? await store.text(text) : (textFile as File));
  return fileDataset(text, content, tokenizer, { window, seed });
}
