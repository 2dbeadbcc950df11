/**
 * Layers that share their weight with the input embedding, above all the output layer: `ensureWeightTying` gives them the embedding's
 * adapter, or the embedding's copy of `modulesToSave`, so that what is trained stays one matrix.
 */
import type { Module, Parameter } from "../nn/module.ts";
import { kindOf } from "./layer-kind.ts";
import type { AnyConfig } from "./method-config.ts";
import { fullMatch, literal } from "./python-regex.ts";

/** The layer that token ids go into, and those that share its weight. */
export interface InputEmbedding {
  readonly path: string;
  readonly weight: Parameter;
  /** Paths of the other layers with the same weight. */
  readonly tied: readonly string[];
}

/** The first embedding of a model; `undefined` when it has none. */
export function inputEmbedding(modules: ReadonlyMap<string, Module>): InputEmbedding | undefined {
  const weightOf = (module: Module) => kindOf(module)?.weight(module);
  const [path, module] = [...modules].find(([, each]) => kindOf(each)?.kind === "embedding") ?? [];
  const weight = module && weightOf(module);
  if (path === undefined || !weight) return undefined;
  const tied = [...modules].flatMap(([other, each]) => (other !== path && weightOf(each) === weight ? [other] : []));
  return { path, weight, tied };
}

/** Path of the layer that makes logits of tokens, if the model has one. */
export const outputLayer = (modules: ReadonlyMap<string, Module>): string | undefined =>
  modules.has("lm_head") ? "lm_head" : undefined;

/** What "all-linear" leaves out, by what PEFT calls a model's output embedding. */
export const wordLayer = (modules: ReadonlyMap<string, Module>): string | undefined =>
  wordLayers.find((path) => modules.has(path));

const wordLayers = [
  "lm_head.decoder",
  "lm_head",
  "embed_out",
  "decoder",
  "cls.predictions.decoder",
  "predictions.decoder",
  "vocab_projector",
  "generator_lm_head",
  "lm_predictions.lm_head.dense",
];

/** The names by which PEFT knows input embedding and output layer. */
export const embeddingNames = ["embed_tokens", "lm_head"];

/** What `ensureWeightTying` does to an adapter. */
export interface Tying {
  /** With the embedding in place of the layers that are tied to it, as PEFT saves it. */
  readonly config: AnyConfig;
  /** Paths of layers that have the embedding's adapter. */
  readonly layers: readonly string[];
  /** Paths of modules that have the embedding's copy. */
  readonly saved: readonly string[];
  readonly warnings: readonly string[];
}

/** What is to be tied. @param config of a method that has the option, or it does nothing */
export function tieWeights(config: AnyConfig, modules: ReadonlyMap<string, Module>): Tying {
  const untouched: Tying = { config, layers: [], saved: [], warnings: [] };
  const embedding = inputEmbedding(modules);
  const warn = (warning: string): Tying => ({ ...untouched, warnings: [`attach: ${warning}`] });
  const { ensureWeightTying, trainableTokenIndices, targetModules } = config;
  const saves = (config["modulesToSave"] ?? []) as readonly string[];
  const isName = (item: string) => embeddingNames.includes(item.slice(item.lastIndexOf(".") + 1));
  const targets =
    typeof targetModules === "string"
      ? embeddingNames.some(fullMatch(targetModules, "attach", "targetModules"))
      : ((targetModules ?? []) as readonly string[]).some(isName);
  const isSaved = saves.some(isName);
  if (!embedding || embedding.tied.length === 0)
    return ensureWeightTying
      ? warn("`ensureWeightTying` ties nothing: no layer shares the weight of the input embedding.")
      : untouched;
  const { path, tied } = embedding;
  if (!ensureWeightTying)
    return isSaved || targets
      ? warn(
          `${[path, ...tied].join(" and ")} share their weight, but not what is trained of it; \`ensureWeightTying\` would tie that, too.`,
        )
      : untouched;
  if (isSaved) return { ...untouched, config: { ...config, modulesToSave: listed(saves, path, tied) }, saved: tied };
  if (targets) {
    const changed =
      typeof targetModules === "string"
        ? `(?:${targetModules}|^${literal(path)}$)`
        : listed(targetModules as readonly string[], path, tied);
    return { ...untouched, config: { ...config, targetModules: changed }, layers: tied };
  }
  return trainableTokenIndices === null
    ? warn(
        "`ensureWeightTying` ties nothing: neither `targetModules` nor `modulesToSave` names the embedding or the output layer.",
      )
    : untouched;
}

/** With the embedding's path, and without the first item that means each of the layers tied to it. */
function listed(items: readonly string[], embedding: string, tied: readonly string[]): string[] {
  const list = [...new Set([...items, embedding])];
  for (const path of tied) {
    const at = list.findIndex((item) => `.${path}.`.includes(`.${item}.`));
    if (at >= 0) list.splice(at, 1);
  }
  return list;
}
