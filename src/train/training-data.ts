/**
 * What training takes in: batches of a model's inputs by name, whatever the model is for. A text to be continued comes as a
 * `TextDataset`; everything else as columns with one row for each text or image, `tensorDataset`.
 */
import { ConfigError, checkOptions, type Rules, requireKind, requireOption, ShapeError, wordShape, wordType } from "../errors.ts";
import type { TypedArray } from "../graph/dtype.ts";
import type { Tensor } from "../graph/node.ts";
import { type Shape, sizeOf } from "../graph/shape.ts";
import type { Module } from "../nn/module.ts";
import { ignoredLabel, type SamplerState, shuffledOrder, type TextBatch, TextDataset } from "../text/dataset.ts";

/** A model that gives a loss when its inputs hold labels. */
export interface TrainableModel extends Module {
  forward(inputs: never): { readonly loss?: Tensor };
}

/** Plain values of one input. */
export interface Column {
  /** Float32Array, or Int32Array for whole numbers. */
  readonly values: TypedArray;
  readonly shape: Shape;
}

/** Inputs of a model by name, and how many labels its loss is the mean over. */
export interface Batch {
  readonly inputs: Readonly<Record<string, Column>>;
  readonly judged: number;
}

/** Gives out training batches; `state` says where it stands after each. */
export interface Sampler {
  next(): Batch | undefined;
  readonly state: SamplerState;
}

/** Where batches come from. */
export interface TrainingData {
  readonly seed: number;
  /** In an order that depends on the seed alone. @param options.state goes on where another run stood */
  batches(options: { readonly batchSize: number; readonly seed?: number; readonly state?: SamplerState }): Sampler;
  /** Labels that are held out. */
  readonly heldOut: number;
  /** What is held out, once. @throws {ConfigError} when that is nothing */
  evaluationBatches(options: { readonly batchSize: number }): Iterable<Batch>;
}

/** A text as inputs of a model that continues it. */
export const textInputs = ({ inputIds, labels, shape }: TextBatch): Batch => ({
  inputs: { inputIds: { values: inputIds, shape }, targets: { values: labels, shape } },
  judged: judgedLabels(labels),
});

const judgedLabels = (labels: Int32Array): number => labels.reduce((count, label) => count + Number(label !== ignoredLabel), 0);

/** Batches of what was given. */
export function trainingData(data: TextDataset | TrainingData): TrainingData {
  if (!(data instanceof TextDataset)) {
    if (typeof data?.batches !== "function")
      throw new ConfigError(`the data is ${wordType(data)}, not a dataset.`, {
        operation: "train",
        got: data,
        hint: "Make one with textDataset, chatDataset or tensorDataset.",
      });
    return data;
  }
  return {
    seed: data.seed,
    heldOut: data.heldOutMask?.reduce((count, bit) => count + bit, 0) ?? data.heldOutTokens.length,
    batches(options) {
      const sampler = data.batches(options);
      return {
        next() {
          const batch = sampler.next();
          return batch && textInputs(batch);
        },
        get state() {
          return sampler.state;
        },
      };
    },
    *evaluationBatches(options) {
      for (const batch of data.evaluationBatches(options)) yield textInputs(batch);
    },
  };
}

/** Which rows are held out, and in which order the others come. */
export interface TensorDatasetOptions {
  /** Share of the rows, at the end, that are held out for evaluation. */
  readonly heldOut?: number;
  readonly seed?: number;
}

/** What its options may be. */
export const tensorDatasetRules: Rules<TensorDatasetOptions> = {
  heldOut: "a number from 0 below 1",
  seed: "a whole number from 0 below 2³²",
};

/**
 * Rows of columns: one for each text or image. Names are those of the model's inputs, such as `inputIds` [N, T], `attentionMask` [N, T],
 * `pixelValues` [N, C, H, W] and `labels`, [N] for classes, or what else a model's loss is of.
 *
 * @throws {ConfigError} for no columns, values that are neither float32 nor int32, or a share out of [0, 1);
 *   @throws {ShapeError} when columns have different numbers of rows, or values that do not fit their shape
 * @example
 * const data = tensorDataset({
 *   inputIds: { values: new Int32Array(20 * 12), shape: [20, 12] },
 *   labels: { values: new Int32Array(20 * 12), shape: [20, 12] },
 * }, { heldOut: 0.1 });
 * attach(model, lora({ r: 4 }));
 * await finetune(model, data, { steps: 2 });
 */
