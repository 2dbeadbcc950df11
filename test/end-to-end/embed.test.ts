/** `lorikeet embed`: the texts of a file as vectors, those that the library makes. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, expect, it } from "vitest";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { lorikeet } from "./command.ts";

const folder = mkdtempSync(join(tmpdir(), "lorikeet-embed-"));
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string) => join(folder, name);
const model = resolve(import.meta.dirname, "../fixtures/sentence/every_pooling");
const { texts, vectors } = JSON.parse(readFileSync(join(model, "case.json"), "utf8")) as {
  readonly texts: readonly string[];
  readonly vectors: readonly (readonly number[])[];
};
writeFileSync(at("texts.txt"), `${texts.join("\n\n")}\n`);

it("writes a JSON line for each text, or one tensor of all", async () => {
  const { code, stdout, stderr } = await lorikeet(["embed", at("texts.txt"), "--model", model, "--prompt-name", "query"]);
  expect(code, stderr).toBe(0);
  const lines = stdout.trim().split("\n");
  const rows = lines.map((line) => JSON.parse(line) as { readonly text: string; readonly embedding: readonly number[] });
  expect(rows.map(({ text }) => text)).toEqual(texts);
  for (const [i, row] of rows.entries())
    for (const [c, value] of row.embedding.entries()) expect(value).toBeCloseTo(vectors[i]![c]!, 4);

  writeFileSync(at("texts.jsonl"), `\ufeff${texts.map((text) => `${JSON.stringify({ text: `query : ${text}` })}\r\n`).join("")}`);
  const out = at("vectors.safetensors");
  const tensor = await lorikeet(["embed", at("texts.jsonl"), "--model", model, "--out", out]);
  expect(tensor.code, tensor.stderr).toBe(0);
  expect(tensor.stdout).toBe("");
  const embeddings = (await readSafetensors(out)).tensors.get("embeddings")!;
  expect(embeddings.shape).toEqual([texts.length, vectors[0]!.length]);
  expect([...(await embeddings.load())]).toEqual(rows.flatMap(({ embedding }) => embedding));
});

it("says in one line what is wrong", async () => {
  writeFileSync(at("wide.txt"), "\ufeffone", "utf16le");
  writeFileSync(at("wrong.jsonl"), '{"text": "one"}\n{"txt": "another"}\n');
  for (const [args, words] of [
    [["embed", at("nowhere.txt"), "--model", model], "nowhere.txt"],
    [["embed", at("wrong.jsonl"), "--model", model], 'wrong.jsonl has no text under "text"; it has: txt.'],
    [["embed", at("texts.txt"), "--model", model, "--prompt-name", "quary"], 'Did you mean "query"?'],
    [["embed", at("texts.txt"), "--model", model, "--out", folder], folder],
    [["embed", at("wide.txt"), "--model", model], "is not text in UTF-8"],
  ] as const) {
    const { code, stderr } = await lorikeet(args);
    expect([code, stderr.trim().split("\n").length], stderr).toEqual([1, 1]);
    expect(stderr).toContain(words);
  }
});
