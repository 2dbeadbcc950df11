/** `lorikeet embed`: the vectors of the texts of a file. */
import process from "node:process";
import { text as readAll } from "node:stream/consumers";
import type { Command } from "commander";
import { download } from "../compile/program.ts";
import { ConfigError, under } from "../errors.ts";
import { writeFileAtomically } from "../formats/atomic-file.ts";
import { writeSafetensors } from "../formats/safetensors.ts";
import { loadAdapter } from "../peft/adapter-file.ts";
import { readUtf8, textsFromJsonl } from "../text/dataset.ts";
import { type EmbedOptions, embed } from "../train/embedding.ts";
import { loadModel } from "../train/load-model.ts";
import { path } from "./option.ts";
import { print, progress, say, shown } from "./terminal.ts";

interface EmbedCommandOptions extends Pick<EmbedOptions, "prompt" | "promptName"> {
  readonly model: string;
  readonly adapter?: string;
  readonly out?: string;
}

/** Texts of which the vectors are made before any are written. */
const atOnce = 256;

/** Adds `lorikeet embed`. */
export function addEmbed(program: Command): void {
  program
    .command("embed")
    .description("make embeddings of texts, one JSON line each: text and embedding")
    .argument("<texts>", 'a file with a text in each line, or JSON lines with a "text" each (.jsonl); - for standard input', path)
    .requiredOption(
      "--model <folder>",
      "a model: a folder, as sentence-transformers writes it or any other, or a name on the Hub",
      path,
    )
    .option("--adapter <folder>", "an adapter on top", path)
    .option("--prompt <text>", "put in front of each text")
    .option("--prompt-name <name>", "the same by one of the names in the model's folder, such as query")
    .option("--out <file>", "what to write in place of standard output; .safetensors: one tensor of all, embeddings", path)
    .action(async (source: string, { model, adapter, out, ...options }: EmbedCommandOptions) => {
      const texts = await linesOf(source);
      const reader = await loadModel(model, { task: "FeatureExtraction" });
      if (adapter !== undefined) await loadAdapter(reader.model, adapter);
      const tell = progress("embedded", texts.length);
      /** Hands on vectors as they are made. */
      const run = async (take: (texts: readonly string[], values: Float32Array, width: number) => void | Promise<void>) => {
        for (let at = 0; at < texts.length; at += atOnce) {
          const some = texts.slice(at, at + atOnce);
          using vectors = await embed(reader, some, options);
          await take(some, (await download(vectors)) as Float32Array, vectors.shape[1] as number);
          tell(at + some.length);
        }
      };
      if (out?.endsWith(".safetensors")) {
        let data = new Float32Array(0);
        let filled = 0;
        await run((_, values, width) => {
          if (filled === 0) data = new Float32Array(texts.length * width);
          data.set(values, filled);
          filled += values.length;
        });
        const shape = [texts.length, data.length / texts.length];
        await writeSafetensors(out, { embeddings: { dtype: "float32", shape, data } });
      } else if (out !== undefined) {
        const bytes = new TextEncoder();
        await under("embed", () =>
          writeFileAtomically(out, (append) => run((...some) => append(bytes.encode(linesFor(...some))))),
        );
      } else await run(async (...some) => void (await print(linesFor(...some))));
      if (out !== undefined) say(`${shown(out)}   (${texts.length} texts)`);
    });
}

/** The texts of a file. @throws {LorikeetError} when it cannot be read, is not UTF-8 or has none, or for a line that is none */
async function linesOf(source: string): Promise<readonly string[]> {
  const content = source === "-" ? (await readAll(process.stdin)).replace(/^\ufeff/, "") : readUtf8(source, "embed");
  const texts = source.endsWith(".jsonl")
    ? under("embed", () => textsFromJsonl(content, { name: source }), ["textsFromJsonl"])
    : content.split(/\r?\n/).filter((line) => line.trim() !== "");
  if (texts.length > 0) return texts;
  throw new ConfigError(`there is no text in ${source}.`, { operation: "embed", got: source });
}

/** A line for each text. @param values [texts, width] */
function linesFor(texts: readonly string[], values: Float32Array, width: number): string {
  const rows = texts.map((text, i) => ({ text, embedding: Array.from(values.subarray(i * width, (i + 1) * width)) }));
  return rows.map((row) => `${JSON.stringify(row)}\n`).join("");
}
