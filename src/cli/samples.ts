/** What a model writes: the same prompts with the same random numbers, before and after training. */
import { styleText } from "node:util";
import { yieldToOthers } from "../compile/turn.ts";
import type { CausalLM } from "../models/causal-lm.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { generate } from "../train/generation.ts";
import { wrapped } from "./quantity.ts";
import { type Sample, sampling } from "./report.ts";

/** One continuation for each prompt. @throws the signal's reason when it is aborted */
export async function drawSamples(
  model: CausalLM,
  tokenizer: Tokenizer,
  prompts: readonly string[],
  { seed, signal }: { readonly seed: number; readonly signal: AbortSignal },
): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (const prompt of prompts) {
    const stopTokens = tokenizer.eosId === undefined ? [] : [tokenizer.eosId];
    const tokens: number[] = [];
    for await (const token of generate(model, [...tokenizer.encode(prompt)], { ...sampling, seed, stopTokens })) {
      tokens.push(token);
      await yieldToOthers(); // or Ctrl-C is not heard
      signal.throwIfAborted();
    }
    samples.push({ prompt, text: tokenizer.decode(tokens, { skipSpecialTokens: true }) });
  }
  return samples;
}

/** A sample as lines of at most `width` letters, the prompt in bold where the terminal can. */
export function sampleLines({ prompt, text }: Sample, width: number): string[] {
  // a model may write what a terminal would obey
  const lines = wrapped(`${prompt}${text}`.replace(/\s+/g, " ").replace(/\p{Cc}/gu, "\ufffd"), width);
  const [first = "", ...rest] = lines;
  return first.startsWith(prompt)
    ? [styleText("bold", prompt, { stream: process.stderr, validateStream: true }) + first.slice(prompt.length), ...rest]
    : lines;
}
