/** `lorikeet evaluate`: how well a text is predicted, without adapters and with them. */
import type { Command } from "commander";
import { ConfigError } from "../errors.ts";
import { corpusTitles } from "../text/corpora.ts";
import { TextDataset } from "../text/dataset.ts";
import { type Evaluation, evaluate } from "../train/evaluate.ts";
import { type ModelOptions, openModel, putOn, withModelOptions } from "./model-option.ts";
import { path, whole } from "./option.ts";
import { words } from "./quantity.ts";
import { print, progress, say, shown } from "./terminal.ts";
import { dataWords, openData } from "./text-task.ts";

interface EvaluateCommandOptions extends ModelOptions {
  readonly data?: string;
  readonly heldOut?: boolean;
  readonly window: number;
  readonly batch: number;
  readonly json?: boolean;
}

/** Adds `lorikeet evaluate`. */
export function addEvaluate(program: Command): void {
  withModelOptions(
    program
      .command("evaluate")
      .description("measure how well a model predicts a text, without and with adapters")
      .option("--data <file>", `${dataWords}; all of it is predicted (default: Moby-Dick)`, path)
      .option("--held-out", "predict only the last tenth, which finetune holds out of the same file"),
  )
    .option("--window <n>", "tokens that the model sees at once", whole(2), 128)
    .option("--batch <n>", "batch size", whole(), 8)
    .option("--json", "end with one line of JSON on standard output")
    .action(async ({ data, heldOut, batch, window, json, ...which }: EvaluateCommandOptions) => {
      const read = await openData("evaluate", data);
      const { name, loaded } = await openModel("evaluate", which);
      // a row of one token: what is too short to learn from can be measured
      const rows = { window: 1 };
      const parts = heldOut ? read(loaded.tokenizer, rows) : asHeldOut(read(loaded.tokenizer, { ...rows, heldOut: 0 }));
      const text = inRows(parts, window);
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
      const part = heldOut ? "the last tenth of" : "all of";
      say(`\n${words(base.tokens)} tokens, ${text.window} at once: ${part} ${data ?? corpusTitles["moby-dick"]}`);
      if (adapted && !heldOut)
        say("--held-out measures only what finetune does not learn from; what an adapter has learned from flatters it.");
      const told = { model: name, adapters: adapter, data: data ?? "moby-dick", heldOut: heldOut === true };
      if (json) await print(`${JSON.stringify({ ...told, window: text.window, base, adapted })}\n`);
    });
}

const line = (label: string, { loss, perplexity }: Evaluation): string =>
  `${label.padEnd(24)}${loss.toFixed(4).padStart(14)}${perplexity.toFixed(2).padStart(13)}`;

function change(before: Evaluation, after: Evaluation): string {
  const share = after.perplexity / before.perplexity - 1;
  return `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(1)} %`;
}

/** What is predicted, and what comes before. */
type Parts = Pick<TextDataset, "trainTokens" | "heldOutTokens" | "trainMask" | "heldOutMask">;

/** Everything but the first token, which nothing comes before, is to be predicted. */
const asHeldOut = ({ trainTokens: tokens, trainMask: mask }: TextDataset): Parts => ({
  trainTokens: tokens.subarray(0, 1),
  heldOutTokens: tokens.subarray(1),
  trainMask: mask?.subarray(0, 1),
  heldOutMask: mask?.subarray(1),
});

/** The held-out part in rows of at most so many tokens. @throws {ConfigError} when there is none */
function inRows({ trainTokens, heldOutTokens, trainMask, heldOutMask }: Parts, most: number): TextDataset {
  const window = Math.min(most, heldOutTokens.length);
  if (window === 0)
    throw new ConfigError("the text is too short to hold a part of it out.", {
      operation: "evaluate",
      hint: "Give a longer one, or leave --held-out out.",
    });
  const masks = trainMask && heldOutMask && { trainMask, heldOutMask };
  return new TextDataset({ window, stride: window, seed: 0, trainTokens, heldOutTokens, ...masks });
}
