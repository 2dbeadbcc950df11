/**
 * Targets that mean experts. Their matrices were linear layers before transformers 5 and are parameters now, so PEFT takes the names of
 * those layers, and "all-linear", for the parameters that they are part of.
 *
 * @see peft `utils/transformers_weight_conversion.py`, `_convert_peft_config_moe`
 */
import { ConfigError } from "../errors.ts";
import { Experts } from "../models/mixture.ts";
import { Linear } from "../nn/linear.ts";
import type { Module } from "../nn/module.ts";
import type { AnyMethod } from "./method.ts";
import type { AnyConfig } from "./method-config.ts";
import { refuseOnParameters } from "./target-parameter.ts";

/** By the older name of a layer, the parameter that has it today. */
const parametersOf = (modelType: string | undefined): Readonly<Record<string, string>> => {
  const [gate, up, down] = modelType === "mixtral" ? ["w1", "w3", "w2"] : ["gate_proj", "up_proj", "down_proj"];
  return { gate: "gate.weight", [gate]: "gate_up_proj", [up]: "gate_up_proj", [down]: "down_proj" };
};

/**
 * The config with `targetParameters` for what `targetModules` means of experts. Two matrices that are one now share twice the rank, at
 * the same scale.
 *
 * @param allLinear paths of what "all-linear" means of modules
 * @throws {ConfigError} when one of the two is a target and the other is not
 */
export function withExperts(
  config: AnyConfig,
  method: AnyMethod,
  modules: ReadonlyMap<string, Module>,
  modelType: string | undefined,
  allLinear: () => readonly string[],
): AnyConfig {
  const { targetModules: given, targetParameters, rankPattern, alphaPattern, r, loraAlpha } = config;
  const isAll = typeof given === "string" && given.toLowerCase() === "all-linear";
  if (!("parameter" in method.layers) || !(isAll || Array.isArray(given))) return config;
  // PEFT has no older names of those whose checkpoints have always had experts in one
  if (["granitemoe", "gpt_oss"].includes(String(modelType)) || ![...modules.values()].some((module) => module instanceof Experts))
    return config;
  const parameters = parametersOf(modelType);
  const leaf = (path: string) => path.slice(path.lastIndexOf(".") + 1);
  const targets = isAll ? [...new Set(allLinear().map(leaf)), ...Object.keys(parameters)] : (given as readonly string[]);
  const isExpert = (target: string) => Object.hasOwn(parameters, leaf(target)) && !(modules.get(target) instanceof Linear);
  const found = new Set(targets.filter(isExpert).map(leaf));
  if (found.size === 0) return config;
  const halves = Object.keys(parameters).filter((name) => parameters[name] === "gate_up_proj");
  const missing = halves.filter((name) => !found.has(name));
  if (missing.length === 1)
    throw new ConfigError(`of the two matrices that are \`gate_up_proj\`, ${missing} is not a target, and the other is.`, {
      operation: "attach",
      got: given,
      hint: `Add "${missing}" to targetModules.`,
    });
  const pattern = ".*\\.gate_up_proj";
  const doubled = (patterns: unknown, value: unknown) =>
    missing.length === 0 ? { ...(patterns as object), [pattern]: 2 * (value as number) } : patterns;
  const all = new Set([...((targetParameters ?? []) as readonly string[]), ...[...found].map((name) => parameters[name])]);
  const converted = {
    ...config,
    targetModules: [...new Set(targets)].filter((target) => !isExpert(target)),
    targetParameters: [...all],
    rankPattern: doubled(rankPattern, r),
    alphaPattern: doubled(alphaPattern, loraAlpha),
  };
  refuseOnParameters("attach", converted);
  return converted;
}
