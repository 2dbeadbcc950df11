/**
 * `adapter_config.json` as Hugging Face PEFT reads and writes it. A method states its keys once, with defaults and what each
 * accepts; reading, checking, did-you-mean and writing follow from that.
 */
import { ConfigError, FormatError, isRecord, nearestName, requireKind, wordJson } from "../errors.ts";
import { compareCodePoints } from "./safetensors.ts";

/** The PEFT release whose files these are; written into every config. */
export const peftVersion = "0.21.2";

/** What a key accepts. */
export interface Kind<T> {
  /** Completes "must be ...". */
  readonly expects: string;
  /** Only for its type. */
  readonly value?: T;
  accepts(value: unknown): boolean;
  /** All values, where they are few texts. */
  readonly choices?: readonly string[];
  /** Python writes these numbers with a point even when whole: the value itself, or the named entries of an object. */
  readonly float?: true | readonly string[];
}

/** One key of a config: its default and all kinds of value it accepts; null too where the default is null. */
export interface ConfigKey<T> {
  readonly default: T;
  readonly kinds: readonly Kind<unknown>[];
}

type ValueOf<Kinds extends readonly Kind<unknown>[]> = Kinds[number] extends Kind<infer T> ? T : never;

/** A key with its default and the kinds of value it accepts. */
export function key<const Kinds extends readonly Kind<unknown>[], Default extends ValueOf<Kinds> | null>(
  defaultValue: Default,
  ...kinds: Kinds
): ConfigKey<ValueOf<Kinds> | (Default extends null ? null : never)> {
  return { default: defaultValue as ValueOf<Kinds> | (Default extends null ? null : never), kinds };
}

/** true or false. */
export const boolean: Kind<boolean> = { expects: "true or false", accepts: (x) => typeof x === "boolean" };
/** Any string. */
export const text: Kind<string> = { expects: "a string", accepts: (x) => typeof x === "string" };
/** A list of strings; PEFT's sets are written as lists. */
export const texts: Kind<readonly string[]> = {
  expects: "a list of strings",
  accepts: (x) => Array.isArray(x) && x.every((item) => typeof item === "string"),
};
/** Any finite number. */
export const number: Kind<number> = { expects: "a number", accepts: Number.isFinite };
/** A list of whole numbers. */
export const integers: Kind<readonly number[]> = {
  expects: "a list of integers",
  accepts: (x) => Array.isArray(x) && x.every(Number.isSafeInteger),
};
/** A map from names of modules to lists of whole numbers. */
export const integersByName: Kind<Readonly<Record<string, readonly number[]>>> = {
  expects: "a map of lists of integers",
  accepts: (x) => isRecord(x) && Object.values(x).every(integers.accepts),
};
/** A map from patterns of module paths to numbers. */
export const numberByPattern: Kind<Readonly<Record<string, number>>> = {
  expects: "a map of numbers",
  accepts: (x) => isRecord(x) && Object.values(x).every(Number.isFinite),
};
/** Any JSON value. */
export const anything: Kind<unknown> = { expects: "anything", accepts: () => true };

/** A whole number, at least `minimum`. */
export const integer = (minimum = Number.MIN_SAFE_INTEGER): Kind<number> => ({
  expects: minimum === 1 ? "a positive integer" : minimum === 0 ? "a non-negative integer" : "an integer",
  accepts: (x) => Number.isSafeInteger(x) && (x as number) >= minimum,
});

/** A number that Python holds as float. */
export const float = (minimum = Number.NEGATIVE_INFINITY, maximum = Number.POSITIVE_INFINITY): Kind<number> => ({
  expects: maximum < Number.POSITIVE_INFINITY ? `a number from ${minimum} to ${maximum}` : "a number",
  accepts: (x) => Number.isFinite(x) && (x as number) >= minimum && (x as number) <= maximum,
  float: true,
});

/** One of a few texts. */
export const choice = <const Choices extends readonly string[]>(...choices: Choices): Kind<Choices[number]> => ({
  expects: `one of ${choices.map((word) => `"${word}"`).join(", ")}`,
  accepts: (x) => choices.includes(x as string),
  choices,
});

