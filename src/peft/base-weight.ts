/** The weights of a model under its adapters, by the names that they have without adapters. */
import { ConfigError } from "../errors.ts";
import type { Tensor } from "../graph/node.ts";
import type { Module, Parameter } from "../nn/module.ts";
import { adaptersOf, baseModules } from "./adapted-model.ts";

/** All parameters of the base model; one that is shared under its first name. */
export function baseParameters(model: Module): Map<string, Parameter> {
  const found = new Map<Parameter, string>();
  for (const [path, module] of baseModules(model))
    for (const [name, parameter] of module.ownParameters())
      if (!found.has(parameter)) found.set(parameter, path === "" ? name : `${path}.${name}`);
  return new Map([...found].map(([parameter, name]) => [name, parameter]));
}

/** All parameters of the base model by the names they have without adapters. */
export const baseStateDict = (model: Module): Map<string, Tensor> =>
  new Map([...baseParameters(model)].map(([name, { stored }]) => [name, stored]));

/** @throws {ConfigError} when an adapter acts, or has taken a part of the weights away, that is not merged into them */
export function refuseUnmerged(model: Module, operation: string): void {
  const adapted = adaptersOf(model);
  for (const { name, layers, saved, isPrompt, residual } of adapted?.adapters.values() ?? []) {
    const isMerged = [...layers.values(), ...saved.values()].every(({ merged }) =>
      Array.isArray(merged) ? merged.includes(name) : merged === name,
    );
    if ((residual || adapted?.active.includes(name)) && (isPrompt || !isMerged))
      throw new ConfigError(`the adapter "${name}" is not in the weights, and would be lost.`, {
        operation,
        got: name,
        hint: "saveAdapter writes it; for the model with it in the weights call merge first, for the one without it detach.",
      });
  }
}
