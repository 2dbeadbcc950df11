/** A text of a model on its way to standard output, token by token. */
import process from "node:process";
import { type GenerateOptions, generateText, type TextWriter, type Tokens } from "../train/generation.ts";
import { listenForInterrupt } from "./interrupt.ts";
import { words } from "./quantity.ts";
import { print, say } from "./terminal.ts";

/** What a text is called where it is told as JSON. */
interface Origin {
  readonly name: string;
  readonly adapter: readonly string[];
  readonly json: boolean | undefined;
}

/**
 * Writes what follows the prompt, until it ends, Ctrl-C comes or nobody reads any more; then how fast it was. With `json` people see
 * the text on standard error, and standard output has a line of JSON.
 */
export async function writeText(
  writer: TextWriter,
  prompt: Tokens,
  options: GenerateOptions,
  { name, adapter, json }: Origin,
): Promise<{ readonly text: string; readonly isInterrupted: boolean }> {
  const stream = json ? process.stderr : process.stdout;
  using interrupt = listenForInterrupt(() => {});
  const { signal } = interrupt;
  const start = performance.now();
  let [text, tokens] = ["", 0];
  for await (const piece of generateText(writer, prompt, options)) {
    text += piece.text;
    tokens++;
    if (signal.aborted || !(await print(piece.text, stream))) break;
  }
  const seconds = (performance.now() - start) / 1e3;
  const tokensPerSecond = tokens / seconds;
  if (!text.endsWith("\n")) await print("\n", stream);
  say(`${words(tokens)} tokens, ${tokensPerSecond < 10 ? tokensPerSecond.toFixed(1) : words(tokensPerSecond)} tokens/s`);
  if (json) {
    const told = { model: name, adapters: adapter, promptTokens: prompt.length, tokens, seconds, tokensPerSecond, text };
    await print(`${JSON.stringify(told)}\n`);
  }
  return { text, isInterrupted: signal.aborted };
}
