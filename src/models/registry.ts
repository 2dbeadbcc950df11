/** The models there are, by the `model_type` of their `config.json`. */
import { ConfigError, nearestName, wordJson } from "../errors.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import type { CausalLM } from "./causal-lm.ts";
import { LlamaForCausalLM } from "./llama.ts";
import type { ConfigJson } from "./llama-config.ts";

interface ModelEntry {
  /** The class names of Hugging Face that this builds. */
  readonly architectures: readonly string[];
  create(config: ConfigJson, options: { readonly init?: Initializer }): CausalLM;
}

/** By `model_type`: one line makes a model loadable. */
export const models = {
  llama: {
    architectures: ["LlamaForCausalLM"],
    create: (config, options) => new LlamaForCausalLM(config, options),
  },
} as const satisfies Record<string, ModelEntry>;

/**
 * Builds the model that a `config.json` describes.
 *
 * @param options.init first values of its matrices; zeros, for loading a checkpoint, when absent
 * @throws {ConfigError} when the model type or architecture is unknown, naming those there are
 */
export function createModel(config: ConfigJson, { init = zeros }: { readonly init?: Initializer } = {}): CausalLM {
  const type = config["model_type"];
  if (typeof type !== "string" || !Object.hasOwn(models, type)) {
    const near = typeof type === "string" ? nearestName(type, Object.keys(models)) : undefined;
    const problem = type === undefined ? "is missing" : `(= ${wordJson(type)}) is not supported`;
    throw new ConfigError(`\`model_type\` ${problem}.`, {
      operation: "createModel",
      expected: Object.keys(models),
      got: type,
      hint: near ? `Did you mean "${near}"?` : `There are ${Object.keys(models).join(", ")}.`,
    });
  }
  const entry: ModelEntry = models[type as keyof typeof models];
  const [architecture] = Array.isArray(config["architectures"]) ? config["architectures"] : [];
  if (architecture !== undefined && !entry.architectures.includes(architecture))
    throw new ConfigError(`architecture ${wordJson(architecture)} of ${type} is not supported.`, {
      operation: "createModel",
      expected: entry.architectures,
      got: architecture,
      hint: `There are ${entry.architectures.join(", ")}.`,
    });
  return entry.create(config, { init });
}
