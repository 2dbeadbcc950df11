/** The settings of a `config.json` that decide how a model of the Llama family computes. */
import { requireKind } from "../errors.ts";
import type { RopeParameters, RotaryPairs } from "../nn/rotary.ts";
import { type ConfigJson, ConfigReader, type LabelConfig } from "./config-reader.ts";

export type { ConfigJson } from "./config-reader.ts";

/** Settings in camelCase, named as in config.json where they stand there. */
export interface LlamaConfig extends LabelConfig {
  readonly modelType: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  readonly hiddenAct: string;
  readonly maxPositionEmbeddings: number;
  readonly initializerRange: number;
  /** Root-mean-square norms, or layer norms with a bias or without. */
  readonly normType: "rms" | "layer" | "layer without bias";
  /** Of norms of whichever type. */
  readonly rmsNormEps: number;
  readonly rope: RopeParameters;
  /** For each layer, what stands for `rope` in it; `null` where positions do not become angles. Nothing means `rope` in all. */
  readonly layerRopes: readonly (RopeParameters | null)[];
  /** Values of a head that are turned, the first ones. */
  readonly rotaryDim: number;
  /** Which two values of a head are a pair. */
  readonly rotaryPairs: RotaryPairs;
  /** Of the projections to queries, keys and values. */
  readonly attentionBias: boolean;
  /** Of the projection behind the attention. */
  readonly outputBias: boolean;
  readonly attentionDropout: number;
  /** On the vectors of words; and on what attention and feed-forward part add. */
  readonly embeddingDropout: number;
  readonly residualDropout: number;
  readonly mlpBias: boolean;
  readonly tieWordEmbeddings: boolean;
  /** For each layer, how many tokens a token sees, its own included; 0, or nothing, means all. */
  readonly windows: readonly number[];
  /** What of queries and keys is normalised at once: nothing, each head (all by one weight, or each by its own), or all heads of a token. */
  readonly queryKeyNorm: "none" | "head" | "own head" | "token";
  /** Whether attention and feed-forward part stand beside each other, behind one norm. */
  readonly parallelResidual: boolean;
  /** Norms multiply by 1 + w. */
  readonly unitOffset: boolean;
  /** Multiplies the embeddings. */
  readonly embeddingScale: number;
  /** Multiplies what goes into the first layer, whoever made it. */
  readonly inputScale: number;
  /** Multiplies what attention and feed-forward part add. */
  readonly residualScale: number;
  /** Multiplies q·kᵀ. */
  readonly attentionScale: number;
  /** c of c·tanh(x/c) on attention scores and on logits; 0 for none. */
  readonly attentionSoftcap: number;
  readonly logitSoftcap: number;
  /** Multiplies the logits. */
  readonly logitScale: number;
}

/** What sets a model of the family apart from Llama, as far as it is a matter of settings. */
export interface LlamaVariant {
  /** Values of keys that its config.json may leave out, where they are not Llama's. */
  readonly defaults?: ConfigJson;
  /** What its config.json calls a key, where that is not Llama's. */
  readonly keys?: Readonly<Record<string, string>>;
  /** How many times as wide as the rest the feed-forward part is, where its config.json does not say. */
  readonly widening?: number;
  /** Whether only a part of each head may be turned. */
  readonly partialRotary?: boolean;
  /** Whether keys in a cache turn anew when the text outgrows those of the training; otherwise only later ones turn by other angles. */
  readonly turnsAnew?: boolean;
  /** Settings that are other than Llama's. @throws {ConfigError} for values that are not supported */
  read?(config: ConfigReader, llama: LlamaConfig): Partial<LlamaConfig>;
}

/**
 * The settings that matter for computing; other keys of the file are kept by whoever saves it again.
 *
 * @param json `rope_parameters` and `dtype` (new) or `rope_theta`, `rope_scaling` and `torch_dtype` (old)
 * @throws {ConfigError} for a missing key and for a value that is not supported, by name
 */
export function llamaConfig(json: ConfigJson, modelType = "llama", variant: LlamaVariant = {}): LlamaConfig {
  requireKind("llama", "a string", { modelType });
  requireKind("llama", "an object", { variant });
  const config = new ConfigReader(json, modelType, variant.defaults, variant.keys);
  const hiddenSize = config.count("hidden_size");
  const numAttentionHeads = config.count("num_attention_heads");
  const numKeyValueHeads = config.keyValueHeads("num_key_value_heads", "num_attention_heads");
  if (config.get("head_dim") === undefined && hiddenSize % numAttentionHeads !== 0)
    config.refuse("num_attention_heads", numAttentionHeads, `must divide hidden_size (= ${hiddenSize})`, "Or give head_dim.");
  const headDim = config.count("head_dim", hiddenSize / numAttentionHeads);
  const maxPositionEmbeddings = config.count("max_position_embeddings", 2048);
  const { partialRotary = false } = variant;
  const { rope, rotaryDim } = config.rope(maxPositionEmbeddings, headDim, { roundsUp: partialRotary });
  if (rotaryDim !== headDim && !partialRotary)
    config.refuse("partial_rotary_factor", rotaryDim / headDim, `must be 1 for ${modelType}`);
  const numHiddenLayers = config.layers("num_hidden_layers");
  const attentionBias = config.flag("attention_bias", false);
  const llama: LlamaConfig = {
    modelType,
    vocabSize: config.count("vocab_size"),
    hiddenSize,
    intermediateSize: config.count("intermediate_size", variant.widening && variant.widening * hiddenSize),
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    hiddenAct: config.activation("hidden_act", "silu"),
    maxPositionEmbeddings,
    initializerRange: config.number("initializer_range", 0.02),
    normType: "rms",
    rmsNormEps: config.number("rms_norm_eps", 1e-6),
    rope,
    layerRopes: [],
    rotaryDim,
    rotaryPairs: "halves",
    attentionBias,
    outputBias: attentionBias,
    attentionDropout: config.probability("attention_dropout", 0),
    embeddingDropout: 0,
    residualDropout: 0,
    mlpBias: modelType === "llama" && config.flag("mlp_bias", false), // the others never have any, whatever the file says
    tieWordEmbeddings: config.flag("tie_word_embeddings", false),
    windows: [],
    queryKeyNorm: "none",
    parallelResidual: false,
    unitOffset: false,
    embeddingScale: 1,
    inputScale: 1,
    residualScale: 1,
    attentionScale: 1 / Math.sqrt(headDim),
    attentionSoftcap: 0,
    logitSoftcap: 0,
    logitScale: 1,
    ...config.labels(),
  };
  return { ...llama, ...variant.read?.(config, llama) };
}

/**
 * What positions become in each layer of a model in which layers with a window turn by `sliding_attention` of `rope_parameters`.
 *
 * @param theta the older key that has their base
 */
export function windowedRopes(
  config: ConfigReader,
  windows: readonly number[],
  rope: RopeParameters,
  theta: string,
): readonly RopeParameters[] {
  const own = config.inner("rope_parameters").inner("sliding_attention");
  own.fixed("rope_type", "default");
  const sliding = { ropeType: "default", ropeTheta: own.number("rope_theta", config.number(theta, rope.ropeTheta)) } as const;
  return windows.map((window) => (window > 0 ? sliding : rope));
}