/** A nested config. @param floats its keys that Python holds as float */
export const object = (...floats: string[]): Kind<Readonly<Record<string, unknown>>> => ({
  expects: "an object",
  accepts: isRecord,
  float: floats,
});

/** Keys by name. */
export type ConfigKeys = Readonly<Record<string, ConfigKey<unknown>>>;

/** The config that keys describe, in PEFT's spelling. */
export type ConfigOf<Keys extends ConfigKeys> = {
  readonly [Name in keyof Keys]: Keys[Name] extends ConfigKey<infer T> ? T : never;
};

/** Keys that every method has. `peft_type` comes from the schema. */
const commonKeys = {
  auto_mapping: key(null, object()),
  base_model_name_or_path: key(null, text),
  inference_mode: key(false, boolean),
  peft_version: key(null, text),
  revision: key(null, text),
  task_type: key(null, choice("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")),
};

/** Keys with which most methods choose their modules; spread them, or pick those that the method has. */
export const targetKeys = {
  target_modules: key(null, text, texts),
  exclude_modules: key(null, text, texts),
  modules_to_save: key(null, texts),
  layers_to_transform: key(null, integer(0), integers),
  layers_pattern: key(null, text, texts),
};
const { exclude_modules: _, ...others } = targetKeys;
/** Those of methods that PEFT gives no way of leaving layers out. */
export const plainTargetKeys = others;

/** All about the config file of one method. */
export interface ConfigSchema<Type extends string = string, Keys extends ConfigKeys = ConfigKeys> {
  /** PEFT's name of the method, such as `LORA`. */
  readonly peftType: Type;
  /** What names of the method's parameters begin with, such as `lora_`. */
  readonly prefix: string;
  /** The method's keys and the common ones. */
  readonly keys: Keys & typeof commonKeys;
}

/** The config of a schema. */
export type FileConfig<Schema extends ConfigSchema> =
  Schema extends ConfigSchema<infer Type, infer Keys>
    ? { readonly peft_type: Type } & ConfigOf<typeof commonKeys> & ConfigOf<Keys>
    : never;

/** States a method's config file: PEFT's name, the prefix of its parameters, and its keys beside the common ones. */
export function configSchema<const Type extends string, Keys extends ConfigKeys>(
  peftType: Type,
  prefix: string,
  keys: Keys,
): ConfigSchema<Type, Keys> {
  return { peftType, prefix, keys: { ...commonKeys, ...keys } };
}

/** A full config with every key at its default. */
export function defaultConfig<Schema extends ConfigSchema>(schema: Schema): FileConfig<Schema> {
  requireKind("adapter config", "an object", { schema, "schema.keys": (schema as Partial<Schema> | undefined)?.keys });
  const defaults = Object.entries(schema.keys).map(([name, { default: value }]) => [name, structuredClone(value)]);
  return { peft_type: schema.peftType, ...Object.fromEntries(defaults) } as FileConfig<Schema>;
}

/** What was read, with sentences about what was left out. */
export interface ReadConfig<Schema extends ConfigSchema> {
  readonly schema: Schema;
  readonly config: FileConfig<Schema>;
  /** One sentence for each key that was dropped. */
  readonly warnings: readonly string[];
}

/**
 * Reads the text of an `adapter_config.json`. Missing keys take their defaults, as null does where null means nothing; unknown
 * keys are dropped with a warning, so that files of newer PEFT releases load.
 *
 * @param schemas the methods that may come
 * @throws {FormatError} when it is not JSON, `peft_type` is missing or unknown, or a key holds the wrong kind of value
 */
