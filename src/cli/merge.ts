/** `lorikeet merge`: a model with adapters in its weights, as a folder for transformers. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { type Command, InvalidArgumentError, Option } from "commander";
import { currentDevice, upload } from "../compile/program.ts";
import { ConfigError } from "../errors.ts";
import type { Tensor } from "../graph/node.ts";
import { adaptedModel, setActive } from "../peft/adapted-model.ts";
import { type CombinationType, combinationTypes } from "../peft/compose/combination.ts";
import { combineAdapters } from "../peft/compose/combine-adapters.ts";
import { merge } from "../peft/merge.ts";
import type { LoadedModel } from "../train/load-model.ts";
import type { SavedDType } from "../train/load-weights.ts";
import { saveFolder } from "./merged-folder.ts";
import { openModel, otherTasks, putOn } from "./model-option.ts";
import { path, share } from "./option.ts";
import { print, say } from "./terminal.ts";

interface MergeCommandOptions {
  readonly model?: string;
  readonly out: string;
  readonly dtype?: SavedDType;
  readonly weights?: readonly number[];
  readonly combination?: CombinationType;
  readonly density?: number;
  readonly json?: boolean;
}

const operation = "merge";
const dtypes: readonly SavedDType[] = ["float32", "float16", "bfloat16"];

/** Adds `lorikeet merge`. */
export function addMerge(program: Command): void {
  program
    .command("merge")
    .description("write a model with one adapter or several merged into its weights, for transformers")
    .argument("<adapters...>", "folders of adapters, or names on the Hub")
    .requiredOption("--out <folder>", "folder to write: the model, its tokenizer and settings", path)
    .option("--model <folder>", "the model they are for; the one that the adapters name when absent", path)
    .addOption(new Option("--dtype <type>", "how weights are merged and written; as they are stored when absent").choices(dtypes))
    .option("--weights <numbers>", "how much of each adapter, as 0.7,0.3; all of each when absent", numbers)
    .addOption(
      new Option("--combination <type>", "combine them into one adapter first; a sum when absent").choices(combinationTypes),
    )
    .option("--density <x>", "the share of values that combinations with ties, dare and prune keep", share)
    .option("--json", "end with one line of JSON on standard output")
    .action(mergeInto);
}

async function mergeInto(adapters: readonly string[], options: MergeCommandOptions): Promise<void> {
  const { model, out, weights, combination, density, json } = options;
  if (weights && weights.length !== adapters.length)
    throw new ConfigError(`--weights has ${weights.length} numbers for ${adapters.length} adapters.`, {
      operation,
      got: weights,
    });
  const { name, loaded } = await openModel(
    operation,
    { ...(model !== undefined && { model }), adapter: adapters },
    { tasks: otherTasks, dtype: options.dtype ?? "auto" },
  );
  refuseToOverwrite(out, name);
  const names = await putOn(loaded.model, adapters);
  refuseDrawn(loaded, adapters);
  if (weights || combination) {
    // side by side they are their weighted sum to the bit; everything else is asked for
    const how = { type: combination ?? "cat", ...(density !== undefined && { density }), name: "combined adapter" };
    combineAdapters(loaded.model, { adapters: names, weights: weights ?? names.map(() => 1), ...how });
    setActive(loaded.model, how.name);
  }
  const probe = probeOf(loaded);
  const report = merge(loaded.model, undefined, { report: true, safe: true, tell: say, ...(probe && { probe }) });
  const stored = loaded.config["dtype"] ?? loaded.config["torch_dtype"];
  const dtype = options.dtype ?? dtypes.find((each) => each === stored) ?? "float32";
  await saveFolder(out, name, loaded, { dtype });
  const worst = report.layers.reduce((most, layer) => (layer.error > (most?.error ?? -1) ? layer : most), report.layers[0]);
  const told = {
    model: name,
    adapters,
    out,
    dtype,
    merged: report.paths.length,
    largestError: worst?.error ?? null,
    largestErrorIn: worst?.path ?? null,
    largestLogitDifference: report.difference,
  };
  if (worst)
    say(`  rounding   at most ${worst.error.toExponential(1)} of a layer's change is lost (${worst.path}, ${worst.dtype})`);
  if (report.difference !== null)
    say(`  logits     beside and in the weights differ by at most ${report.difference.toExponential(1)}`);
  say(`  model      ${out}   (${report.paths.length} layers merged, ${dtype})`);
  if (json) await print(`${JSON.stringify(told)}\n`);
}

/** An output layer that is in no file was drawn when the adapters were trained, and is lost. A pooler is nothing that embeddings need. */
function refuseDrawn({ model, drawn }: LoadedModel, adapters: readonly string[]): void {
  const saved = [...adaptedModel(model, operation).saved.keys()];
  const lost = drawn.filter((path) => !path.startsWith("pooler.") && !saved.some((head) => path.startsWith(`${head}.`)));
  if (lost.length > 0)
    throw new ConfigError(`${lost.join(", ")} is in the files of neither the model nor ${adapters.join(", ")}.`, {
      operation,
      got: lost,
      hint: "Give the model with the output layer that the adapter was trained on, or train it with that layer in modules_to_save.",
    });
}

/** `0.7,0.3`. */
function numbers(text: string): readonly number[] {
  const values = text.split(",").map((part) => (part.trim() === "" ? Number.NaN : Number(part)));
  if (!values.every(Number.isFinite)) throw new InvalidArgumentError("It must be numbers with commas between them.");
  return values;
}

/** What would destroy the model, or make a folder of which transformers loads the adapter once more. */
function refuseToOverwrite(out: string, model: string): void {
  const hint = "Choose another --out.";
  if (resolve(out) === resolve(model)) throw new ConfigError(`${out} holds the model itself.`, { operation, got: out, hint });
  if (existsSync(join(out, "adapter_config.json")))
    throw new ConfigError(`${out} holds an adapter, which would be loaded again on top of the merged weights.`, {
      operation,
      got: out,
      hint,
    });
}

/** Logits, or last states, of a few tokens; nothing of a model that reads no text. */
function probeOf({ model, config }: LoadedModel): (() => Tensor) | undefined {
  const vocabulary = Number(config["vocab_size"]);
  if (!(vocabulary > 0)) return undefined;
  const length = Math.min(32, model.maxLength ?? 32);
  const ids = Int32Array.from({ length }, (_, i) => (i * 7919) % vocabulary);
  const inputIds = upload(currentDevice(), ids, [1, length], "int32");
  const inputs = { inputIds, ...("answering" in model && { decoderInputIds: inputIds }) };
  return () => {
    const { logits, hiddenStates } = model.forward(inputs) as {
      readonly logits?: Tensor;
      readonly hiddenStates: readonly Tensor[];
    };
    return logits ?? (hiddenStates.at(-1) as Tensor);
  };
}
