/** Embeddings: one vector for a whole text, made of the states of a model without an output layer, and how a model learns to make them. */
import { download } from "../compile/program.ts";
import { compile } from "../compile/trace.ts";
import { yieldToOthers } from "../compile/turn.ts";
import { ConfigError, checkOptions, nearestName, type Rules, requireKind, requireOption, under } from "../errors.ts";
import { sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { readsText } from "../models/causal-lm.ts";
import type { EncoderStates } from "../models/encoder.ts";
import type { FeatureExtractor } from "../models/task.ts";
import { contrastiveLoss } from "../nn/loss.ts";
import { Module, requireModule } from "../nn/module.ts";
import { tensor } from "../tensor/create.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { compareRows, type Pooling, poolings, unitStep, type VectorWay, vectorsBy, widthOf } from "./pooling.ts";
import { sentenceOf } from "./sentence.ts";
import { type Column, type TensorDatasetOptions, type TrainingData, tensorDataset, tensorDatasetRules } from "./training-data.ts";

/** How a text becomes a vector. */
export interface PoolingOptions {
  /**
   * One way, or several whose vectors stand one beside the other. When absent, what the model's folder says where it is one of
   * sentence-transformers (`modules.json`), with all steps behind it; `"mean"` where it says nothing.
   */
  readonly pooling?: Pooling | readonly Pooling[];
}

/** How texts become rows of tokens. */
export interface EncodingOptions {
  /**
   * Tokens past which a text is cut off, those around it included; when absent, as many as a folder of sentence-transformers says, and of
   * others as many as the model has positions, at most 512.
   */
  readonly maxLength?: number;
}

/** How many texts are read at once, and what becomes of their vectors. */
export interface EmbedOptions extends PoolingOptions, EncodingOptions {
  /**
   * Makes all vectors of length 1, so that a product of two is the cosine; true when absent, but where a folder of sentence-transformers
   * says what is done.
   */
  readonly normalise?: boolean;
  /** A text that is put in front of each. */
  readonly prompt?: string;
  /** One of the prompts that a folder of sentence-transformers names, such as `"query"`; its default one when neither is given. */
  readonly promptName?: string;
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

const encodingRules: Rules<EncodingOptions> = { maxLength: "a whole number from 1" };
const plain: VectorWay = { pooling: ["mean"], includePrompt: true, steps: [] };

/** How states become vectors: as was said, as the model's folder says, or their mean. */
function wayOf(operation: string, model: Module, pooling: PoolingOptions["pooling"]): VectorWay {
  if (pooling === undefined) return sentenceOf(model)?.way() ?? plain;
  const list: readonly Pooling[] = typeof pooling === "string" ? [pooling] : pooling;
  requireKind(operation, "a list", { pooling: list });
  for (const one of list.length > 0 ? list : [undefined]) requireOption(operation, poolings, "pooling", one);
  return { ...plain, pooling: list };
}

/** The text that is put in front of others. @throws {ConfigError} for a name that there is not */
function promptOf(operation: string, model: Module, { prompt, promptName }: EmbedOptions): string {
  if (prompt !== undefined) return prompt;
  const { prompts = new Map<string, string>(), defaultPrompt } = sentenceOf(model) ?? {};
  const name = promptName ?? defaultPrompt;
  const found = name === undefined ? "" : prompts.get(name);
  if (found !== undefined) return found;
  const near = nearestName(name as string, [...prompts.keys()]);
  throw new ConfigError(`the model's folder names no prompt "${name}".`, {
    operation,
    expected: [...prompts.keys()],
    got: name,
    hint: near ? `Did you mean "${near}"?` : `There are ${[...prompts.keys()].join(", ") || "none: give the text as `prompt`"}.`,
  });
}

/**
 * Token ids of a text, cut off in its middle part, so that what the tokenizer puts around a text (`[CLS]` … `[SEP]`) stays around it.
 */
function cutIds(tokenizer: Tokenizer, text: string, most: number): Int32Array {
  const ids = tokenizer.encode(text);
  if (ids.length <= most) return ids;
  const behind = tokensBehind(tokenizer, text, ids);
  return Int32Array.of(...ids.subarray(0, most - behind), ...ids.subarray(ids.length - behind));
}

/** How many of a text's tokens the tokenizer has put behind it. */
function tokensBehind(tokenizer: Tokenizer, text: string, ids: Int32Array): number {
  const bare = tokenizer.encode(text, { addSpecialTokens: false });
  const around = ids.length - bare.length;
  let before = 0;
  while (before < around && ids[before] !== bare[0]) before++;
  return around - before;
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
  new ConfigError(`a ${model.constructor.name} does not give the states of a text.`, {
    operation,
    hint: 'Load a model without its output layer: { task: "FeatureExtraction" }.',
  });

/** The vectors of rows of tokens: [B, T] → [B, C]. */
function vectorsOf(
  operation: string,
  model: FeatureExtractor,
  inputIds: Tensor,
  attentionMask: Tensor,
  way: VectorWay,
  promptLength = 0,
): Tensor {
  const { lastHiddenState }: Partial<EncoderStates> = model.forward({ inputIds, attentionMask });
  if (!lastHiddenState) throw withoutStates(operation, model);
  const [all, own] = [lastHiddenState.shape[1], inputIds.shape[1]] as [number, number];
  // virtual tokens in front act on the text's states and have no share in the vector: the first one is still the text's
  const states = all > own ? sliceAxis(lastHiddenState, 1, all - own, all) : lastHiddenState;
  return vectorsBy(way, states, attentionMask, promptLength);
}

/** Tokens past which texts are cut off: those that a folder of sentence-transformers, or its tokenizer, says, as far as there are positions. */
function mostTokens(model: FeatureExtractor, { config }: Tokenizer): number {
  const sentence = sentenceOf(model);
  const said = sentence && (sentence.maxLength ?? config?.["model_max_length"]);
  return Math.min(model.backbone.sizes.maxLength ?? Number.POSITIVE_INFINITY, typeof said === "number" ? said : 512);
}

/** Rows as long as the longest text. @param multiple lengths are filled up to a multiple of this, so that there are few of them */
function rowsOf(
  operation: string,
  { model, tokenizer }: TextReader,
  texts: readonly string[],
  options: EncodingOptions,
  multiple = 1,
): Rows {
  const { maxLength: most = mostTokens(model, tokenizer) } = options;
  const { lowerCase } = sentenceOf(model) ?? {};
  const { padTokenId, vocabSize = Number.POSITIVE_INFINITY } =
    (model as FeatureExtractor & { readonly config?: Known }).config ?? {};
  const encoded = texts.map((text) => {
    requireKind(operation, "a string", { text });
    // letter by letter, as the tokenizers' library does it
    const ids = cutIds(tokenizer, lowerCase ? Array.from(text, (letter) => letter.toLowerCase()).join("") : text, most);
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
 * @throws {ConfigError} for an option out of range, and when what is given is no list of strings
 * @example
 * const reader = await loadModel("models/tiny", { task: "FeatureExtraction" });
 * const vectors = await embed(reader, ["The whale swam.", "A whale swims."], { pooling: "mean" });
 * const cosines = vectors.matmul(vectors.transpose());
 */
export async function embed(reader: TextReader, texts: readonly string[], options: EmbedOptions = {}): Promise<Tensor> {
  const operation = "embed";
  checkOptions(operation, options, {
    pooling: null,
    ...encodingRules,
    normalise: "true or false",
    prompt: "a string",
    promptName: "a string",
    batchSize: "a whole number from 1",
  });
  requireKind(operation, "a list", { texts });
  checkReader(operation, reader);
  const { model, tokenizer } = reader;
  const { pooling, normalise = pooling !== undefined || !sentenceOf(model), batchSize = 32 } = options;
  const given = wayOf(operation, model, pooling);
  const way = normalise ? { ...given, steps: [...given.steps, unitStep] } : given;
  const prompt = promptOf(operation, model, options);
  const prompted = prompt === "" ? texts : texts.map((text) => (typeof text === "string" ? prompt + text : text));
  const promptIds = tokenizer.encode(prompt);
  // tokens of the prompt and those in front of it
  const promptLength = prompt === "" ? 0 : promptIds.length - Math.min(1, tokensBehind(tokenizer, prompt, promptIds));
  const inTraining = model.training;
  model.eval();
  const read = compile((inputIds: Tensor, attentionMask: Tensor) => {
    return vectorsOf(operation, model, inputIds, attentionMask, way, promptLength);
  });
  try {
    const C = widthOf(way, model.backbone.sizes.stateWidth ?? model.backbone.sizes.width);
    const all = new Float32Array(texts.length * C);
    for (let at = 0; at < texts.length; at += batchSize) {
      const { ids, mask, shape } = rowsOf(operation, reader, prompted.slice(at, at + batchSize), options, 16);
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

/**
 * How near vectors are to each other, the nearer the larger: by what a folder of sentence-transformers says its vectors are compared by
 * (`similarity_fn_name`), and by the cosine where it says nothing.
 *
 * @param x [N, C]
 * @param y [M, C]
 * @returns [N, M]
 * @throws {ShapeError} for other shapes
 */
export function similarity(reader: Pick<TextReader, "model">, x: Tensor, y: Tensor): Tensor {
  requireKind("similarity", "an object", { reader });
  requireModule("similarity", reader.model);
  return compareRows("similarity", sentenceOf(reader.model)?.similarity ?? "cosine", x, y);
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
 * a batch (`contrastiveLoss`). Adapters are on the `model` in it, which reads both; virtual tokens of prompts are not pooled. Layers that a folder of sentence-transformers has
 * behind the pooling take part and stay as they are.
 *
 * @example
 * const { model, tokenizer } = await loadModel("models/tiny", { task: "FeatureExtraction" });
 * attach(model, lora({ r: 8, taskType: "FEATURE_EXTRACTION" }));
 * const pairs = [["Who is Ahab?", "The captain of the ship."], ["What is white?", "The whale."]] as const;
 * await finetune(new PairModel(model), pairDataset(pairs, { model, tokenizer }), { steps: 2, batchSize: 2 });
 */
export class PairModel extends Module {
  readonly model: FeatureExtractor;
  readonly #way: VectorWay;
  readonly #scale: number;

  /** @param options.scale what cosines are multiplied by: one over the temperature */
  constructor(model: FeatureExtractor, options: PoolingOptions & { readonly scale?: number } = {}) {
    super();
    checkOptions("PairModel", options, { pooling: null, scale: "a number above 0" });
    checkExtractor("PairModel", model);
    const { pooling, scale = 20 } = options;
    this.model = model;
    this.#way = wayOf("PairModel", model, pooling);
    this.#scale = scale;
  }

  forward(inputs: PairInputs): { readonly loss: Tensor } {
    requireKind("PairModel", "an object", { inputs });
    const { inputIds, attentionMask, otherIds, otherMask } = inputs;
    const vectors = (ids: Tensor, mask: Tensor) => vectorsOf("PairModel", this.model, ids, mask, this.#way);
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
