import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { ConfigError, FormatError } from "../../src/errors.ts";
import { chatDataset, conversationsFromJsonl } from "../../src/text/chat-dataset.ts";
import { Tokenizer } from "../../src/text/tokenizer.ts";
import { temporaryFolder } from "../temporary-folder.ts";

const path = join(import.meta.dirname, "../fixtures/tokenizers/bpe_llama3/tokenizer.json");
const chat_template =
  "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}";
const tokenizer = new Tokenizer(JSON.parse(readFileSync(path, "utf8")), { chat_template });
const chat = (n: number) => ({
  messages: [
    { role: "user", content: `what is ${n}?` },
    { role: "assistant", content: `the number ${n}` },
  ],
});
const chats = Array.from({ length: 20 }, (_, i) => chat(i));
const learnt = ({ labels }: { labels: Int32Array }) => tokenizer.decode([...labels].filter((label) => label !== -100));

it("learns what the assistant says, each word of it once, and nothing else", () => {
  const dataset = chatDataset(chats, tokenizer, { window: 16, heldOut: 0.25 });
  const trained = [...dataset.batches({ batchSize: 1, epochs: 1 })].map(
    (batch) => batch.labels.filter((label) => label !== -100).length,
  );
  const answers = (some: typeof chats) => some.map(({ messages }) => ` ${messages[1]?.content}<|im_end|>`).join("");
  const total = dataset.trainMask!.subarray(0, dataset.rows * 16 + 1).reduce((sum, bit) => sum + bit, 0);
  expect(trained.reduce((sum, count) => sum + count, 0)).toBe(total);
  expect(tokenizer.decode([...dataset.trainTokens].filter((_, i) => dataset.trainMask?.[i]))).toBe(answers(chats.slice(0, 15)));
  const held = [...dataset.evaluationBatches({ batchSize: 2 })];
  expect(held.map(learnt).join("")).toBe(answers(chats.slice(15)));
  for (const { inputIds, labels } of held)
    labels.forEach((label, i) => label === -100 || i + 1 === 32 || i === 15 || expect(inputIds[i + 1]).toBe(label));
});

it("reads JSON lines, with conversations as lists or objects", () => {
  const file = join(temporaryFolder(), "chats.jsonl");
  writeFileSync(file, [...chats.slice(1).map((each) => JSON.stringify(each)), "", JSON.stringify(chats[0]?.messages)].join("\n"));
  const dataset = chatDataset(file, tokenizer, { window: 8, heldOut: [chat(99)] });
  expect(tokenizer.decode(dataset.trainTokens)).toContain("what is 0?");
  expect(tokenizer.decode(dataset.heldOutTokens)).toBe(
    "<|im_start|>user: what is 99?<|im_end|><|im_start|>assistant: the number 99<|im_end|>",
  );
});

it("says which line is no conversation, and what is missing", () => {
  expect(() => conversationsFromJsonl('{"messages": []}\n{', "x.jsonl")).toThrow("line 2 of x.jsonl is not JSON");
  expect(() => conversationsFromJsonl('{"text": "a"}')).toThrow(FormatError);
  expect(() => conversationsFromJsonl('[{"content": 1}]')).toThrow(
    'line 1 of the JSON lines has no list of messages with roles: [{"content":1}].',
  );
  expect(() => chatDataset("/none.jsonl", tokenizer)).toThrow('chatDataset: cannot read "/none.jsonl": it does not exist');
  expect(() => chatDataset(chats.slice(0, 1), tokenizer, { window: 500 })).toThrow(
    "fewer than a row and the one that follows (501)",
  );
  const silent = chats.map(({ messages }) => messages.slice(0, 1));
  expect(() => chatDataset(silent, tokenizer, { window: 8 })).toThrow("the assistant says nothing");
  expect(() => chatDataset(chats, tokenizer, { heldOut: 1 })).toThrow(ConfigError);
});
