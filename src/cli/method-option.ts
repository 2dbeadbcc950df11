/** The adapter of a command line: what the options are called in each method's config. */
import { ConfigError } from "../errors.ts";
import type { attach } from "../peft/attach.ts";
import { camel } from "../peft/method.ts";
import { type MethodName, methods } from "../peft/methods.ts";

/** As a person gives them; absent ones are the method's own. */
export interface MethodOptions {
  readonly method: MethodName;
  readonly rank?: number;
  readonly alpha?: number;
  readonly dropout?: number;
  readonly targets: readonly string[];
  /** `key=value`: other keys of the method's config. */
  readonly set: readonly string[];
  readonly steps: number;
}

/** Names of an option's key in the configs of methods. */
const keys = { rank: /^r$/, alpha: /^(lora)?alpha$/i, dropout: /^(lora|vera|\w+lora)?Dropout$/i } as const;
const defaultRank = 16;

/** Rank and scale that are used where nothing is said: of LoRA and its kin 16, and twice the rank. */
export function withDefaults<Options extends MethodOptions>(options: Options): Options {
  if (!ownKeys(options.method).includes("loraAlpha")) return options;
  const { rank = defaultRank, alpha = 2 * rank } = options;
  return { ...options, rank, alpha };
}

/** The config that `attach` takes. @throws {ConfigError} for an option that the method does not have */
export function adapterOf(options: MethodOptions): Parameters<typeof attach>[1] {
  const { method, targets, steps } = options;
  const own = ownKeys(method);
  const length = own.includes("totalStep") ? { totalStep: steps } : {}; // of AdaLoRA's budget
  const given = Object.entries(keys).flatMap(([option, pattern]) => {
    const value = options[option as keyof typeof keys];
    if (value === undefined) return [];
    const key = own.find((name) => pattern.test(name));
    if (key !== undefined) return [[key, value] as const];
    throw new ConfigError(`${method} has no ${option}.`, { operation: "finetune", got: value, hint: `Leave --${option} out.` });
  });
  const configure: (config: object) => Parameters<typeof attach>[1] = methods[method];
  const targetModules = targets.length === 1 && targets[0] === "all-linear" ? "all-linear" : targets;
  const other = Object.fromEntries(options.set.map(assignment));
  return configure({ ...length, ...Object.fromEntries(given), targetModules, ...other, taskType: "CAUSAL_LM" });
}

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

/** A method's config keys as they are spelled here. */
const ownKeys = (method: MethodName): string[] => Object.keys(methods[method].schema.keys).map(camel);