export function parseAdapterConfig<Schema extends ConfigSchema>(
  json: string,
  schemas: readonly Schema[],
  source = "adapter_config.json",
): ReadConfig<Schema> {
  const operation = "parseAdapterConfig";
  const fail = (problem: string, got?: unknown, hint?: string) =>
    new FormatError(`${source} ${problem}`, { operation, got, ...(hint === undefined ? {} : { hint }) });
  requireKind(operation, "a list", { schemas });
  for (const schema of schemas)
    requireKind(operation, "a string", { "schema.peftType": (schema as Partial<Schema> | null)?.peftType });
  let given: unknown;
  try {
    given = JSON.parse(json);
  } catch {
    throw fail("is not JSON.");
  }
  if (!isRecord(given)) throw fail("is not a JSON object.", given);
  const type = given["peft_type"];
  if (type === undefined || type === null) throw fail("has no `peft_type`, so it is not an adapter's config.");
  const schema = schemas.find(({ peftType }) => peftType === type);
  if (schema === undefined) {
    const names = schemas.map(({ peftType }) => peftType);
    const near = typeof type === "string" ? nearestName(type, names) : undefined;
    throw fail(
      `has the unknown \`peft_type\` ${wordJson(type)}.`,
      type,
      near === undefined ? `Known: ${names.join(", ")}.` : `Did you mean ${JSON.stringify(near)}?`,
    );
  }
  const config: Record<string, unknown> = { ...defaultConfig(schema) };
  const warnings: string[] = [];
  for (const [name, value] of Object.entries(given)) {
    if (name === "peft_type") continue;
    const known = Object.hasOwn(schema.keys, name) ? (schema.keys as ConfigKeys)[name] : undefined;
    if (known === undefined) {
      const near = nearestName(name, Object.keys(schema.keys));
      warnings.push(
        `${source}: \`${name}\` is not a key of ${type} and is ignored.${near === undefined ? "" : ` Did you mean \`${near}\`?`}`,
      );
    } else if (value !== null || known.kinds.some((kind) => kind.accepts(null))) {
      const problem = problemWith(name, value, known);
      if (problem !== undefined) throw fail(problem, value);
      config[name] = value;
    }
  }
  return { schema, config: config as FileConfig<Schema>, warnings };
}

/** What is wrong with the value of a key, as a sentence. */
export function problemWith(name: string, value: unknown, { default: initial, kinds }: ConfigKey<unknown>): string | undefined {
  if ((value === null && initial === null) || kinds.some((kind) => kind.accepts(value))) return undefined;
  const choices = kinds.flatMap((kind) => kind.choices ?? []);
  const near = typeof value === "string" ? nearestName(value, choices) : undefined;
  return `\`${name}\` (= ${wordJson(value, 80)}) must be ${kinds.map((kind) => kind.expects).join(" or ")}.${near === undefined ? "" : ` Did you mean ${JSON.stringify(near)}?`}`;
}

/**
 * The text of `adapter_config.json` as PEFT writes it: all keys, sorted at every level, `inference_mode` true.
 *
 * @param config keys that differ from their defaults; `peft_type`, `peft_version` and `inference_mode` are set here
 * @throws {ConfigError} when a key is unknown or holds the wrong kind of value
 */
export function formatAdapterConfig<Schema extends ConfigSchema>(schema: Schema, config: Partial<FileConfig<Schema>>): string {
  const operation = "formatAdapterConfig";
  requireKind(operation, "an object", { config, schema, "schema.keys": (schema as Partial<Schema> | undefined)?.keys });
  const given: Readonly<Record<string, unknown>> = config;
  const full: Record<string, unknown> = { ...defaultConfig(schema) };
  for (const [name, value] of Object.entries(given)) {
    if (name === "peft_type" || value === undefined) continue;
    const known = Object.hasOwn(schema.keys, name) ? (schema.keys as ConfigKeys)[name] : undefined;
    const problem = known === undefined ? `\`${name}\` is not a key of ${schema.peftType}.` : problemWith(name, value, known);
    if (problem !== undefined) {
      const near = known === undefined ? nearestName(name, Object.keys(schema.keys)) : undefined;
      throw new ConfigError(problem, {
        operation,
        got: value,
        ...(near === undefined ? {} : { hint: `Did you mean \`${near}\`?` }),
      });
    }
    full[name] = value;
  }
  full["inference_mode"] = true;
  full["peft_version"] = peftVersion;
  const lines = Object.keys(full)
    .sort(compareCodePoints)
    .map((name) => {
      const float = (schema.keys as ConfigKeys)[name]?.kinds.find(
        (kind) => kind.float !== undefined && kind.accepts(full[name]),
      )?.float;
      return `  ${pythonText(name)}: ${pythonJson(full[name], "  ", float)}`;
    });
  return `{\n${lines.join(",\n")}\n}`;
}

/** `json.dumps(value, indent=2, sort_keys=True)`, where `float` says what Python holds as float. */
function pythonJson(value: unknown, indent: string, float: true | readonly string[] | undefined): string {
  if (typeof value === "number") return float === true || !Number.isInteger(value) ? pythonFloat(value) : String(value);
  if (typeof value === "string") return pythonText(value);
  const inner = `${indent}  `;
  if (Array.isArray(value)) {
    if (value.length === 0) return "[]";
    return `[\n${value.map((item) => inner + pythonJson(item, inner, float)).join(",\n")}\n${indent}]`;
  }
  if (isRecord(value)) {
    const names = Object.keys(value).sort(compareCodePoints);
    if (names.length === 0) return "{}";
    const isFloat = (name: string) => (float !== true && float?.includes(name) ? true : undefined);
    return `{\n${names.map((name) => `${inner}${pythonText(name)}: ${pythonJson(value[name], inner, isFloat(name))}`).join(",\n")}\n${indent}}`;
  }
  return JSON.stringify(value);
}

/** Python escapes all that is not ASCII. */
const pythonText = (value: string): string =>
  JSON.stringify(value).replace(/[\x7f-\uffff]/g, (unit) =>
    unit === "\x7f" ? unit : `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );

/** `repr` of a float: a point or an exponent always, exponents from 10⁻⁵ down and 10¹⁶ up with two digits. */
function pythonFloat(value: number): string {
  const [digits = "0", exponent = "0"] = value.toExponential().split("e");
  const power = Number(exponent);
  if (power >= -4 && power < 16) return Number.isInteger(value) ? `${Object.is(value, -0) ? "-0" : value}.0` : String(value);
  return `${digits}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}

/** The config file of LoRA. */
export const loraSchema = configSchema("LORA", "lora_", {
  ...targetKeys,
  r: key(8, integer(1)),
  lora_alpha: key(8, number),
  lora_dropout: key(0, float(0, 1)),
  fan_in_fan_out: key(false, boolean),
  bias: key("none", choice("none", "all", "lora_only")),
  use_rslora: key(false, boolean),
  init_lora_weights: key(true, boolean, text),
  rank_pattern: key({}, numberByPattern),
  alpha_pattern: key({}, numberByPattern),
  use_dora: key(false, boolean),
  lora_bias: key(false, boolean),
  layer_replication: key(null, listOfPairs()),
  trainable_token_indices: key(null, integers, integersByName),
  target_parameters: key(null, texts),
  loftq_config: key({}, object()),
  eva_config: key(null, object("rho", "tau")),
  corda_config: key(null, object()),
  lora_ga_config: key(null, object()),
  kasa_config: key(null, object("beta", "gamma")),
  velora_config: key(null, object("scale")),
  monteclora_config: key(null, object("dirichlet_prior", "sample_scaler", "kl_loss_weight")),
  arrow_config: key(null, object("router_temperature")),
  use_bdlora: key(null, object()),
  alora_invocation_tokens: key(null, integers),
  use_qalora: key(false, boolean),
  qalora_group_size: key(16, integer(1)),
  ensure_weight_tying: key(false, boolean),
  megatron_config: key(null, object()),
  megatron_core: key("megatron.core", text),
});

function listOfPairs(): Kind<readonly (readonly [number, number])[]> {
  return {
    expects: "a list of [start, end]",
    accepts: (x) => Array.isArray(x) && x.every((pair) => integers.accepts(pair) && pair.length === 2),
  };
}

/** LoRA's `adapter_config.json`, in PEFT's spelling. */
export type LoraFileConfig = FileConfig<typeof loraSchema>;

/** LoRA's config with every key at its default. */
export const defaultLoraFileConfig: LoraFileConfig = defaultConfig(loraSchema);
