/** The first values of virtual tokens: as the method draws them, or as a file has them. */
import { currentDevice, upload } from "../../compile/program.ts";
import type { Device } from "../../devices/device.ts";
import { ConfigError } from "../../errors.ts";
import { Tensor } from "../../graph/node.ts";
import { type Layer, type Module, Parameter } from "../../nn/module.ts";
import type { TorchGenerator } from "../../random/torch-generator.ts";
import type { AnyMethod, Start } from "../method.ts";
import type { AnyConfig } from "../method-config.ts";
import {
  type AnyPromptMethod,
  liveTable,
  type PromptConfig,
  type PromptEncoder,
  textModel,
  type Words,
} from "./prompt-method.ts";
import type { PromptAdapter } from "./prompted-model.ts";
import type { SourceTasks } from "./source-task.ts";

/** First values, by the names of the encoder's parameters, or of the tables where there is none. */
export interface PromptStart {
  readonly values: Start["values"];
  readonly encoder: PromptEncoder | null;
}

/** What reads a text: a tokenizer. */
interface TextEncoding {
  /** Numbers of its words, special ones included. */
  encode(text: string): Int32Array;
}

/** What virtual tokens may start from beside the model. */
export interface StartSources {
  /** Reads the text with which they start. */
  readonly tokenizer?: TextEncoding;
  /** What multitask prompts of other tasks have learned: `await readSourceTasks(path)`. */
  readonly sourceTasks?: SourceTasks;
}

/** A method and its filled config. */
interface Plan {
  readonly method: AnyMethod;
  readonly config: AnyConfig;
}

/** As the method draws them. */
export function startPrompt(model: Module, { method, config }: Plan, random: TorchGenerator, given: StartSources): PromptStart {
  const { initialise, encoder } = method.prompt as AnyPromptMethod;
  const filled = config as AnyConfig & PromptConfig;
  return { values: initialise(filled, random, wordsOf(model, given)), encoder: encoder?.(filled) ?? null };
}

/** As a file has them: the tables, or if they are trained further what gives them. */
export function resumePrompt(
  model: Module,
  { method, config }: Plan,
  tables: Readonly<Record<string, Float32Array>>,
  trainable: boolean,
): PromptStart {
  const { decode, encoder } = method.prompt as AnyPromptMethod;
  if (!trainable || !decode) return { values: tables, encoder: null };
  const filled = config as AnyConfig & PromptConfig;
  return { values: decode(tables, filled, wordsOf(model, {})), encoder: encoder?.(filled) ?? null };
}

function wordsOf(model: Module, { tokenizer, sourceTasks }: StartSources): Words {
  const { wordEmbedding } = textModel(model, "attach").backbone;
  return {
    count: (wordEmbedding as Layer & { readonly weight: Parameter }).weight.shape[0] as number,
    vectors: (ids) => wordEmbedding.forward(upload(currentDevice(), ids, [ids.length], "int32")),
    encode(text) {
      if (tokenizer) return tokenizer.encode(text);
      throw new ConfigError("virtual tokens that start like a text need its words.", {
        operation: "attach",
        hint: "Give attach the model's `tokenizer`.",
      });
    },
    learned() {
      if (sourceTasks) return sourceTasks;
      throw new ConfigError("virtual tokens that start from other tasks need what those have learned.", {
        operation: "attach",
        hint: "Give attach `sourceTasks: await readSourceTasks(path)`.",
      });
    },
  };
}

/** The virtual tokens of a plan with their parameters; `null` for a method that has none. */
export function planPrompt(
  model: Module,
  { method, config }: Plan,
  start: (() => PromptStart) | undefined,
): Omit<PromptAdapter, "trainable" | "random"> | null {
  if (!method.prompt || !start) return null;
  const prompt: AnyPromptMethod = method.prompt;
  const filled = config as AnyConfig & PromptConfig;
  const { values, encoder } = start();
  const device = model.parameters()[0]?.stored.storage?.device as Device;
  const specs = encoder
    ? Object.entries(encoder.parameters).map(([name, { shape }]) => [name, name, shape] as const)
    : Object.entries(prompt.tables(filled)).map(([file, shape]) => [liveTable(file), file, shape] as const);
  const make = (name: string, shape: readonly number[]) => {
    const value = values[name];
    if (!value) throw new ConfigError(`${name} has no first value.`, { operation: "attach", got: name });
    return new Parameter(value instanceof Tensor ? value : upload(device, value, shape, "float32"), { requiresGrad: false });
  };
  const parameters = Object.fromEntries(specs.map(([live, name, shape]) => [live, make(name, shape)]));
  return { method: prompt, config: filled, encoder, parameters };
}
