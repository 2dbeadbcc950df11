/** Text as rows of tokens for a causal language model: packing, the held-out part, shuffled batches that can be resumed. */
import { ConfigError, checkOptions, FormatError, isRecord, requireKind, requireOption, wordType } from "../errors.ts";
import { wordSystemError } from "../formats/atomic-file.ts";
import { fileSystem } from "../formats/node-module.ts";
import { threefry2x32 } from "../random/threefry.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** One text, or several documents; `{ text }` is one, so that corpora and JSONL rows can be given as they are. */
type Texts = string | readonly (string | { readonly text: string })[];

/**
 * Where the text is: a path, the text itself, documents, or two parts that were split by hand.
 * A string is a path when a file of that name is there or it looks like one ("book.txt", "notes.jsonl"); `{ text }` and
 * `{ file }` leave no doubt.
 */
export type TextSource = Texts | { readonly text: string } | { readonly file: string } | SplitSource;

interface SplitSource {
  readonly train: Texts;
  readonly heldOut: Texts;
}

/** How a text becomes rows. */
export interface TextDatasetOptions {
  /** Tokens of a row, T. */
  readonly window?: number;
  /** Tokens from the beginning of one training row to the next; less than `window` makes rows overlap. */
  readonly stride?: number;
  /** The share at the end of the text that is kept for evaluation (of the tokens), or texts for it. */
  readonly heldOut?: number | Texts;
  /** Decides the order of the rows, unless `batches` is given another. */
  readonly seed?: number;
}

/** A batch of B rows of T tokens, row after row. `labels[i]` is the token that follows `inputIds[i]`. */
export interface TextBatch {
  /** [B, T] */
  readonly inputIds: Int32Array;
  /** [B, T]; -100 where there is nothing to predict */
  readonly labels: Int32Array;
  readonly shape: readonly [batch: number, window: number];
}

/** Where a run through the rows stands: plain numbers, to be kept in a checkpoint. */
export interface SamplerState {
  readonly seed: number;
  readonly rows: number;
  readonly epoch: number;
  /** Rows of this epoch that were already given out. */
  readonly position: number;
}

/** A label that losses leave out. */
export const ignoredLabel = -100;

/** Tokens in training rows and a held-out part. Made by {@link textDataset}. */
export class TextDataset {
  readonly window: number;
  readonly stride: number;
  readonly seed: number;
  /** All training tokens in order, documents closed by the end-of-text token. */
  readonly trainTokens: Int32Array;
  readonly heldOutTokens: Int32Array;
  /** 1 for the tokens that are to be learnt, of both parts; all are where it is absent. */
  readonly trainMask: Uint8Array | undefined;
  readonly heldOutMask: Uint8Array | undefined;
  /** Rows of one epoch. */
  readonly rows: number;

  constructor(parts: {
    window: number;
    stride: number;
    seed: number;
    trainTokens: Int32Array;
    heldOutTokens: Int32Array;
    trainMask?: Uint8Array;
    heldOutMask?: Uint8Array;
  }) {
    requireKind("TextDataset", "an object", { parts });
    requireKind("TextDataset", "a whole number from 1", { window: parts.window, stride: parts.stride });
    requireKind("TextDataset", "a list of numbers", { trainTokens: parts.trainTokens, heldOutTokens: parts.heldOutTokens });
    this.window = parts.window;
    this.stride = parts.stride;
    this.seed = parts.seed;
    this.trainTokens = parts.trainTokens;
    this.heldOutTokens = parts.heldOutTokens;
    this.trainMask = parts.trainMask;
    this.heldOutMask = parts.heldOutMask;
    this.rows = Math.floor((parts.trainTokens.length - 1 - parts.window) / parts.stride) + 1;
  }

  /**
   * Training batches in an order that depends on the seed and the epoch alone. Each row comes once an epoch; batches run on over
   * the end of an epoch, so that all have the same shape. After the last epoch the missing rows are filled with label -100.
   *
   * @param options.seed   default: the dataset's
   * @param options.epochs default: without end
   * @param options.state  goes on where another run stood; the batch size may be another
   */
  batches(options: { batchSize: number; seed?: number; epochs?: number; state?: SamplerState }): BatchSampler {
    return new BatchSampler(this, options);
  }

