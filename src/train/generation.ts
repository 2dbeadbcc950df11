/** Continuing texts, token by token, with a key/value cache. */
import { download } from "../compile/program.ts";
import { yieldToOthers } from "../compile/turn.ts";
import { ConfigError, checkOptions, type Rules, requireKind, under } from "../errors.ts";
import { requireModule } from "../nn/module.ts";
import { withAdapters } from "../peft/mixed-batch.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { bucketOf, keepSession, type Session, type TextGenerator, type Tokens, takeSession } from "./generation-session.ts";
import { checkSampling, type SamplingOptions, sampleToken, samplingRules, temperatureOf, uniformAt } from "./sampling.ts";
import { checkStopStrings, type TextDecoder, WrittenText } from "./written-text.ts";

export type { TextGenerator, Tokens } from "./generation-session.ts";

/** How long, how random, and when to stop. */
export interface GenerateOptions extends SamplingOptions {
  /** When absent as many as `maxLength` allows, or 64. */
  readonly maxNewTokens?: number;
  /** Tokens of prompt and continuation together (of an answer, its start token included), where `maxNewTokens` is not given. */
  readonly maxLength?: number;
  /** A sequence does not end at a stop token before it has so many new ones. */
  readonly minNewTokens?: number;
  /** With which an answer begins, of models that answer one text with another; the model's own when absent. */
  readonly startToken?: number;
  /** The first token of an answer, such as the language to translate into; as likely as any when absent. */
  readonly forcedFirstToken?: number;
  /** The token that a sequence ends with where it would be cut off. */
  readonly forcedLastToken?: number;
  /** A sequence ends after one of these, which is given out too. */
  readonly stopTokens?: readonly number[];
  /** A sequence ends with the token in which one of these is complete, wherever in the tokens it begins or ends. Needs `tokenizer`. */
  readonly stopStrings?: readonly string[];
  /** What `stopStrings` are looked for with. */
  readonly tokenizer?: TextDecoder;
  /** Sequences for each prompt, one after the other in the batch; 1 when absent. */
  readonly numReturnSequences?: number;
  /** Where random numbers start: row i of a batch draws its own. A list has one for each prompt, which then draws what it draws alone. */
  readonly seed?: number | readonly number[];
  /** Ends generation: its reason is thrown before the next token. */
  readonly signal?: AbortSignal | undefined;
  /** Traces the few programs that generation is made of instead of building a graph for every token. */
  readonly compiled?: boolean;
  /** An adapter for each prompt, by name, whichever are active; `"__base__"` for none. See `withAdapters`. */
  readonly adapters?: readonly string[];
}

/** A token of one sequence, and what it adds to the text where there is a tokenizer. */
interface Written {
  readonly token: number;
  readonly text: string;
}

/**
 * The tokens that continue `prompt`, or answer it, as they come.
 *
 * @param prompt at least one token
 * @throws {ConfigError} for an empty prompt or a setting out of range; the signal's reason when it is aborted
 * @example
 * for await (const token of generate(model, tokenizer.encode("Call me"), { maxNewTokens: 20 })) print(token);
 */
export async function* generate(model: TextGenerator, prompt: Tokens, options: GenerateOptions = {}): AsyncGenerator<number> {
  yield* continuation("generate", model, prompt, options);
}

async function* continuation(operation: string, model: TextGenerator, prompt: Tokens, options: GenerateOptions) {
  requireKind(operation, "an object", { options });
  requireOneSequence(operation, options);
  for await (const [written] of write(operation, model, [prompt], options)) if (written) yield written.token;
}

/** All the tokens that continue or answer `prompt`, without it. */
export async function complete(model: TextGenerator, prompt: Tokens, options: GenerateOptions = {}): Promise<number[]> {
  const tokens: number[] = [];
  for await (const token of continuation("complete", model, prompt, options)) tokens.push(token);
  return tokens;
}

/**
 * Continues or answers several prompts at once; shorter ones are padded on the left. Gives one token per sequence at a time,
 * `null` for those that have ended; sequences are in the order of their prompts.
 */
