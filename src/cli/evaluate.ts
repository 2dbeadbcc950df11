/** `lorikeet evaluate`: how well a text is predicted, without adapters and with them. */
import type { Command } from "commander";
import { readUtf8, TextDataset } from "../text/dataset.ts";
import { fileDataset } from "../text/file-dataset.ts";
import { type Evaluation, evaluate } from "../train/evaluate.ts";
import type { LoadedModel } from "../train/load-model.ts";
import { type ModelOptions, openModel, putOn, withModelOptions } from "./model-option.ts";
import { path, whole } from "./option.ts";
import { words } from "./quantity.ts";
import { print, progress, say, shown } from "./terminal.ts";

interface EvaluateCommandOptions extends ModelOptions {
  readonly data: string;
  readonly window: number;
  readonly batch: number;
  readonly json?: boolean;
}

/** Adds `lorikeet evaluate`. */
export function addEvaluate(program: Command): void {
  withModelOptions(
    program
      .command("evaluate")
      .description("measure how well a model predicts a text that it has not learned from, without and with adapters")
      .requiredOption("--data <file>", "plain text, or JSON lines with `text` or chat `messages`; all of it is predicted", path),
  )
    .option("--window <n>", "tokens that the model sees at once", whole(2), 128)
    .option("--batch <n>", "batch size", whole(), 8)
    .option("--json", "end with one line of JSON on standard output")
    .action(async ({ data, batch, window, json, ...which }: EvaluateCommandOptions) => {
      const content = readUtf8(data, "evaluate");
      const { name, loaded } = await openModel(which);
      const text = asHeldOut(data, content, loaded, window);
      const measure = (label: string): Promise<Evaluation> => {
        const tell = progress(`Predicting, ${label}: token`, text.heldOutTokens.length);
        return evaluate(loaded.model, text, { batchSize: batch, onProgress: (share) => tell(share * text.heldOutTokens.length) });
      };
      const base = await measure("the model");
      const { adapter = [] } = which;
      await putOn(loaded.model, adapter);
      const adapted = adapter.length > 0 ? await measure("with adapters") : null;
      say(`\n${"".padEnd(24)}nats per token   perplexity`);
      say(line(shown(name), base));
      if (adapted)
        say(`${line(adapter.length > 1 ? "with the adapters" : "with the adapter", adapted)}   (${change(base, adapted)})`);
      say(`\n${words(base.tokens)} tokens of ${data}, ${text.window} at once`);
      if (json) await print(`${JSON.stringify({ model: name, adapters: adapter, data, window: text.window, base, adapted })}\n`);
    });
}

const line = (label: string, { loss, perplexity }: Evaluation): string =>
  `${label.padEnd(24)}${loss.toFixed(4).padStart(14)}${perplexity.toFixed(2).padStart(13)}`;

function change(before: Evaluation, after: Evaluation): string {
  const share = after.perplexity / before.perplexity - 1;
  return `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(1)} %`;
}

/** A file of which everything but the first token, which nothing comes before, is to be predicted. */
function asHeldOut(file: string, content: string, { tokenizer }: LoadedModel, most: number): TextDataset {
  // a row of one token: what is too short to learn from can be measured
  const { trainTokens: tokens, trainMask: mask } = fileDataset(file, content, tokenizer, { window: 1, heldOut: 0 });
  const window = Math.min(most, tokens.length - 1);
  const masks = mask && { trainMask: mask.subarray(0, 1), heldOutMask: mask.subarray(1) };
  const parts = { trainTokens: tokens.subarray(0, 1), heldOutTokens: tokens.subarray(1), ...masks };
  return new TextDataset({ window, stride: window, seed: 0, ...parts });
}
