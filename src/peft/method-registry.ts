/** The adapter methods by name, and those that programs add to them. */
import { ConfigError, wordType } from "../errors.ts";
import type { AnyMethod } from "./method.ts";
import * as list from "./methods.ts";

const { lora, ...relatives } = list;

/** By the name that people call a method; LoRA before all. */
export const methods = { lora, ...relatives } satisfies Record<string, AnyMethod>;

/** A name in that list. */
export type MethodName = keyof typeof methods;

/** One entry for each time that a method was registered. */
const others = new Set<{ readonly method: AnyMethod }>();

/** The methods that files may hold: those of this list, then those that programs have registered. */
export const knownMethods = (): readonly AnyMethod[] => [...Object.values(methods), ...[...others].map(({ method }) => method)];

/**
 * Makes a method of your own one that `loadAdapter` and `hotSwap` know. `attach` and `saveAdapter` take any method, registered or not.
 * PEFT itself reads such files only where the method is registered there, too.
 *
 * @returns takes it off again, unless somebody else has registered it, too
 * @throws {ConfigError} for what `defineMethod` has not made, and when another method, which it is no variant of, has its PEFT type
 * @see docs/extending.md, which defines one and registers it
 */
export function registerMethod(method: AnyMethod): () => void {
  if (typeof method !== "function" || !("schema" in method))
    throw new ConfigError(`the method is ${wordType(method)}, not one of defineMethod.`, {
      operation: "registerMethod",
      got: method,
      hint: "Give the method itself, registerMethod(rowScale), not a config of it.",
    });
  const taken = knownMethods().find(
    (known) =>
      known !== method && known.peftType === method.peftType && (method.variantOf ?? method) !== (known.variantOf ?? known),
  );
  if (taken)
    throw new ConfigError(`another method already reads files of the type ${method.peftType}.`, {
      operation: "registerMethod",
      got: method.peftType,
      hint: "Give it a type of its own in configSchema, or `variantOf` the method that it is another form of.",
    });
  const entry = { method };
  others.add(entry);
  return () => void others.delete(entry);
}