export async function* generateBatch(
  model: TextGenerator,
  prompts: readonly Tokens[],
  options: GenerateOptions = {},
): AsyncGenerator<(number | null)[]> {
  for await (const row of write("generateBatch", model, prompts, options)) yield row.map((written) => written?.token ?? null);
}

/** All the tokens of `generateBatch`, a list for each sequence. */
export async function completeBatch(
  model: TextGenerator,
  prompts: readonly Tokens[],
  options: GenerateOptions = {},
): Promise<number[][]> {
  const sequences: number[][] = [];
  for await (const written of write("completeBatch", model, prompts, options))
    written.forEach((each, row) => {
      const sequence = (sequences[row] ??= []);
      if (each) sequence.push(each.token);
    });
  return sequences.length ? sequences : prompts.flatMap((_) => Array.from({ length: options.numReturnSequences ?? 1 }, () => []));
}

/** What writes a text: a model with its tokenizer, and settings that hold where nobody says otherwise. `loadModel` gives one. */
export interface TextWriter {
  readonly model: TextGenerator;
  readonly tokenizer: Tokenizer;
  /** As of `generation_config.json`. */
  readonly generation?: GenerateOptions;
}

/** A token that was written, and the text that it adds: nothing in the middle of a character, and for end-of-text and the like. */
export interface TextPiece extends Written {}

/**
 * The text that continues `prompt`, or answers it, piece by piece. A stop string is the last that is given out: what follows it in
 * its token is cut off.
 *
 * @param prompt a text, or its tokens
 * @throws {ConfigError} for a prompt without a token and for settings out of range; the signal's reason when it is aborted
 * @example
 * const loaded = await loadModel("models/tiny");
 * for await (const { text } of generateText(loaded, "Call me", { maxNewTokens: 20 })) process.stdout.write(text);
 */
export async function* generateText(
  writer: TextWriter,
  prompt: string | Tokens,
  options: GenerateOptions = {},
): AsyncGenerator<TextPiece> {
  yield* continuationText("generateText", writer, prompt, options);
}

async function* continuationText(
  operation: string,
  writer: TextWriter,
  prompt: string | Tokens,
  options: GenerateOptions,
): AsyncGenerator<TextPiece> {
  requireKind(operation, "an object", { writer });
  const { model, tokenizer, generation } = writer;
  if (!(tokenizer instanceof Object))
    throw new ConfigError("writing a text needs a model with its tokenizer.", {
      operation,
      got: writer,
      hint: "Give { model, tokenizer }, as loadModel does.",
    });
  checkOptions(operation, options, optionRules);
  const all = { ...generation, ...options, tokenizer };
  requireOneSequence(operation, all);
  const tokens = typeof prompt === "string" ? tokenizer.encode(prompt) : prompt;
  for await (const [written] of write(operation, model, [tokens], all)) if (written) yield written;
}

/** All the text of `generateText`. */
export async function completeText(writer: TextWriter, prompt: string | Tokens, options: GenerateOptions = {}): Promise<string> {
  let text = "";
  for await (const piece of continuationText("completeText", writer, prompt, options)) text += piece.text;
  return text;
}

/** One sequence that is being written. */
interface Sequence {
  readonly prompt: Tokens;
  /** The prompt, or an answer's start token, and what followed. */
  readonly tokens: number[];
  readonly text: WrittenText | null;
  readonly uniform: (step: number) => number;
  hasEnded: boolean;
}

