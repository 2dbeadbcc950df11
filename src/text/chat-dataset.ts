/** Conversations as rows of tokens, of which only what the assistant says is learnt. */
import { ConfigError, checkOptions, FormatError, requireKind, under, wordJson } from "../errors.ts";
import type { ChatMessage, ChatOptions } from "./chat-template.ts";
import { readUtf8, TextDataset } from "./dataset.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** A list of messages, or an object that has one under `messages`, with what else the template reads, such as `tools`. */
export type Conversation =
  | readonly ChatMessage[]
  | { readonly messages: readonly ChatMessage[]; readonly tools?: readonly object[] };

/** How conversations become rows. */
export interface ChatDatasetOptions extends Pick<ChatOptions, "template" | "tools" | "now" | "variables"> {
  /** Tokens of a row, T. */
  readonly window?: number;
  /** Tokens from the beginning of one training row to the next. */
  readonly stride?: number;
  /** The share of the conversations, the last ones, that is kept for evaluation; or conversations for it. */
  readonly heldOut?: number | readonly Conversation[];
  /** Decides the order of the rows. */
  readonly seed?: number;
}

interface Tokens {
  readonly ids: Int32Array;
  readonly mask: Uint8Array;
}

/**
 * Makes a dataset of conversations: each is written by the tokenizer's chat template, one follows the other, and labels are
 * −100 wherever the next token is not said by the assistant.
 *
 * @param source the path of a file of JSON lines, each `{"messages": [{"role": …, "content": …}, …]}`, or conversations
 * @throws {FormatError} naming the line that is not a conversation
 * @throws {ConfigError} when the tokenizer has no chat template, the assistant says nothing, or there are fewer tokens than a row
 * @example
 * const dataset = chatDataset("chats.jsonl", tokenizer, { window: 256 });
 */
export function chatDataset(
  source: string | readonly Conversation[],
  tokenizer: Tokenizer,
  options: ChatDatasetOptions = {},
): TextDataset {
  checkOptions("chatDataset", options, {
    window: "a whole number from 1",
    stride: "a whole number from 1",
    heldOut: "a number or a list",
    seed: "a whole number from 0 below 2³²",
    template: "a string",
    tools: "a list",
    now: Date,
    variables: "an object",
  });
  const operation = "chatDataset";
  const { window = 128, stride = window, seed = 0, heldOut = 0.1, ...chat } = options;
  if (typeof heldOut === "number" && !(heldOut >= 0 && heldOut < 1))
    throw new ConfigError(`\`heldOut\` (= ${heldOut}) must be at least 0 and less than 1.`, { operation, got: heldOut });
  const all =
    typeof source === "string" ? under(operation, () => conversationsFromJsonl(readUtf8(source, operation), source)) : source;
  requireKind(operation, "a list", { conversations: all });
  requireKind(operation, "a function", { "tokenizer.encodeChat": (tokenizer as Partial<Tokenizer> | undefined)?.encodeChat });
  const cut = typeof heldOut === "number" ? all.length - Math.round(all.length * heldOut) : all.length;
  const train = pack(all.slice(0, cut), tokenizer, chat);
  const kept = pack(typeof heldOut === "number" ? all.slice(cut) : heldOut, tokenizer, chat);
  if (train.ids.length < window + 1)
    throw new ConfigError(
      `the conversations have ${train.ids.length} tokens, fewer than a row and the one that follows (${window + 1}).`,
      {
        operation,
        expected: window + 1,
        got: train.ids.length,
        hint: "Use a smaller `window`, or give more conversations.",
      },
    );
  if (!train.mask.includes(1))
    throw new ConfigError("the assistant says nothing in these conversations, so there is nothing to learn.", {
      operation,
      hint: 'Its messages have the role "assistant".',
    });
  return new TextDataset({
    window,
    stride,
    seed,
    trainTokens: train.ids,
    trainMask: train.mask,
    heldOutTokens: kept.ids,
    heldOutMask: kept.mask,
  });
}

/**
 * The conversations of JSON lines; empty lines are skipped.
 *
 * @throws {FormatError} naming the line that is not JSON or has no messages
 */
export function conversationsFromJsonl(content: string, name = "the JSON lines"): Conversation[] {
  const operation = "conversationsFromJsonl";
  requireKind(operation, "a string", { content });
  return content.split("\n").flatMap((line, i) => {
    if (line.trim() === "") return [];
    let row: unknown;
    try {
      row = JSON.parse(line);
    } catch (cause) {
      throw new FormatError(`line ${i + 1} of ${name} is not JSON: ${(cause as Error).message}.`, { operation, got: line });
    }
    const messages = Array.isArray(row) ? row : (row as { readonly messages?: unknown } | null)?.messages;
    if (!Array.isArray(messages) || !messages.every((message) => typeof message?.role === "string"))
      throw new FormatError(`line ${i + 1} of ${name} has no list of messages with roles: ${wordJson(row, 80)}.`, {
        operation,
        got: row,
        hint: 'Write {"messages": [{"role": "user", "content": "…"}, …]}.',
      });
    return [row as Conversation];
  });
}

function pack(conversations: readonly Conversation[], tokenizer: Tokenizer, options: ChatOptions): Tokens {
  const encoded = conversations.map((conversation) => {
    requireKind("chatDataset", "an object", { conversation: Array.isArray(conversation) ? {} : conversation });
    const { messages, tools } = "messages" in conversation ? conversation : { messages: conversation };
    return under("chatDataset", () => tokenizer.encodeChat(messages, tools ? { ...options, tools } : options));
  });
  const ids = new Int32Array(encoded.reduce((sum, chat) => sum + chat.ids.length, 0));
  const mask = new Uint8Array(ids.length);
  let at = 0;
  for (const chat of encoded) {
    ids.set(chat.ids, at);
    mask.set(chat.assistantMask, at);
    at += chat.ids.length;
  }
  return { ids, mask };
}
