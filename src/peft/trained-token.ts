/** The option `trainableTokenIndices`: which layers get rows of their own beside what an adapter does to its targets. */
import { ConfigError, nearestName } from "../errors.ts";
import type { Module } from "../nn/module.ts";
import { kindOf } from "./layer-kind.ts";
import type { AnyConfig } from "./method-config.ts";
import { inputEmbedding } from "./tied-weight.ts";

/** A layer of which some tokens are trained. */
export interface TokenLayer {
  readonly path: string;
  readonly tokenIndices: readonly number[];
  /** Path of the layer whose rows it uses. */
  readonly tied?: string;
}

const refuse = (problem: string, got: unknown, hint?: string): never => {
  throw new ConfigError(problem, { operation: "attach", got, ...(hint === undefined ? {} : { hint }) });
};

/**
 * The layers that the option means: with a list the input embedding, with a map all layers whose path ends in one of its keys, as in
 * PEFT. Layers that share the embedding's weight follow it, unless the map gives them other tokens.
 *
 * @param taken paths that are adapted or trained as a whole
 * @throws {ConfigError} when there is no such layer, or it is taken
 */
export function planTokens(config: AnyConfig, modules: ReadonlyMap<string, Module>, taken: readonly string[]): TokenLayer[] {
  const given = (config["trainableTokenIndices"] ?? null) as readonly number[] | Readonly<Record<string, unknown>> | null;
  if (given === null) return [];
  const embedding = inputEmbedding(modules);
  const indices = Array.isArray(given) ? { [embedding?.path ?? "embed_tokens"]: given } : (given as Record<string, number[]>);
  const names = Object.keys(indices);
  const nameOf = (path: string) => names.find((name) => path.endsWith(name));
  // layers that share the embedding's weight and are named themselves
  const named = embedding ? embedding.tied.filter((path) => nameOf(path) !== undefined) : [];
  const own = embedding && nameOf(embedding.path);
  const other = named.find((path) => own !== undefined && String(indices[nameOf(path)!]) !== String(indices[own]));
  if (other !== undefined && config["ensureWeightTying"])
    refuse(
      `${other} shares the weight of ${embedding?.path}, but \`trainableTokenIndices\` gives them different tokens.`,
      given,
      "Give both the same tokens, or leave `ensureWeightTying` out.",
    );
  const follow = embedding && own !== undefined && other === undefined ? embedding.tied : [];
  const layers: TokenLayer[] = [];
  for (const name of names) {
    const found = [...modules.keys()].filter((path) => path !== "" && path.endsWith(name));
    if (found.length === 0) {
      const near = nearestName(
        name,
        [...modules].flatMap(([path, module]) =>
          kindOf(module)?.kind === "embedding" ? [path, path.slice(path.lastIndexOf(".") + 1)] : [],
        ),
      );
      refuse(
        `no module's path ends in "${name}" of trainableTokenIndices.`,
        name,
        near === undefined ? undefined : `Did you mean "${near}"?`,
      );
    }
    for (const path of found)
      if (!follow.includes(path) && !layers.some((layer) => layer.path === path))
        layers.push({ path, tokenIndices: indices[name] as number[] });
  }
  for (const path of follow) layers.push({ path, tokenIndices: indices[own!] as number[], tied: embedding!.path });
  for (const { path } of layers) {
    const module = modules.get(path) as Module;
    if (!["embedding", "linear"].includes(kindOf(module)?.kind ?? ""))
      refuse(
        `${path} is a ${module.constructor.name}; \`trainableTokenIndices\` trains rows of embeddings and of output layers.`,
        path,
      );
    if (taken.some((outer) => path === outer || path.startsWith(`${outer}.`)))
      refuse(
        `${path} is trained by \`targetModules\` or \`modulesToSave\` already, so \`trainableTokenIndices\` cannot train some of its rows.`,
        path,
        "Take it out of one of the two.",
      );
  }
  return layers;
}
