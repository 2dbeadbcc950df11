/**
 * Choosing the modules to adapt, as PEFT does: by list, by pattern, all linear layers, or by the default of the model's type.
 * @see https://huggingface.co/docs/peft/developer_guides/custom_models
 */
import { ConfigError, nearestName } from "../errors.ts";
import type { Module } from "../nn/module.ts";
import { checkLayers } from "./contradiction.ts";
import { defaultTargets } from "./default-target.ts";
import { kindOf, type LayerKind } from "./layer-kind.ts";
import type { AnyMethod } from "./method.ts";
import { fullMatch, translate } from "./python-regex.ts";

/** PEFT's options for choosing modules. */
export interface TargetOptions {
  readonly targetModules: string | readonly string[] | null;
  readonly excludeModules: string | readonly string[] | null;
  readonly layersToTransform: number | readonly number[] | null;
  readonly layersPattern: string | readonly string[] | null;
  readonly taskType: string | null;
}

/** Some methods have not all of the options. */
const absent = { targetModules: null, excludeModules: null, layersToTransform: null, layersPattern: null, taskType: null };

/** What choosing needs to know of a model. */
export interface TargetModel {
  /** Every module with its path in the unmodified model. */
  readonly modules: ReadonlyMap<string, Module>;
  readonly modelType: string | undefined;
  /** Path of the layer that makes logits, if there is one. */
  readonly outputPath: string | undefined;
  /** Modules that are trained as they are, which are no targets, nor is anything in them. */
  readonly saved?: ReadonlyMap<string, Module>;
  /** Whether something else is adapted in any case, so that no module need be. */
  readonly others?: boolean;
}

/** The modules that were chosen. */
export interface Targets {
  readonly paths: readonly string[];
  /** What `target_modules` is in the saved config: defaults and "all-linear" written out. */
  readonly targetModules: string | readonly string[];
  readonly warnings: readonly string[];
}

type Test = (path: string) => boolean;
const operation = "attach";
const refuse = (problem: string, got: unknown, hint?: string): never => {
  throw new ConfigError(problem, { operation, got, ...(hint === undefined ? {} : { hint }) });
};

/**
 * @param kinds  kinds of layer that the method can change
 * @param table  default targets by model type
 * @param anyModule whether the method can change whatever there is
 * @throws {ConfigError} when nothing matches, or something matches that the method cannot change
 */
export function chooseTargets(
  model: TargetModel,
  given: Partial<TargetOptions>,
  kinds: readonly LayerKind[],
  table: NonNullable<AnyMethod["targets"]> = defaultTargets,
  anyModule = false,
): Targets {
  const options: TargetOptions = { ...absent, ...given };
  checkLayers(operation, { ...options });
  const targets = expand(model, options, table);
  const saved = [...(model.saved?.keys() ?? [])];
  const listed = options.excludeModules === null ? () => false : matching(options.excludeModules, "excludeModules");
  const excluded: Test = (path) => listed(path) || saved.some((whole) => path === whole || path.startsWith(`${whole}.`));
  const inLayers = layerFilter(options);
  const wanted: Test =
    typeof targets === "string"
      ? fullMatch(targets, operation, "targetModules")
      : (path) => targets.includes(path) || (isBelow(targets, path) && inLayers(path));
  const all = [...model.modules.keys()].filter((path) => path !== "");
  const paths = all.filter((path) => !excluded(path) && wanted(path));
  if (paths.length === 0 && !model.others) {
    if (all.length === 0)
      refuse(
        "the model is a single layer, which has no name to be chosen by.",
        targets,
        "Make it a property of a Module, and attach to that.",
      );
    const shown = `targetModules ${JSON.stringify(options.targetModules ?? targets)}`;
    const before = all.filter((path) => (typeof targets === "string" ? wanted(path) : isSuffix(targets, path)));
    if (before.length > 0)
      refuse(
        `every module that matches ${shown} is taken out by \`excludeModules\`, \`modulesToSave\` or \`layersToTransform\`.`,
        options.targetModules,
      );
    refuse(
      `no module matches ${shown}; this model has: ${adaptable(model, kinds).join(", ")}.`,
      options.targetModules,
      near(targets, model, kinds),
    );
  }
  for (const path of paths) {
    const module = model.modules.get(path) as Module;
    const kind = kindOf(module)?.kind;
    if (!anyModule && (kind === undefined || !kinds.includes(kind)))
      refuse(
        `${path} is a ${module.constructor.name}, which this method cannot adapt; it adapts: ${kinds.join(", ")}.`,
        path,
        "Take it out with `excludeModules`.",
      );
  }
  const warnings =
    typeof targets === "string"
      ? []
      : targets
          .filter((item) => !all.some((path) => isSuffix([item], path)))
          .map((item) => `${operation}: no module matches "${item}" of targetModules.`);
  return { paths, targetModules: typeof targets === "string" ? targets : shortened(targets, all), warnings };
}

