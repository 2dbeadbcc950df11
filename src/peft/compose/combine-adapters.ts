/** Several adapters become a new one beside them: PEFT's `add_weighted_adapter`. */
import { ConfigError, checkOptions, nearestName, requireKind } from "../../errors.ts";
import { concatenate } from "../../graph/composite.ts";
import { add } from "../../graph/elementwise.ts";
import { svd } from "../../linalg/svd.ts";
import type { Module, Parameter } from "../../nn/module.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";
import { type Adapter, adaptedModel, getAdapter, refuseTwo } from "../adapted-model.ts";
import type { AdapterLayer, LayerAdapter } from "../adapter-layer.ts";
import { install } from "../attach.ts";
import type { AnyConfig } from "../method-config.ts";
import { ia3 } from "../methods/ia3.ts";
import { scalingOf } from "../methods/lora.ts";
import { times } from "../weight-change.ts";
import {
  type Combination,
  type CombinationName,
  type CombinationSettings,
  type CombinationType,
  combinations,
  combinationTypes,
} from "./combination.ts";
import {
  asMatrices,
  biasChangeOf,
  changeOf,
  factorsIn,
  installFactors,
  loraMethod,
  type NewAdapter,
  planFor,
  refuseOtherThanMatrices,
} from "./lora-adapter.ts";
import { clamped, type Factors, svdOfProduct, truncated } from "./low-rank.ts";
import { maskFrom } from "./prune.ts";

const operation = "combineAdapters";

/** What is combined, and how. Names and defaults are PEFT's. */
export interface CombineOptions extends NewAdapter, Partial<CombinationSettings> {
  readonly adapters: readonly string[];
  /** One for each; may be negative. */
  readonly weights: readonly number[];
  /** "svd" when absent. */
  readonly type?: CombinationType;
  /** Rank of the result of "svd" and those that end in "_svd"; the largest one of the adapters when absent. */
  readonly svdRank?: number;
  /** After "svd" and the like, values of A and B are held within this quantile of them. */
  readonly svdClamp?: number;
  /** Of the random masks of DARE: those of `torch.manual_seed`. */
  readonly seed?: number;
}

/**
 * Makes a new adapter, a LoRA, of several. By type:
 *
 * - `"cat"` has the sum of the ranks, and is exactly Σ wᵢ·ΔWᵢ; `"svd"` is what is nearest to that at its rank;
 * - `"linear"`, `"ties"`, `"dare_linear"`, `"dare_ties"`, `"magnitude_prune"` combine A and B on their own, with √|wᵢ·sᵢ| each (the
 *   sign goes to A), so that products of different adapters come in: cheap, and near the sum only where adapters are alike;
 * - `"ties_svd"`, `"dare_linear_svd"`, `"dare_ties_svd"`, `"magnitude_prune_svd"` combine the changes ΔW. These and `"svd"` take
 *   adapters of any method that is a change of the weight.
 *
 * A layer gets what the adapters on it give; adapters of (IA)³ are combined as Σ wᵢ·lᵢ. One adapter alone is scaled by its weight.
 * As in PEFT, but: the layers are those of all the adapters, whatever the first one's config says of layers; √ in the scaling
 * (rsLoRA) and starts from the weights do not go over into the new config, which would be another function with them.
 *
 * @returns the new adapter, not active yet; its scaling is 1
 * @throws {ConfigError} for adapters that cannot be combined in this way; the model is unchanged then
 * @see https://huggingface.co/docs/peft/developer_guides/model_merging
 * @example
 * for (const name of ["poet", "lawyer"]) attach(model, lora({ r: 4 }), { name });
 * combineAdapters(model, { adapters: ["poet", "lawyer"], weights: [0.7, 0.3], type: "ties_svd", density: 0.2, name: "both" })
 */
