/** Settings of generation as `generation_config.json` has them. */
import { ConfigError, requireKind, wordJson } from "../errors.ts";
import type { ConfigJson } from "../models/config-reader.ts";
import type { GenerateOptions } from "./generation.ts";

const operation = "generationOptions";

/** What a number must be. */
type Rule = readonly [test: (value: number) => boolean, words: string];
const whole: Rule = [(value) => Number.isInteger(value) && value >= 0, "a whole number from 0"];
const real: Rule = [Number.isFinite, "a number"];

/** Keys of numbers, ours for transformers'. */
const always = {
  max_new_tokens: ["maxNewTokens", whole],
  max_length: ["maxLength", whole],
  min_new_tokens: ["minNewTokens", whole],
  decoder_start_token_id: ["startToken", whole],
  forced_bos_token_id: ["forcedFirstToken", whole],
  forced_eos_token_id: ["forcedLastToken", whole],
  repetition_penalty: ["repetitionPenalty", real],
  no_repeat_ngram_size: ["noRepeatNgramSize", whole],
} as const;
const whenSampling = {
  temperature: ["temperature", real],
  top_k: ["topK", whole],
  top_p: ["topP", real],
  min_p: ["minP", real],
} as const;

/** As transformers has it where a file says only that tokens are drawn. */
const drawn = { temperature: 1, topK: 50 };

/**
 * The options for `generate` that a model's files ask for. What there are no options for, such as beams, is left out.
 *
 * @param json   the parsed `generation_config.json`, if there is one
 * @param config the parsed `config.json`, which older models keep these settings in
 * @throws {ConfigError} for a value that cannot be meant, by its key
 */
export function generationOptions(json: ConfigJson | undefined, config: ConfigJson = {}): GenerateOptions {
  const file = json ?? config;
  requireKind(operation, "an object", { json: file });
  const get = (key: string): unknown => file[key] ?? undefined;
  const refuse = (key: string, rule: string): never => {
    throw new ConfigError(`\`${key}\` (= ${wordJson(get(key))}) must be ${rule}.`, { operation, got: get(key) });
  };
  const numbers = (keys: Readonly<Record<string, readonly [string, Rule]>>): GenerateOptions =>
    Object.fromEntries(
      Object.entries(keys).flatMap(([key, [own, [isRight, rule]]]) => {
        const value = get(key);
        if (value === undefined) return [];
        if (typeof value !== "number" || !isRight(value)) refuse(key, rule);
        return [[own, value]];
      }),
    );
  const tokens = (key: string): readonly number[] => {
    const value = get(key) ?? [];
    const list: unknown[] = Array.isArray(value) ? value : [value];
    if (list.some((token) => !Number.isInteger(token))) refuse(key, "a token's number, or a list of them");
    return list as number[];
  };
  const sampling = get("do_sample") ?? false;
  if (typeof sampling !== "boolean") refuse("do_sample", "true or false");
  const strings = get("stop_strings") ?? [];
  const stopStrings: unknown[] = Array.isArray(strings) ? strings : [strings];
  if (stopStrings.some((string) => typeof string !== "string")) refuse("stop_strings", "a string, or a list of them");
  const [stopTokens, suppressed] = [tokens("eos_token_id").filter((token) => token >= 0), tokens("suppress_tokens")];
  return {
    ...numbers(always),
    ...(sampling ? { ...drawn, ...numbers(whenSampling) } : {}),
    ...(stopTokens.length && { stopTokens }),
    ...(stopStrings.length && { stopStrings: stopStrings as string[] }),
    ...(suppressed.length && { logitBias: new Map(suppressed.map((token) => [token, Number.NEGATIVE_INFINITY])) }),
  };
}
