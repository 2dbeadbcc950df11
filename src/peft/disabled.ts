/** A model without its adapters for as long as a function runs, and what every such change for a while is put back by. */
import { requireKind } from "../errors.ts";
import type { Tensor } from "../graph/node.ts";
import type { Module } from "../nn/module.ts";
import { adaptedModel } from "./adapted-model.ts";

/**
 * Runs `body` with the model as it was before any adapter, merged ones included, and puts everything back. Only biases that
 * are trained in place (the option `bias`) stay as they are, as in PEFT. Weights of which a start (PiSSA) has taken a part are whole, other
 * than in PEFT: docs/decisions/0036-disabled-is-the-model-before.md.
 * @returns what `body` gives; may be asynchronous
 */
export function disabled<T>(model: Module, body: () => T): T {
  const adapted = adaptedModel(model, "disabled");
  const { off, whole, unmerged } = adapted;
  const saved = [...adapted.saved.values()].map((module) => ({ module, active: module.active, merged: module.merged }));
  if (off.stored) return afterwards("disabled", body, () => {});
  const changed = new Set([...whole.parameters(), ...unmerged.parameters()]);
  const now = new Map([...changed].map((parameter) => [parameter, parameter.stored]));
  for (const parameter of changed) parameter.replace((whole.get(parameter) ?? unmerged.get(parameter)) as Tensor);
  off.value = true;
  for (const { module } of saved) Object.assign(module, { active: null, merged: null });
  const back = () => {
    off.value = false;
    for (const { module, active, merged } of saved) Object.assign(module, { active, merged });
    for (const [parameter, value] of now) parameter.replace(value);
  };
  return afterwards("disabled", body, back);
}

/** Runs `body`, then `back`, whether `body` is asynchronous, fails, is no function or not. */
export function afterwards<T>(operation: string, body: () => T, back: () => void): T {
  let result: T;
  try {
    requireKind(operation, "a function", { body });
    result = body();
  } catch (error) {
    back();
    throw error;
  }
  if (result instanceof Promise) return result.finally(back) as T;
  back();
  return result;
}
