/** The cases of `sentence/` (test/fixtures/generate/gen_sentence.py): folders of sentence-transformers and the vectors that it makes. */

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "vitest";
import { download } from "../../src/compile/program.ts";
import { saveTokenizer } from "../../src/text/bpe-trainer.ts";
import { type EmbedOptions, embed, similarity } from "../../src/train/embedding.ts";
import { loadModel, saveModel } from "../../src/train/load-model.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { expectClose, goldenFolder, goldenSuite, readGolden } from "./suite.ts";

interface Asked {
  readonly texts: readonly string[];
  readonly options: { readonly prompt_name?: string; readonly normalize_embeddings?: boolean };
  readonly vectors: readonly (readonly number[])[];
  readonly similarity: readonly (readonly number[])[];
}

const close = { rtol: 1e-4, atol: 1e-5 };
const flat = (rows: readonly (readonly number[])[]) => ({
  shape: [rows.length, rows[0]!.length],
  data: Float32Array.from(rows.flat()),
});

async function run(name: string): Promise<void> {
  const folder = join(goldenFolder, "sentence", name);
  const { texts, options, ...want } = readGolden<Asked>("sentence", name, "case.json")!;
  const { prompt_name: promptName, normalize_embeddings: normalise } = options;
  const asked: EmbedOptions = { ...(promptName && { promptName }), ...(normalise && { normalise }), batchSize: 3 };
  const reader = await loadModel(folder, { task: "FeatureExtraction" });
  const vectors = await embed(reader, texts, asked);
  await expectClose("vectors", vectors, flat(want.vectors), close);
  await expectClose("similarity", similarity(reader, vectors, vectors), flat(want.similarity), { rtol: 1e-4, atol: 5e-4 });

  // written again, the folder is as it was: what says how vectors are made to the byte
  const saved = temporaryFolder();
  await saveModel(saved, reader.model, reader.config);
  await saveTokenizer(saved, reader.tokenizer);
  const modules = JSON.parse(await readFile(join(folder, "modules.json"), "utf8")) as { readonly path: string }[];
  for (const { path } of modules.slice(1)) {
    const config = join(path, "config.json");
    expect(await readFile(join(saved, config), "utf8")).toBe(await readFile(join(folder, config), "utf8"));
  }
  const again = await loadModel(saved, { task: "FeatureExtraction" });
  expect(await download(await embed(again, texts, asked))).toEqual(await download(vectors));
}

const index = readGolden<{ readonly models: readonly string[] }>("sentence", "index.json");
goldenSuite("sentence", index?.models.map((name) => ({ name, run: () => run(name) })) ?? []);
