/**
 * Adaptive multi-subspace adaptation: the rows of W are put into clusters, and those of cluster k are changed by Bₖ·Aₖ·P: W′ = W + Π·[Bₖ·Aₖ]·P.
 * P [q, in] are the first right singular vectors of the weight, with the bias as a last column where there is one: then b changes, too. The
 * clusters are those of the rows of the left singular vectors. Trained are Aₖ [rₖ, q] and Bₖ [rows of k, rₖ], of rank `subspaceRank` or
 * less; Aₖ starts with the directions that the cluster's rows have, Bₖ at zero.
 *
 * Vectors come from a randomised decomposition seeded with `randomSeed`, clusters from k-means with a fixed seed. The file has A, B and P;
 * which row is in which cluster is found again in the weight. In a layer with no more than `r` outputs all rows are equally far from each
 * other, so that rounding errors make the clusters, and PEFT reads a file rightly only on the machine that wrote it; a warning says so. There
 * the file tells more: how many rows each cluster has, by the size of Bₖ, and which, because Aₖ began in the space that they span. With
 * `useAsa` a schedule (schedules/subspace-budget.ts) freezes the subspaces that matter least while it trains.
 */
import { ConfigError } from "../../errors.ts";
import { boolean, choice, configSchema, float, integer, type Kind, key, plainTargetKeys } from "../../formats/peft-config.ts";
import type { StoredTensor } from "../../formats/safetensors.ts";
import { concatenate } from "../../graph/composite.ts";
import { matmul } from "../../graph/contraction.ts";
import { toFloat32 } from "../../graph/dtype.ts";
import { add, less, where } from "../../graph/elementwise.ts";
import { take } from "../../graph/indexing.ts";
import { reshape, sliceAxis, stopGradient } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { constant } from "../../graph/source.ts";
import { kMeans } from "../../linalg/k-means.ts";
import { type Matrix, matrix, readValues, transposed } from "../../linalg/matrix.ts";
import { product } from "../../linalg/product.ts";
import { svdMatrix } from "../../linalg/svd.ts";
import { svdLowrankMatrix } from "../../linalg/svd-lowrank.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";
import { defaultTargets } from "../default-target.ts";
import { weightOf } from "../init/factors.ts";
import { type Base, defineMethod, type LayerMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import type { Scale } from "../scale.ts";
import { subspaceBudget } from "../schedules/subspace-budget.ts";
import { through, times } from "../weight-change.ts";

/** A start that is drawn: PEFT takes false, too, and writes null. */
const off: Kind<false> = { expects: "false", accepts: (x) => x === false };
const none: Kind<null> = { expects: "null", accepts: (x) => x === null };
const schema = configSchema("ADAMSS", "adamss_", {
  ...plainTargetKeys,
  r: key(100, integer(1)),
  num_subspaces: key(5, integer(1)),
  subspace_rank: key(1, integer(1)),
  init_weights: key("orthogonal", choice("orthogonal"), off, none),
  use_asa: key(false, boolean),
  asa_target_subspaces: key(50, integer(1)),
  init_warmup: key(50, integer(0)),
  final_warmup: key(1000, integer(0)),
  mask_interval: key(100, integer(1)),
  asa_importance_beta: key(0.85, float(0, 1)),
  asa_uncertainty_beta: key(0.85, float(0, 1)),
  asa_schedule_exponent: key(3, float(0)),
  use_dynamic_rank: key(false, boolean),
  svd_threshold: key(0.1, float()),
  random_seed: key(0, integer()),
});

/** What the weight says: P, and of each cluster its rows and the directions that they have. */
type Found = {
  readonly projection: Matrix;
  readonly warning?: string;
  readonly clusters: readonly { readonly rows: readonly number[]; readonly directions: Matrix }[];
};
type Config = MethodConfig<typeof schema> & Found;
type Name = `A.${number}` | `B.${number}`;

const clusterSeed = 123_456_789;

/** W, with the bias as a last column. */
function widened(base: Base): Matrix {
  const W = weightOf(base);
  if (!base.bias) return W;
  const bias = readValues(base.bias);
  const wide = matrix(W.rows, W.columns + 1);
  for (let i = 0; i < W.rows; i++) {
    wide.values.set(W.values.subarray(i * W.columns, (i + 1) * W.columns), i * wide.columns);
    wide.values[(i + 1) * wide.columns - 1] = bias[i] as number;
  }
  return wide;
}

/** The clusters of one layer as a file has them: P, and of each its number of rows and the directions Aₖ. */
type Kept = { readonly projection: Matrix; readonly clusters: readonly { readonly size: number; readonly directions: Matrix }[] };
const totalOf = (clusters: readonly { readonly size: number }[]): number => clusters.reduce((sum, { size }) => sum + size, 0);

/** Of the layers that have no more outputs than P has rows. */
async function keptClusters(tensors: ReadonlyMap<string, StoredTensor>): Promise<ReadonlyMap<string, { readonly kept: Kept }>> {
  const read = async (stored: StoredTensor): Promise<Matrix> => {
    const [rows, columns] = stored.shape as [number, number];
    return matrix(rows, columns, Float64Array.from(toFloat32(await stored.load(), stored.dtype)));
  };
  const found = new Map<string, { readonly kept: Kept }>();
  for (const [name, P] of tensors) {
    const [, path] = /^base_model\.model\.(.*)\.adamss_newB$/.exec(name) ?? [];
    const [rank, columns] = P.shape;
    if (path === undefined || rank === undefined || columns === undefined) continue;
    const stored: { size: number; A: StoredTensor }[] = [];
    for (;;) {
      const [A, B] = ["A", "B"].map((of) => tensors.get(name.replace(/newB$/, `${of}.${stored.length}`)));
      if (A?.shape.length !== 2 || B?.shape.length !== 2 || A.shape[1] !== rank) break;
      stored.push({ size: B.shape[0] as number, A });
    }
    if (stored.length === 0 || totalOf(stored) > rank) continue;
    const clusters = await Promise.all(stored.map(async ({ size, A }) => ({ size, directions: await read(A) })));
    found.set(path, { kept: { projection: await read(P), clusters } });
  }
  return found;
}

/**
 * Which rows are in each cluster of a file: those of whose left singular vectors the most lies in the spaces of Aₖ.
 * @returns the rows, and by how much the second-best choice is worse, of 1 for a whole vector
 */
function clustersOf(
  W: Matrix,
  { projection: P, clusters }: Kept,
): { readonly rows: readonly number[][]; readonly margin: number } {
  const U = product(W, transposed(P)); // times the singular values, the lengths of its columns
  const lengths = new Float64Array(P.rows);
  for (const [at, value] of U.values.entries()) lengths[at % P.rows] = Math.hypot(lengths[at % P.rows] as number, value);
  const shares = clusters.map(({ directions }) => {
    const basis = svdMatrix(directions).Vt;
    const vectors = matrix(
      U.rows,
      U.columns,
      U.values.map((value, at) => value / (lengths[at % P.rows] || 1)),
    );
    const within = product(vectors, transposed(basis)).values;
    return Array.from({ length: W.rows }, (_, row) =>
      within.subarray(row * basis.rows, (row + 1) * basis.rows).reduce((sum, x) => sum + x * x, 0),
    );
  });
  const share = (row: number, k: number): number => (shares[k] as readonly number[])[row] as number;
  // any clusters of these sizes; then two rows change places, as long as that is better
  const cluster = clusters.flatMap(({ size }, k) => Array.from({ length: size }, () => k));
  for (;;) {
    let [margin, best] = [Number.POSITIVE_INFINITY, [0, 0]];
    for (const [i, k] of cluster.entries())
      for (const [j, l] of cluster.entries()) {
        const loss = share(i, k) + share(j, l) - share(i, l) - share(j, k);
        if (k < l && loss < margin) [margin, best] = [loss, [i, j]];
      }
    if (!(margin < -1e-9)) return { rows: clusters.map((_, k) => [...cluster.keys()].filter((i) => cluster[i] === k)), margin };
    const [i, j] = best as [number, number];
    [cluster[i], cluster[j]] = [cluster[j] as number, cluster[i] as number];
  }
}

function find(base: Base, c: MethodConfig<typeof schema>, inFile: Kept | undefined): Found {
  const W = widened(base);
  if (inFile && inFile.projection.columns === W.columns && totalOf(inFile.clusters) === W.rows) {
    const { rows, margin } = clustersOf(W, inFile);
    const clusters = inFile.clusters.map(({ directions }, k) => ({ rows: rows[k] as readonly number[], directions }));
    const warning = `loadAdapter: ${base.path} has no more outputs (${W.rows}) than \`r\` (= ${c.r}), so that its clusters are found by what is in them, and some rows might be in others.`;
    return { projection: inFile.projection, clusters, ...(margin < 0.05 ? { warning } : {}) };
  }
  const q = Math.min(c.r, W.rows, W.columns);
  const { U, Vt } = svdLowrankMatrix(W, q, { niter: 2, random: new TorchGenerator(c.randomSeed) });
  const count = Math.min(c.numSubspaces, W.rows);
  const labels = kMeans(U, count, { iterations: 10, random: new TorchGenerator(clusterSeed) });
  const clusters = Array.from({ length: count }, (_, k) => {
    const rows = Array.from(labels.keys()).filter((row) => labels[row] === k);
    if (rows.length === 0)
      throw new ConfigError(`\`numSubspaces\` (= ${c.numSubspaces}) are more than ${base.path} has different rows.`, {
        operation: "attach",
        got: c.numSubspaces,
      });
    const own = matrix(rows.length, q);
    for (const [i, row] of rows.entries()) own.values.set(U.values.subarray(row * q, (row + 1) * q), i * q);
    const { S, Vt: directions } = svdMatrix(own);
    // of the Gram matrix, whose singular values are the squares
    const large = c.useDynamicRank
      ? S.filter((value) => value ** 2 > c.svdThreshold * (S[0] as number) ** 2).length
      : rows.length;
    const rank = Math.max(1, Math.min(large, c.subspaceRank, directions.rows));
    return { rows, directions: matrix(rank, q, directions.values.subarray(0, rank * q)) };
  });
  const warning = `attach: ${base.path} has no more outputs (${W.rows}) than \`r\` (= ${c.r}): its clusters are made by rounding errors, and its file means others to PEFT elsewhere.`;
  return { projection: Vt, clusters, ...(q === W.rows && count > 1 && count < q ? { warning } : {}) };
}

/** Π·[Bₖ·Aₖ]: [out, q]. No gradient reaches the subspaces that are frozen. */
function factor(p: { readonly order: Tensor; readonly trained?: Tensor }, { clusters }: Config): Tensor {
  const of = (name: "A" | "B", k: number): Tensor => {
    const values = (p as Readonly<Record<string, Tensor>>)[`${name}.${k}`] as Tensor;
    if (!p.trained) return values;
    const flag = reshape(sliceAxis(p.trained, 0, k, k + 1), []);
    return where(less(constant(0, [], "int32"), flag), values, stopGradient(values));
  };
  const parts = clusters.map((_, k) => matmul(of("B", k), of("A", k)));
  return take(concatenate(parts, 0), p.order);
}

const weightPart = (P: Tensor, { in: into }: Base): Tensor => sliceAxis(P, 1, 0, into);
const biasPart = (P: Tensor, { in: into }: Base): Tensor => sliceAxis(P, 1, into, into + 1);

const linear: LayerMethod<Config, "P" | "order" | Name, "trained"> = {
  files: {
    ...{ P: "adamss_newB", order: "adamss_scatter_index", "A.*": "adamss_A.*", "B.*": "adamss_B.*" },
    trained: "adamss_trained",
  },
  parameters: (base, { projection, clusters, useAsa }) => ({
    ...Object.fromEntries(
      clusters.flatMap(({ rows, directions }, k) => [
        [`A.${k}`, { shape: [directions.rows, projection.rows] }],
        [`B.${k}`, { shape: [rows.length, directions.rows] }],
      ]),
    ),
    P: { shape: [projection.rows, projection.columns], trainable: false },
    order: { shape: [base.out], trainable: false, dtype: "int32", derived: true },
    ...(useAsa && { trained: { shape: [clusters.length], trainable: false, dtype: "int32", derived: true } }),
  }),
  initialise: (base, c, random) => ({
    values: {
      ...Object.fromEntries(
        c.clusters.flatMap(({ rows, directions }, k) => {
          const count = rows.length * directions.rows;
          return [
            [`A.${k}`, new Float32Array(directions.values)],
            [`B.${k}`, c.initWeights === "orthogonal" ? new Float32Array(count) : random.normal(count, 0, 0.01)],
          ];
        }),
      ),
      P: new Float32Array(c.projection.values),
      ...derive(base, c),
    },
  }),
  derive,
  forward(x, base, p, c, use) {
    const inner = through(x, weightPart(p.P, base));
    const whole = base.bias ? add(inner, reshape(biasPart(p.P, base), [p.P.shape[0] as number])) : inner;
    return add(base(x), times(through(whole, factor(p, c)), use.scale));
  },
  delta: (base, p, c, scale) => times(matmul(factor(p, c), weightPart(p.P, base)), scale),
  biasDelta: (base, p, c, scale: Scale) => times(reshape(matmul(factor(p, c), biasPart(p.P, base)), [base.out]), scale),
};

/** Where each row of W is among those of all clusters, one cluster after the other; all subspaces are trained at first. */
function derive(base: Base, { clusters, useAsa }: Config): Readonly<Record<string, Int32Array>> {
  const order = new Int32Array(base.out);
  for (const [place, row] of clusters.flatMap(({ rows }) => rows).entries()) order[row] = place;
  return { order, ...(useAsa && { trained: new Int32Array(clusters.length).fill(1) }) };
}

/** AdaMSS: `adamss({ r: 100, numSubspaces: 5, subspaceRank: 1, targetModules: ["q_proj", "v_proj"] })`. */
export const adamss = defineMethod({
  schema,
  papers: ["https://openreview.net/forum?id=8ZdWmpYxT0"],
  formula: "W + Π·[Bₖ·Aₖ]·P, rows in clusters k",
  check({ useAsa, initWarmup, finalWarmup, asaScheduleExponent }) {
    const operation = "adamss";
    if (useAsa && initWarmup >= finalWarmup)
      throw new ConfigError(`\`finalWarmup\` (= ${finalWarmup}) must be more than \`initWarmup\` (= ${initWarmup}).`, {
        operation,
        got: finalWarmup,
        hint: "The steps between them are those in which subspaces are frozen.",
      });
    if (useAsa && !(asaScheduleExponent > 0))
      throw new ConfigError(`\`asaScheduleExponent\` (= ${asaScheduleExponent}) must be above 0.`, {
        operation,
        got: asaScheduleExponent,
      });
  },
  startsAtZero: ({ initWeights }) => initWeights === "orthogonal",
  targets: { ...defaultTargets, vit: ["query", "value"] },
  complete: (config) => ({ ...config, initWeights: config.initWeights || null }),
  schedule: subspaceBudget,
  keptInFile: keptClusters,
  perLayer: (bases, c, kept) => bases.map((base) => find(base, c, kept?.get(base.path)?.["kept"] as Kept | undefined)),
  layers: { linear },
  samples: (draw, { out }) => ({
    r: draw.integer(1, Math.max(1, Math.min(6, out - 1))),
    numSubspaces: draw.integer(1, 4),
    subspaceRank: draw.integer(1, 3),
    useDynamicRank: draw.integer(0, 2) === 0,
    randomSeed: draw.integer(0, 99),
    useAsa: draw.integer(0, 2) === 0,
    initWeights: draw.integer(0, 2) > 0 ? ("orthogonal" as const) : (false as const),
  }),
});
