/** Models without an output layer, which give the states of a text: for features, and for embeddings of whole texts. */
import type { Initializer } from "../nn/init.ts";
import type { Module } from "../nn/module.ts";
import { type CheckpointNames, pathBy } from "./checkpoint-name.ts";
import type { ConfigJson } from "./config-reader.ts";
import type { AnyFamily } from "./family.ts";
import type { FeatureExtractor } from "./task.ts";

/**
 * Builds it. Paths of parameters begin in the model, as in checkpoints of it; checkpoints of models with output layers fit as well.
 *
 * @throws {ConfigError} for a missing key of `config` and for values that are not supported
 */
export function withoutOutput(given: AnyFamily, config: ConfigJson, init: Initializer): FeatureExtractor & CheckpointNames {
  const family = given.alone?.() ?? given;
  const known: unknown = family.read(config);
  const model: Module = family.build(known, init);
  const reader = family.reader(model);
  const part = `${family.name}.`;
  const within = (path: string) => path.slice(part.length);
  const names: CheckpointNames = {
    pathOf(name) {
      const path = pathBy(family, name, known);
      return path?.startsWith(part) ? within(path) : null;
    },
    nameOf: (path) => within(family.nameOf?.(part + path) ?? part + path),
    partsOf: (path, shape) => family.partsOf?.(part + path, shape)?.map(within),
  };
  const added = { config: known, backbone: reader, forward: reader.forward.bind(reader), ...names };
  // not enumerable, so that they are no children of the model
  for (const [name, value] of Object.entries(added))
    Object.defineProperty(model, name, { value, writable: true, configurable: true });
  return model as FeatureExtractor & CheckpointNames;
}
