/**
 * The training loop: one compiled program a step, for all parameters of a model or for those of its adapters. It can be
 * stopped after any step, saved, and gone on with: the bits are those of a run that was never stopped.
 */
import { currentDevice } from "../compile/program.ts";
import { compile } from "../compile/trace.ts";
import { yieldToOthers } from "../compile/turn.ts";
import {
  ConfigError,
  checkOptions,
  FormatError,
  type Rules,
  requireKind,
  requireOption,
  ShapeError,
  under,
  wordShape,
} from "../errors.ts";
import { add } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { sameShape } from "../graph/shape.ts";
import { assignAll, type Variable } from "../graph/variable.ts";
import { dropoutState, dropoutVariables, seedDropout } from "../nn/dropout.ts";
import { Buffer, type Parameter, requireModule } from "../nn/module.ts";
import { AdamW } from "../optim/adam.ts";
import { clipGradNorm } from "../optim/clip.ts";
import { gradientsOf, type LearningRate, type Optimizer } from "../optim/optimizer.ts";
import { constantSchedule, type Schedule } from "../optim/schedule.ts";
import { adapterNames, getAdapter } from "../peft/adapted-model.ts";
import { adapterPenalty } from "../peft/penalty.ts";
import { beginSchedules, type Schedules } from "../peft/schedule.ts";
import type { SamplerState, TextDataset } from "../text/dataset.ts";
import { readNumbers, uploadInputs } from "./batch.ts";
import { checkBatch } from "./checked-batch.ts";
import {
  type Checkpoint,
  type CheckpointData,
  type CheckpointSource,
  encodeCheckpointFile,
  type Json,
  readCheckpointFile,
  tensorsUnder,
  writeCheckpointFile,
} from "./checkpoint.ts";
import { Evaluator, lossOf } from "./evaluate.ts";
import {
  type EvaluationEvent,
  type History,
  Progress,
  type SavedProgress,
  type StepEvent,
  type TrainingResult,
} from "./progress.ts";
import { type Sampler, type TrainableModel, type TrainingData, trainingData } from "./training-data.ts";

/** Any optimiser, whatever its settings. */
export type AnyOptimizer = Pick<Optimizer<LearningRate>, "step" | "setLearningRate" | "stateDict" | "loadStateDict">;

/** What an optimiser is made for: parameters that train, by path. */
export type TrainedParameters = ReadonlyMap<string, Parameter>;

/** How a model is trained. */
export interface TrainerOptions {
  /** Steps of the whole run. */
  readonly steps: number;
  /** Rows of a step. */
  readonly batchSize?: number;
  readonly learningRate?: number;
  /** Learning rate of each step; the same one throughout when absent. */
  readonly schedule?: Schedule;
  /** Largest norm of all gradients together; `null` for no limit. */
  readonly clipNorm?: number | null;
  /** AdamW without weight decay when absent. */
  readonly optimizer?: (parameters: TrainedParameters, learningRate: number) => AnyOptimizer;
  /** Decides the order of the rows and what dropout leaves out; the dataset's when absent. */
  readonly seed?: number;
  /** Held-out loss before the first step, after every so many steps, and after the last. */
  readonly evaluateEvery?: number;
  /** Tokens of such an evaluation; all when absent. */
  readonly evaluationTokens?: number;
}

/** What can be set. */
export const trainerOptionRules: Rules<TrainerOptions> = {
  steps: "a whole number from 1",
  batchSize: "a whole number from 1 below 2³¹",
  learningRate: "a number above 0",
  schedule: "a function",
  clipNorm: "a number above 0, or null",
  optimizer: "a function",
  seed: "a whole number from 0 below 2³²",
  evaluateEvery: "a whole number from 1",
  evaluationTokens: "a whole number from 1",
};

/** Who is told, and who can stop the run. */
export interface RunOptions {
  /** Stops after the step that is running. */
  readonly signal?: AbortSignal | undefined;
  readonly onStep?: (event: StepEvent) => void | Promise<void>;
  readonly onEvaluation?: (event: EvaluationEvent) => void | Promise<void>;
}

/** What these may be. */
export const runOptionRules: Rules<RunOptions> = { signal: "an AbortSignal", onStep: "a function", onEvaluation: "a function" };

/** Bytes that training takes. */
export interface MemoryReport {
  /** Bytes that the program of a step takes at its peak: intermediate values, batch, results. */
  readonly program: number;
  /** Bytes of all parameters. */
  readonly parameters: number;
  /** Bytes of the optimiser's state. */
  readonly optimizer: number;
  /** All of it together. */
  readonly planned: number;
}