  /**
   * The held-out tokens in order, each predicted exactly once; the first from the last training token.
   * The last row and the last batch are filled with label -100.
   */
  *evaluationBatches(options: { batchSize: number }): Generator<TextBatch, void> {
    const { batchSize } = checkOptions("evaluationBatches", options, { batchSize: "a whole number from 1 below 2³¹" });
    requireOption("evaluationBatches", "a whole number from 1", "batchSize", batchSize);
    if (this.heldOutTokens.length === 0) {
      throw new ConfigError("nothing was held out.", {
        operation: "evaluationBatches",
        hint: "Make the dataset with `heldOut: 0.1`, or with texts for it.",
      });
    }
    const tokens = new Int32Array(this.heldOutTokens.length + 1);
    tokens[0] = this.trainTokens.at(-1) as number;
    tokens.set(this.heldOutTokens, 1);
    const mask = this.heldOutMask && new Uint8Array(tokens.length);
    mask?.set(this.heldOutMask as Uint8Array, 1);
    for (let begin = 0; begin + 1 < tokens.length; begin += batchSize * this.window) {
      const batch = emptyBatch(batchSize, this.window);
      for (let row = 0; row < batchSize; row++) fillRow(batch, row, tokens, begin + row * this.window, mask);
      yield batch;
    }
  }
}

/** Gives out training batches; `state` says where it stands after each. */
export class BatchSampler implements Iterable<TextBatch> {
  readonly batchSize: number;
  readonly epochs: number;
  readonly #dataset: TextDataset;
  readonly #seed: number;
  #epoch = 0;
  #position = 0;
  #order: Uint32Array | undefined;

  constructor(dataset: TextDataset, options: { batchSize: number; seed?: number; epochs?: number; state?: SamplerState }) {
    checkOptions("batches", options, {
      batchSize: "a whole number from 1 below 2³¹",
      seed: "a whole number from 0 below 2³²",
      epochs: "a whole number from 1, or Infinity",
      state: "an object",
    });
    if (!(dataset instanceof TextDataset))
      throw new ConfigError(`the data is ${wordType(dataset)}, not a dataset of texts.`, { operation: "batches", got: dataset });
    const { batchSize, seed = options.state?.seed ?? dataset.seed, epochs = Number.POSITIVE_INFINITY, state } = options;
    requireOption("batches", "a whole number from 1", "batchSize", batchSize);
    if (state !== undefined && (state.seed !== seed || state.rows !== dataset.rows)) {
      throw new ConfigError(
        `the state is of a run with ${state.rows} rows and seed ${state.seed}; here are ${dataset.rows} rows and seed ${seed}.`,
        {
          operation: "batches",
          expected: { rows: dataset.rows, seed },
          got: state,
          hint: "Go on with the same text, window, stride and seed, or leave `state` out to begin anew.",
        },
      );
    }
    this.batchSize = batchSize;
    this.epochs = epochs;
    this.#dataset = dataset;
    this.#seed = seed;
    this.#epoch = state?.epoch ?? 0;
    this.#position = state?.position ?? 0;
  }

