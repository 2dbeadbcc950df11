/** What EVA wants to know about data: principal components of what goes into each layer, and which layers deserve more of them. */
import { downloadSync } from "../../compile/program.ts";
import { ConfigError } from "../../errors.ts";
import type { ConfigOf } from "../../formats/peft-config.ts";
import { roundHalfEven } from "../../graph/dtype.ts";
import type { Tensor } from "../../graph/node.ts";
import { type Matrix, matrix, readValues } from "../../linalg/matrix.ts";
import type { evaKeys } from "../init/eva.ts";
import { initialiserOptions } from "../initialiser.ts";
import type { AdapterConfig } from "../method.ts";
import type { AnyConfig } from "../method-config.ts";
import type { LoraConfig } from "../methods/lora.ts";
import { IncrementalPca } from "./incremental-pca.ts";
import { type CalibratedModel, type CalibrationBatch, calibrated, linearLayers, planCalibration, recording } from "./record.ts";

/** Layers with the same input: one analysis serves all. */
interface Group {
  readonly paths: readonly string[];
  readonly most: number;
  readonly pca: IncrementalPca;
  /** Which components have hardly turned in the last step. */
  converged: boolean[];
}

/** Steps after which components that still turn are a reason to give up. */
const mostSteps = 10_000;

/**
 * Runs `model` on the batches, again and again until the components stand still, and returns the config with what `initLoraWeights: "eva"`
 * reads: for each layer the principal components of its inputs, at the positions that `attentionMask` and `labels` let count. The sum of
 * all ranks is shared out anew: the components that explain most get them, at most `rho` times a layer's own rank. A layer that gets
 * none is no target any more; `targetModules`, `rankPattern` and `alphaPattern` say so.
 *
 * With `whiten`, PEFT 0.21.2 divides the components of layers with one input several times; here it is done once.
 *
 * @throws {ConfigError} when the config does not fit the model, or no batch has as many positions as a layer has components
 * @example
 * attach(model, calibrateEva(model, lora({ r: 2, initLoraWeights: "eva", evaConfig: { rho: 2 }, targetModules: ["q_proj"] }), [{ inputIds }]))
 */
export function calibrateEva<Batch extends CalibrationBatch, Config extends AdapterConfig>(
  model: CalibratedModel<Batch>,
  adapter: Config,
  batches: Iterable<Batch>,
): Config {
  const operation = "calibrateEva";
  const plan = planCalibration(model, adapter, batches, operation, "eva");
  const options = initialiserOptions("eva", adapter.config as AnyConfig)!.options as ConfigOf<typeof evaKeys>;
  const layers = linearLayers(plan);
  const others = plan.layers.filter(({ facts }) => facts.kind !== "linear").map(({ path }) => path);
  const all = [...batches];
  const [first] = all;
  if (!first) throw new ConfigError("got no batches.", { operation });
  const configs = new Map(layers.map(({ path, config }) => [path, config as LoraConfig]));
  const largest = Math.max(...model.parameters().flatMap(({ shape }) => [...shape]));
  const own = adapter.config as LoraConfig;
  const rho = options.rho > 1000 ? Math.min(options.rho, Math.floor(largest / own.r)) : options.rho;

  const { ranks, groups } = recording(model, layers, (run) => {
    const most = new Map([...configs].map(([path, { r }]) => [path, roundHalfEven(r * rho)]));
    const groups = grouped(
      run(first),
      layers.map(({ path }) => path),
    ).map((paths): Group => {
      const components = Math.max(...paths.map((path) => most.get(path)!));
      for (const path of paths) most.set(path, components);
      return { paths, most: components, pca: new IncrementalPca(components), converged: new Array(components).fill(false) };
    });
    const budget = [...configs.values()].reduce((sum, { r }) => sum + r, 0);
    let ranks: ReadonlyMap<string, number> = most;
    const settled = ({ paths, converged }: Group) => converged.slice(0, ranks.get(paths[0]!)).every(Boolean);
    for (let step = 0; !groups.every(settled); step++) {
      if (step === mostSteps)
        throw new ConfigError(`components have not converged after ${mostSteps} steps.`, {
          operation,
          hint: "Lower `tau` of `evaConfig`.",
        });
      const batch = all[step % all.length]!;
      const seen = run(batch);
      for (const group of groups)
        if (!settled(group)) take(group, selected(seen.get(group.paths[0]!)!, batch, options), options.tau);
      const missing = groups.find(({ pca }) => pca.components === null);
      if (!missing)
        ranks = shareOut(
          groups,
          layers.map(({ path }) => path),
          budget,
        );
      else if (step + 1 >= all.length)
        throw new ConfigError(`no batch has the ${missing.most} positions that the components of ${missing.paths[0]} need.`, {
          operation,
          got: missing.most,
          hint: "Give larger batches, or a smaller `r` or `rho`.",
        });
    }
    return { ranks, groups };
  });

  const calibration = new Map<string, Matrix>();
  for (const { paths, pca } of groups)
    for (const path of paths) calibration.set(path, firstComponents(pca, ranks.get(path)!, options.whiten));
  return calibrated(adapter, calibration, sharedOut(own, configs, ranks, options.adjust_scaling_factors, others));
}