export function combineAdapters(model: Module, options: CombineOptions): Adapter {
  checkOptions(operation, options, {
    adapters: "a list of strings",
    weights: null,
    type: "a string",
    svdRank: "a whole number from 1",
    svdClamp: "a number",
    seed: "a whole number",
    name: "a string",
    trainable: "true or false",
    density: "a number",
    majoritySignMethod: null,
    mask: "a function",
  });
  const { adapters: names, weights, name, seed = 0 } = options;
  requireKind(operation, "a list", { adapters: names, weights });
  adaptedModel(model, operation);
  const adapters = names.map((each) => getAdapter(model, each, operation));
  if (adapters.length === 0) throw new ConfigError("got no adapters.", { operation, got: names });
  if (weights.length !== names.length || !weights.every(Number.isFinite))
    throw new ConfigError(`\`weights\` must be one number for each of the ${names.length} adapters.`, {
      operation,
      got: weights,
    });
  const wholes = refuseUncombinable(adapters);
  if (adapters.every(({ method }) => method === ia3)) return combineIA3(model, adapters, options);
  const { type: wanted = "svd" } = options;
  const asked = combinationOf(wanted);
  // all types take one adapter as it is
  const type = adapters.length === 1 ? "linear" : wanted;
  const { combination, of } = adapters.length === 1 ? combinationOf("linear") : asked;
  const settings = settingsOf(combination, options, seed);
  const all = new Map([...adapters].flatMap(({ layers }) => [...layers]));
  const ranks = adapters.map((adapter) => rankOf(adapter));
  if (of !== "changes") refuseOthersThanLora(adapters, type);
  const rank = {
    side: ranks.reduce((sum, each) => sum + each, 0),
    factors: Math.max(...ranks),
    changes: options.svdRank ?? Math.max(...ranks),
  }[of];
  if (!Number.isInteger(rank) || rank < 1)
    throw new ConfigError(`\`svdRank\` (= ${rank}) must be a positive integer.`, {
      operation,
      got: rank,
      ...(options.svdRank === undefined ? { hint: "These adapters have no rank of their own." } : {}),
    });
  const plan = planFor(model, { method: loraMethod, config: combinedConfig(adapters, rank) }, [...all.keys()], name);
  const factorsOf = (path: string): Factors => {
    const layer = all.get(path) as AdapterLayer;
    const here = adapters.flatMap(({ name: each }, i) => {
      const own = layer.adapters.get(each);
      return own ? [{ name: each, own, weight: weights[i] as number }] : [];
    });
    const scaled = () => here.map(({ own, weight }) => weight * scaleOf(own));
    const factors = () => here.map(({ own }) => factorsIn(own));
    if (of === "side") return sideBySide(path, factors(), scaled());
    if (of === "factors") return combinedFactors(path, factors(), scaled(), combination, settings);
    const changes = () => here.map((each) => changeOf(operation, layer, each.name));
    const weightsHere = here.map(({ weight }) => weight);
    const nearest =
      type === "svd" && here.every(({ own }) => isLora(own))
        ? svdOfProduct(sideBySide(path, factors().map(asMatrices), scaled()))
        : svd(combination.combine(changes(), weightsHere, settings));
    const cut = truncated(nearest, rank);
    return options.svdClamp === undefined ? cut : clamped(cut, options.svdClamp);
  };
  return installFactors(model, plan, options, factorsOf, (path) => wholes.get(path)?.stored);
}

const isLora = ({ method }: LayerAdapter): boolean => Object.values(loraMethod.layers).includes(method);
const scaleOf = (own: LayerAdapter): number => scalingOf(own) * own.scale.stored;

