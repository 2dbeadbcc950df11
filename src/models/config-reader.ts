/** Typed reading of a model's `config.json`, in Hugging Face's newer and older key style. */
import { ConfigError, isRecord, requireKind, wordJson } from "../errors.ts";
import { activation } from "../nn/activation.ts";
import { checkRopeType, type RopeParameters } from "../nn/rotary.ts";

/** What the labels of a classifier are: numbers, one class, or any number of classes. */
export type ProblemType = "regression" | "single_label_classification" | "multi_label_classification";
const problemTypes: readonly ProblemType[] = ["regression", "single_label_classification", "multi_label_classification"];

/** The settings of classification heads. */
export interface LabelConfig {
  readonly numLabels: number;
  readonly problemType: ProblemType | null;
  readonly padTokenId: number | null;
  /** Probability of dropout before the output layer. */
  readonly classifierDropout: number;
}

/** The parsed content of a `config.json`. */
export type ConfigJson = Readonly<Record<string, unknown>>;

/**
 * What of `quantization_config` says which form codes have, by `quant_method`, and the forms that are read; all of them where nothing is listed.
 * Files of MLX name no method.
 */
const forms: Readonly<Record<string, readonly [keys: readonly string[], read: readonly unknown[]]>> = {
  bitsandbytes: [[], []],
  fp8: [[], []],
  mxfp8: [[], []],
  fbgemm_fp8: [[], []],
  mxfp4: [[], []],
  metal: [[], []],
  modelopt: [["quant_algo"], ["FP8", "NVFP4", "MIXED_PRECISION"]],
  gptq: [
    ["checkpoint_format", "format"],
    ["gptq", "gptq_v2"],
  ],
  awq: [["version", "format"], ["gemm"]],
  "auto-round": [["packing_format"], ["auto_round:auto_gptq", "auto_round:auto_awq"]],
  "compressed-tensors": [
    ["format"],
    ["dense", "float", "int", "naive", "mxfp8", "pack", "nvfp4-pack", "mxfp4-pack", "mixed-precision"],
  ],
  mlx: [["mode"], ["affine", "mxfp4", "nvfp4", "mxfp8"]],
};

/**
 * Refuses codes that `loadModel` does not read.
 *
 * @param config `quantization_config` of config.json, if it is there
 * @throws {ConfigError}
 */
export function refuseUnreadable(config: unknown, operation: string): void {
  if (!isRecord(config)) return;
  const method = config["quant_method"] ?? ("group_size" in config ? "mlx" : undefined);
  const [keys, read] = forms[Object.hasOwn(forms, String(method)) ? String(method) : ""] ?? [];
  const { config_groups: groups } = config;
  const own = isRecord(groups) ? Object.values(groups).map((group) => isRecord(group) && group["format"]) : [];
  const named = [keys?.map((key) => config[key]).find(Boolean), ...own].filter(Boolean);
  const odd = named.find(
    (form) =>
      read?.length &&
      !read.includes(
        String(form)
          .toLowerCase()
          .replace(/-quantized$/, ""),
      ),
  );
  if (keys && odd === undefined) return;
  throw new ConfigError(`weights quantised as ${wordJson(method ?? config)}${odd ? ` ${wordJson(odd)}` : ""} are not read.`, {
    operation,
    got: config,
    hint: "Take the checkpoint without quantisation, or one in GGUF, GPTQ, AWQ, bitsandbytes, float8, NVFP4, compressed-tensors or MLX.",
  });
}

const mostLayers = 10000;

/** A config that was read before, which has `key`, as it is; a `config.json` read. */
export const readOnce = <Config extends object>(
  config: Config | ConfigJson,
  key: keyof Config,
  read: (json: ConfigJson) => Config,
): Config => (typeof config === "object" && config !== null && key in config ? (config as Config) : read(config as ConfigJson));

/** One JSON object; a value that is missing or wrong is refused by its key. */
export class ConfigReader {
  readonly #json: ConfigJson;
  readonly #modelType: string;
  readonly #own: Readonly<Record<string, string>>;

