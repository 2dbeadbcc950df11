/** Published chat templates beside transformers. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { LorikeetError } from "../../src/errors.ts";
import { type ChatMessage, renderChat } from "../../src/text/chat-template.ts";

interface Case {
  readonly name: string;
  readonly messages: readonly ChatMessage[];
  readonly tools: readonly object[] | null;
  readonly prompt: boolean;
  readonly variables: Readonly<Record<string, unknown>>;
  /** null where transformers refuses. */
  readonly text: string | null;
  readonly answers: readonly (readonly [number, number])[] | null;
}

// CHAT_TEMPLATES=FILE takes cases of another seed: templates.py --seed N --out FILE
const path = process.env["CHAT_TEMPLATES"] ?? join(import.meta.dirname, "../fixtures/chat/templates.json");
const { templates, cases } = JSON.parse(readFileSync(path, "utf8")) as { templates: Record<string, string>; cases: Case[] };
const special = { bos_token: "<s>", eos_token: "</s>" };
const now = new Date(2025, 2, 9, 8, 5, 7);
const render = (template: string, { messages, tools, prompt, variables }: Omit<Case, "name" | "text" | "answers">) =>
  renderChat(new Map([["default", template]]), special, messages, {
    addGenerationPrompt: prompt,
    ...(tools && { tools }),
    variables,
    now,
  });

describe.each(Object.entries(templates))("the template %s", (name, template) => {
  it.each(cases.filter((each) => each.name === name).map((each, i) => [i, each] as const))(
    "writes what transformers writes (%i)",
    (_, each) => {
      if (each.text === null) {
        expect(() => render(template, each)).toThrow(LorikeetError);
        return;
      }
      const { text, answers } = render(template, each);
      expect(text).toBe(each.text);
      if (each.answers) expect(answers.map((ends) => ends.map((end) => [...text.slice(0, end)].length))).toEqual(each.answers);
    },
  );
});
