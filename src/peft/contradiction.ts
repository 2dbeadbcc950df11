/** Keys of a config that cannot go together, whatever the method. */
import { ConfigError, wordJson } from "../errors.ts";

type Config = Readonly<Record<string, unknown>>;

/**
 * The layers that are chosen by number have to be chosen by it: a pattern of their names alone, or numbers beside a pattern of whole
 * paths, would do nothing.
 *
 * @throws {ConfigError} where they would
 */
export function checkLayers(operation: string, { targetModules, layersToTransform = null, layersPattern = null }: Config): void {
  const isPattern = typeof targetModules === "string";
  const named = layersPattern !== null && (layersPattern as string | readonly string[]).length > 0;
  const refuse = (problem: string, got: unknown, hint: string) => {
    throw new ConfigError(problem, { operation, got, hint });
  };
  if (named && layersToTransform === null)
    refuse(
      `\`layersPattern\` (= ${wordJson(layersPattern)}) needs \`layersToTransform\`, the layers' numbers.`,
      layersPattern,
      "Give them, or leave it out to adapt all layers.",
    );
  if (isPattern && layersToTransform !== null)
    refuse(
      "`layersToTransform` goes with a list of targetModules, not with a string.",
      layersToTransform,
      "Put the layers into the pattern.",
    );
}

/**
 * A file's config without keys that PEFT has ignored when it made the adapter, and a warning for each.
 * @param unused the method's own ones
 */
export function withoutIgnored(
  config: Config,
  unused: readonly string[] = [],
): { readonly config: Config; readonly warnings: readonly string[] } {
  const { targetModules, layersToTransform = null, layersPattern = null } = config;
  const layers = [
    ...(typeof targetModules === "string" && layersToTransform !== null ? ["layersToTransform"] : []),
    ...(layersPattern !== null && (typeof targetModules === "string" || layersToTransform === null) ? ["layersPattern"] : []),
  ];
  const all = [...layers, ...unused];
  return {
    config: Object.fromEntries(Object.entries(config).filter(([key]) => !all.includes(key))),
    warnings: all.map((key) => `loadAdapter: \`${key}\` does nothing in this adapter and is ignored, as in PEFT.`),
  };
}
