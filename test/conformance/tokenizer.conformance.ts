/** A tokenizer that lorikeet trains is the one that Hugging Face's `tokenizers` trains on the same text, and transformers reads its files. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { loadTokenizer, saveTokenizer, tokenizerConfig, trainTokenizer } from "../../src/text/index.ts";
import { pythonSide } from "./python.ts";

const folder = mkdtempSync(join(tmpdir(), "lorikeet-conformance-"));
const endOfText = "<|endoftext|>";
const words = "the sea was calm and the whale rose slowly; Ahab, who'd waited 40 years, didn't speak".split(" ");
/** Sentences whose words depend on their number alone: some words are frequent, some rare. */
const train = Array.from({ length: 300 }, (_, i) =>
  Array.from({ length: 9 }, (_, j) => words[(i * i + 7 * i * j + j * j * j) % words.length]).join(i % 7 === 0 ? "  " : " "),
);
const encode = [
  "Ahab didn't wait",
  " two  spaces and\ttabs\n\nlines ",
  "naïve café — 日本語 🐋 \u0000",
  `one${endOfText}two`,
  "x'll 12345 !?…",
  "",
];
const vocabularySize = 400;
const specialTokens = [endOfText];
let theirs: Record<"vocab" | "merges" | "ids" | "decoded" | "eos" | "maximum", unknown>;

beforeAll(async () => {
  const definition = trainTokenizer(train, { vocabularySize, specialTokens });
  const config = tokenizerConfig({ bosToken: endOfText, eosToken: endOfText, maximumLength: 77 });
  await saveTokenizer(join(folder, "ours"), { definition, config });
  writeFileSync(join(folder, "texts.json"), JSON.stringify({ train, encode, vocabularySize, specialTokens }));
  await pythonSide("tokenizer", folder);
  theirs = JSON.parse(readFileSync(join(folder, "theirs.json"), "utf8"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("training gives the same vocabulary and merges", async () => {
  const { definition } = await loadTokenizer(join(folder, "ours"));
  expect(definition.model["merges"]).toEqual(theirs.merges);
  expect(definition.model["vocab"]).toEqual(theirs.vocab);
});

test("transformers encodes and decodes with our files as we do", async () => {
  const tokenizer = await loadTokenizer(join(folder, "ours"));
  const ids = encode.map((text) => [...tokenizer.encode(text, { addSpecialTokens: false })]);
  expect(ids).toEqual(theirs.ids);
  expect(ids.map((list) => tokenizer.decode(list))).toEqual(theirs.decoded);
  expect([tokenizer.eosId, 77]).toEqual([theirs.eos, theirs.maximum]);
});
