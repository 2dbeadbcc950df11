/** The adapter of a command line: what the options are called in each method's config. */
import { ConfigError } from "../errors.ts";
import type { attach } from "../peft/attach.ts";
import { camel } from "../peft/method-config.ts";
import { type MethodName, methods } from "../peft/method-registry.ts";
import { ownKeys, usualKeys } from "../peft/usual-config.ts";

/** As a person gives them; absent ones are the method's own. */
export interface MethodOptions {
  readonly method: MethodName;
  readonly rank?: number;
  readonly alpha?: number;
  readonly dropout?: number;
  readonly targets: readonly string[];
  readonly steps: number;
}

/** Names of an option's key in the configs of methods. */
const keys = { rank: /^r$/, alpha: /^(lora)?alpha$/i, dropout: /^(lora|vera|\w+lora)?Dropout$/i } as const;
const defaultRank = 16;

/**
 * Rank and scale that are used where nothing is said: of LoRA and its kin 16, and twice the rank.
 *
 * @param other keys of the config that are given by their own names
 * @throws {ConfigError} when one says what an option says, too
 */
export function withDefaults<Options extends MethodOptions>(options: Options, other: object = {}): Options {
  const set: { rank?: number; alpha?: number; dropout?: number } = {};
  for (const [option, pattern] of Object.entries(keys) as [keyof typeof keys, RegExp][]) {
    const [key, value] = Object.entries(other).find(([name]) => pattern.test(name)) ?? [];
    if (key === undefined || !ownKeys(options.method).includes(key)) continue;
    if (options[option] !== undefined)
      throw new ConfigError(`--${option} and --set ${key} are the same.`, { operation: "finetune", hint: "Leave one out." });
    if (typeof value === "number") set[option] = value;
  }
  if (!ownKeys(options.method).includes("loraAlpha")) return { ...options, ...set };
  const { rank = defaultRank, alpha = 2 * rank } = { ...options, ...set };
  return { ...options, ...set, rank, alpha };
}

/**
 * The config that `attach` takes.
 *
 * @param layers of the model
 * @param other keys of the method's config that no option is called after
 * @throws {ConfigError} for an option that the method does not have
 */
export function adapterOf(options: MethodOptions, layers: number, other: object): Parameters<typeof attach>[1] {
  const { method, targets, steps } = options;
  const own = ownKeys(method);
  const given = Object.entries(keys).flatMap(([option, pattern]) => {
    const value = options[option as keyof typeof keys];
    if (value === undefined) return [];
    const key = own.find((name) => pattern.test(name));
    if (key !== undefined) return [[key, value] as const];
    throw new ConfigError(`${method} has no ${option}.`, { operation: "finetune", got: value, hint: `Leave --${option} out.` });
  });
  const configure: (config: object) => Parameters<typeof attach>[1] = methods[method];
  const usual = usualKeys(method, { targets, steps, layers });
  return configure({ ...usual, ...Object.fromEntries(given), ...other, taskType: "CAUSAL_LM" });
}

/** Keys of a config that `--set` was given. @throws {ConfigError} for what is no `key=value` */
export const assigned = (texts: readonly string[]): object => Object.fromEntries(texts.map(assignment));

/** `n_frequency=100` or `nFrequency=100`; a value is JSON, or else a text. */
function assignment(text: string): [key: string, value: unknown] {
  const [, key, value] = /^(\w+)=(.*)$/s.exec(text) ?? [];
  if (key === undefined || value === undefined)
    throw new ConfigError(`--set ${text} does not set anything.`, { operation: "finetune", got: text, hint: "Write key=value." });
  try {
    return [camel(key), JSON.parse(value)];
  } catch {
    return [camel(key), value];
  }
}

/** What a person may be asked for, beside the name of a method. */
export type MethodField = "rank" | "alpha" | "dropout" | "targets" | "examples";

/** Which of the options that go by one name everywhere a method has; `examples` for one that starts from texts with answers. */
export function fieldsOf(method: MethodName): MethodField[] {
  const own = ownKeys(method);
  const named = (["rank", "alpha", "dropout"] as const).filter((field) => own.some((key) => keys[field].test(key)));
  const others = { targetModules: "targets", cptTokenIds: "examples" } as const;
  return [...named, ...Object.entries(others).flatMap(([key, field]) => (own.includes(key) ? field : []))];
}