export function tensorDataset(columns: Readonly<Record<string, Column>>, options: TensorDatasetOptions = {}): TrainingData {
  const { heldOut = 0, seed = 0 } = checkOptions("tensorDataset", options, tensorDatasetRules);
  const operation = "tensorDataset";
  requireKind(operation, "an object", { columns });
  for (const [name, column] of Object.entries(columns)) {
    requireKind(operation, "an object", { [name]: column });
    requireKind(operation, "a list of numbers", { [`${name}.values`]: column.values, [`${name}.shape`]: column.shape });
  }
  const labels = columns["labels"];
  const [first] = Object.entries(labels ? { labels } : columns);
  if (!first) throw new ConfigError("there are no columns.", { operation });
  const rows = first[1].shape[0] ?? 0;
  for (const [name, { values, shape }] of Object.entries(columns)) {
    if (!(values instanceof Float32Array || values instanceof Int32Array))
      throw new ConfigError(`\`${name}\` is a ${values.constructor.name}; it must be a Float32Array or an Int32Array.`, {
        operation,
      });
    if (shape[0] !== rows || values.length !== sizeOf(shape))
      throw new ShapeError(
        `\`${name}\` holds ${values.length} values for ${wordShape(shape)}; \`${first[0]}\` has ${rows} rows.`,
        {
          operation,
          expected: rows,
          got: shape,
        },
      );
  }
  const kept = rows - Math.floor(rows * heldOut);
  if (kept === 0) throw new ConfigError("there is no row to train on.", { operation, got: first[1].shape });
  const labelsIn = (values: TypedArray | undefined, count: number): number =>
    labels && labels.shape.length > 1 && values instanceof Int32Array ? judgedLabels(values) : count;
  const pick = (chosen: ArrayLike<number>): Batch => {
    const inputs = Object.fromEntries(
      Object.entries(columns).map(([name, { values, shape }]) => [name, pickRows(values, shape, chosen)] as const),
    );
    return { inputs, judged: labelsIn(inputs["labels"]?.values, chosen.length) };
  };
  return {
    seed,
    heldOut: labelsIn(labels?.values.subarray((labels.values.length / rows) * kept), rows - kept),
    batches(options) {
      requireKind("batches", "an object", { options });
      const { batchSize, seed: own, state } = options;
      return new RowSampler(pick, kept, batchSize, own ?? state?.seed ?? seed, state);
    },
    *evaluationBatches(options) {
      requireKind("evaluationBatches", "an object", { options });
      const { batchSize } = options;
      requireOption("evaluationBatches", "a whole number from 1", "batchSize", batchSize);
      if (kept === rows)
        throw new ConfigError("nothing is held out.", { operation: "evaluationBatches", hint: "Set `heldOut`." });
      for (let at = kept; at < rows; at += batchSize)
        yield pick(Array.from({ length: Math.min(batchSize, rows - at) }, (_, i) => at + i));
    },
  };
}

function pickRows(values: TypedArray, shape: Shape, rows: ArrayLike<number>): Column {
  const size = values.length / (shape[0] as number);
  const picked = new (values.constructor as Float32ArrayConstructor)(rows.length * size);
  for (let i = 0; i < rows.length; i++)
    picked.set((values as Float32Array).subarray((rows[i] as number) * size, ((rows[i] as number) + 1) * size), i * size);
  return { values: picked, shape: [rows.length, ...shape.slice(1)] };
}

/** Each row once an epoch; batches run on over the end of one, so that all have the same shape. */
class RowSampler implements Sampler {
  readonly #pick: (rows: readonly number[]) => Batch;
  readonly #rows: number;
  readonly #batchSize: number;
  readonly #seed: number;
  #epoch: number;
  #position: number;
  #order: Uint32Array | null = null;

  /** @throws {ConfigError} when the state is of other rows */
  constructor(
    pick: (rows: readonly number[]) => Batch,
    rows: number,
    batchSize: number,
    seed: number,
    state: SamplerState | undefined,
  ) {
    if (state && (state.rows !== rows || state.seed !== seed))
      throw new ConfigError(
        `the state is of a run with ${state.rows} rows and seed ${state.seed}; here are ${rows} and ${seed}.`,
        {
          operation: "batches",
          expected: { rows, seed },
          got: state,
        },
      );
    this.#pick = pick;
    this.#rows = rows;
    this.#batchSize = batchSize;
    this.#seed = seed;
    this.#epoch = state?.epoch ?? 0;
    this.#position = state?.position ?? 0;
  }

  get state(): SamplerState {
    return { seed: this.#seed, rows: this.#rows, epoch: this.#epoch, position: this.#position };
  }

  next(): Batch {
    const chosen: number[] = [];
    while (chosen.length < this.#batchSize) {
      this.#order ??= shuffledOrder(this.#rows, this.#seed, this.#epoch);
      chosen.push(this.#order[this.#position] as number);
      if (++this.#position < this.#rows) continue;
      this.#position = 0;
      this.#epoch++;
      this.#order = null;
    }
    return this.#pick(chosen);
  }
}