/** What every adapter has that goes with no combination. @returns values of modules that one of them trains as a whole, by path */
function refuseUncombinable(adapters: readonly Adapter[]): Map<string, Parameter> {
  const refuse = (name: string, why: string, hint: string): never => {
    throw new ConfigError(`the adapter "${name}" ${why}.`, { operation, got: name, hint });
  };
  const wholes = new Map<string, Parameter>();
  const owners = new Map<string, string>();
  for (const adapter of adapters) {
    const { name, method, residual, biases, saved, layers, isPrompt } = adapter;
    refuseOtherThanMatrices(operation, adapter);
    if (isPrompt) refuse(name, "has virtual tokens, which do not add up", "Keep it beside the others.");
    if (residual)
      refuse(name, "starts from a part of the weights", "Save it, load it on the whole weights, and combine it there.");
    if (biases.size > 0) refuse(name, "trains biases of the model in place", "They are in no adapter that could be combined.");
    if (method.whole !== undefined) refuse(name, "trains whole modules, which do not add up", "Keep it beside the others.");
    for (const layer of layers.values()) {
      const { method: of, tied } = layer.adapters.get(name) as LayerAdapter;
      if (tied || !Object.values(method.layers).includes(of))
        refuse(
          name,
          `has more than ${method.peftType} on ${layer.path}`,
          "Tied layers and trained tokens are in no combination.",
        );
      if (biasChangeOf(layer, name)) refuse(name, `changes the bias of ${layer.path}`, "Use it beside the others.");
    }
    for (const [path, { copies }] of saved) {
      if (owners.has(path)) refuseTwo(operation, path, [owners.get(path) as string, name]);
      owners.set(path, name);
      for (const [key, parameter] of copies.get(name) as ReadonlyMap<string, Parameter>) wholes.set(`${path}.${key}`, parameter);
    }
  }
  return wholes;
}

/** What a type combines: A and B side by side, A and B on their own, or changes of the weight. */
function combinationOf(type: CombinationType): {
  readonly combination: Combination;
  readonly of: "side" | "factors" | "changes";
} {
  if (type === "cat") return { combination: combinations.linear, of: "side" };
  if (type === "svd") return { combination: combinations.linear, of: "changes" };
  const name = type.replace(/_svd$/, "") as CombinationName;
  if (Object.hasOwn(combinations, name) && type !== ("linear_svd" as CombinationType))
    return { combination: combinations[name], of: name === type ? "factors" : "changes" };
  const near = nearestName(String(type), combinationTypes);
  throw new ConfigError(`\`type\` (= ${JSON.stringify(type)}) is none of ${combinationTypes.join(", ")}.`, {
    operation,
    got: type,
    expected: combinationTypes,
    ...(near === undefined ? {} : { hint: `Did you mean "${near}"?` }),
  });
}

function settingsOf({ prunes }: Combination, options: CombineOptions, seed: number): CombinationSettings {
  const { density, majoritySignMethod = "total", mask = maskFrom(new TorchGenerator(seed)), svdClamp } = options;
  if (prunes && !(density !== undefined && density > 0 && density <= 1))
    throw new ConfigError(`\`density\` (= ${density}) must be above 0 and at most 1: the share of values that is kept.`, {
      operation,
      got: density,
    });
  if (majoritySignMethod !== "total" && majoritySignMethod !== "frequency")
    throw new ConfigError(
      `\`majoritySignMethod\` (= ${JSON.stringify(majoritySignMethod)}) is neither "total" nor "frequency".`,
      {
        operation,
        got: majoritySignMethod,
      },
    );
  if (svdClamp !== undefined && !(svdClamp >= 0 && svdClamp <= 1))
    throw new ConfigError(`\`svdClamp\` (= ${svdClamp}) must be from 0 to 1: a quantile.`, { operation, got: svdClamp });
  return { density: density ?? 1, majoritySignMethod, mask };
}

/** The largest rank that an adapter has in any layer; 0 for other methods than LoRA. */
function rankOf({ method, name, layers }: Adapter): number {
  if (method.peftType !== loraMethod.peftType) return 0;
  return Math.max(...[...layers.values()].map((layer) => (layer.adapters.get(name) as LayerAdapter).config["r"] as number));
}

function refuseOthersThanLora(adapters: readonly Adapter[], type: CombinationType): void {
  for (const { name, method, layers } of adapters)
    for (const layer of layers.values())
      if (!isLora(layer.adapters.get(name) as LayerAdapter))
        throw new ConfigError(
          `the adapter "${name}" (${method.peftType}) has more or others than the A and B that "${type}" combines.`,
          {
            operation,
            got: name,
            hint: 'Use "svd", or convertToLora first.',
          },
        );
}

