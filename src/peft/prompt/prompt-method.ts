/**
 * Methods that change no layer, but put trained virtual tokens in front of every text: as vectors before those of the words, or as keys
 * and values that every layer sees. A method says what its virtual tokens are made of; how they come into the model is written
 * once, in prompted-model.ts.
 */
import { ConfigError, ShapeError } from "../../errors.ts";
import { integer, key, targetKeys } from "../../formats/peft-config.ts";
import type { Tensor } from "../../graph/node.ts";
import type { Shape } from "../../graph/shape.ts";
import { readsText, refuseRecurrent, type TextModel } from "../../models/causal-lm.ts";
import { answersText } from "../../models/seq2seq-lm.ts";
import type { Module } from "../../nn/module.ts";
import type { TorchGenerator } from "../../random/torch-generator.ts";
import type { ParameterSpec, Start, Use } from "../method.ts";
import type { AnyConfig } from "../method-config.ts";
import type { SourceTasks } from "./source-task.ts";

/** The keys that all these methods have; what is null is filled from the model. */
export const promptKeys = {
  modules_to_save: targetKeys.modules_to_save,
  num_virtual_tokens: key(null, integer(1)),
  token_dim: key(null, integer(1)),
  num_transformer_submodules: key(null, integer(1)),
  num_attention_heads: key(null, integer(1)),
  num_layers: key(null, integer(1)),
};

/** The common part of a filled config. */
export interface PromptConfig {
  /** n: virtual tokens in front of a text. */
  readonly numVirtualTokens: number;
  /** Values of a virtual token: C of the model, or G·D of its keys. */
  readonly tokenDim: number;
  /** q: the table has q·n rows; two for models that answer, though most methods use the first n. */
  readonly numTransformerSubmodules: number;
  /** Of keys and values, where the tokens are that. */
  readonly numAttentionHeads: number;
  readonly numLayers: number;
}

/** The words of a model, for virtual tokens that start like some of them, and virtual tokens of others. */
export interface Words {
  readonly count: number;
  /** [ids, C] */
  vectors(ids: Int32Array): Tensor;
  /** Numbers of a text's words, special ones included. @throws {ConfigError} when `attach` was given no tokenizer */
  encode(text: string): Int32Array;
  /** What prompts of other tasks have learned. @throws {ConfigError} when `attach` was given no `sourceTasks` */
  learned(): SourceTasks;
}

/** A network that makes the virtual tokens in training. It is not in the file. */
export interface PromptEncoder {
  /** By PEFT's names in the live model: `mlp_head.0.weight`. */
  readonly parameters: Readonly<Record<string, ParameterSpec>>;
  /** The table `prompt_embeddings`. */
  encode(p: Readonly<Record<string, Tensor>>, use: Use): Tensor;
  /** Values that parameters are moved to whenever they are used in training, without a gradient: the nearest that are allowed. */
  project?(p: Readonly<Record<string, Tensor>>): Readonly<Record<string, Tensor>>;
}

/** What runs with the tokens may be told beside them. */
export interface PromptInputs {
  /** [B] int32: which task each text is for. */
  readonly taskIds?: Tensor;
  /** [B, T] int32: what part each token has in an example; see cpt.ts. */
  readonly inputTypeMask?: Tensor;
}

/** By what text and virtual tokens in front of it are judged. */
export interface Judgement {
  /** [B, n + T] int32: the token that each position should give; −100 is not judged. */
  readonly targets: Tensor;
  /** [B, n + T]: how much each position counts; all the same when absent. The mean divides by their number, not by this. */
  readonly weights?: Tensor;
}

/** The part of a method that puts virtual tokens in front. */
export interface PromptMethod<Config> {
  /** As vectors before those of the words, or as keys and values before those of every layer. */
  readonly place: "inputs" | "cache";
  /** With two submodules, the last n rows stand in front of answers that are learned, too. */
  readonly inAnswers?: true;
  /** What the file holds: `prompt_embeddings` and perhaps more. */
  tables(config: Config & PromptConfig): { readonly prompt_embeddings: Shape; readonly [file: string]: Shape };
  /** What is trained in place of `prompt_embeddings`; `null`, or absent, where that is trained itself. */
  encoder?(config: Config & PromptConfig): PromptEncoder | null;
  /**
   * The encoder's parameters that give the tables of a file, for those who train on; where it is absent, only the tables are left.
   */
  decode?(tables: Readonly<Record<string, Float32Array>>, config: Config & PromptConfig, words: Words): Start["values"];
  /** First values, by the names of the encoder's parameters, or of the tables. */
  initialise(config: Config & PromptConfig, random: TorchGenerator, words: Words): Start["values"];
  /** Rows as they are used, [q·n, C] or [B, q·n, C], where they are not `prompt_embeddings` as it is. */
  rows?(tables: Readonly<Record<string, Tensor>>, config: Config & PromptConfig, inputs: PromptInputs): Tensor;
  /**
   * Where virtual tokens are judged, too: what becomes of the text's targets.
   *
   * @param targets [B, T], each position's next token
   * @param first   [B, 1], the text's first token, −100 where it is not to be judged
   */
  judge?(targets: Tensor, first: Tensor, config: Config & PromptConfig, inputs: PromptInputs): Judgement;
}

