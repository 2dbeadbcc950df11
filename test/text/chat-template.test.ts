import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError, FormatError } from "../../src/errors.ts";
import { loadTokenizer } from "../../src/text/load-tokenizer.ts";
import { Tokenizer, type TokenizerDefinition } from "../../src/text/tokenizer.ts";
import { cases } from "../arbitrary/cases.ts";

const folder = join(import.meta.dirname, "../fixtures/tokenizers");
const definitionOf = (name: string): TokenizerDefinition =>
  JSON.parse(readFileSync(join(folder, name, "tokenizer.json"), "utf8"));
const definition = definitionOf("bpe_llama3");
const make = (chat_template: unknown, more: object = {}) =>
  new Tokenizer(definition, { chat_template, bos_token: { content: "<|begin|>" }, eos_token: "<|im_end|>", ...more });
const said = [
  { role: "user", content: "Hi" },
  { role: "assistant", content: "Call me Ishmael." },
  { role: "user", content: "Why?" },
  { role: "assistant", content: "Years ago" },
];
const chatML =
  "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
/** The tokens of a chat that the mask picks, as text. */
const answersOf = (tokenizer: Tokenizer, messages = said) => {
  const { ids, assistantMask } = tokenizer.encodeChat(messages);
  expect(assistantMask.length).toBe(ids.length);
  return tokenizer.decode([...ids].filter((_, i) => assistantMask[i] === 1));
};

describe("applyChatTemplate", () => {
  it("gives the template messages, special tokens, tools and other variables", () => {
    const tokenizer = make(
      "{{ bos_token }}{{ tools | tojson }}{{ '' if documents is none else documents }}{{ thinking }}{{ messages[0].content }}{{ eos_token }}",
    );
    const tools = [{ type: "function", function: { name: "größe" } }];
    expect(tokenizer.applyChatTemplate(said, { tools, variables: { thinking: true } })).toBe(
      '<|begin|>[{"type": "function", "function": {"name": "größe"}}]trueHi<|im_end|>',
    );
  });

  it("trims the lines of tags as transformers does", () => {
    const template = "{% for m in messages %}\n    {% if m.role == 'user' %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}\n";
    expect(make(template).applyChatTemplate(said)).toBe("Hi\nWhy?\n");
  });

  it("tells the time that it is given", () => {
    const now = new Date(2024, 6, 4, 15, 5, 9);
    const template = "{{ strftime_now('%d %b %Y|%Y-%m-%d|%B %-d|%A %a|%H:%M:%S|%I %p|%j|%y|100%%') }}";
    expect(make(template).applyChatTemplate(said, { now })).toBe(
      "04 Jul 2024|2024-07-04|July 4|Thursday Thu|15:05:09|03 PM|186|24|100%",
    );
    const year = () => String(new Date().getFullYear());
    const before = year();
    const told = make("{{ strftime_now('%Y') }}").applyChatTemplate(said);
    expect([before, year()]).toContain(told);
  });

  it("picks one of several templates: by name, for tools, by default, or one that is given", () => {
    const named = [
      { name: "default", template: "plain" },
      { name: "tool_use", template: "tools" },
      { name: "rag", template: "documents" },
    ];
    const tokenizer = make(named);
    expect(tokenizer.chatTemplate).toBe("plain");
    expect(tokenizer.applyChatTemplate(said)).toBe("plain");
    expect(tokenizer.applyChatTemplate(said, { tools: [] })).toBe("tools");
    expect(tokenizer.applyChatTemplate(said, { template: "rag" })).toBe("documents");
    expect(tokenizer.applyChatTemplate(said, { template: "{{ 1 + 1 }}" })).toBe("2");
    expect(() => tokenizer.applyChatTemplate(said, { template: "rug" })).toThrow(
      'applyChatTemplate: there is no chat template "rug". Did you mean "rag"?',
    );
    expect(() => make(named.slice(2)).applyChatTemplate(said)).toThrow('Say which: { template: "rag" }.');
    expect(() => make(undefined).applyChatTemplate(said)).toThrow("the tokenizer has no chat template. Give one:");
  });

  it("says in one line what the template refuses, and what is wrong with it", () => {
    const refusing = make(
      "{% if messages[0].role != 'system' %}{{ raise_exception('Begin with a system message.') }}{% endif %}",
    );
    expect(() => refusing.applyChatTemplate(said)).toThrow(
      "applyChatTemplate: the chat template refuses these messages: Begin with a system message.",
    );
    expect(() => refusing.applyChatTemplate(said)).toThrow(ConfigError);
    expect(() => make("{% for %}").applyChatTemplate(said)).toThrow(FormatError);
    expect(() => make("{% for %}").applyChatTemplate(said)).toThrow("the chat template is not one that can be read: ");
    for (const wrong of [null, "Hi", [{ content: "x" }], [null]])
      expect(() => make(chatML).applyChatTemplate(wrong as never)).toThrow("messages are a list of { role, content }.");
  });
});