  /**
   * @param defaults for keys that are not there; a key that is there and null has no value
   * @param own what files of this type call a key, where that differs; they may have either name
   * @throws {ConfigError} when the file is of another model type or of a quantised checkpoint
   */
  constructor(json: ConfigJson, modelType: string, defaults: ConfigJson = {}, own: Readonly<Record<string, string>> = {}) {
    requireKind(modelType, "an object", { config: json });
    this.#json = { model_type: modelType, ...defaults, ...json };
    this.#modelType = modelType;
    this.#own = own;
    this.fixed("model_type", modelType);
    for (const key of ["quantization_config", "compression_config"]) refuseUnreadable(this.get(key), modelType);
  }

  /** @throws {ConfigError} always: `rule` says what the value must be */
  refuse(key: string, value: unknown, rule: string, hint?: string): never {
    throw new ConfigError(`\`${this.#own[key] ?? key}\` (= ${wordJson(value)}) ${rule}.`, {
      operation: this.#modelType,
      got: value,
      ...(hint ? { hint } : {}),
    });
  }

  /** The value of the first of `keys` that is there and not null. */
  get(...keys: string[]): unknown {
    for (const key of keys.flatMap((each) => [this.#own[each] ?? each, each]))
      if (this.#json[key] !== undefined && this.#json[key] !== null) return this.#json[key];
    return undefined;
  }

  /** An object in the object; empty when it is not there. */
  inner(...keys: string[]): ConfigReader {
    const value = this.get(...keys) ?? {};
    if (typeof value !== "object" || Array.isArray(value)) this.refuse(keys[0] as string, value, "must be an object");
    return new ConfigReader(value as ConfigJson, this.#modelType);
  }

  count(key: string, fallback?: number): number {
    const value = this.get(key) ?? fallback;
    const own = this.#own[key] ?? key;
    if (value === undefined)
      throw new ConfigError(`\`${own}\` is missing from the configuration.`, { operation: this.#modelType, expected: own });
    if (!Number.isInteger(value) || (value as number) < 1) this.refuse(key, value, "must be a positive integer");
    return value as number;
  }

  /** A number of layers. More than any model has is refused at once, since lists of settings have one for each. */
  layers(key: string, fallback?: number): number {
    const value = this.count(key, fallback);
    if (value > mostLayers) this.refuse(key, value, `must be at most ${mostLayers}`);
    return value;
  }

  /** Height and width: one number for both, or a list of two. */
  sides(key: string, fallback: number): readonly [height: number, width: number] {
    const value = this.get(key) ?? fallback;
    const sides = Array.isArray(value) ? value : [value, value];
    if (sides.length !== 2 || sides.some((side) => !Number.isInteger(side) || side < 1))
      this.refuse(key, value, "must be a positive integer, or two of them");
    return [sides[0], sides[1]];
  }

  number(key: string, fallback: number): number {
    const value = this.get(key) ?? fallback;
    if (typeof value !== "number" || !Number.isFinite(value) || value < 0) this.refuse(key, value, "must be a number from 0");
    return value;
  }

  /** Of dropout. */
  probability(key: string, fallback: number): number {
    const value = this.number(key, fallback);
    if (value >= 1) this.refuse(key, value, "must be below 1");
    return value;
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.get(key) ?? fallback;
    if (typeof value !== "boolean") this.refuse(key, value, "must be true or false");
    return value;
  }

  text(key: string, fallback: string): string {
    const value = this.get(key) ?? fallback;
    if (typeof value !== "string") this.refuse(key, value, "must be a string");
    return value;
  }

  /** Number of classes: `num_labels`, or as many as `id2label` names. */
  numLabels(): number {
    const named = this.get("id2label");
    return this.count("num_labels", typeof named === "object" ? Object.keys(named as object).length : 2);
  }

  /** What the labels of a classifier are; `null` leaves it to the labels. */
  problemType(): ProblemType | null {
    const value = this.get("problem_type");
    if (value !== undefined && !problemTypes.includes(value as ProblemType))
      this.refuse("problem_type", value, `must be one of ${problemTypes.join(", ")}`);
    return (value as ProblemType | undefined) ?? null;
  }

  /** The settings of classification heads. @param dropout when the file does not say */
  labels(dropout = this.probability("hidden_dropout", 0.1)): LabelConfig {
    const padding = this.get("pad_token_id");
    return {
      numLabels: this.numLabels(),
      problemType: this.problemType(),
      // some files say −1 where there is none
      padTokenId: typeof padding === "number" && padding < 0 ? null : this.token("pad_token_id"),
      classifierDropout: this.probability("classifier_dropout", dropout),
    };
  }

  /** A token's number, if it is given. */
  token(key: string): number | null {
    const value = this.get(key) ?? null;
    if (value !== null && (!Number.isInteger(value) || (value as number) < 0))
      this.refuse(key, value, "must be a token's number");
    return value as number | null;
  }

  /** The name of an activation. */
  activation(key: string, fallback: string): string {
    const name = this.text(key, fallback);
    activation(name);
    return name;
  }

  /** Refuses a model in which this key has another value. */
  fixed(key: string, value: string | number | boolean): void {
    const got = this.get(key);
    if (got !== undefined && got !== value) this.refuse(key, got, `must be ${wordJson(value)} here`);
  }

  /** Values of a head. @param heads key under which the number of heads is */
  headSize(width: string, heads: string): number {
    if (this.count(width) % this.count(heads) !== 0)
      this.refuse(heads, this.count(heads), `must divide ${width} (= ${this.count(width)})`);
    return this.count(width) / this.count(heads);
  }

  /** Heads of keys and values, as many as of queries when it is not said. @param heads key under which the number of heads is */
  keyValueHeads(key: string, heads: string): number {
    const [own, all] = [this.count(key, this.count(heads)), this.count(heads)];
    if (all % own !== 0) this.refuse(key, own, `must divide ${heads} (= ${all})`);
    return own;
  }

  /**
   * What of a text each layer sees: the last so many tokens, or everything (0).
   *
   * @param sliding whether a layer has a window, when `layer_types` does not say
   */
  windows(layers: number, sliding: (layer: number) => boolean): readonly number[] {
    return this.layerKinds(layers, "sliding_attention", sliding).map((slides) => (slides ? this.count("sliding_window") : 0));
  }

  /** The window `sliding_window` in every layer, or none in any. */
  sameWindows(layers: number): readonly number[] {
    return new Array<number>(layers).fill(this.get("sliding_window") === undefined ? 0 : this.count("sliding_window"));
  }

  /**
   * Whether each layer is of another kind than attention that sees everything.
   *
   * @param name what `layer_types` calls that kind
   * @param other which layers are, when `layer_types` does not say
   */
  layerKinds(layers: number, name: string, other: (layer: number) => boolean): readonly boolean[] {
    const types = this.get("layer_types") ?? Array.from({ length: layers }, (_, i) => (other(i) ? name : full));
    if (!Array.isArray(types) || types.length !== layers || types.some((type) => type !== full && type !== name))
      this.refuse("layer_types", types, `must be a list of ${layers} times "${full}" or "${name}"`);
    return types.map((type) => type === name);
  }

  /**
   * `rope_parameters`, or the older `rope_theta` and `rope_scaling` (whose type may be called `type`). Where they differ by the
   * kind of layer, those of `full_attention`.
   *
   * @param options.partial share of a head that is turned, when the file does not say
   * @param options.roundsUp whether one more is turned where that is an odd number of values
   * @returns how positions become angles, and how many values of a head are turned, the first ones
   * @throws {ConfigError} for a type that is not supported and for values that do not fit it
   */
  rope(
    maxPositionEmbeddings: number,
    headDim: number,
    { partial = 1, roundsUp = false }: { readonly partial?: number; readonly roundsUp?: boolean } = {},
  ): { readonly rope: RopeParameters; readonly rotaryDim: number } {
    const key = "partial_rotary_factor";
    const share = this.#rope().number(key, this.number(key, partial));
    if (share === 0 || share > 1) this.refuse(key, share, "must be above 0 and at most 1");
    const rotaryDim = Math.trunc(headDim * share);
    const rope = this.#ropeParameters(maxPositionEmbeddings);
    if (rotaryDim % 2 === 0 && rotaryDim > 0) return { rope, rotaryDim };
    if (share === 1) this.refuse("head_dim", headDim, "must be even, for rotary embedding");
    // the lists of longrope have a number for each pair, and yarn's ramp a place
    if (!roundsUp || rotaryDim === 0 || rope.ropeType === "longrope" || rope.ropeType === "yarn")
      this.refuse(key, share, `means ${rotaryDim} of the ${headDim} values of a head, and rotary embedding turns pairs`);
    return { rope: { ...rope, dim: rotaryDim }, rotaryDim: rotaryDim + 1 };
  }

  /** The older one goes first where both are there, as in transformers; an empty one is none. */
  #rope(): ConfigReader {
    const older = this.get("rope_scaling");
    const isNone = older === undefined || (typeof older === "object" && Object.keys(older as object).length === 0);
    const rope = this.inner(isNone ? "rope_parameters" : "rope_scaling");
    return rope.get(full) === undefined ? rope : rope.inner(full);
  }

  #ropeParameters(maxPositionEmbeddings: number): RopeParameters {
    const rope = this.#rope();
    const named = rope.get("rope_type", "type") ?? "default";
    const ropeType = checkRopeType(this.#modelType, named === "su" ? "longrope" : named); // its first name
    const shared = { ropeType, ropeTheta: rope.number("rope_theta", this.number("rope_theta", 10000)) };
    if (ropeType === "default") return shared;
    if (ropeType === "longrope") return this.#longrope(rope, shared, maxPositionEmbeddings);
    if (ropeType === "yarn") return this.#yarn(rope, shared, maxPositionEmbeddings);
    const factor = rope.number("factor", 0);
    if (factor < 1) this.refuse("factor", rope.get("factor") ?? null, `must be at least 1 for rope type "${ropeType}"`);
    if (ropeType === "linear") return { ...shared, factor };
    if (ropeType === "dynamic") return { ...shared, factor, originalMaxPositionEmbeddings: maxPositionEmbeddings };
    const [lowFreqFactor, highFreqFactor] = [rope.number("low_freq_factor", 0), rope.number("high_freq_factor", 0)];
    if (!(lowFreqFactor > 0))
      this.refuse("low_freq_factor", rope.get("low_freq_factor") ?? null, 'must be above 0 for rope type "llama3"');
    if (!(highFreqFactor > lowFreqFactor))
      this.refuse("high_freq_factor", rope.get("high_freq_factor") ?? null, `must be above low_freq_factor (= ${lowFreqFactor})`);
    const originalMaxPositionEmbeddings = rope.count("original_max_position_embeddings", maxPositionEmbeddings);
    return { ...shared, factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings };
  }

  #yarn(rope: ConfigReader, shared: Pick<RopeParameters, "ropeType" | "ropeTheta">, context: number): RopeParameters {
    const original = rope.count("original_max_position_embeddings", this.count("original_max_position_embeddings", context));
    const factor = rope.number("factor", context / original);
    if (!(factor > 0)) this.refuse("factor", factor, 'must be above 0 for rope type "yarn"');
    const temper = (scale = 1) => (factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1);
    const [mscale, mscaleAllDim] = [rope.number("mscale", 0), rope.number("mscale_all_dim", 0)];
    const [betaFast, betaSlow] = [rope.number("beta_fast", 32) || 32, rope.number("beta_slow", 1) || 1];
    return {
      ...shared,
      factor,
      betaFast,
      betaSlow,
      truncate: rope.flag("truncate", true),
      attentionFactor: rope.number("attention_factor", mscale && mscaleAllDim ? temper(mscale) / temper(mscaleAllDim) : temper()),
      originalMaxPositionEmbeddings: original,
    };
  }

  /** Two lists of factors, for texts within the length of the training and for longer ones. */
  #longrope(rope: ConfigReader, shared: Pick<RopeParameters, "ropeType" | "ropeTheta">, context: number): RopeParameters {
    const original = this.count("original_max_position_embeddings", rope.count("original_max_position_embeddings", context));
    const factor = rope.number("factor", context / original);
    const temper = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original));
    const list = (key: string): readonly number[] => {
      const value = rope.get(key) ?? null;
      if (!Array.isArray(value) || !value.every((each) => typeof each === "number" && each > 0))
        this.refuse(key, value, "must be a list of numbers above 0");
      return value;
    };
    return {
      ...shared,
      shortFactor: list("short_factor"),
      longFactor: list("long_factor"),
      attentionFactor: rope.number("attention_factor", temper),
      originalMaxPositionEmbeddings: original,
    };
  }
}

const full = "full_attention";