/** A is all A with their weights below each other, B all B beside each other: B·A = Σ wᵢ·Bᵢ·Aᵢ. */
function sideBySide(path: string, factors: readonly Factors[], weights: readonly number[]): Factors {
  if (factors.some(({ A, B }) => A.shape[0] !== B.shape[1]))
    throw new ConfigError(`${path} is a convolution in groups, whose factors cannot be concatenated.`, {
      operation,
      got: path,
      hint: 'Use "linear".',
    });
  const weighted = factors.map(({ A }, i) => times(A, weights[i] as number));
  return {
    A: concatenate(weighted, 0),
    B: concatenate(
      factors.map(({ B }) => B),
      1,
    ),
  };
}

/** A and B each combined on its own. */
function combinedFactors(
  path: string,
  factors: readonly Factors[],
  weights: readonly number[],
  { combine }: Combination,
  settings: CombinationSettings,
): Factors {
  const ranks = factors.map(({ A }) => A.shape[0]);
  if (new Set(ranks).size > 1)
    throw new ConfigError(`the adapters have ranks ${ranks.join(" and ")} on ${path}, and A and B of one rank only add up.`, {
      operation,
      got: ranks,
      hint: 'Use "cat" or "svd".',
    });
  const roots = weights.map((weight) => Math.sqrt(Math.abs(weight)));
  const signed = roots.map((root, i) => ((weights[i] as number) < 0 ? -root : root));
  // A before B: the order in which PEFT draws the masks
  const A = combine(
    factors.map((each) => each.A),
    signed,
    settings,
  );
  const B = combine(
    factors.map((each) => each.B),
    roots,
    settings,
  );
  return { A, B };
}

/** The first LoRA adapter's config with what the combination changes. Its scaling is 1. */
function combinedConfig(adapters: readonly Adapter[], rank: number): AnyConfig {
  const first = adapters.find(({ method }) => method === loraMethod);
  const { baseModelNameOrPath, revision, taskType } = (adapters[0] as Adapter).config;
  const config = first?.config ?? { ...loraMethod().config, baseModelNameOrPath, revision, taskType };
  const start = config["initLoraWeights"];
  return {
    ...config,
    ...union(adapters, "targetModules"),
    ...(adapters.some(({ saved }) => saved.size > 0) ? union(adapters, "modulesToSave") : {}),
    r: rank,
    loraAlpha: rank,
    useRslora: false,
    initLoraWeights: typeof start === "boolean" ? start : true,
    rankPattern: {},
    alphaPattern: {},
  };
}

/** What an option names in all adapters together. Patterns and lists do not mix; `planFor` then writes out what they mean. */
function union(adapters: readonly Adapter[], key: string): AnyConfig {
  const given = adapters.map(({ config }) => config[key]).filter((value) => value !== null && value !== undefined);
  if (given.every((value) => Array.isArray(value))) return { [key]: [...new Set(given.flat())] };
  if (given.every((value) => typeof value === "string"))
    return { [key]: [...new Set(given)].length === 1 ? given[0] : given.map((pattern) => `(${pattern})`).join("|") };
  return { [key]: given[0] };
}

/** l = Σ wᵢ·lᵢ in every layer. */
function combineIA3(
  model: Module,
  adapters: readonly Adapter[],
  { name, trainable = false, type, weights }: CombineOptions,
): Adapter {
  if (type !== undefined && type !== "linear")
    throw new ConfigError(`adapters of IA3 are combined as "linear" only.`, { operation, got: type });
  const [first] = adapters as [Adapter];
  const all = new Map(adapters.flatMap(({ layers }) => [...layers]));
  const config = { ...first.config, ...union(adapters, "targetModules"), ...union(adapters, "feedforwardModules") };
  const plan = planFor(model, { method: first.method, config }, [...all.keys()], name);
  return install(
    model,
    plan,
    { name, trainable },
    {
      shared: () => ({}),
      layer({ path, specs }) {
        const parts = adapters.flatMap((adapter, i) => {
          const l = all.get(path)?.adapters.get(adapter.name)?.parameters["l"];
          return l ? [times(l.value, weights[i] as number)] : [];
        });
        for (const part of parts)
          if (part.shape.join() !== specs["l"]?.shape.join())
            throw new ConfigError(`${path} is a feed-forward layer in some of the adapters only.`, { operation, got: path });
        return { values: { l: parts.reduce(add) } };
      },
    },
  );
}
