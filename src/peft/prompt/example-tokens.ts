/** Examples that are written as texts, as the tokens that context-aware prompt tuning starts from. */
import { ConfigError, requireKind } from "../../errors.ts";

/** What stands in front of every text: an input, and what is answered. */
export interface WrittenExample {
  readonly input: string;
  readonly answer: string;
}

/** Reads texts without putting anything around them: a `Tokenizer`. */
export interface ExampleTokenizer {
  encode(text: string, options: { readonly addSpecialTokens: boolean }): ArrayLike<number>;
}

/** The two keys of a CPT config that say what the virtual tokens are. */
export interface ExampleTokens {
  readonly cptTokenIds: readonly number[];
  /** 4·i + 1 for what separates example i from the one before, 4·i + 2 for its input, 4·i + 4 for its answer. */
  readonly cptTokensTypeMask: readonly number[];
}

/**
 * Tokens of examples, one after the other on lines of their own, an answer behind its input and a space.
 *
 * @throws {ConfigError} for no examples, and for one without words in its input or in its answer
 * @example
 * attach(model, cpt(exampleTokens(tokenizer, [{ input: "The lamp is lit at", answer: "dusk." }])));
 * @see https://arxiv.org/abs/2410.17222
 */
export function exampleTokens(tokenizer: ExampleTokenizer, examples: readonly WrittenExample[]): ExampleTokens {
  const operation = "exampleTokens";
  requireKind(operation, "a list", { examples });
  requireKind(operation, "a function", { "tokenizer.encode": (tokenizer as Partial<ExampleTokenizer> | undefined)?.encode });
  if (examples.length === 0) throw new ConfigError("got no examples.", { operation });
  const [cptTokenIds, cptTokensTypeMask]: [number[], number[]] = [[], []];
  const put = (text: string, type: number): number => {
    const ids = Array.from(tokenizer.encode(text, { addSpecialTokens: false }));
    cptTokenIds.push(...ids);
    cptTokensTypeMask.push(...ids.map(() => type));
    return ids.length;
  };
  for (const [i, example] of examples.entries()) {
    requireKind(operation, "an object", { example });
    const { input, answer } = example;
    requireKind(operation, "a string", { input, answer });
    if (i > 0) put("\n", 4 * i + 1);
    for (const [name, text, type] of [
      ["input", input.trim(), 4 * i + 2],
      ["answer", answer.trim(), 4 * i + 4],
    ] as const)
      if (text === "" || put(name === "answer" ? ` ${text}` : text, type) === 0)
        throw new ConfigError(`example ${i + 1} has no ${name}.`, { operation, got: examples[i] });
  }
  return { cptTokenIds, cptTokensTypeMask };
}
