/** What the config of a method says where a person names the method and no more. */
import { camel } from "./method-config.ts";
import { type MethodName, methods } from "./method-registry.ts";

/** What is known of the training and the model. */
export interface Circumstances {
  /** Names of layers, or `["all-linear"]`. */
  readonly targets: readonly string[];
  readonly steps: number;
  /** Of the model. */
  readonly layers: number | undefined;
}

/** What methods ask for that have no defaults in PEFT: virtual tokens; the length and the layers of an adaption prompt. */
const lengths = { numVirtualTokens: 20, adapterLen: 10 };

/** The keys that a method has no defaults for, those of them that follow from the circumstances. */
export function usualKeys(method: MethodName, { targets, steps, layers }: Circumstances): object {
  const own = ownKeys(method);
  const sizes = { totalStep: steps, ...lengths, ...(layers !== undefined && { adapterLayers: layers }) };
  const length = Object.fromEntries(Object.entries(sizes).filter(([key]) => own.includes(key)));
  return { ...length, ...targetsOf(method, targets) };
}

/** Nothing for methods that choose by themselves, unless targets were named. */
function targetsOf(method: MethodName, targets: readonly string[]): object {
  const isDefault = targets.length === 1 && targets[0] === "all-linear";
  const chooses = "choose" in methods[method] || !("linear" in methods[method].layers);
  if (isDefault && (chooses || !ownKeys(method).includes("targetModules"))) return {};
  return { targetModules: isDefault ? "all-linear" : targets };
}

/** A method's config keys as they are spelled here. */
export const ownKeys = (method: MethodName): string[] => Object.keys(methods[method].schema.keys).map(camel);
