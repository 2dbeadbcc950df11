/** Continuing texts, token by token, with a key/value cache. */
import { currentDevice, download, upload } from "../compile/program.ts";
import { type CompiledFunction, compile } from "../compile/trace.ts";
import { ConfigError } from "../errors.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import type { CausalLM } from "../models/causal-lm.ts";
import type { Seq2SeqLM } from "../models/seq2seq-lm.ts";
import { withAdapters } from "../peft/mixed-batch.ts";
import { checkSampling, type SamplingOptions, sampleToken, uniformAt } from "./sampling.ts";

/** How long, how random, and when to stop. */
export interface GenerateOptions extends SamplingOptions {
  readonly maxNewTokens?: number;
  /** A sequence ends after one of these, which is given out too. */
  readonly stopTokens?: readonly number[];
  /** Where random numbers start; sequence i of a batch draws the numbers of row i. */
  readonly seed?: number;
  /** Traces the two programs that generation is made of instead of building a graph for every token. */
  readonly compiled?: boolean;
  /** An adapter for each prompt, by name, whichever are active; `"__base__"` for none. See `withAdapters`. */
  readonly adapters?: readonly string[];
}

/** What a tokenizer gives, or a plain list. */
export type Tokens = readonly number[] | Int32Array;

/** A model that continues the prompt, or one that answers it. */
export type TextGenerator = CausalLM | Seq2SeqLM;

/**
 * The tokens that continue `prompt`, or answer it, as they come.
 *
 * @param prompt at least one token
 * @throws {ConfigError} for an empty prompt or a setting out of range
 * @example
 * for await (const token of generate(model, tokenizer.encode("Call me"), { maxNewTokens: 20 })) print(token);
 */
export async function* generate(model: TextGenerator, prompt: Tokens, options: GenerateOptions = {}): AsyncGenerator<number> {
  for await (const [token] of generateBatch(model, [prompt], options)) if (token !== undefined && token !== null) yield token;
}

/** All the tokens that continue or answer `prompt`, without it. */
export async function complete(model: TextGenerator, prompt: Tokens, options: GenerateOptions = {}): Promise<number[]> {
  const tokens: number[] = [];
  for await (const token of generate(model, prompt, options)) tokens.push(token);
  return tokens;
}

/**
 * Continues or answers several prompts at once; shorter ones are padded on the left. Gives one token per prompt at a time, `null` for
 * those that have ended.
 */
export async function* generateBatch(
  model: TextGenerator,
  prompts: readonly Tokens[],
  options: GenerateOptions = {},
): AsyncGenerator<(number | null)[]> {
  const { maxNewTokens = 64, stopTokens = [], seed = 0, compiled = true, adapters } = options;
  checkPrompts(prompts, maxNewTokens);
  if (adapters && adapters.length !== prompts.length)
    throw new ConfigError(`got ${prompts.length} prompts and ${adapters.length} adapter names.`, {
      operation: "generate",
      got: adapters,
      expected: prompts.length,
    });
  const acting = <T>(body: () => T): T => (adapters ? withAdapters(model, adapters, body) : body());
  checkSampling(options);
  const B = prompts.length;
  const wasTraining = model.training;
  model.eval();
  using writing = acting(() => begin(model, prompts));
  const { writer, texts } = writing;
  const longest = Math.max(...texts.map((text) => text.length));
  let program: CompiledFunction<[Tensor, Tensor], Tensor> | null = null;
  try {
    checkLength(writer, longest, maxNewTokens);
    // sizes in steps of 32, so that prompts of like length share their programs' kernels
    const cache = writer.createCache(B, roundUp(longest + maxNewTokens, 32));
    const step = (inputIds: Tensor, attentionMask: Tensor): Tensor => {
      const { logits } = writer.forward({ inputIds, attentionMask, cache, logitsToKeep: 1 });
      return reshape(logits, [B, -1]);
    };
    program = compiled ? compile(step) : null;
    const run = program ?? step;
    const stop = new Set(stopTokens);
    const ended = prompts.map(() => false);
    let next = leftPadded(texts, longest);
    for (let count = 0; count < maxNewTokens; count++) {
      using ids = int32(next.ids, [B, next.ids.length / B]);
      using mask = int32(next.mask, [B, next.ids.length / B]);
      using logits = acting(() => run(ids, mask));
      const values = await download(logits);
      const V = values.length / B;
      const tokens = prompts.map((_, row) =>
        ended[row] ? null : sampleToken(values.subarray(row * V, (row + 1) * V), options, uniformAt(seed, row, count)),
      );
      yield tokens;
      tokens.forEach((token, row) => {
        if (token !== null && stop.has(token)) ended[row] = true;
      });
      if (ended.every(Boolean)) return;
      next = { ids: tokens.map((token) => token ?? 0), mask: tokens.map((token) => (token === null ? 0 : 1)) };
    }
  } finally {
    model.train(wasTraining);
    program?.dispose();
  }
}

