/** Embeddings: one vector for a whole text, made of the states of a model without an output layer, and how a model learns to make them. */

import { download } from "../compile/program.ts";
import { compile } from "../compile/trace.ts";
import { yieldToOthers } from "../compile/turn.ts";
import { ConfigError, checkOptions, type Rules, requireKind, under } from "../errors.ts";
import { sub } from "../graph/elementwise.ts";
import { pad, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { readsText } from "../models/causal-lm.ts";
import { type EncoderStates, firstToken, meanToken } from "../models/encoder.ts";
import type { FeatureExtractor } from "../models/task.ts";
import { contrastiveLoss } from "../nn/loss.ts";
import { Module, requireModule } from "../nn/module.ts";
import { tensor } from "../tensor/create.ts";
import { unitVectors } from "../tensor/statistics.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { type Column, type TensorDatasetOptions, type TrainingData, tensorDataset, tensorDatasetRules } from "./training-data.ts";

/** What of the states of a text's tokens becomes its vector: their mean, the first one (of a `[CLS]`), or the last one. */
export type Pooling = "mean" | "first" | "last";

/** How a text becomes a vector. */
export interface PoolingOptions {
  /** As the model was trained: `1_Pooling/config.json` of sentence-transformers says how. `"mean"` when absent. */
  readonly pooling?: Pooling;
}

/** How texts become rows of tokens. */
export interface EncodingOptions {
  /** Tokens past which a text is cut off, those around it included; as many as the model has positions, at most 512, when absent. */
  readonly maxLength?: number;
}

/** How many texts are read at once, and what becomes of their vectors. */
export interface EmbedOptions extends PoolingOptions, EncodingOptions {
  /** Makes all vectors of length 1, so that a product of two is the cosine. */
  readonly normalise?: boolean;
  /** Texts at once. */
  readonly batchSize?: number;
}

/** A model without an output layer, and its tokenizer. */
export interface TextReader {
  readonly model: FeatureExtractor;
  readonly tokenizer: Tokenizer;
}

/** What configurations say of tokens. */
interface Known {
  readonly padTokenId?: number | null;
  readonly vocabSize?: number;
}

/** Tokens of texts, the shorter ones filled up behind. */
interface Rows {
  readonly ids: Int32Array;
  readonly mask: Int32Array;
  readonly shape: readonly [number, number];
}

const poolings = ["mean", "first", "last"];
const encodingRules: Rules<EncodingOptions> = { maxLength: "a whole number from 1" };

/** [B, T, C] → [B, C]. @param mask [B, T], 1 for tokens */
function pool(states: Tensor, mask: Tensor, pooling: Pooling): Tensor {
  if (pooling === "first") return firstToken(states);
  return meanToken(states, pooling === "mean" ? mask : lastOnes(mask));
}

/** 1 where the tokens of a row end, which are filled up behind. */
const lastOnes = (mask: Tensor): Tensor => sub(mask, pad(sliceAxis(mask, 1, 1, mask.shape[1] as number), [0, 0], [0, 1]));

/**
 * Token ids of a text, cut off in its middle part, so that what the tokenizer puts around a text (`[CLS]` … `[SEP]`) stays around it.
 */
function cutIds(tokenizer: Tokenizer, text: string, most: number): Int32Array {
  const ids = tokenizer.encode(text);
  if (ids.length <= most) return ids;
  const bare = tokenizer.encode(text, { addSpecialTokens: false });
  const around = ids.length - bare.length;
  let before = 0;
  while (before < around && ids[before] !== bare[0]) before++;
  const behind = around - before;
  return Int32Array.of(...ids.subarray(0, most - behind), ...ids.subarray(ids.length - behind));
}

/** @throws {ConfigError} for what is no model without an output layer, and its tokenizer */
function checkReader(operation: string, reader: TextReader): void {
  requireKind(operation, "an object", { reader });
  checkExtractor(operation, reader.model);
  requireKind(operation, "a function", {
    "reader.tokenizer.encode": (reader.tokenizer as Partial<Tokenizer> | undefined)?.encode,
  });
}

/** @throws {ConfigError} for a model that reads no text */
function checkExtractor(operation: string, model: FeatureExtractor): void {
  requireModule(operation, model);
  if (!readsText(model)) throw withoutStates(operation, model);
}

const withoutStates = (operation: string, model: Module): ConfigError =>
  new ConfigError(`a ${model.constructor.name} gives no states of a text.`, {
    operation,
    hint: 'Load a model without its output layer: { task: "FeatureExtraction" }.',
  });

/** The vectors of rows of tokens: [B, T] → [B, C]. */
function vectorsOf(
  operation: string,
  model: FeatureExtractor,
  inputIds: Tensor,
  attentionMask: Tensor,
  pooling: Pooling,
): Tensor {
  const { lastHiddenState }: Partial<EncoderStates> = model.forward({ inputIds, attentionMask });
  if (!lastHiddenState) throw withoutStates(operation, model);
  return pool(lastHiddenState, attentionMask, pooling);
}

/** Rows as long as the longest text. @param multiple lengths are filled up to a multiple of this, so that there are few of them */
function rowsOf(
  operation: string,
  { model, tokenizer }: TextReader,
  texts: readonly string[],
  options: EncodingOptions,
  multiple = 1,
): Rows {
  const { sizes } = model.backbone;
  const { maxLength: most = Math.min(sizes.maxLength ?? 512, 512) } = options;
  const { padTokenId, vocabSize = Number.POSITIVE_INFINITY } =
    (model as FeatureExtractor & { readonly config?: Known }).config ?? {};
  const encoded = texts.map((text) => {
    requireKind(operation, "a text", { text });
    const ids = cutIds(tokenizer, text, most);
    const unknown = ids.find((id) => id >= vocabSize);
    if (unknown !== undefined)
      throw new ConfigError(`the tokenizer gives ${unknown}, and the model has ${vocabSize} tokens.`, {
        operation,
        got: unknown,
        hint: "Use the tokenizer that belongs to the model.",
      });
    return ids;
  });
  const longest = encoded.reduce((length, ids) => Math.max(length, ids.length), 1);
  const T = Math.min(most, multiple * Math.ceil(longest / multiple));
  const ids = new Int32Array(texts.length * T).fill(padTokenId ?? tokenizer.padId ?? 0);
  const mask = new Int32Array(ids.length);
  encoded.forEach((row, i) => {
    ids.set(row, i * T);
    mask.fill(1, i * T, i * T + row.length);
  });
  return { ids, mask, shape: [texts.length, T] };
}

/**
 * The vectors of texts, in their order: [N, C].
 *
 * @param reader a model without an output layer and its tokenizer, as `loadModel(source, { task: "FeatureExtraction" })` gives
 * @throws {ConfigError} for an option out of range, and when what is given is no list of texts
 * @example
 * const reader = await loadModel("models/tiny", { task: "FeatureExtraction" });
 * const vectors = await embed(reader, ["The whale swam.", "A whale swims."], { pooling: "mean" });
 * const cosines = vectors.matmul(vectors.transpose());
 */
export async function embed(reader: TextReader, texts: readonly string[], options: EmbedOptions = {}): Promise<Tensor> {
  const operation = "embed";
  checkOptions(operation, options, {
    pooling: poolings,
    ...encodingRules,
    normalise: "true or false",
    batchSize: "a whole number from 1",
  });
  const { pooling = "mean", normalise = true, batchSize = 32 } = options;
  requireKind(operation, "a list", { texts });
  checkReader(operation, reader);
  const { model } = reader;
  const inTraining = model.training;
  model.eval();
  const read = compile((inputIds: Tensor, attentionMask: Tensor) => {
    const vectors = vectorsOf(operation, model, inputIds, attentionMask, pooling);
    return normalise ? unitVectors(operation, vectors, -1, 1e-12) : vectors;
  });
  try {
    const C = model.backbone.sizes.stateWidth ?? model.backbone.sizes.width;
    const all = new Float32Array(texts.length * C);
    for (let at = 0; at < texts.length; at += batchSize) {
      const { ids, mask, shape } = rowsOf(operation, reader, texts.slice(at, at + batchSize), options, 16);
      using inputIds = tensor(ids, { shape });
      using attentionMask = tensor(mask, { shape });
      using vectors = read(inputIds, attentionMask);
      all.set((await download(vectors)) as Float32Array, at * C);
      await yieldToOthers();
    }
    return tensor(all, { shape: [texts.length, C] });
  } finally {
    read.dispose();
    model.train(inTraining);
  }
}

/** What a {@link PairModel} takes: two rows of tokens that belong together. */
export interface PairInputs {
  /** [B, T] int32, and 1 for tokens. */
  readonly inputIds: Tensor;
  readonly attentionMask: Tensor;
  /** [B, U] int32, and 1 for tokens. */
  readonly otherIds: Tensor;
  readonly otherMask: Tensor;
}

/**
 * Learns to make embeddings: the vectors of two texts that belong together are drawn together, and away from those of the others of
 * a batch (`contrastiveLoss`). Adapters are on the `model` in it, which reads both.
 *
 * @example
 * const { model, tokenizer } = await loadModel("models/tiny", { task: "FeatureExtraction" });
 * attach(model, lora({ r: 8, taskType: "FEATURE_EXTRACTION" }));
 * const pairs = [["Who is Ahab?", "The captain of the ship."], ["What is white?", "The whale."]] as const;
 * await finetune(new PairModel(model), pairDataset(pairs, { model, tokenizer }), { steps: 2, batchSize: 2 });
 */
export class PairModel extends Module {
  readonly model: FeatureExtractor;
  readonly #pooling: Pooling;
  readonly #scale: number;

  /** @param options.scale what cosines are multiplied by: one over the temperature */
  constructor(model: FeatureExtractor, options: PoolingOptions & { readonly scale?: number } = {}) {
    super();
    checkOptions("PairModel", options, { pooling: poolings, scale: "a number above 0" });
    checkExtractor("PairModel", model);
    const { pooling = "mean", scale = 20 } = options;
    this.model = model;
    this.#pooling = pooling;
    this.#scale = scale;
  }

  forward(inputs: PairInputs): { readonly loss: Tensor } {
    requireKind("PairModel", "an object", { inputs });
    const { inputIds, attentionMask, otherIds, otherMask } = inputs;
    const vectors = (ids: Tensor, mask: Tensor) => vectorsOf("PairModel", this.model, ids, mask, this.#pooling);
    return { loss: contrastiveLoss(vectors(inputIds, attentionMask), vectors(otherIds, otherMask), { scale: this.#scale }) };
  }
}

/**
 * Pairs of texts that belong together, such as questions and answers, for a {@link PairModel}.
 *
 * @throws {ConfigError} when these are no pairs of texts
 */
export function pairDataset(
  pairs: readonly (readonly [string, string])[],
  reader: TextReader,
  options: EncodingOptions & TensorDatasetOptions = {},
): TrainingData {
  const operation = "pairDataset";
  checkOptions(operation, options, { ...encodingRules, ...tensorDatasetRules });
  requireKind(operation, "a list", { pairs });
  checkReader(operation, reader);
  for (const pair of pairs) requireKind(operation, "a list", { pair });
  const { maxLength, ...kept } = options;
  const [inputs, others] = [0, 1].map((side) =>
    rowsOf(
      operation,
      reader,
      pairs.map((pair) => pair[side] as string),
      maxLength === undefined ? {} : { maxLength },
    ),
  ) as [Rows, Rows];
  const column = (values: Int32Array, { shape }: Rows): Column => ({ values, shape });
  const columns = {
    inputIds: column(inputs.ids, inputs),
    attentionMask: column(inputs.mask, inputs),
    otherIds: column(others.ids, others),
    otherMask: column(others.mask, others),
  };
  return under(operation, () => tensorDataset(columns, kept));
}
