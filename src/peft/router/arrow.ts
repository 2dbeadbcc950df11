/**
 * Arrow: a mixture of LoRA experts that nobody has trained. In each layer an expert is known by its arrow pₑ, the direction of what goes in
 * that Bₑ·Aₑ stretches most, its first right singular vector. A token x gives the k experts with the largest |x·pₑ| the shares
 * softmax(|x·pₑ| / τ), and y = W·x + Σₑ cₑ·sₑ·Bₑ·Aₑ·x. With one expert it is that LoRA.
 *
 * With adapters for what is general (GenKnowSub) their mean is taken out of every expert first, A and B each on their own, as in PEFT.
 * The arrows are found by fifteen steps of power iteration from a drawn vector, as PEFT finds them: where two directions are stretched
 * nearly alike, which one they are near depends on the seed. How it is saved is arrow-file.ts's.
 *
 * @see https://arxiv.org/abs/2405.11157, https://arxiv.org/abs/2505.10939
 */
import { currentDevice, upload } from "../../compile/program.ts";
import { ConfigError, checkOptions } from "../../errors.ts";
import type { ModelSource } from "../../formats/model-source.ts";
import type { Module } from "../../nn/module.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";
import type { Adapter } from "../adapted-model.ts";
import type { Start } from "../method.ts";
import { type ArrowSources, arrowSources } from "./arrow-file.ts";
import { type ArrowConfig, type ArrowExpert, ArrowMixture, type Factors } from "./arrow-mixture.ts";
import { type ExpertSource, installExperts, type ReadExpert, readExperts, refuseAdapted } from "./expert.ts";

/** How tokens choose. PEFT's `arrow_config` in camelCase, with its defaults. */
export interface ArrowOptions {
  /** k: experts of a token in each layer. */
  readonly topK?: number;
  /** τ: the smaller, the more the best expert gets. */
  readonly routerTemperature?: number;
  /** Adapters whose mean is taken out of the experts: PEFT's `general_adapter_paths`. */
  readonly general?: readonly ModelSource[];
  /** Whether it is taken out (PEFT's `use_gks`): true when absent and there are such adapters. */
  readonly useGks?: boolean;
  /** Of the vectors with which the power iteration begins: PEFT's `rng_seed`. */
  readonly seed?: number;
}

const operation = "loadArrow";
const steps = 15;

/**
 * Puts LoRA adapters from folders on a model that has none, called `task_0`, `task_1` …, and lets every token choose among them. They are
 * frozen; `setActive` ends the mixture, `detach` takes all of it off: `await loadArrow(model, ["adapters/sums", "adapters/poems"], { topK: 1 })`.
 *
 * A folder that `saveArrow` or PEFT wrote says everything itself, and options go before what it says: `await loadArrow(model, "mixture")`. PEFT
 * takes what is general out of its experts in their first pass and writes them as they are then, without saying so: give
 * `useGks: false` for a folder that was saved later.
 *
 * @param experts where they lie, all of one rank, on the same linear layers; or the folder of a mixture
 * @returns the adapters
 * @throws {ConfigError} when they do not fit together, or an option is out of range; the model is unchanged then
 */
export async function loadArrow(
  model: Module,
  experts: ModelSource | readonly ModelSource[],
  options: ArrowOptions = {},
): Promise<readonly Adapter[]> {
  checkOptions(operation, options, {
    topK: "a whole number from 1",
    routerTemperature: "a number",
    general: "a list",
    useGks: "true or false",
    seed: "a whole number",
  });
  refuseAdapted(model, operation);
  const found = Array.isArray(experts)
    ? { tasks: named("task", experts), general: named("gks", options.general ?? []), options: {} as Partial<ArrowConfig> }
    : await arrowSources(experts as ModelSource, options.general && named("gks", options.general));
  const given = { ...found.options, ...Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) };
  const { topK = 3, routerTemperature = 1, seed = 0 } = given as ArrowOptions;
  const useGks = options.useGks ?? (options.general ? options.general.length > 0 : (found.options.useGks ?? false));
  check({ topK, routerTemperature, useGks }, found);
  const tasks = await readExperts(model, found.tasks, operation);
  const gks = await readExperts(model, found.general, operation);
  refuseDifferent([...tasks, ...gks]);
  const [read, general] = [tasks.map(asRead), gks.map(asRead)];
  const values = useGks ? withoutMean(read, general) : read;
  const device = currentDevice();
  const arrows = new Map(
    [...(read[0] as ArrowExpert).layers.keys()].map((path) => {
      const rows = values.map(({ layers }) => arrow(layers.get(path) as Factors, seed));
      const width = rows[0]?.length as number;
      return [path, upload(device, Float32Array.from(rows.flatMap((row) => [...row])), [rows.length, width], "float32")] as const;
    }),
  );
  const own = tasks.map((expert, e) => ({
    ...expert,
    starts: {
      ...expert.starts,
      layer: ({ path }: { readonly path: string }) => ({ values: factorsOf(values[e]?.layers.get(path) as Factors) }),
    },
  }));
  const mixture = new ArrowMixture({ topK, routerTemperature, useGks, seed }, read, general, arrows);
  return installExperts(model, own, false, () => mixture);
}