  /** Give it back to `batches({ state })` to go on with the batch that would have come next. */
  get state(): SamplerState {
    return { seed: this.#seed, rows: this.#dataset.rows, epoch: this.#epoch, position: this.#position };
  }

  /** The next batch; `undefined` after the last epoch. */
  next(): TextBatch | undefined {
    if (this.#epoch >= this.epochs) return undefined;
    const { stride, trainTokens, trainMask, rows, window } = this.#dataset;
    const batch = emptyBatch(this.batchSize, window);
    for (let row = 0; row < this.batchSize && this.#epoch < this.epochs; row++) {
      this.#order ??= shuffledOrder(rows, this.#seed, this.#epoch);
      fillRow(batch, row, trainTokens, (this.#order[this.#position] as number) * stride, trainMask);
      if (++this.#position === rows) {
        this.#position = 0;
        this.#epoch++;
        this.#order = undefined;
      }
    }
    return batch;
  }

  *[Symbol.iterator](): Generator<TextBatch, void> {
    for (let batch = this.next(); batch !== undefined; batch = this.next()) yield batch;
  }
}

/**
 * Makes a dataset for causal language modelling: all documents one after another, each closed by the end-of-text token (where
 * the tokenizer has one), cut into rows of `window` tokens.
 *
 * @param options.window  tokens of a row
 * @param options.stride  default: `window`
 * @param options.heldOut a share of the tokens, taken from the end, or texts; default 0.1, or the source's own `heldOut`
 * @throws {FormatError} when there is no text, or a file is missing or not UTF-8
 * @throws {ConfigError} when the text is shorter than a row, or an option is out of range
 * @example
 * const dataset = textDataset("moby-dick.txt", tokenizer, { window: 128 });
 * for (const { inputIds, labels } of dataset.batches({ batchSize: 8, epochs: 1 })) step(inputIds, labels);
 */
export function textDataset(
  source: TextSource,
  tokenizer: Pick<Tokenizer, "encode" | "eosId">,
  options: TextDatasetOptions = {},
): TextDataset {
  checkOptions("textDataset", options, {
    window: "a whole number from 1",
    stride: "a whole number from 1",
    heldOut: "a number, a string or a list",
    seed: "a whole number from 0 below 2³²",
  });
  const operation = "textDataset";
  const { window = 128, stride = window, seed = 0 } = options;
  const heldOut = options.heldOut ?? (isSplit(source) ? source.heldOut : 0.1);
  if (typeof heldOut === "number" && !(heldOut >= 0 && heldOut < 1)) {
    throw new ConfigError(`\`heldOut\` (= ${heldOut}) must be at least 0 and less than 1.`, {
      operation,
      got: heldOut,
      hint: "It is a share of the text: 0.1 holds out the last tenth.",
    });
  }
  requireKind(operation, "a function", { "tokenizer.encode": (tokenizer as Partial<typeof tokenizer> | undefined)?.encode });
  const tokens = packTokens("the text", isSplit(source) ? documents(source.train) : readTexts(source), tokenizer);
  const cut = typeof heldOut === "number" ? tokens.length - Math.round(tokens.length * heldOut) : tokens.length;
  const trainTokens = tokens.subarray(0, cut);
  const heldOutTokens =
    typeof heldOut === "number" ? tokens.subarray(cut) : packTokens("the held-out text", documents(heldOut), tokenizer);
  if (trainTokens.length < window + 1) {
    throw new ConfigError(
      `the training text has ${trainTokens.length} tokens, fewer than one row: ${window} tokens and the one that follows (${window + 1}).`,
      {
        operation,
        expected: window + 1,
        got: trainTokens.length,
        hint: "Use a smaller `window`, hold out less, or give more text.",
      },
    );
  }
  return new TextDataset({ window, stride, seed, trainTokens, heldOutTokens });
}

/**
 * The texts of JSON lines, one `{"text": …}` a line; empty lines are skipped.
 *
 * @throws {FormatError} naming the line that is not JSON or has no such text
 */
export function textsFromJsonl(content: string, options: { key?: string; name?: string } = {}): string[] {
  checkOptions("textsFromJsonl", options, { key: "a string", name: "a string" });
  const { key = "text", name = "the JSON lines" } = options;
  requireKind("textsFromJsonl", "a string", { content });
  return content
    .split("\n")
    .flatMap((line, i) => (line.trim() === "" ? [] : [textOfJson(line, `line ${i + 1} of ${name}`, key)]));
}

/** The text of one such line. @throws {FormatError} naming its place */
function textOfJson(line: string, place: string, key: string): string {
  const operation = "textsFromJsonl";
  let row: unknown;
  try {
    row = JSON.parse(line);
  } catch (cause) {
    throw new FormatError(`${place} is not JSON: ${(cause as Error).message}.`, { operation, got: line });
  }
  const { [key]: text }: Readonly<Record<string, unknown>> = isRecord(row) ? row : {};
  if (typeof text === "string") return text;
  const found =
    text !== undefined
      ? `has ${wordType(text)} there`
      : isRecord(row)
        ? `has: ${Object.keys(row).join(", ")}`
        : `is ${wordType(row)}`;
  throw new FormatError(`${place} has no text under "${key}"; it ${found}.`, {
    operation,
    expected: key,
    got: row,
    hint: 'Lines are {"text": "…"}; textsFromJsonl takes another `key`.',
  });
}

/** The numbers 0 … count - 1 in an order that depends on the seed and the epoch alone (Fisher and Yates). */
export function shuffledOrder(count: number, seed: number, epoch: number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const [high, low] = threefry2x32(seed, epoch, i, 0);
    // A number of [0, i] from 53 random bits: its bias is below i · 2⁻⁵³.
    const j = Math.floor(((high >>> 5) * 2 ** 26 + (low >>> 6)) * 2 ** -53 * (i + 1));
    const swapped = order[i]!;
    order[i] = order[j]!;
    order[j] = swapped;
  }
  return order;
}

function isSplit(source: TextSource): source is SplitSource {
  return typeof source === "object" && source !== null && "train" in source;
}

function documents(texts: Texts): string[] {
  if (typeof texts === "string") return [texts];
  requireKind("textDataset", "a list", { texts });
  return texts.map((document) => {
    const text: unknown = typeof document === "string" ? document : (document as Partial<typeof document> | null)?.text;
    requireKind("textDataset", "a string", { text });
    return text as string;
  });
}

function readTexts(source: Exclude<TextSource, SplitSource>): string[] {
  if (typeof source === "string") return looksLikeFile(source) ? readFile(source) : [source];
  if (typeof source === "object" && source !== null && "file" in source) return readFile(source.file);
  return typeof source === "object" && source !== null && "text" in source ? documents([source.text]) : documents(source);
}

/** A name without line breaks that ends like a text file's, or that is a file. */
function looksLikeFile(text: string): boolean {
  if (text === "" || text.length > 1024 || /[\r\n]/.test(text)) return false;
  return /^\S(.*\S)?\.(txt|md|jsonl)$/i.test(text) || (fileSystem()?.existsSync(text) ?? false);
}

/** The texts of a file: the whole of it, or those of its JSON lines. */
function readFile(path: string): string[] {
  const content = readUtf8(path, "textDataset");
  return /\.jsonl$/i.test(path) ? textsFromJsonl(content, { name: path }) : [content];
}

/** The whole of a file as text. @throws {LorikeetError} when it cannot be read, or is no text */
export function readUtf8(path: string, operation: string): string {
  requireKind(operation, "a string", { file: path });
  const system = fileSystem();
  if (system === undefined) {
    const hint = "Fetch it and give what it holds.";
    throw new FormatError(`"${path}" cannot be read: there are no files in a browser.`, { operation, got: path, hint });
  }
  let bytes: Uint8Array;
  try {
    bytes = system.readFileSync(path);
  } catch (error) {
    throw wordSystemError(error, operation, path, "read");
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new FormatError(`"${path}" is not text in UTF-8.`, { operation, got: path, hint: "Save it as UTF-8 text." });
  }
}

function packTokens(name: string, texts: readonly string[], tokenizer: Pick<Tokenizer, "encode" | "eosId">): Int32Array {
  if (texts.every((text) => text === "")) {
    throw new FormatError(`${name} is empty.`, { operation: "textDataset", hint: "Give at least one text with words in it." });
  }
  const { eosId } = tokenizer;
  const encoded = texts.filter((text) => text !== "").map((text) => tokenizer.encode(text, { addSpecialTokens: false }));
  const closing = eosId === undefined ? 0 : 1;
  const tokens = new Int32Array(encoded.reduce((sum, ids) => sum + ids.length + closing, 0));
  let end = 0;
  for (const ids of encoded) {
    tokens.set(ids, end);
    end += ids.length;
    if (eosId !== undefined) tokens[end++] = eosId;
  }
  return tokens;
}

function emptyBatch(batchSize: number, window: number): TextBatch {
  return {
    inputIds: new Int32Array(batchSize * window),
    labels: new Int32Array(batchSize * window).fill(ignoredLabel),
    shape: [batchSize, window],
  };
}

/** Row `row` := tokens[begin …], labels one further, where `mask` has 1; what lies past the end of the tokens stays empty. */
function fillRow(batch: TextBatch, row: number, tokens: Int32Array, begin: number, mask?: Uint8Array): void {
  const window = batch.shape[1];
  const end = Math.min(begin + window, tokens.length - 1);
  if (end <= begin) return;
  batch.inputIds.set(tokens.subarray(begin, end), row * window);
  batch.labels.set(tokens.subarray(begin + 1, end + 1), row * window);
  for (let i = begin + 1; mask && i <= end; i++) if (mask[i] === 0) batch.labels[row * window + i - begin - 1] = ignoredLabel;
}
