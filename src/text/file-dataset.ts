/** A file that a person gives to learn from: conversations or texts, told apart by what is in it. */
import { isRecord } from "../errors.ts";
import { chatDataset, conversationsFromJsonl } from "./chat-dataset.ts";
import { type TextDataset, type TextDatasetOptions, textDataset, textsFromJsonl } from "./dataset.ts";
import type { Tokenizer } from "./tokenizer.ts";

/**
 * Conversations where a file of JSON lines (`.jsonl`) begins with one, else the text of each line; of any other file the whole text.
 *
 * @param name what the file is called, for its ending and for messages
 * @throws as `chatDataset` and `textDataset` do
 */
export function fileDataset(
  name: string,
  content: string,
  tokenizer: Tokenizer,
  options: Pick<TextDatasetOptions, "window" | "seed"> & { readonly heldOut?: number },
): TextDataset {
  if (!/\.jsonl$/i.test(name)) return textDataset({ text: content }, tokenizer, options);
  return beginsWithConversation(content)
    ? chatDataset(conversationsFromJsonl(content, name), tokenizer, options)
    : textDataset(textsFromJsonl(content, { name }), tokenizer, options);
}

function beginsWithConversation(content: string): boolean {
  const [first = ""] = content.trimStart().split("\n", 1);
  try {
    const row: unknown = JSON.parse(first);
    return Array.isArray(row) || (isRecord(row) && "messages" in row);
  } catch {
    return false; // told by who reads it
  }
}