const named = (prefix: string, sources: readonly ModelSource[]): ExpertSource[] =>
  sources.map((source, i) => ({ source, name: `${prefix}_${i}` }));

/** @throws {ConfigError} when an option is out of range */
function check(
  { topK, routerTemperature, useGks }: Omit<ArrowConfig, "seed">,
  { tasks, general }: Omit<ArrowSources, "options">,
): void {
  if (!(Number.isInteger(topK) && topK >= 1 && topK <= tasks.length))
    throw new ConfigError(`\`topK\` (= ${topK}) must be a whole number from 1 to the number of experts, ${tasks.length}.`, {
      operation,
      got: topK,
    });
  if (!(routerTemperature > 0))
    throw new ConfigError(`\`routerTemperature\` (= ${routerTemperature}) must be above 0.`, {
      operation,
      got: routerTemperature,
    });
  if (useGks && general.length === 0)
    throw new ConfigError("`useGks` takes out what is general, but there are no adapters for that.", {
      operation,
      got: useGks,
      hint: "Give `general` their folders.",
    });
}

const factorsOf = ({ A, B }: Factors): Start["values"] => ({ A, B });

/** @throws {ConfigError} when they are not all of one rank and on the same linear layers */
function refuseDifferent(experts: readonly ReadExpert[]): void {
  const [first] = experts;
  const about = ({ plan }: ReadExpert) => plan.layers.map(({ path, config }) => `${path} (rank ${config["r"]})`).sort();
  for (const expert of experts) {
    const table = expert.plan.layers.find(({ facts }) => facts.kind !== "linear");
    if (table)
      throw new ConfigError(`"${expert.name}" is on ${table.path}, an embedding, whose input has no direction.`, {
        operation,
        got: table.path,
      });
    const [own, others] = [about(expert), about(first as ReadExpert)];
    if (own.join() === others.join()) continue;
    const odd = own.find((each) => !others.includes(each)) ?? others.find((each) => !own.includes(each));
    throw new ConfigError(`"${expert.name}" and "${first?.name}" are not of one rank on the same layers: only one has ${odd}.`, {
      operation,
      got: odd,
    });
  }
}

/** Of length 1. */
function unit(v: Float64Array): Float64Array {
  const length = Math.sqrt(v.reduce((sum, value) => sum + value * value, 0)) + 1e-8;
  return v.map((value) => value / length);
}

/** What is in an adapter's file. */
function asRead({ name, plan, starts }: ReadExpert): ArrowExpert {
  const layers = plan.layers.map((layer) => {
    const { A, B } = starts.layer(layer, {}).values as Record<"A" | "B", Float32Array>;
    return [layer.path, { r: layer.config["r"] as number, A, B }] as const;
  });
  return { name, config: plan.config, layers: new Map(layers) };
}

/** The experts without the mean of what is general. */
function withoutMean(experts: readonly ArrowExpert[], general: readonly ArrowExpert[]): ArrowExpert[] {
  return experts.map((expert) => ({
    ...expert,
    layers: new Map(
      [...expert.layers].map(([path, own]) => {
        const others = general.map(({ layers }) => layers.get(path) as Factors);
        const less = (key: "A" | "B") =>
          own[key].map((value, i) => value - others.reduce((sum, each) => sum + (each[key][i] as number), 0) / others.length);
        return [path, { r: own.r, A: less("A"), B: less("B") }] as const;
      }),
    ),
  }));
}

/** The first right singular vector of B·A, up to its sign: v ← Aᵀ·(BᵀB)·A·v, made one long each time. */
export function arrow({ r, A, B }: Factors, seed: number): Float32Array {
  const [into, out] = [A.length / r, B.length / r];
  const gram = new Float64Array(r * r);
  for (let o = 0; o < out; o++)
    for (let i = 0; i < r; i++)
      for (let j = 0; j < r; j++) gram[i * r + j]! += (B[o * r + i] as number) * (B[o * r + j] as number);
  let v = unit(Float64Array.from(new TorchGenerator(seed).randn(into)));
  for (let step = 0; step < steps; step++) {
    const inner = new Float64Array(r);
    for (let i = 0; i < r; i++) for (let n = 0; n < into; n++) inner[i]! += (A[i * into + n] as number) * (v[n] as number);
    const w = new Float64Array(into);
    for (let i = 0; i < r; i++) {
      let weight = 0;
      for (let j = 0; j < r; j++) weight += (gram[i * r + j] as number) * (inner[j] as number);
      for (let n = 0; n < into; n++) w[n]! += weight * (A[i * into + n] as number);
    }
    v = unit(w);
  }
  return Float32Array.from(v);
}
