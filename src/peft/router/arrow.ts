/**
 * Arrow: a mixture of LoRA experts that nobody has trained. In each layer an expert is known by its arrow pₑ, the direction of what goes in
 * that Bₑ·Aₑ stretches most, its first right singular vector. A token x gives the k experts with the largest |x·pₑ| the shares
 * softmax(|x·pₑ| / τ), and y = W·x + Σₑ cₑ·sₑ·Bₑ·Aₑ·x. With one expert it is that LoRA.
 *
 * With adapters for what is general (GenKnowSub) their mean is taken out of every expert first, A and B each on their own, as in PEFT.
 * The arrows are found by fifteen steps of power iteration from a drawn vector, as PEFT finds them: where two directions are stretched
 * nearly alike, which one they are near depends on the seed.
 *
 * @see https://arxiv.org/abs/2405.11157, https://arxiv.org/abs/2505.10939
 */
import { currentDevice, upload } from "../../compile/program.ts";
import { ConfigError } from "../../errors.ts";
import type { ModelSource } from "../../formats/model-source.ts";
import { matmul } from "../../graph/contraction.ts";
import { cast, equal, where } from "../../graph/elementwise.ts";
import { reshape, sliceAxis, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { reduceMax } from "../../graph/reduction.ts";
import { constant, iota } from "../../graph/source.ts";
import type { Module } from "../../nn/module.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";
import { abs } from "../../tensor/math.ts";
import { topk } from "../../tensor/pick.ts";
import { softmax } from "../../tensor/statistics.ts";
import type { Adapter } from "../adapted-model.ts";
import type { Start } from "../method.ts";
import { times } from "../weight-change.ts";
import { installExperts, type ReadExpert, readExperts, refuseAdapted } from "./expert.ts";

/** How tokens choose. PEFT's `arrow_config` in camelCase, with its defaults. */
export interface ArrowOptions {
  /** k: experts of a token in each layer. */
  readonly topK?: number;
  /** τ: the smaller, the more the best expert gets. */
  readonly routerTemperature?: number;
  /** Adapters whose mean is taken out of the experts: PEFT's `use_gks`. */
  readonly general?: readonly ModelSource[];
  /** Of the vectors with which the power iteration begins: PEFT's `rng_seed`. */
  readonly seed?: number;
}

const operation = "loadArrow";
const steps = 15;

/**
 * Puts LoRA adapters from folders on a model that has none, called `task_0`, `task_1` …, and lets every token choose among them. They are
 * frozen; `setActive` ends the mixture, `detach` takes all of it off: `await loadArrow(model, ["adapters/sums", "adapters/poems"], { topK: 1 })`.
 *
 * @param experts where they lie; all of one rank, on the same linear layers
 * @returns the adapters
 * @throws {ConfigError} when they do not fit together, or an option is out of range; the model is unchanged then
 */
export async function loadArrow(
  model: Module,
  experts: readonly ModelSource[],
  { topK = 3, routerTemperature: temperature = 1, general = [], seed = 0 }: ArrowOptions = {},
): Promise<readonly Adapter[]> {
  refuseAdapted(model, operation);
  if (!(Number.isInteger(topK) && topK >= 1 && topK <= experts.length))
    throw new ConfigError(`\`topK\` (= ${topK}) must be a whole number from 1 to the number of experts, ${experts.length}.`, {
      operation,
      got: topK,
    });
  if (!(temperature > 0))
    throw new ConfigError(`\`routerTemperature\` (= ${temperature}) must be above 0.`, { operation, got: temperature });
  const named = (prefix: string, sources: readonly ModelSource[]) =>
    sources.map((source, i) => ({ source, name: `${prefix}_${i}` }));
  const tasks = await readExperts(model, named("task", experts), operation);
  const gks = await readExperts(model, named("gks", general), operation);
  refuseDifferent([...tasks, ...gks]);
  const values = valuesOf(tasks);
  subtractMean(values, valuesOf(gks));
  const device = currentDevice();
  const arrows = new Map(
    [...values].map(([path, own]) => {
      const rows = own.map((factors) => arrow(factors, seed));
      const width = rows[0]?.length as number;
      return [path, upload(device, Float32Array.from(rows.flatMap((row) => [...row])), [rows.length, width], "float32")] as const;
    }),
  );
  const names = tasks.map(({ name }) => name);
  const own = tasks.map((expert, e) => ({
    ...expert,
    starts: {
      ...expert.starts,
      layer: ({ path }: { readonly path: string }) => ({ values: factorsOf(values.get(path)?.[e] as Factors) }),
    },
  }));
  const chosen = new WeakMap<Tensor, Map<string, Tensor>>();
  return installExperts(model, own, false, () => ({
    word: "Arrow",
    names,
    rests: false,
    weight(path, name, x) {
      const known = chosen.get(x) ?? new Map<string, Tensor>();
      chosen.set(x, known);
      const all = known.get(path) ?? shares(x, arrows.get(path) as Tensor, topK, temperature);
      known.set(path, all);
      const e = names.indexOf(name);
      return sliceAxis(all, all.rank - 1, e, e + 1);
    },
  }));
}

/** Shares of all experts, [..., E], for tokens x [..., in] and arrows [E, in]. */
function shares(x: Tensor, arrows: Tensor, k: number, temperature: number): Tensor {
  const [E, width] = arrows.shape as [number, number];
  const fits = abs(matmul(reshape(x, [x.size / width, width]), transpose(cast(arrows, x.dtype))));
  const { indices } = topk(fits, k, -1);
  const places = equal(reshape(indices, [fits.shape[0] as number, k, 1]), reshape(iota([E]), [1, 1, E]));
  const isChosen = equal(reshape(reduceMax(cast(places, "int32"), [1]), fits.shape), constant(1, [], "int32"));
  const scores = where(isChosen, times(fits, 1 / temperature), constant(Number.NEGATIVE_INFINITY, [], fits.dtype));
  return reshape(softmax(scores, -1), [...x.shape.slice(0, -1), E]);
}

/** A [r, in] and B [out, r] of one expert in one layer. */
interface Factors {
  readonly r: number;
  readonly A: Float32Array;
  readonly B: Float32Array;
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

/** By path, those of every expert. */
function valuesOf(experts: readonly ReadExpert[]): Map<string, Factors[]> {
  const found = new Map<string, Factors[]>();
  for (const { plan, starts } of experts)
    for (const layer of plan.layers) {
      const { A, B } = starts.layer(layer, {}).values as Record<"A" | "B", Float32Array>;
      const own = { r: layer.config["r"] as number, A: A.slice(), B: B.slice() };
      found.set(layer.path, [...(found.get(layer.path) ?? []), own]);
    }
  return found;
}

/** What is general goes out of every expert. */
function subtractMean(values: ReadonlyMap<string, Factors[]>, general: ReadonlyMap<string, Factors[]>): void {
  for (const [path, gks] of general)
    for (const key of ["A", "B"] as const)
      for (const own of values.get(path) ?? [])
        for (let i = 0; i < own[key].length; i++)
          own[key][i] = (own[key][i] as number) - gks.reduce((sum, each) => sum + (each[key][i] as number), 0) / gks.length;
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
