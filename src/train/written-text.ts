/** The text of a sequence while its tokens come, and the string at which it ends. */
import { ConfigError } from "../errors.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** What turns tokens into text. */
export type TextDecoder = Pick<Tokenizer, "stream">;

/** What a token adds to the text. */
export interface Addition {
  /** Empty in the middle of a character, and for end-of-text and the like. Ends with the stop string when that has come. */
  readonly text: string;
  /** Whether a stop string has come. */
  readonly isEnd: boolean;
}

/** @throws {ConfigError} for an empty string, and for strings without a tokenizer */
export function checkStopStrings(strings: readonly string[], decoder: TextDecoder | undefined): void {
  const operation = "generate";
  if (strings.includes("")) throw new ConfigError("a stop string is empty.", { operation, got: strings });
  if (strings.length && !decoder)
    throw new ConfigError("`stopStrings` need the `tokenizer`, which says what tokens mean.", { operation, got: strings });
}

/** One sequence. The prompt and all additions together are the text of the prompt's and all further tokens. */
export class WrittenText {
  readonly #decoder: ReturnType<TextDecoder["stream"]>;
  readonly #stopStrings: readonly string[];
  /** The end of the text, in which a stop string may have begun, the prompt's included. */
  #tail = "";

  /** @param prompt tokens that are there: for their influence on spaces, and since a stop string may begin in them */
  constructor(decoder: TextDecoder, prompt: readonly number[], stopStrings: readonly string[]) {
    this.#decoder = decoder.stream({ skipSpecialTokens: true });
    this.#stopStrings = stopStrings;
    const reach = 16 + Math.max(0, ...stopStrings.map((string) => string.length)); // a token has a letter at least, or is a byte of one
    for (const token of prompt.slice(-reach)) this.#seen(this.#decoder.push(token));
  }

  /** @param isLast whether no more tokens come, so that bytes which never became a character are shown */
  push(token: number, isLast: boolean): Addition {
    const text = this.#decoder.push(token) + (isLast ? this.#decoder.flush() : "");
    const known = this.#tail.length;
    const all = this.#tail + text;
    // what ends in the known part has been looked at before
    const ends = this.#stopStrings.flatMap((string) => {
      const at = all.indexOf(string, Math.max(0, known - string.length + 1));
      return at < 0 ? [] : [at + string.length];
    });
    this.#seen(text);
    return ends.length ? { text: all.slice(known, Math.min(...ends)), isEnd: true } : { text, isEnd: false };
  }

  #seen(text: string): void {
    const reach = Math.max(0, ...this.#stopStrings.map((string) => string.length - 1));
    this.#tail = reach ? (this.#tail + text).slice(-reach) : "";
  }
}
