/** What the model writes, side by side: as it was, and with the adapter. */
import { element } from "./element.ts";
import type { Side } from "./protocol.ts";

const place = element("samples");
/** Of a prompt. */
const shownCharacters = 240;
const texts = new Map<string, HTMLElement>();
const key = (side: Side, prompt: number): string => `${side} ${prompt}`;
const sideNames: Readonly<Record<Side, string>> = { base: "Before", adapted: "With the adapter" };

/** Empty columns for these beginnings. */
export function showPrompts(prompts: readonly string[]): void {
  texts.clear();
  place.replaceChildren();
  prompts.forEach((prompt, index) => void addPrompt(prompt, index));
}

/** Columns for the person's own beginning, which replace those of the one before. */
export function showOwnPrompt(prompt: string): void {
  texts.get(key("base", -1))?.closest(".sample")?.remove();
  addPrompt(prompt, -1);
}

function addPrompt(prompt: string, index: number): void {
  const article = Object.assign(document.createElement("article"), { className: "sample" });
  article.append(Object.assign(document.createElement("h3"), { className: "visually-hidden", textContent: prompt }));
  for (const side of ["base", "adapted"] as const) {
    const column = Object.assign(document.createElement("div"), { className: side });
    const text = document.createElement("p");
    column.append(Object.assign(document.createElement("h4"), { textContent: sideNames[side] }), text);
    article.append(column);
    text.append(Object.assign(document.createElement("b"), { textContent: shortened(prompt) }), "");
    texts.set(key(side, index), text);
  }
  place.append(article);
}

/** Of a long beginning its last words, to which the text goes on. */
const shortened = (prompt: string): string => (prompt.length > shownCharacters ? `…${prompt.slice(-shownCharacters)}` : prompt);

/** The text so far. @param done whether that is all */
export function showSample(side: Side, prompt: number, text: string, done: boolean): void {
  const element = texts.get(key(side, prompt));
  if (!element) return;
  // the beginning stays, in bold; what follows it may belong to its last word
  (element.lastChild as Text).data = text.replace(/\s+/g, " ");
  element.setAttribute("aria-busy", String(!done));
}

/** What stands in a column now. */
export const sampleText = (side: Side, prompt: number): string => texts.get(key(side, prompt))?.lastChild?.nodeValue ?? "";