/** A prompt method whose config is not known to the type system. */
// biome-ignore lint/suspicious/noExplicitAny: the config's type is the method's own business
export type AnyPromptMethod = PromptMethod<any>;

/** A virtual table's live name: PEFT keeps it in an embedding. */
export const liveTable = (file: string): string => (file === "prompt_embeddings" ? "embedding.weight" : file);

/** The model as one that reads text. @throws {ConfigError} when it does not */
export function textModel(model: Module, operation: string): TextModel & { readonly config?: AnyConfig } {
  if (!readsText(model))
    throw new ConfigError(`a ${model.constructor.name} reads no text, so virtual tokens cannot be put in front.`, {
      operation,
    });
  return model;
}

/**
 * The config with what depends on the model filled in, as PEFT fills it. Keys and values are as wide as the model's, which with grouped
 * queries is less than its vectors; the number of heads is then that of keys.
 *
 * @throws {ConfigError} when the number of virtual tokens is missing, or what is given or the method does not fit the model
 */
export function fillPromptConfig(model: Module, config: AnyConfig, { place, judge }: AnyPromptMethod): AnyConfig & PromptConfig {
  const operation = "attach";
  const { backbone, config: own = {} } = textModel(model, operation);
  const { sizes } = backbone;
  const asked = (...names: string[]) => names.map((name) => own[name]).find((value) => typeof value === "number") as number;
  if (judge && answersText(model))
    throw new ConfigError(
      "virtual tokens that are judged, too, stand in front of a text that goes on, not of one that is answered.",
      {
        operation,
        got: model.constructor.name,
      },
    );
  const inCache = place === "cache";
  if (inCache) refuseRecurrent(operation, sizes);
  const heads = inCache ? sizes.heads : (asked("numAttentionHeads", "nHead", "numHeads", "nHeads") ?? sizes.heads);
  const width = inCache ? sizes.heads * sizes.headDim : sizes.width;
  const numVirtualTokens = config["numVirtualTokens"] as number | null;
  if (numVirtualTokens === null)
    throw new ConfigError("`numVirtualTokens` must be given: how many vectors stand in front of a text.", {
      operation,
      got: null,
    });
  const filled = {
    tokenDim: inCache ? width : (config["tokenDim"] ?? width),
    numAttentionHeads: inCache ? heads : (config["numAttentionHeads"] ?? heads),
    numLayers:
      config["numLayers"] ??
      (inCache ? sizes.layers : (asked("numHiddenLayers", "nLayer", "numLayers", "nLayers") ?? sizes.layers)),
    numTransformerSubmodules:
      config["numTransformerSubmodules"] ?? (config["taskType"] === "SEQ_2_SEQ_LM" || answersText(model) ? 2 : 1),
  };
  if (filled.tokenDim !== width || (inCache && filled.numLayers !== sizes.layers))
    throw new ConfigError(
      `the virtual tokens are for ${inCache ? `${filled.numLayers} layers and ` : ""}vectors of ${filled.tokenDim} values, the model has ${inCache ? `${sizes.layers} layers and ` : ""}${width}.`,
      { operation, expected: width, got: filled.tokenDim, hint: "They were made for another base model." },
    );
  const { maxLength } = sizes;
  if (maxLength !== undefined && numVirtualTokens >= maxLength)
    throw new ConfigError(`${numVirtualTokens} virtual tokens leave no room: the model has ${maxLength} positions.`, {
      operation,
      got: numVirtualTokens,
    });
  const hidden = "encoderHiddenSize" in config ? { encoderHiddenSize: config["encoderHiddenSize"] ?? filled.tokenDim } : {};
  return { ...config, ...filled, ...hidden } as AnyConfig & PromptConfig;
}

/** @throws {ShapeError} when a table of the file is not as large as the config says */
export function checkTable(file: string, got: Shape, expected: Shape): void {
  if (got.length === expected.length && got.every((size, i) => size === expected[i])) return;
  throw new ShapeError(`${file} is [${got.join(", ")}] in the file, [${expected.join(", ")}] by the config and the model.`, {
    operation: "loadAdapter",
    expected,
    got,
    hint: "The adapter was made for another base model, or the config is not its own.",
  });
}
