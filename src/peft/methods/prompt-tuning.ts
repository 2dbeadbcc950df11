/**
 * Prompt tuning: n trained vectors P stand in front of those of every text, [P; E(ids)], and nothing else is trained. They start at random,
 * like words drawn from the vocabulary, or like the words of a text, which is repeated or cut to q·n words. It equals no LoRA.
 *
 * Models that answer a text read the first n rows of the table in front of it; PEFT makes q·n = 2n of them unless told otherwise.
 */
import { ConfigError } from "../../errors.ts";
import { choice, configSchema, key, object, text } from "../../formats/peft-config.ts";
import type { TorchGenerator } from "../../random/torch-generator.ts";
import { defineMethod, type Start } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { type PromptConfig, type PromptMethod, promptKeys, type Words } from "../prompt/prompt-method.ts";

const schema = configSchema("PROMPT_TUNING", "prompt_tuning_", {
  ...promptKeys,
  prompt_tuning_init: key("RANDOM", choice("TEXT", "SAMPLE_VOCAB", "RANDOM")),
  prompt_tuning_init_text: key(null, text),
  tokenizer_name_or_path: key(null, text),
  tokenizer_kwargs: key(null, object()),
});
type Config = MethodConfig<typeof schema>;

/** What decides the first values of a table of words. */
export interface WordStart extends PromptConfig {
  readonly promptTuningInit: string;
  readonly promptTuningInitText: string | null;
}

/** First values of [q·n, C]: N(0, 1), vectors of words, or of a text's words. */
export function startTable(config: WordStart, random: TorchGenerator, words: Words): Start["values"][string] {
  const { numVirtualTokens, numTransformerSubmodules, tokenDim, promptTuningInit, promptTuningInitText } = config;
  const count = numVirtualTokens * numTransformerSubmodules;
  if (promptTuningInit === "SAMPLE_VOCAB") return words.vectors(random.randint(count, 0, words.count));
  if (promptTuningInit !== "TEXT") return random.normal(count * tokenDim, 0, 1);
  const ids = words.encode(promptTuningInitText as string);
  if (ids.length === 0)
    throw new ConfigError("the text for `promptTuningInitText` has no words.", {
      operation: "attach",
      got: promptTuningInitText,
    });
  return words.vectors(Int32Array.from({ length: count }, (_, i) => ids[i % ids.length] as number));
}

/** @throws {ConfigError} when the start is a text and there is none */
export function checkWordStart(
  { promptTuningInit, promptTuningInitText }: Omit<WordStart, keyof PromptConfig>,
  operation: string,
): void {
  if (promptTuningInit === "TEXT" && promptTuningInitText === null)
    throw new ConfigError('`promptTuningInitText` must be given with `promptTuningInit: "TEXT"`.', { operation, got: null });
}

/** The table of virtual tokens, [q·n, C]. */
export const wordTable = ({ numVirtualTokens: n, numTransformerSubmodules: q, tokenDim }: PromptConfig) => ({
  prompt_embeddings: [n * q, tokenDim] as const,
});

/** A table that is trained as it is. */
const prompt: PromptMethod<Config> = {
  place: "inputs",
  tables: wordTable,
  initialise: (config, random, words) => ({ prompt_embeddings: startTable(config, random, words) }),
};

/** Prompt tuning: `promptTuning({ numVirtualTokens: 20 })`. */
export const promptTuning = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2104.08691"],
  formula: "f([P; E(ids)])",
  check(config) {
    const operation = "prompt_tuning";
    checkWordStart(config, operation);
    if (Object.keys(config.tokenizerKwargs ?? {}).length > 0 && config.promptTuningInit !== "TEXT")
      throw new ConfigError(`\`tokenizerKwargs\` does nothing with \`promptTuningInit\` (= "${config.promptTuningInit}").`, {
        operation,
        got: config.tokenizerKwargs,
        hint: 'Write promptTuningInit: "TEXT", or leave it out.',
      });
  },
  layers: {},
  prompt,
  samples: (draw) => ({
    numVirtualTokens: draw.integer(1, 4),
    promptTuningInit: (draw.integer(0, 1) ? "RANDOM" : "SAMPLE_VOCAB") as Config["promptTuningInit"],
  }),
});