/** What each step adds to each sequence; `null` to those that have ended. */
async function* write(
  operation: string,
  model: TextGenerator,
  prompts: readonly Tokens[],
  options: GenerateOptions,
): AsyncGenerator<(Written | null)[]> {
  requireKind(operation, "an object", { options });
  const { stopTokens = [], minNewTokens = 0, signal, compiled = true, adapters, numReturnSequences = 1 } = options;
  const { forcedFirstToken, forcedLastToken } = options;
  under(operation, () => check(prompts, options));
  requireModule(operation, model);
  const rows = adapters?.flatMap((name) => new Array<string>(numReturnSequences).fill(name));
  const acting = <T>(body: () => T): T =>
    rows ? under(operation, () => withAdapters(model, rows, body), ["withAdapters"]) : body();
  const sequences = begin(model, prompts, options);
  const longest = Math.max(...sequences.map(({ tokens }) => tokens.length));
  const { maxLength = Number.POSITIVE_INFINITY } = "maxLength" in model ? model : {};
  const count = newTokens(options, longest, maxLength);
  checkLength(operation, longest, count, maxLength);
  if (count === 0) return;
  const widthOf = (length: number) => Math.min(bucketOf(length), maxLength);
  const read = "answering" in model ? bucketOf(Math.max(...prompts.map(({ length }) => length))) : 0;
  const atMost = widthOf(longest + count);
  let room = roomFor(longest, atMost);
  const open = () => acting(() => takeSession(model, { batch: sequences.length, length: room, read, compiled }));
  const stop = new Set(stopTokens);
  const wasTraining = model.training;
  model.eval();
  let session: Session | undefined;
  try {
    let current = open();
    session = current;
    const readTexts = () => acting(() => current.read(sequences.map(({ prompt }) => prompt)));
    readTexts();
    for (let step = 0; step < count; step++) {
      await yieldToOthers(); // or signals are not heard
      signal?.throwIfAborted();
      if (longest + step > room) {
        room = Math.min(growth * room, atMost);
        current = open();
        readTexts();
        current.cache.takeOver(session.cache);
        keepSession(model, session);
        session = current;
      }
      const whole = current.growTo(longest + step, step === 0);
      const next = sequences.map(({ tokens, hasEnded }) => (whole ? tokens : hasEnded ? [] : tokens.slice(-1)));
      using logits = acting(() => current.write(next, whole ? widthOf(longest + step) : 1));
      const values = await download(logits);
      const V = values.length / sequences.length;
      const isLast = step === count - 1;
      const row = sequences.map((sequence, at) => {
        if (sequence.hasEnded) return null;
        const context = { tokens: sequence.tokens, forbidden: step < minNewTokens ? stop : [] };
        const own = values.subarray(at * V, (at + 1) * V);
        const [name, forced] =
          isLast && forcedLastToken !== undefined
            ? ["forcedLastToken", forcedLastToken]
            : ["forcedFirstToken", sequence.tokens.length === 1 ? forcedFirstToken : undefined];
        if (forced !== undefined && forced >= V)
          throw new ConfigError(`\`${name}\` (= ${forced}) must be below ${V}, the number of the model's tokens.`, {
            operation,
            got: forced,
          });
        const token = forced ?? under(operation, () => sampleToken(own, options, sequence.uniform(step), context));
        sequence.tokens.push(token);
        const added = sequence.text?.push(token, isLast || stop.has(token));
        sequence.hasEnded = stop.has(token) || (added?.isEnd ?? false);
        return { token, text: added?.text ?? "" };
      });
      yield row;
      if (sequences.every(({ hasEnded }) => hasEnded)) return;
    }
  } finally {
    model.train(wasTraining);
    if (session) keepSession(model, session);
  }
}

/** Tokens that a cache has room for at first, and how many times as many when they do not suffice. */
const [firstRoom, growth] = [1024, 4];

/** Attention looks at the whole cache, and most texts end long before they must: one for all that may come would be slow. */
function roomFor(longest: number, atMost: number): number {
  const room = Math.max(firstRoom, bucketOf(2 * longest));
  return atMost <= 2 * room ? atMost : room;
}

function begin(model: TextGenerator, prompts: readonly Tokens[], options: GenerateOptions): Sequence[] {
  const { numReturnSequences = 1, seed = 0, tokenizer, stopStrings = [], startToken } = options;
  return prompts.flatMap((prompt, index) =>
    Array.from({ length: numReturnSequences }, (_, i): Sequence => {
      const tokens = "answering" in model ? [startToken ?? model.startToken] : Array.from(prompt);
      const row = index * numReturnSequences + i;
      const uniform = (step: number) =>
        typeof seed === "number" ? uniformAt(seed, row, step) : uniformAt(seed[index] as number, i, step);
      return {
        prompt,
        tokens,
        uniform,
        text: tokenizer ? new WrittenText(tokenizer, tokens, stopStrings) : null,
        hasEnded: false,
      };
    }),
  );
}