describe("encodeChat", () => {
  it("finds answers by what each adds", () => {
    expect(answersOf(make(chatML))).toBe("Call me Ishmael.<|im_end|>\nYears ago<|im_end|>\n");
  });

  it("finds an answer that is the first message, where the template asks for one", () => {
    const template = "{% if messages[0].role == 'system' %}!{% endif %}{% for m in messages %}[{{ m.content }}]{% endfor %}";
    expect(answersOf(make(template), [{ role: "assistant", content: "Hi" }, ...said.slice(0, 1)])).toBe("[Hi]");
  });

  it("finds answers between generation tags, which leave no trace in the text", () => {
    const template = chatML.replace(
      "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n",
      "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}\n{{ m.content }}<|im_end|>{%- endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n",
    );
    const tokenizer = make(template);
    expect(tokenizer.applyChatTemplate(said)).toBe(make(chatML).applyChatTemplate(said).replaceAll("<|im_end|>\n", "<|im_end|>"));
    expect(answersOf(tokenizer)).toBe("Call me Ishmael.<|im_end|>Years ago<|im_end|>");
  });

  it("refuses templates in which answers cannot be found", () => {
    const last = make("{% for m in messages %}{% if loop.last %}!{% endif %}{{ m.content }}{% endfor %}");
    expect(() => last.encodeChat(said)).toThrow("writes messages differently once later ones follow");
  });

  it("gives the tokens of the text, whatever is said", () => {
    const tokenizer = make(chatML);
    const text = fc.string({ unit: "grapheme", maxLength: 20 });
    fc.assert(
      fc.property(text, text, (question, answer) => {
        const messages = [
          { role: "user", content: question },
          { role: "assistant", content: answer },
        ];
        const { ids } = tokenizer.encodeChat(messages);
        const rendered = tokenizer.applyChatTemplate(messages);
        expect([...ids]).toEqual([...tokenizer.encode(rendered, { addSpecialTokens: false })]);
      }),
      cases(40),
    );
  });
});

describe("encodeWithOffsets", () => {
  const words = ["the", " sea", "  ", "\n", "don't", "1851", "é", "e\u0301", "日本", "🐳", "<|begin|>", "</s>", "İ", "ﬁ", "½"];
  const someText = fc.oneof(
    fc.string({ unit: "grapheme", maxLength: 30 }),
    fc.array(fc.constantFrom(...words), { maxLength: 20 }).map((parts) => parts.join("")),
  );

  it.each(["bpe_gpt2", "bpe_llama3", "wordpiece_bert", "unigram_t5", "bpe_llama2_byte_fallback"])(
    "%s: the ids of encode, at places that go forward within the text",
    async (name) => {
      const tokenizer = await loadTokenizer(join(folder, name));
      fc.assert(
        fc.property(someText, (text) => {
          const { ids, tokens, offsets } = tokenizer.encodeWithOffsets(text, { addSpecialTokens: false });
          expect([...ids]).toEqual([...tokenizer.encode(text, { addSpecialTokens: false })]);
          expect(tokens.length).toBe(ids.length);
          const length = [...text].length;
          offsets.forEach(([from, to], i) => {
            expect(from).toBeGreaterThanOrEqual(offsets[i - 1]?.[0] ?? 0);
            expect(to).toBeGreaterThanOrEqual(from);
            expect(to).toBeLessThanOrEqual(length);
          });
        }),
        cases(100),
      );
    },
  );

  it("takes spaces out of the places where the tokenizer says so", () => {
    const trimming = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
    const tokenizer = new Tokenizer({ ...definitionOf("bpe_gpt2"), post_processor: trimming });
    const text = "two  spaces and";
    const { tokens, offsets } = tokenizer.encodeWithOffsets(text);
    offsets.forEach(([from, to], i) => expect(text.slice(from, to)).toBe((tokens[i] as string).replaceAll("Ġ", "")));
  });

  it("puts a joined character where the first of its parts was, and each part of a taken-apart one where it was", () => {
    const tokenizer = new Tokenizer({ ...definitionOf("bpe_gpt2"), normalizer: { type: "NFC" } });
    expect(
      tokenizer
        .encodeWithOffsets("ae\u0301b")
        .offsets.map(String)
        .filter((span, i, all) => all.indexOf(span) === i),
    ).toEqual(["0,1", "1,2", "3,4"]);
    const apart = new Tokenizer({ ...definitionOf("bpe_gpt2"), normalizer: { type: "NFKD" } });
    for (const span of apart.encodeWithOffsets("½").offsets) expect(span).toEqual([0, 1]);
  });
});
