/** Configs of adapters: PEFT's keys in camelCase, to and from the spelling of `adapter_config.json`, and checked against a method. */
import { ConfigError, nearestName, wordJson } from "../errors.ts";
import { type ConfigKeys, type ConfigSchema, defaultConfig, type FileConfig, problemWith } from "../formats/peft-config.ts";
import type { AnyMethod } from "./method.ts";

/** `lora_alpha` → `loraAlpha`: how PEFT's keys are spelled here. */
type Camel<Key extends string> = Key extends `${infer Head}_${infer Tail}` ? `${Head}${Capitalize<Camel<Tail>>}` : Key;
/** `lora_alpha` → `loraAlpha`. */
export const camel = (key: string): string => key.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());

/** The config of a method with every key: PEFT's keys in camelCase. */
export type MethodConfig<Schema extends ConfigSchema> = {
  readonly [Key in keyof FileConfig<Schema> as Key extends "peft_type" ? never : Camel<Key & string>]: FileConfig<Schema>[Key];
};

/** A config whose method is not known to the type system. */
export type AnyConfig = Readonly<Record<string, unknown>>;

/** Keys that every method shares and that are written over or taken care of outside of it. */
const commonKeys = [
  "autoMapping",
  "baseModelNameOrPath",
  "inferenceMode",
  "peftVersion",
  "revision",
  "taskType",
  "targetModules",
  "excludeModules",
  "layersToTransform",
  "layersPattern",
  "modulesToSave",
  "fanInFanOut",
];

/** The others: a method's own. */
export const ownKeys = (schema: ConfigSchema): readonly string[] =>
  Object.keys(schema.keys)
    .map(camel)
    .filter((key) => !commonKeys.includes(key));

/** The lower-case name by which people call the method: `lora`. */
export const wordMethod = (schema: ConfigSchema): string => schema.peftType.toLowerCase();

/** Options with the defaults of the method. @throws {ConfigError} for keys that are none of its, do nothing here, or have wrong values */
export function checkedConfig({ schema, keys, variant, variantOf }: AnyMethod, options: AnyConfig): AnyConfig {
  const operation = wordMethod(schema);
  const fileKeys = new Map(Object.keys(schema.keys).map((key) => [camel(key), key]));
  const config: Record<string, unknown> = { ...toCamel(defaultConfig(schema)), ...variant };
  const does = new Set<string>([...commonKeys, ...keys]);
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined) continue;
    const fileKey = fileKeys.get(key);
    if (fileKey === undefined) {
      const near = fileKeys.has(camel(key))
        ? camel(key)
        : (nearestName(key, fileKeys.keys()) ?? fullerName(key, fileKeys.keys()));
      throw new ConfigError(`\`${key}\` is not an option of ${schema.peftType}.`, {
        operation,
        got: key,
        hint: near === undefined ? `Options: ${[...does].sort().join(", ")}.` : `Did you mean \`${near}\`?`,
      });
    }
    const problem = problemWith(key, value, (schema.keys as ConfigKeys)[fileKey]!);
    if (problem !== undefined) throw new ConfigError(problem, { operation, got: value });
    if (!does.has(key) && wordJson(value, Number.POSITIVE_INFINITY) !== wordJson(config[key], Number.POSITIVE_INFINITY))
      throw new ConfigError(
        variantOf?.keys.includes(key)
          ? `\`${key}\` (= ${wordJson(value)}) does not go with \`${Object.keys(variant ?? {})[0]}\`.`
          : `\`${key}\` (= ${wordJson(value)}) is not implemented.`,
        { operation, got: value },
      );
    config[key] = value;
  }
  return config;
}

/** What `alpha`, `dropout` and `rank` stand for: the option that ends in the word, or is its first letter. */
function fullerName(word: string, options: Iterable<string>): string | undefined {
  const all = [...options];
  return all.find((name) => name.toLowerCase().endsWith(word.toLowerCase())) ?? all.find((name) => name === word[0]);
}

/** What is not as it is when nothing is said: `LORA { r: 16, targetModules: ["q_proj"] }`. */
export function wordConfig(schema: ConfigSchema, config: AnyConfig): string {
  const usual = toCamel(defaultConfig(schema));
  const said = Object.entries(config).flatMap(([key, value]) => {
    const word = wordJson(value);
    return key === "peftVersion" || word === wordJson(usual[key]) ? [] : [`${key}: ${word}`];
  });
  return `${schema.peftType} { ${said.join(", ")} }`;
}

/** A config in the spelling of `adapter_config.json`, here and there. */
export function toCamel(config: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(config).flatMap(([key, value]) => (key === "peft_type" ? [] : [[camel(key), value]])));
}

/** The other way: PEFT's keys. */
export function toFileConfig(schema: ConfigSchema, config: AnyConfig): Record<string, unknown> {
  return Object.fromEntries(Object.keys(schema.keys).map((key) => [key, config[camel(key)]]));
}
