/** Reads the `config.json` of Llama models, in Hugging Face's newer and older key style. */
import { ConfigError, wordJson } from "../errors.ts";
import { activation } from "../nn/activation.ts";
import { checkRopeType, type RopeParameters } from "../nn/rotary.ts";

/** The parsed content of a `config.json`. */
export type ConfigJson = Readonly<Record<string, unknown>>;

/** What of a config.json matters for computing, in camelCase. */
export interface LlamaConfig {
  readonly modelType: "llama";
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
  readonly rmsNormEps: number;
  readonly rope: RopeParameters;
  readonly attentionBias: boolean;
  readonly attentionDropout: number;
  readonly mlpBias: boolean;
  readonly tieWordEmbeddings: boolean;
}

const operation = "llama";

function refuse(key: string, value: unknown, rule: string, hint?: string): never {
  throw new ConfigError(`\`${key}\` (= ${wordJson(value)}) ${rule}.`, { operation, got: value, ...(hint ? { hint } : {}) });
}

/** Typed reading of one JSON object; a wrong value is refused by its key. */
export class ConfigReader {
  readonly #json: ConfigJson;
  constructor(json: ConfigJson) {
    this.#json = json;
  }

  /** The value of the first of `keys` that is there and not null. */
  get(...keys: string[]): unknown {
    for (const key of keys) if (this.#json[key] !== undefined && this.#json[key] !== null) return this.#json[key];
    return undefined;
  }

  count(key: string, fallback?: number): number {
    const value = this.get(key) ?? fallback;
    if (value === undefined) throw new ConfigError(`\`${key}\` is missing from the configuration.`, { operation, expected: key });
    if (!Number.isInteger(value) || (value as number) < 1) refuse(key, value, "must be a positive integer");
    return value as number;
  }

  number(key: string, fallback: number): number {
    const value = this.get(key) ?? fallback;
    if (typeof value !== "number" || !Number.isFinite(value) || value < 0) refuse(key, value, "must be a number from 0");
    return value;
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.get(key) ?? fallback;
    if (typeof value !== "boolean") refuse(key, value, "must be true or false");
    return value;
  }

  text(key: string, fallback: string): string {
    const value = this.get(key) ?? fallback;
    if (typeof value !== "string") refuse(key, value, "must be a text");
    return value;
  }
}

/**
 * The settings that matter for computing; other keys of the file are kept by whoever saves it again.
 *
 * @param json `rope_parameters` and `dtype` (new) or `rope_theta`, `rope_scaling` and `torch_dtype` (old)
 * @throws {ConfigError} for a missing key and for a value that is not supported, by name
 */
export function llamaConfig(json: ConfigJson): LlamaConfig {
  const config = new ConfigReader(json);
  const type = config.text("model_type", "llama");
  if (type !== "llama") refuse("model_type", type, 'must be "llama" here');
  for (const key of ["quantization_config", "compression_config"])
    if (config.get(key) !== undefined) refuse(key, config.get(key), "is not supported", "Load an unquantised checkpoint.");
  const hiddenSize = config.count("hidden_size");
  const numAttentionHeads = config.count("num_attention_heads");
  const numKeyValueHeads = config.count("num_key_value_heads", numAttentionHeads);
  if (numAttentionHeads % numKeyValueHeads !== 0)
    refuse("num_key_value_heads", numKeyValueHeads, `must divide num_attention_heads (= ${numAttentionHeads})`);
  if (config.get("head_dim") === undefined && hiddenSize % numAttentionHeads !== 0)
    refuse("num_attention_heads", numAttentionHeads, `must divide hidden_size (= ${hiddenSize})`, "Or give head_dim.");
  const headDim = config.count("head_dim", hiddenSize / numAttentionHeads);
  if (headDim % 2 !== 0) refuse("head_dim", headDim, "must be even, for rotary embedding");
  const hiddenAct = config.text("hidden_act", "silu");
  activation(hiddenAct);
  const attentionDropout = config.number("attention_dropout", 0);
  if (attentionDropout >= 1) refuse("attention_dropout", attentionDropout, "must be below 1");
  const maxPositionEmbeddings = config.count("max_position_embeddings", 2048);
  return {
    modelType: "llama",
    vocabSize: config.count("vocab_size"),
    hiddenSize,
    intermediateSize: config.count("intermediate_size"),
    numHiddenLayers: config.count("num_hidden_layers"),
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    hiddenAct,
    maxPositionEmbeddings,
    initializerRange: config.number("initializer_range", 0.02),
    rmsNormEps: config.number("rms_norm_eps", 1e-6),
    rope: ropeParameters(json, maxPositionEmbeddings),
    attentionBias: config.flag("attention_bias", false),
    attentionDropout,
    mlpBias: config.flag("mlp_bias", false),
    tieWordEmbeddings: config.flag("tie_word_embeddings", false),
  };
}

/** `rope_parameters`, or the older `rope_theta` and `rope_scaling` (whose type may be called `type`). */
export function ropeParameters(json: ConfigJson, maxPositionEmbeddings: number): RopeParameters {
  const outer = new ConfigReader(json);
  const nested = outer.get("rope_parameters", "rope_scaling") ?? {};
  if (typeof nested !== "object" || Array.isArray(nested)) refuse("rope_parameters", nested, "must be an object");
  const rope = new ConfigReader(nested as ConfigJson);
  const ropeType = checkRopeType(operation, rope.get("rope_type", "type") ?? "default");
  if (rope.number("partial_rotary_factor", outer.number("partial_rotary_factor", 1)) !== 1)
    refuse(
      "partial_rotary_factor",
      rope.get("partial_rotary_factor") ?? outer.get("partial_rotary_factor"),
      "must be 1 for llama",
    );
  const parameters: RopeParameters = { ropeType, ropeTheta: rope.number("rope_theta", outer.number("rope_theta", 10000)) };
  if (ropeType === "default") return parameters;
  const factor = rope.number("factor", 0);
  if (factor < 1) refuse("factor", rope.get("factor") ?? null, `must be at least 1 for rope type "${ropeType}"`);
  if (ropeType === "linear") return { ...parameters, factor };
  const [lowFreqFactor, highFreqFactor] = [rope.number("low_freq_factor", 0), rope.number("high_freq_factor", 0)];
  if (!(lowFreqFactor > 0))
    refuse("low_freq_factor", rope.get("low_freq_factor") ?? null, 'must be above 0 for rope type "llama3"');
  if (!(highFreqFactor > lowFreqFactor))
    refuse("high_freq_factor", rope.get("high_freq_factor") ?? null, `must be above low_freq_factor (= ${lowFreqFactor})`);
  const originalMaxPositionEmbeddings = rope.count("original_max_position_embeddings", maxPositionEmbeddings);
  return { ...parameters, factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings };
}