/** Paths whose first inputs are equal, in order. */
function grouped(seen: ReadonlyMap<string, readonly Tensor[]>, paths: readonly string[]): string[][] {
  const groups: { readonly input: Tensor; readonly values: Float64Array; readonly paths: string[] }[] = [];
  for (const path of paths) {
    const input = seen.get(path)?.[0];
    if (!input)
      throw new ConfigError(`no data reached ${path}.`, {
        operation: "calibrateEva",
        got: path,
        hint: "Give batches that go through it, or take it out with `excludeModules`.",
      });
    const values = readValues(input);
    const same = groups.find(
      (group) =>
        group.input === input ||
        (group.values.length === values.length && group.values.every((value, at) => value === values[at])),
    );
    if (same) same.paths.push(path);
    else groups.push({ input, values, paths: [path] });
  }
  return groups.map((group) => group.paths);
}

/** The positions of a layer's input that count, one a row. */
function selected(inputs: readonly Tensor[], batch: CalibrationBatch, options: ConfigOf<typeof evaKeys>): Matrix {
  const x = inputs[0] as Tensor;
  const width = x.shape.at(-1) as number;
  const values = readValues(x);
  const { attentionMask, labels, inputIds } = batch;
  const places = (attentionMask ?? inputIds ?? labels)?.shape;
  if (!places || places.join() !== x.shape.slice(0, -1).join()) return matrix(x.size / width, width, values);
  const mask = attentionMask && downloadSync(attentionMask);
  const judged = options.use_label_mask && labels ? downloadSync(labels) : undefined;
  const rows = Array.from({ length: x.size / width }, (_, i) => i).filter(
    (i) => (!mask || mask[i] !== 0) && (!judged || judged[i] !== options.label_mask_value),
  );
  const X = matrix(rows.length, width);
  rows.forEach((from, i) => {
    X.values.set(values.subarray(from * width, (from + 1) * width), i * width);
  });
  return X;
}

/** One step of a group's analysis; batches with too few rows are left out. */
function take(group: Group, rows: Matrix, tau: number): void {
  const { pca, most } = group;
  if (rows.rows < most) return;
  if (most > rows.columns)
    throw new ConfigError(
      `${group.paths[0]} has ${rows.columns} inputs, fewer than the ${most} components that are looked for.`,
      {
        operation: "calibrateEva",
        got: most,
        hint: "Use a smaller `r` or `rho`.",
      },
    );
  const before = pca.components;
  pca.fit(rows);
  const now = pca.components as Matrix;
  if (!before) return;
  group.converged = group.converged.map((_, i) => {
    const [a, b] = [before, now].map(({ columns, values }) => values.subarray(i * columns, (i + 1) * columns)) as [
      Float64Array,
      Float64Array,
    ];
    const cosine = a.reduce((sum, value, j) => sum + value * b[j]!, 0) / (Math.hypot(...a) * Math.hypot(...b));
    return cosine >= tau;
  });
}

/** A rank for each of the components that explain most, as many as the budget has; within a group the first has the most. */
function shareOut(groups: readonly Group[], paths: readonly string[], budget: number): Map<string, number> {
  const groupOf = new Map(groups.flatMap((group) => group.paths.map((path) => [path, group] as const)));
  // those that are analysed come before those that share their input, as in PEFT
  const order = [...groups.map((group) => group.paths[0]!), ...paths.filter((path) => groupOf.get(path)!.paths[0] !== path)];
  const shares = order.flatMap((path) => [...groupOf.get(path)!.pca.explainedVarianceRatio].map((ratio) => ({ path, ratio })));
  const ranks = new Map(order.map((path) => [path, 0]));
  for (const { path } of shares.sort((a, b) => b.ratio - a.ratio).slice(0, budget)) ranks.set(path, ranks.get(path)! + 1);
  for (const { paths: members } of groups) {
    const [leader = "", ...rest] = members;
    for (const path of rest) {
      const [rank, most] = [ranks.get(path)!, ranks.get(leader)!];
      if (rank > most) {
        ranks.set(leader, rank);
        ranks.set(path, most);
      }
    }
  }
  return ranks;
}

function firstComponents(pca: IncrementalPca, rank: number, whiten: boolean): Matrix {
  const { columns, values } = pca.components as Matrix;
  const A = matrix(rank, columns, values.slice(0, rank * columns));
  if (whiten)
    A.values.forEach((value, at) => {
      A.values[at] = value / Math.sqrt(pca.singularValues[Math.floor(at / columns)]!);
    });
  return A;
}

/** What the config says about the ranks. @param others layers that are none of EVA's business */
function sharedOut(
  { r, loraAlpha }: LoraConfig,
  configs: ReadonlyMap<string, LoraConfig>,
  ranks: ReadonlyMap<string, number>,
  adjust: boolean,
  others: readonly string[],
): AnyConfig {
  const rankPattern: Record<string, number> = {};
  const alphaPattern: Record<string, number> = {};
  const targets = [...others];
  for (const [path, config] of configs) {
    const rank = ranks.get(path)!;
    if (rank === 0) continue;
    targets.push(path);
    const alpha = adjust && rank !== config.r ? (config.loraAlpha * rank) / config.r : config.loraAlpha;
    if (rank !== r) rankPattern[path] = rank;
    if (alpha !== loraAlpha) alphaPattern[path] = alpha;
  }
  return {
    targetModules: targets,
    rankPattern,
    alphaPattern,
    layersToTransform: null,
    layersPattern: null,
    excludeModules: null,
  };
}
