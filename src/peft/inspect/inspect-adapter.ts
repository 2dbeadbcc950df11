/** What an adapter has learned, and how much of its rank it uses. */
import { checkOptions } from "../../errors.ts";
import { defaultAdapterName } from "../../formats/peft-adapter.ts";
import { add, cast } from "../../graph/elementwise.ts";
import { type Matrix, matrix, readMatrices, transposed } from "../../linalg/matrix.ts";
import { product } from "../../linalg/product.ts";
import { type MatrixSvd, svdMatrix } from "../../linalg/svd.ts";
import type { Module } from "../../nn/module.ts";
import { getAdapter } from "../adapted-model.ts";
import { rankOfEnergy, svdOfChange } from "../compose/low-rank.ts";
import { frobenius } from "../merge-report.ts";
import { type Part, partsOf } from "./part.ts";

/** Which adapter, and what is told of it. */
export interface InspectOptions {
  /** The one called "default" when absent. */
  readonly adapter?: string;
  /** Share of Σσ² that `energyRank` keeps, above 0 up to 1; 0.99 when absent. */
  readonly energy?: number;
  /** Whether intruder dimensions are counted: two decompositions of each whole weight, half a minute for 2048×2048. False when absent. */
  readonly intruders?: boolean;
  /** How many singular vectors of W + ΔW are looked at, from the largest value on, as in PEFT; 10 when absent. */
  readonly topK?: number;
  /** Such a vector is an intruder when its cosine with each of W's is below this, as in PEFT; 0.5 when absent. */
  readonly thresholdEpsilon?: number;
}

/** The singular values σ of ΔW, and what they say. All are 0 where ΔW is. */
export interface ChangeSpectrum {
  /** Descending; of experts those of all of them. */
  readonly singularValues: readonly number[];
  /** σ₁ */
  readonly spectralNorm: number;
  /** Σσ² / σ₁² */
  readonly stableRank: number;
  /** exp(−Σ p·log p) with p = σ / Σσ */
  readonly effectiveRank: number;
  /** The least rank that keeps the wanted share of Σσ². */
  readonly energyRank: number;
  /** ‖ΔW − what that rank keeps of it‖ / ‖ΔW‖ */
  readonly energyError: number;
}

/** What an adapter does to a layer, or something else that it has. */
export interface InspectedModule {
  /** Of the layer; of tables and shared parameters their names, of modules that are trained as a whole those of their parameters. */
  readonly path: string;
  /** PEFT's name of the method; "WHOLE" for a parameter of the model that the adapter has a copy of. */
  readonly method: string;
  readonly rank: number | null;
  /** s of s·B·A, of LoRA, with the factor of `setScale` in it. */
  readonly scale: number | null;
  /** How many values it has of its own. */
  readonly parameters: number;
  /** The Frobenius norm of those. */
  readonly parameterNorm: number;
  /** ‖ΔW‖, the Frobenius norm; `null` where nothing is added to a weight, as for virtual tokens. */
  readonly norm: number | null;
  /** ‖ΔW‖ / ‖W‖; `null` without a W. */
  readonly relativeNorm: number | null;
  /** `null` without a ΔW, and for what is trained as a whole. */
  readonly spectrum: ChangeSpectrum | null;
  /** How many of the `topK` leading left singular vectors of W + ΔW are like none of W; `null` when nobody has asked. */
  readonly intruders: number | null;
}

/** What `inspectAdapter` has found. */
export interface AdapterInspection {
  readonly name: string;
  /** PEFT's name of the method. */
  readonly method: string;
  readonly parameters: number;
  /** In the model's order. */
  readonly modules: readonly InspectedModule[];
}

/** What `inspectAdapter` looks for, without the name. */
export type Measure = Required<Omit<InspectOptions, "adapter">>;
/** When nothing else is said. */
export const measures: Measure = { energy: 0.99, intruders: false, topK: 10, thresholdEpsilon: 0.5 };