function newTokens({ maxNewTokens, maxLength }: GenerateOptions, longest: number, positions: number): number {
  if (maxNewTokens !== undefined || maxLength === undefined) return maxNewTokens ?? 64;
  return Math.max(0, Math.min(maxLength, positions + 1) - longest);
}

const optionRules: Rules<GenerateOptions> = {
  maxNewTokens: "a whole number from 0 below 2³¹",
  maxLength: "a whole number from 0",
  minNewTokens: "a whole number from 0",
  startToken: "a whole number from 0",
  forcedFirstToken: "a whole number from 0",
  forcedLastToken: "a whole number from 0",
  stopTokens: "a list of numbers",
  stopStrings: "a list of strings",
  tokenizer: "an object",
  numReturnSequences: "a whole number from 1 below 2³¹",
  seed: "a whole number, or a list of them",
  signal: "an AbortSignal",
  compiled: "true or false",
  adapters: "a list of strings",
  ...samplingRules,
};

function check(prompts: readonly Tokens[], options: GenerateOptions): void {
  const operation = "generate";
  checkOptions(operation, options, optionRules);
  checkSampling(operation, options);
  if (options.tokenizer) requireKind(operation, "a function", { "tokenizer.stream": options.tokenizer.stream });
  checkStopStrings(options.stopStrings ?? [], options.tokenizer);
  requireKind(operation, "a list", { prompts });
  if (prompts.length === 0) throw new ConfigError("got no prompt.", { operation });
  prompts.forEach((prompt, i) => {
    if (prompt?.length === 0)
      throw new ConfigError(`${prompts.length > 1 ? `prompt ${i}` : "the prompt"} has no token.`, {
        operation,
        hint: "Start with the beginning-of-text token.",
      });
    if (!(Array.isArray(prompt) || ArrayBuffer.isView(prompt)) || !Array.prototype.every.call(prompt, Number.isInteger))
      throw new ConfigError("prompts are lists of token ids.", {
        operation,
        got: prompt,
        hint: "Make them of a text with tokenizer.encode, or use completeText, which takes texts.",
      });
  });
  const { numReturnSequences = 1, seed = 0, adapters } = options;
  if (adapters && adapters.length !== prompts.length)
    throw new ConfigError(`got ${prompts.length} prompts and ${adapters.length} adapter names.`, {
      operation,
      got: adapters,
      expected: prompts.length,
    });
  if (numReturnSequences > 1 && temperatureOf(options) === 0)
    throw new ConfigError(`${numReturnSequences} sequences for a prompt would all be the same.`, {
      operation,
      got: numReturnSequences,
      hint: "Set `temperature`.",
    });
  if (typeof seed !== "number" && seed.length !== prompts.length)
    throw new ConfigError(`${seed.length} seeds are given for ${prompts.length} prompts.`, {
      operation,
      expected: prompts.length,
      got: seed.length,
    });
}

function requireOneSequence(operation: string, { numReturnSequences = 1 }: GenerateOptions): void {
  if (numReturnSequences !== 1)
    throw new ConfigError(`\`numReturnSequences\` (= ${numReturnSequences}) must be 1 where one sequence is given out.`, {
      operation,
      got: numReturnSequences,
      hint: "Use generateBatch or completeBatch.",
    });
}

/** The last token is given out and not taken in. */
function checkLength(operation: string, longest: number, count: number, maxLength: number): void {
  if (longest + count - 1 <= maxLength) return;
  throw new ConfigError(`${longest} tokens and ${count} new ones are more than this model's ${maxLength} positions.`, {
    operation,
    expected: maxLength,
    got: longest + count,
    hint: longest > maxLength ? "Shorten the prompt." : `Set \`maxNewTokens\` to ${maxLength - longest + 1} at most.`,
  });
}
