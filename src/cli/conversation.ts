/** Lines that a person writes in a terminal, and the answers to them. */
import process from "node:process";
import { createInterface } from "node:readline";
import type { ChatMessage } from "../text/chat-template.ts";
import { say } from "./terminal.ts";

/**
 * Asks for lines until the person has no more to say.
 *
 * @param answer writes the answer to the last of all the turns
 * @param fits whether the model can read so many; the oldest are forgotten where it cannot
 */
export async function converse(
  answer: (turns: readonly ChatMessage[]) => Promise<string>,
  fits: (turns: readonly ChatMessage[]) => boolean,
): Promise<void> {
  const lines: string[] = [];
  let turns: ChatMessage[] = [];
  for (let line = await ask(lines); line !== null; line = await ask(lines)) {
    if (line.trim() === "") continue;
    lines.unshift(line);
    turns.push({ role: "user", content: line });
    const all = turns.length;
    while (turns.length > 1 && !fits(turns)) turns = turns.slice(2);
    if (turns.length < all) say("(The beginning is forgotten: the model reads no longer texts.)");
    turns.push({ role: "assistant", content: await answer(turns) });
  }
  say();
}

/**
 * A line, or several that were pasted at once; `null` when there are no more. The terminal is a reader's only while it asks: Ctrl-C is a
 * signal to the process while an answer is written.
 */
function ask(history: readonly string[]): Promise<string | null> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr, history: [...history], prompt: "> " });
  return new Promise((done) => {
    const pasted: string[] = [];
    terminal.on("line", (line) => {
      if (pasted.push(line) === 1) setImmediate(() => terminal.close());
    });
    terminal.on("close", () => done(pasted.length > 0 ? pasted.join("\n") : null));
    terminal.prompt();
  });
}