/** Trains what of a model can be trained: everything, or its active adapters. */
export class Trainer implements Disposable {
  readonly model: TrainableModel;
  readonly dataset: TrainingData;
  readonly optimizer: AnyOptimizer;
  readonly parameters: TrainedParameters;
  readonly batchSize: number;
  /** May be changed while the run goes on. */
  steps: number;
  readonly #options: TrainerOptions;
  readonly #learn: ReturnType<typeof compile<[Record<string, Tensor>], Tensor[]>>;
  readonly #evaluator: Evaluator;
  /** What changes the adapters besides the optimiser. */
  readonly #schedules: Schedules;
  #sampler: Sampler;
  readonly #progress = new Progress();
  /** The first step makes kernels, and says nothing about the others' speed. */
  #hasRun = false;

  /** @throws {ConfigError} when nothing of the model can be trained, or an option is out of range */
  constructor(model: TrainableModel, dataset: TextDataset | TrainingData, options: TrainerOptions) {
    const operation = "train";
    checkOptions(operation, options, trainerOptionRules);
    requireModule(operation, model);
    const { steps, batchSize = 8, learningRate = 1e-3, clipNorm = 1, seed } = options;
    requireOption(operation, "a whole number from 1", "steps", steps);
    this.parameters = new Map([...model.namedParameters()].filter(([, parameter]) => parameter.requiresGrad));
    if (this.parameters.size === 0)
      throw new ConfigError("no parameter of this model can be trained.", {
        operation,
        hint: "Put an adapter on with attach, or set requiresGrad of parameters.",
      });
    this.model = model;
    this.dataset = trainingData(dataset);
    this.steps = steps;
    this.batchSize = batchSize;
    this.#options = options;
    this.#sampler = this.dataset.batches({ batchSize, ...(seed === undefined ? {} : { seed }) });
    const makeOptimizer = options.optimizer ?? ((all) => new AdamW([...all.values()], { lr: learningRate, weightDecay: 0 }));
    this.optimizer = makeOptimizer(this.parameters, learningRate);
    requireKind(operation, "a function", { "optimizer(…).step": (this.optimizer as Partial<AnyOptimizer> | null)?.step });
    this.#evaluator = new Evaluator(model);
    this.#schedules = beginSchedules(model);
    this.#learn = compile((inputs: Record<string, Tensor>) => {
      const ofModel = lossOf(model, inputs);
      const penalty = adapterPenalty(model);
      const loss = penalty ? add(ofModel, penalty) : ofModel;
      const raw = gradientsOf(loss, [...this.parameters.values()]);
      if (raw.size === 0)
        throw new ConfigError("the loss does not depend on any trained parameter.", {
          operation,
          got: [...this.parameters.keys()],
          hint: "An adapter that is merged or disabled does not: take it out of the weights with unmerge, or choose it with setActive.",
        });
      const { gradients, totalNorm } = clipGradNorm(raw, clipNorm ?? Number.POSITIVE_INFINITY);
      this.optimizer.step(gradients);
      this.#schedules.observe(gradients);
      return [loss, totalNorm];
    });
  }

  /** Steps done. */
  get step(): number {
    return this.#progress.step;
  }

  /** What was measured so far, for curves. */
  get history(): History {
    return this.#progress.history;
  }

  /**
   * Goes on until the last step, or until the signal is aborted.
   *
   * @throws {ConfigError} when the loss is no finite number any more; @throws {ShapeError} for tokens and labels that the model does not
   *   have, before anything is learned from them
   */
  async run(options: RunOptions = {}): Promise<TrainingResult> {
    checkOptions("run", options, runOptionRules);
    const { signal, onStep, onEvaluation } = options;
    const { evaluateEvery } = this.#options;
    const evaluateNow = async () => {
      if (evaluateEvery === undefined || this.history.evaluations.at(-1)?.step === this.step) return;
      const due = this.step % evaluateEvery === 0 || this.step === this.steps;
      if (!due) return;
      // one that is broken off is due again when the run goes on
      const event = await this.#evaluate(signal).catch((error) => {
        if (!signal?.aborted || error !== signal.reason) throw error;
      });
      if (event) await onEvaluation?.(event);
    };
    this.#progress.begin();
    if (this.step === 0) seedDropout(this.#options.seed ?? this.dataset.seed);
    await evaluateNow();
    while (this.step < this.steps && !signal?.aborted) {
      const event = await this.#next();
      await onStep?.(event);
      await yieldToOthers();
      if (!signal?.aborted) await evaluateNow();
    }
    return this.result();
  }

  /** What was done so far. */
  result(): TrainingResult {
    return this.#progress.result(this.steps);
  }

  async #next(): Promise<StepEvent> {
    const { learningRate = 1e-3, schedule = constantSchedule() } = this.#options;
    const start = performance.now();
    const batch = this.#sampler.next();
    if (!batch) throw new ConfigError("the dataset has no more rows.", { operation: "train" });
    const before = this.step;
    under("train", () => this.optimizer.setLearningRate((base) => schedule(before, base)));
    const rate = schedule(before, learningRate);
    const slow = !this.#hasRun;
    this.#hasRun = true;
    this.model.train();
    const results = (() => {
      using uploaded = uploadInputs(batch);
      checkBatch("train", this.model, batch, () => void this.#learn.explain(uploaded.inputs));
      return this.#learn(uploaded.inputs);
    })();
    const [loss, gradientNorm] = (await readNumbers(results)) as [number, number];
    const step = this.#progress.count();
    await this.#schedules.advance(step);
    requireFinite(`the loss of step ${step}`, loss);
    const seconds = (performance.now() - start) / 1000;
    const measured = { loss, learningRate: rate, gradientNorm };
    return this.#progress.note(measured, { tokens: batch.judged, seconds }, { slow, steps: this.steps });
  }

  /** Held-out loss of the model as it is now; noted in the history. @throws {ConfigError} when it is no finite number */
  evaluate(): Promise<EvaluationEvent> {
    return this.#evaluate();
  }

  async #evaluate(signal?: AbortSignal): Promise<EvaluationEvent> {
    const { evaluationTokens } = this.#options;
    const evaluation = await this.#evaluator.run(this.dataset, {
      batchSize: this.batchSize,
      signal,
      ...(evaluationTokens === undefined ? {} : { maxTokens: evaluationTokens }),
    });
    requireFinite(`the held-out loss after step ${this.step}`, evaluation.loss);
    const event = { step: this.step, ...evaluation };
    this.history.evaluations.push(event);
    return event;
  }

  /** Kernels of the program of a step; after the first step. */
  explain(): string {
    return this.#learn.explain();
  }

  /** Bytes that training takes. Before the first step its program is planned for this, and not run. */
  memory(): MemoryReport {
    if (this.#learn.traces === 0) this.#trace();
    const device = currentDevice();
    const bytesOf = (values: Iterable<{ readonly size: number; readonly dtype: Tensor["dtype"] }>) =>
      [...values].reduce((sum, { size, dtype }) => sum + size * device.storageBytes(dtype), 0);
    const { arenaBytes, outsideBytes } = this.#learn.memory();
    const program = arenaBytes + outsideBytes;
    const parameters = bytesOf(this.model.parameters());
    const optimizer = bytesOf(this.optimizer.stateDict().values());
    return { program, parameters, optimizer, planned: program + parameters + optimizer };
  }

  /** Makes the program of a step, from a batch that the run itself takes later. */
  #trace(): void {
    const batch = this.dataset.batches({ batchSize: this.batchSize }).next();
    if (!batch) return;
    this.model.train();
    using uploaded = uploadInputs(batch);
    this.#learn.explain(uploaded.inputs);
  }

  /**
   * Writes everything that the next step depends on.
   *
   * @param extra plain data of the caller's, given back by `load`
   * @throws {ConfigError} when the file cannot be written; an older one stays then
   */
  async save(path: string, extra: CheckpointData = {}): Promise<void> {
    await writeCheckpointFile(path, this.#checkpoint(extra));
  }

  /** What `save` writes, in memory, for places without a file system. */
  async encode(extra: CheckpointData = {}): Promise<Uint8Array<ArrayBuffer>> {
    return encodeCheckpointFile(this.#checkpoint(extra));
  }

  #checkpoint(extra: CheckpointData): Checkpoint {
    const tensors = new Map<string, Tensor>();
    for (const [name, variable] of this.#changed()) tensors.set(`model.${name}`, variable.stored);
    for (const [name, tensor] of this.optimizer.stateDict()) tensors.set(`optimizer.${name}`, tensor);
    for (const [name, tensor] of dropoutState()) tensors.set(`dropout.${name}`, tensor);
    for (const [name, { stored }] of this.#adapterRandomness()) tensors.set(`random.${name}`, stored);
    const schedules = this.#schedules.state();
    for (const [name, tensor] of schedules.tensors) tensors.set(`schedule.${name}`, tensor);
    const progress = this.#progress.save();
    const state = {
      ...progress,
      steps: this.steps,
      history: { ...progress.history, evaluations: progress.history.evaluations.map((each) => ({ ...each })) },
      timed: { ...progress.timed },
      sampler: { ...this.#sampler.state },
      schedules: schedules.data as Json,
    };
    return { tensors, data: { trainer: state, extra } };
  }

  /**
   * Goes on from what `save` or `encode` made for the same model, dataset and optimiser.
   *
   * @param source a path, or the bytes of the file
   * @returns the caller's data
   * @throws {FormatError} or {ShapeError} when the file is of another run; nothing is changed then
   */
  async load(source: CheckpointSource): Promise<CheckpointData> {
    const operation = "resume";
    const { tensors, data } = await readCheckpointFile(source);
    const path = typeof source === "string" ? source : "checkpoint";
    const state = data["trainer"];
    if (!isSavedState(state)) throw new FormatError(`"${path}" is not a checkpoint of a trainer.`, { operation, got: path });
    const own = [
      ["", "model.", this.#changed()],
      ["the random state ", "random.", this.#adapterRandomness()],
      ["the dropout state ", "dropout.", dropoutVariables()],
    ] as const;
    const pairs = own.flatMap(([what, prefix, variables]) =>
      [...variables].map(([name, variable]): [Variable, Tensor] => {
        const value = tensors.get(`${prefix}${name}`);
        if (!value)
          throw new FormatError(`${what}"${name}" is not in the checkpoint "${path}".`, {
            operation,
            expected: name,
            hint: "It is of another model or adapter.",
          });
        if (!sameShape(value.shape, variable.shape))
          throw new ShapeError(
            `${what}"${name}" is ${wordShape(value.shape)} in the checkpoint, ${wordShape(variable.shape)} here.`,
            { operation, expected: variable.shape, got: value.shape },
          );
        return [variable, value];
      }),
    );
    const resumeSchedules = this.#schedules.restoring(tensorsUnder(tensors, "schedule."), state.schedules);
    const sampler = this.dataset.batches({ batchSize: this.batchSize, seed: state.sampler.seed, state: state.sampler });
    this.optimizer.loadStateDict(tensorsUnder(tensors, "optimizer.")); // the last that may refuse
    assignAll(pairs);
    resumeSchedules(state.step);
    this.#sampler = sampler;
    this.steps = state.steps;
    this.#progress.restore(state);
    return (data["extra"] ?? {}) as CheckpointData;
  }

  /** What training changes of the model: what it trains, and what layers gather. */
  #changed(): Map<string, Variable> {
    const buffers = [...this.model.namedParameters()].filter(([, each]) => each instanceof Buffer);
    return new Map([...this.parameters, ...buffers]);
  }

  /** What the dropout of each adapter depends on. */
  #adapterRandomness(): Map<string, Variable> {
    const named = (name: string) => {
      const { key, count } = getAdapter(this.model, name).random.state;
      return [[`${name}.key`, key] as const, [`${name}.count`, count] as const];
    };
    return new Map(adapterNames(this.model).flatMap(named));
  }

  /** Gives the programs' memory back; the model stays. */
  [Symbol.dispose](): void {
    this.#learn.dispose();
    this.#evaluator[Symbol.dispose]();
    this.#schedules[Symbol.dispose]();
  }
}

/** What a checkpoint keeps besides tensors. */
interface SavedState extends SavedProgress {
  readonly steps: number;
  readonly sampler: SamplerState;
  readonly schedules: Readonly<Record<string, unknown>>;
}

function isSavedState(value: unknown): value is SavedState {
  const { step, steps, tokens, seconds, timed, history, sampler, schedules } = (value ?? {}) as Partial<SavedState>;
  const numbers = [step, steps, tokens, seconds, timed?.tokens, timed?.seconds, sampler?.seed];
  const lists = [history?.loss, history?.learningRate, history?.evaluations];
  return numbers.every(Number.isFinite) && lists.every(Array.isArray) && typeof schedules === "object";
}

/** @throws {ConfigError} when training has gone astray */
function requireFinite(what: string, loss: number): void {
  if (Number.isFinite(loss)) return;
  throw new ConfigError(`${what} is ${loss}.`, {
    operation: "train",
    got: loss,
    hint: "Use a lower learning rate, or a longer warm-up.",
  });
}