/** What writes, and after which tokens. */
interface Writing extends Disposable {
  readonly writer: Pick<CausalLM, "createCache" | "maxLength" | "forward">;
  readonly texts: readonly Tokens[];
}

/** Has a model that answers read the prompts. */
function begin(model: TextGenerator, prompts: readonly Tokens[]): Writing {
  if (!("answering" in model)) return { writer: model, texts: prompts, [Symbol.dispose]: () => undefined };
  const width = roundUp(Math.max(...prompts.map((prompt) => prompt.length)), 32);
  const rows = (value: (prompt: Tokens, at: number) => number) =>
    prompts.flatMap((prompt) => Array.from({ length: width }, (_, at) => (at < prompt.length ? value(prompt, at) : 0)));
  const ids = int32(
    rows((prompt, at) => prompt[at] as number),
    [prompts.length, width],
  );
  const mask = int32(
    rows(() => 1),
    [prompts.length, width],
  );
  const writer = model.answering({ inputIds: ids, attentionMask: mask });
  return {
    writer,
    texts: prompts.map(() => [model.startToken]),
    [Symbol.dispose]() {
      for (const read of [writer, ids, mask]) read[Symbol.dispose]();
    },
  };
}

function checkPrompts(prompts: readonly Tokens[], maxNewTokens: number): void {
  const operation = "generate";
  if (prompts.length === 0) throw new ConfigError("got no prompt.", { operation });
  prompts.forEach((prompt, i) => {
    if (prompt.length === 0)
      throw new ConfigError(`${prompts.length > 1 ? `prompt ${i}` : "the prompt"} has no token.`, {
        operation,
        hint: "Start with the beginning-of-text token.",
      });
  });
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 0)
    throw new ConfigError(`\`maxNewTokens\` (= ${maxNewTokens}) must be a whole number from 0.`, {
      operation,
      got: maxNewTokens,
    });
}

/** The last token is given out and not taken in. */
function checkLength(
  { maxLength = Number.POSITIVE_INFINITY }: Pick<CausalLM, "maxLength">,
  longest: number,
  maxNewTokens: number,
): void {
  if (longest + maxNewTokens - 1 <= maxLength) return;
  throw new ConfigError(`${longest} tokens and ${maxNewTokens} new ones are more than this model's ${maxLength} positions.`, {
    operation: "generate",
    expected: maxLength,
    got: longest + maxNewTokens,
    hint: longest > maxLength ? "Shorten the prompt." : `Set \`maxNewTokens\` to ${maxLength - longest + 1} at most.`,
  });
}

const roundUp = (n: number, step: number): number => Math.ceil(n / step) * step;
const int32 = (values: readonly number[], shape: readonly number[]): Tensor =>
  upload(currentDevice(), Int32Array.from(values), shape, "int32");

/** Prompts side by side, their ends aligned. */
function leftPadded(prompts: readonly Tokens[], length: number): { ids: number[]; mask: number[] } {
  const zeros = (prompt: Tokens) => new Array<number>(length - prompt.length).fill(0);
  return {
    ids: prompts.flatMap((prompt) => [...zeros(prompt), ...prompt]),
    mask: prompts.flatMap((prompt) => [...zeros(prompt), ...new Array<number>(prompt.length).fill(1)]),
  };
}
