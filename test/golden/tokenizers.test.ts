/** The cases of `tokenizers/`: ids, tokens, places, decoded texts and pairs as Hugging Face's tokenizers gives them; chat templates. */
import { join } from "node:path";
import { expect } from "vitest";
import { createReference } from "../../src/devices/reference/device.ts";
import { loadTokenizer } from "../../src/text/load-tokenizer.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { type GoldenCase, goldenFolder, goldenSuite, readGolden } from "./suite.ts";

interface TokenizerCases {
  readonly cases: readonly {
    readonly text: string;
    readonly ids: readonly number[];
    readonly tokens: readonly string[];
    readonly ids_no_special: readonly number[];
    readonly offsets: readonly (readonly [number, number])[];
    readonly type_ids: readonly number[];
    readonly decoded: string;
    readonly decoded_with_special: string;
  }[];
  readonly pairs?: readonly {
    readonly a: string;
    readonly b: string;
    readonly ids: readonly number[];
    readonly type_ids: readonly number[];
    readonly tokens: readonly string[];
  }[];
}

interface ChatCase {
  readonly name: string;
  readonly template: string;
  readonly bos_token: string;
  readonly eos_token: string;
  readonly messages: readonly { readonly role: string; readonly content: string }[];
  readonly add_generation_prompt: boolean;
  readonly text: string;
  readonly ids: readonly number[];
}

const index = readGolden<{ tokenizers: { name: string }[] }>("tokenizers", "index.json");

const tokenizerCase = (name: string): GoldenCase => ({
  name,
  async run() {
    const tokenizer = await loadTokenizer(join(goldenFolder, "tokenizers", name));
    const { cases, pairs = [] } = readGolden<TokenizerCases>("tokenizers", name, "cases.json")!;
    expect(cases.length).toBeGreaterThan(0);
    for (const { text, ...want } of cases) {
      expect([...tokenizer.encode(text)], text).toEqual(want.ids);
      expect([...tokenizer.encode(text, { addSpecialTokens: false })], text).toEqual(want.ids_no_special);
      expect(tokenizer.decode(want.ids, { skipSpecialTokens: true }), text).toBe(want.decoded);
      expect(tokenizer.decode(want.ids), text).toBe(want.decoded_with_special);
      const whole = tokenizer.encodeWithOffsets(text);
      expect([...whole.ids], text).toEqual(want.ids);
      expect(whole.tokens, text).toEqual(want.tokens);
      const plain = tokenizer.encodeWithOffsets(text, { addSpecialTokens: false });
      expect([...plain.ids], text).toEqual(want.ids_no_special);
      expect(plain.offsets, text).toEqual(want.offsets);
      expect(want.type_ids, text).toEqual(want.ids.map(() => 0));
    }
    for (const { a, b, ids, type_ids, tokens } of pairs) {
      const pair = tokenizer.encodePair(a, b);
      expect([...pair.ids]).toEqual(ids);
      expect([...pair.typeIds]).toEqual(type_ids);
      expect(ids.map((id) => tokenizer.tokenOf(id))).toEqual(tokens);
    }
  },
});

const chatCase = (tokenizer: string, { name, ...chat }: ChatCase): GoldenCase => ({
  name: `${tokenizer}/${name}`,
  async run() {
    const { definition } = await loadTokenizer(join(goldenFolder, "tokenizers", tokenizer));
    const { template, bos_token, eos_token } = chat;
    const own = new Tokenizer(definition, { chat_template: template, bos_token, eos_token });
    const text = own.applyChatTemplate(chat.messages, { addGenerationPrompt: chat.add_generation_prompt });
    expect(text).toBe(chat.text);
    expect([...own.encode(text, { addSpecialTokens: false })]).toEqual(chat.ids);
    expect([...own.encodeChat(chat.messages, { addGenerationPrompt: chat.add_generation_prompt }).ids]).toEqual(chat.ids);
  },
});

const names = (index?.tokenizers ?? []).map(({ name }) => name);
const chats = names.flatMap((name) =>
  (readGolden<{ cases: ChatCase[] }>("tokenizers", name, "chat.json")?.cases ?? []).map((chat) => chatCase(name, chat)),
);
// nothing of a tokenizer depends on the device
goldenSuite("tokenizers", [...names.map(tokenizerCase), ...chats], [{ name: "reference", open: () => createReference() }]);