const isBelow = (items: readonly string[], path: string): boolean => items.some((item) => path.endsWith(`.${item}`));
const isSuffix = (items: readonly string[], path: string): boolean => items.includes(path) || isBelow(items, path);
const matching = (items: string | readonly string[], option: string): Test =>
  typeof items === "string" ? fullMatch(items, operation, option) : (path) => isSuffix(items, path);

/** `null` and "all-linear" written out. */
function expand(
  model: TargetModel,
  { targetModules, taskType }: TargetOptions,
  table: NonNullable<AnyMethod["targets"]>,
): string | readonly string[] {
  if (targetModules === null) {
    if (typeof table === "function") return table(model.modules);
    const found = model.modelType === undefined || !Object.hasOwn(table, model.modelType) ? undefined : table[model.modelType];
    if (found === undefined && model.others) return [];
    return (
      found ??
      refuse(
        `\`targetModules\` must be given: there is no default for model type ${JSON.stringify(model.modelType ?? null)}.`,
        null,
      )
    );
  }
  if (typeof targetModules !== "string" || targetModules.toLowerCase() !== "all-linear") return targetModules;
  return allLinear(model, taskType);
}

/** Paths of what "all-linear" means. */
export function allLinear({ modules, outputPath }: TargetModel, taskType: string | null): string[] {
  const head = taskType === "SEQ_CLS" ? ["score", "classifier"].find((path) => modules.has(path)) : undefined;
  const output = outputPath ?? head;
  return [...modules].flatMap(([path, module]) => (kindOf(module)?.allLinear && path !== output ? [path] : []));
}

function layerFilter({ layersToTransform, layersPattern }: TargetOptions): Test {
  const layers = typeof layersToTransform === "number" ? [layersToTransform] : (layersToTransform ?? []);
  if (layers.length === 0) return () => true;
  const names = typeof layersPattern === "string" ? [layersPattern] : (layersPattern ?? []);
  // the first "dot name dot number dot", unless the name of the list of layers is given
  const patterns = names
    .filter((name) => name !== "")
    .map((name) => {
      const { source, flags } = translate(name, operation, "layersPattern");
      return new RegExp(`^(?:|.*?\\.)${source}\\.(\\d+)\\.`, flags);
    });
  if (patterns.length === 0) patterns.push(/^.*?\.[^.]*\.(\d+)\./);
  return (path) => {
    const index = patterns
      .map((pattern) => pattern.exec(path))
      .find((match) => match !== null)
      ?.at(-1);
    return index !== undefined && layers.includes(Number(index));
  };
}

/** Names of the layers that could be adapted, without the numbers of their blocks: `self_attn.q_proj`. */
function adaptable(model: TargetModel, kinds: readonly LayerKind[]): string[] {
  const names = [...model.modules].flatMap(([path, module]) => {
    const kind = kindOf(module)?.kind;
    return kind !== undefined && kinds.includes(kind) ? [path.replace(/^.*\.\d+\./, "")] : [];
  });
  return [...new Set(names)];
}

function near(targets: string | readonly string[], model: TargetModel, kinds: readonly LayerKind[]): string | undefined {
  const names = adaptable(model, kinds).flatMap((name) => [name, name.slice(name.lastIndexOf(".") + 1)]);
  const items = typeof targets === "string" ? [targets] : targets;
  const found = [...new Set(items.flatMap((item) => nearestName(item, names) ?? []))];
  return found.length === 0 ? undefined : `Did you mean ${found.map((name) => JSON.stringify(name)).join(", ")}?`;
}

/** From this many names on, PEFT saves the shortest endings that mean the same modules. */
const longList = 20;

function shortened(targets: readonly string[], all: readonly string[]): readonly string[] {
  if (targets.length < longList) return targets;
  const endings = (path: string) => path.split(".").map((_, i, parts) => parts.slice(parts.length - 1 - i).join("."));
  const others = new Set(all.filter((path) => !isSuffix(targets, path)).flatMap(endings));
  const chosen: string[] = [];
  const order = targets.map((path) => ({ path, key: endings(path) })).sort((a, b) => compareLists(a.key, b.key));
  for (const { path, key } of order)
    for (const ending of key) {
      if (chosen.includes(ending) || others.has(ending)) continue;
      if (!isBelow(chosen, path)) chosen.push(ending);
      break;
    }
  return chosen.length < targets.length ? chosen : targets;
}

function compareLists(a: readonly string[], b: readonly string[]): number {
  const i = a.findIndex((item, at) => item !== b[at]);
  if (i < 0) return a.length - b.length;
  return b[i] === undefined || (a[i] as string) > (b[i] as string) ? 1 : -1;
}

/** The value of the first pattern that names this path, in the order of the map; `undefined` when none does. */
export function patternValue(
  patterns: Readonly<Record<string, unknown>>,
  path: string,
  option: string,
): { readonly pattern: string; readonly value: unknown } | undefined {
  for (const [pattern, value] of Object.entries(patterns)) {
    const { source, flags } = translate(pattern, operation, option);
    if (new RegExp(`^(?:.*\\.)?(?:${source})$`, flags).test(path)) return { pattern, value };
  }
  return undefined;
}