/**
 * Tells how much an adapter changes each layer and how much of its rank that takes: norms and singular values of ΔW, ranks by several
 * measures, and intruder dimensions, which go along with forgetting. Where ΔW is a product of small matrices, as in LoRA, it is never
 * multiplied out. After a start from the weights (PiSSA and its kin) ΔW is the change of the weights from before the start. In `[out, in]`
 * (an embedding: `[rows, columns]`) the left singular vectors are those of what comes out; PEFT looks at the other side of GPT-2's layers.
 *
 * To cut an adapter to the ranks that are found, `convertToLora` takes the same `energy`.
 *
 * @throws {ConfigError} when there is no such adapter, or while adapters are merged
 * @see https://arxiv.org/abs/2410.21228 Shuttleworth et al. 2024, LoRA vs Full Fine-tuning: An Illusion of Equivalence (intruders)
 * @see Roy and Vetterli 2007, The effective rank: a measure of effective dimensionality; Rudelson and Vershynin 2007 (stable rank)
 * @example
 * attach(model, lora({ r: 4, targetModules: ["q_proj"] }));
 * inspectAdapter(model).modules.map(({ path, spectrum }) => [path, spectrum?.energyRank])
 */
export function inspectAdapter(model: Module, options: InspectOptions = {}): AdapterInspection {
  const operation = "inspectAdapter";
  const { adapter: name = defaultAdapterName, ...given } = checkOptions(operation, options, {
    adapter: "a string",
    energy: "a number above 0 up to 1",
    intruders: "true or false",
    topK: "a whole number from 1",
    thresholdEpsilon: "a number from 0",
  });
  const { method } = getAdapter(model, name, operation);
  const measure = { ...measures, ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) };
  const modules = [...partsOf(operation, model, name)].map((part) => inspected(operation, part, measure));
  return { name, method: method.peftType, parameters: sum(modules.map((each) => each.parameters)), modules };
}

const sum = (values: ArrayLike<number>): number => Array.from(values).reduce((total, value) => total + value, 0);

/** The numbers of one part. */
export function inspected(
  operation: string,
  part: Part,
  { energy, intruders, topK, thresholdEpsilon }: Measure,
): InspectedModule {
  const { path, method, rank, scale, parameters, change, weight } = part;
  const isMatrix = change !== null && change.rank >= 2 && method !== "WHOLE";
  const spectrum = isMatrix ? spectrumOf(svdOfChange(operation, change), energy) : null;
  const norm = spectrum ? Math.hypot(...spectrum.singularValues) : change && frobenius(change);
  const size = weight && norm !== null ? frobenius(weight) : 0;
  const looksAtW = intruders && isMatrix && weight;
  return {
    ...{ path, method, rank, scale, norm, spectrum },
    parameters: sum(parameters.map((each) => each.size)),
    parameterNorm: Math.hypot(...parameters.map(frobenius)),
    relativeNorm: norm === null || size === 0 ? null : norm / size,
    intruders: looksAtW
      ? countIntruders(
          readMatrices(operation, cast(weight, change.dtype)),
          readMatrices(operation, add(cast(weight, change.dtype), change)),
          topK,
          thresholdEpsilon,
        )
      : null,
  };
}

function spectrumOf(matrices: readonly MatrixSvd[], energy: number): ChangeSpectrum {
  const values = matrices.flatMap(({ S }) => [...S]).sort((a, b) => b - a);
  const [spectralNorm = 0] = values;
  if (spectralNorm === 0)
    return { singularValues: values, spectralNorm, stableRank: 0, effectiveRank: 0, energyRank: 0, energyError: 0 };
  // in parts of the largest, so that squares neither overflow nor vanish
  const parts = values.map((value) => value / spectralNorm);
  const [first, squares] = [sum(parts), sum(parts.map((value) => value ** 2))];
  const energyRank = rankOfEnergy(parts, energy);
  return {
    singularValues: values,
    spectralNorm,
    stableRank: squares,
    effectiveRank: Math.exp(-sum(parts.map((value) => (value === 0 ? 0 : (value / first) * Math.log(value / first))))),
    energyRank,
    energyError: Math.sqrt(sum(parts.slice(energyRank).map((value) => value ** 2)) / squares),
  };
}

/** As PEFT's `reduce_intruder_dimension` finds them, in each matrix. */
function countIntruders(before: readonly Matrix[], after: readonly Matrix[], topK: number, threshold: number): number {
  const counts = before.map((W, i) => {
    const changed = transposed(svdMatrix(after[i] as Matrix).U);
    const rows = Math.min(topK, changed.rows);
    const leading = matrix(rows, changed.columns, changed.values.subarray(0, rows * changed.columns));
    const cosines = product(leading, svdMatrix(W).U);
    const nearest = Array.from({ length: rows }, (_, row) =>
      cosines.values
        .subarray(row * cosines.columns, (row + 1) * cosines.columns)
        .reduce((most, value) => Math.max(most, Math.abs(value)), 0),
    );
    return nearest.filter((cosine) => cosine < threshold).length;
  });
  return sum(counts);
}
