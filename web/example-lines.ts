/** Examples as they are written on the page: a line each, `input => answer`. */
import type { WrittenExample } from "../src/peft/prompt/example-tokens.ts";

const arrow = "=>";

/** @returns the examples, or what is wrong with the lines, for the person who wrote them */
export function readExamples(text: string): readonly WrittenExample[] | string {
  const examples: WrittenExample[] = [];
  for (const [i, line] of text.split("\n").entries()) {
    if (line.trim() === "") continue;
    const at = line.indexOf(arrow);
    if (at === -1) return `Line ${i + 1} has no ${arrow} between what is given and what is answered.`;
    const [input, answer] = [line.slice(0, at).trim(), line.slice(at + arrow.length).trim()];
    if (input === "" || answer === "") return `Line ${i + 1} needs words on both sides of ${arrow}.`;
    examples.push({ input, answer });
  }
  return examples.length > 0 ? examples : "Write at least one example.";
}
