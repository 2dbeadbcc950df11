/** `lorikeet generate`: what a model writes, with adapters on it, after a prompt or in a conversation. */
import process from "node:process";
import { text as readAll } from "node:stream/consumers";
import { type Command, Option } from "commander";
import { ConfigError } from "../errors.ts";
import type { ChatMessage } from "../text/chat-template.ts";
import type { GenerateOptions } from "../train/generation.ts";
import type { LoadedModel } from "../train/load-model.ts";
import { converse } from "./conversation.ts";
import { interruptedExitCode } from "./interrupt.ts";
import { type ModelOptions, openModel, putOn, withModelOptions } from "./model-option.ts";
import { nonNegative, positive, repeated, share, whole } from "./option.ts";
import { say } from "./terminal.ts";
import { writeText } from "./writing.ts";

interface GenerateCommandOptions
  extends ModelOptions,
    Pick<GenerateOptions, "maxNewTokens" | "temperature" | "topP" | "topK" | "minP" | "repetitionPenalty"> {
  readonly seed: number;
  readonly stop?: readonly string[];
  readonly chat?: boolean;
  readonly system?: string;
  readonly json?: boolean;
}

const operation = "generate";
/** Tokens where neither the command nor the model says how many: most people want more than a line, and base models never end. */
const usualLength = 256;

/** Adds `lorikeet generate`. */
export function addGenerate(program: Command): void {
  withModelOptions(
    program
      .command("generate")
      .description("write what follows a prompt with a model and adapters on it; without a prompt, in a terminal: a conversation")
      .argument("[prompt...]", "words to begin with; - for standard input, which is also read where it is no terminal"),
  )
    .option("--max-new-tokens <n>", `tokens to write at most; ${usualLength} when the model's files do not say, either`, whole())
    .option(
      "--temperature <x>",
      "how random; 0 takes the likeliest token. What is not said is as in generation_config.json",
      nonNegative,
    )
    .option("--top-p <x>", "draw from the likeliest tokens that have this probability together", share)
    .option("--top-k <n>", "draw from so many likeliest tokens", whole(0))
    .option("--min-p <x>", "draw from tokens that have this share of the likeliest one's probability", share)
    .option("--repetition-penalty <x>", "above 1: against tokens that the text has already", positive)
    .option("--seed <n>", "seed for what is drawn", whole(0), 0)
    .option("--stop <text>", "ends the text where it comes; may be given several times", repeated(String))
    .option("--chat", "put the prompt into the model's chat template")
    .addOption(new Option("--system <text>", "what a chat begins with").implies({ chat: true }))
    .option("--json", "a line of JSON on standard output, in place of the text")
    .action(generate);
}

async function generate(words: readonly string[], options: GenerateCommandOptions): Promise<void> {
  const isConversation = words.length === 0 && process.stdin.isTTY;
  const prompt = isConversation ? "" : await promptOf(words);
  const { name, loaded } = await openModel(operation, options, { tasks: ["Seq2SeqLM"] });
  const { model, adapter = [], quantise, stop, chat, system, json, ...given } = options;
  if (chat && loaded.tokenizer.chatTemplates.size === 0)
    throw new ConfigError(`the tokenizer of ${name} has no chat template.`, {
      operation,
      hint: "Leave --chat and --system out: the model then continues the text.",
    });
  await putOn(loaded.model, adapter);
  const settings = { ...loaded.generation, ...given, ...(stop && { stopStrings: stop }) };
  const begin = system === undefined ? [] : [{ role: "system", content: system }];
  const tokensOf = (turns: readonly ChatMessage[]) => tokensFor(loaded, [...begin, ...turns], chat);
  const write = async (turns: readonly ChatMessage[]) => {
    const tokens = tokensOf(turns);
    const seed = options.seed + turns.length - 1; // or answers to one question would all be the same
    return writeText(
      loaded,
      tokens,
      { ...settings, ...lengthOf(settings, loaded, tokens.length), seed },
      { name, adapter, json },
    );
  };
  if (isConversation) {
    say(`${chat ? "Say something" : "Begin a text"}. Ctrl-C ends an answer, Ctrl-D the conversation.`);
    const most = positionsOf(loaded) - Math.min(settings.maxNewTokens ?? usualLength, positionsOf(loaded) / 2);
    await converse(
      async (turns) => (await write(turns)).text,
      (turns) => tokensOf(turns).length <= most,
    );
  } else if ((await write([{ role: "user", content: prompt }])).isInterrupted) process.exitCode = interruptedExitCode;
}

/** Words of the command, or standard input. @throws {ConfigError} when there are none */
async function promptOf(words: readonly string[]): Promise<string> {
  const given = words.join(" ");
  // the end of the last line belongs to the file, not to the prompt
  const prompt = words.length === 0 || given === "-" ? (await readAll(process.stdin)).replace(/\r?\n$/, "") : given;
  if (prompt.trim() !== "") return prompt;
  throw new ConfigError("the prompt is empty.", { operation, hint: "Write some words after the command, or pipe them in." });
}

/** What has been said, in the chat template, or each line after what was written before. */
function tokensFor({ tokenizer }: LoadedModel, turns: readonly ChatMessage[], chat = false): Int32Array {
  if (chat)
    return tokenizer.encode(tokenizer.applyChatTemplate(turns, { addGenerationPrompt: true }), { addSpecialTokens: false });
  return tokenizer.encode(turns.map(({ role, content }, i) => `${role === "user" && i > 0 ? "\n" : ""}${content}`).join(""));
}

/** The longest text that the model has seen, as far as its files say. */
const positionsOf = ({ model, config }: LoadedModel): number =>
  model.maxLength ?? (Number(config["max_position_embeddings"]) || Number.POSITIVE_INFINITY);

/** As much as there is room for, where nobody says how much. */
function lengthOf({ maxNewTokens, maxLength }: GenerateOptions, loaded: LoadedModel, tokens: number): GenerateOptions {
  if (maxNewTokens !== undefined || maxLength !== undefined) return {};
  const begun = "answering" in loaded.model ? 1 : tokens;
  return { maxNewTokens: Math.max(1, Math.min(usualLength, positionsOf(loaded) - begun)) };
}
