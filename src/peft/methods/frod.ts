/**
 * FRoD: W′ = U·(diag(λ) + S)·Vᵀ. V [in, in] is one basis for all layers of a category, found in their weights together; each layer's own
 * U·diag(λ)·Vᵀ = W, U [out, in] with columns of length 1. Trained are λ and the sparse S, which mixes directions: off the diagonal, at
 * places that the category's layers share. S starts at zero, so that a fresh adapter changes nothing but by rounding.
 *
 * V comes from the weights W₁ … Wₙ of the category (layers whose paths end alike): Q·R are their QR factors one above the other, Z the
 * eigenvectors of the mean of (QᵢᵀQᵢ + α·I)⁻¹, V = Rᵀ·Z. With fewer rows than columns V is the basis of the singular vectors instead. V
 * and the places are in the file; U, λ's start and W are the base model's. PEFT may leave V out (`saveProjection: false`) and find it
 * again, with signs that depend on the library of linear algebra: such files are refused. When PEFT reads a file that has V, it takes U
 * from the basis that it finds itself all the same, so that it misreads the files of others, ours and those from other machines.
 */
import { ConfigError } from "../../errors.ts";
import { boolean, choice, configSchema, float, integer, key, plainTargetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, cast, mul, sub } from "../../graph/elementwise.ts";
import { transpose } from "../../graph/movement.ts";
import { Tensor } from "../../graph/node.ts";
import { identity } from "../../linalg/cayley.ts";
import { eighMatrix } from "../../linalg/eigh.ts";
import { identityMatrix, type Matrix, matrix, readValues, transposed } from "../../linalg/matrix.ts";
import { product } from "../../linalg/product.ts";
import { qrMatrix } from "../../linalg/qr.ts";
import { solveMatrix } from "../../linalg/solve.ts";
import { svdMatrix } from "../../linalg/svd.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";
import { defaultTargets } from "../default-target.ts";
import { weightOf } from "../init/factors.ts";
import { type Base, defineMethod, type LayerMethod, type SharedParameters, type Start } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { sparseAt, through, times } from "../weight-change.ts";

const schema = configSchema("FROD", "frod_", {
  ...plainTargetKeys,
  projection_prng_key: key(0, integer()),
  save_projection: key(true, boolean),
  frod_dropout: key(0, float(0, 1)),
  fan_in_fan_out: key(false, boolean),
  bias: key("none", choice("none", "all", "frod_only")),
  init_weights: key(true, boolean),
  sparse_rate: key(0.01, float(0, 1)),
  regularization_alpha: key(0.001, float()),
  progressbar: key(true, boolean),
  runtime_offload_base_weight: key(false, boolean),
});
type Config = MethodConfig<typeof schema>;

/** The last two parts of the path, or the last one behind a number: `self_attn_q_proj`. */
function categoryOf({ path }: Pick<Base, "path">): string {
  const [last = "", before, further] = path.split(".").toReversed();
  if (before === undefined || /^\d+$/.test(before)) return last;
  return before === "output" && last === "dense" && further === "attention" ? "attention_output" : `${before}_${last}`;
}

/** The layers of each category. @throws {ConfigError} when some of one category are not as wide as the others */
function categories(bases: readonly Base[]): Map<string, Base[]> {
  const found = new Map<string, Base[]>();
  for (const base of bases) found.set(categoryOf(base), [...(found.get(categoryOf(base)) ?? []), base]);
  for (const [category, own] of found) {
    const other = own.find((base) => base.in !== own[0]?.in);
    if (other)
      throw new ConfigError(`${other.path} takes ${other.in} values and ${own[0]?.path} ${own[0]?.in}, but they share a basis.`, {
        operation: "attach",
        got: category,
        hint: "Take one of them out of the targets.",
      });
  }
  return new Map([...found].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** How many entries of S there are. */
const entriesOf = (n: number, { sparseRate }: Config): number => Math.min(Math.max(1, Math.trunc(n * n * sparseRate)), n * n - n);

/** V of weights [outᵢ, in]. */
function basisOf(weights: readonly Matrix[], alpha: number): Matrix {
  const n = (weights[0] as Matrix).columns;
  const rows = weights.reduce((sum, W) => sum + W.rows, 0);
  const stacked = matrix(Math.max(rows, n), n); // with zeros below, where there are fewer rows
  let at = 0;
  for (const W of weights) {
    stacked.values.set(W.values, at);
    at += W.values.length;
  }
  if (rows < n) return transposed(svdMatrix(stacked).Vt);
  const { Q, R } = qrMatrix(stacked);
  const mean = matrix(n, n);
  let row = 0;
  for (const { rows: own } of weights) {
    const part = matrix(own, n, Q.values.subarray(row * n, (row + own) * n));
    row += own;
    const gram = product(transposed(part), part);
    for (let i = 0; i < n; i++) gram.values[i * n + i]! += alpha;
    const inverse = solveMatrix("attach", gram, identityMatrix(n));
    for (const [i, value] of inverse.values.entries()) mean.values[i]! += value / weights.length;
  }
  return product(transposed(R), eighMatrix(mean).vectors);
}

/** V⁻¹·M; where V has no inverse, its pseudo-inverse without values below a millionth of the largest. */
function solved(V: Matrix, M: Matrix): Matrix {
  try {
    return solveMatrix("attach", V, M);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const { U, S, Vt } = svdMatrix(V);
    const inner = product(transposed(U), M);
    const inverse = S.map((value) => (value > 1e-6 * (S[0] as number) ? 1 / value : 0));
    inner.values.forEach((value, i) => {
      inner.values[i] = value * (inverse[Math.floor(i / inner.columns)] as number);
    });
    return product(transposed(Vt), inner);
  }
}

/** U and λ of a layer, with the basis of its category as it is kept. */
function factorsOf(base: Base, shared: Start["values"] = {}) {
  const kept = shared[`V.${categoryOf(base)}`] as Start["values"][string];
  const V = matrix(base.in, base.in, kept instanceof Tensor ? readValues(kept) : Float64Array.from(kept as Float32Array));
  const columns = solved(V, transposed(weightOf(base))); // [in, out]: those of U·diag(λ) as rows
  const lambda = new Float32Array(base.in);
  const U = new Float32Array(base.out * base.in);
  for (let j = 0; j < base.in; j++) {
    const column = columns.values.subarray(j * base.out, (j + 1) * base.out);
    const length = Math.sqrt(column.reduce((sum, value) => sum + value * value, 0));
    lambda[j] = length;
    if (length > 1e-12) for (let i = 0; i < base.out; i++) U[i * base.in + j] = (column[i] as number) / length;
  }
  return { U, lambda };
}

const shared: SharedParameters<Config> = {
  files: { "V.*": "frod_V.*", "indices.*": "frod_s_indices.*", "size.*": "frod_s_size.*" },
  parameters: (bases, c) =>
    Object.fromEntries(
      [...categories(bases)].flatMap(([category, own]) => {
        const { in: n, path } = own[0] as Base;
        const count = entriesOf(n, c);
        if (count < 1)
          throw new ConfigError(`${path} takes one value, which nothing can be mixed with.`, { operation: "attach", got: path });
        const whole = { trainable: false, dtype: "int32", storedDType: "I64" } as const;
        return [
          [`V.${category}`, { shape: [n, n], trainable: false }],
          [`indices.${category}`, { shape: [2, count], ...whole }],
          [`size.${category}`, { shape: [2], ...whole }],
        ];
      }),
    ),
  initialise(bases, c) {
    const random = new TorchGenerator(c.projectionPrngKey);
    return Object.fromEntries(
      [...categories(bases)].flatMap(([category, own]) => {
        const n = (own[0] as Base).in;
        const count = entriesOf(n, c);
        // all of them are drawn, so that the next category has PEFT's, too
        const places = random.randperm(n * n - n).subarray(0, count);
        const indices = new Int32Array(2 * count);
        for (const [i, place] of places.entries()) {
          const [row, column] = [Math.floor(place / (n - 1)), place % (n - 1)];
          indices[i] = row;
          indices[count + i] = column + (column >= row ? 1 : 0);
        }
        const V = basisOf(own.map(weightOf), c.regularizationAlpha);
        return [
          [`V.${category}`, new Float32Array(V.values)],
          [`indices.${category}`, indices],
          [`size.${category}`, Int32Array.of(n, n)],
        ];
      }),
    );
  },
};

type Values = Readonly<Record<"lambda" | "values" | "U", Tensor>>;

/** V, and diag(λ) + S. */
function inner(base: Base, { lambda, values, ...others }: Values): readonly [V: Tensor, core: Tensor] {
  const ofCategory = (name: string) => (others as Readonly<Record<string, Tensor>>)[`${name}.${categoryOf(base)}`] as Tensor;
  const S = sparseAt(values, ofCategory("indices"), [base.in, base.in]);
  return [ofCategory("V"), add(S, mul(lambda, identity(base.in)))];
}

const linear: LayerMethod<Config, "lambda" | "values" | "U"> = {
  files: { lambda: "frod_lambda_l", values: "frod_lambda_s_values", U: "frod_U" },
  parameters: (base, c) => ({
    lambda: { shape: [base.in] },
    values: { shape: [entriesOf(base.in, c)] },
    U: { shape: [base.out, base.in], trainable: false, derived: true },
  }),
  initialise(base, c, random, _, shared) {
    const { U, lambda } = factorsOf(base, shared);
    const n = entriesOf(base.in, c);
    if (c.initWeights) return { values: { U, lambda, values: new Float32Array(n) } };
    const values = random.normal(n, 0, 0.1);
    const off = random.normal(base.in, 0, 0.1);
    return { values: { U, lambda: lambda.map((value, i) => value + (off[i] as number)), values } };
  },
  derive: (base, _, shared) => ({ U: factorsOf(base, shared).U }),
  forward(x, base, p, c, use) {
    const [V, core] = inner(base, p);
    const dropped = use.dropout(x, c.frodDropout);
    const made = through(through(through(dropped, transpose(V)), core), p.U);
    return add(base(x), times(sub(made, through(dropped, cast(base.original, "float32"))), use.scale));
  },
  delta(base, p, _, scale) {
    const [V, core] = inner(base, p);
    return times(sub(matmul(matmul(p.U, core), transpose(V)), cast(base.original, "float32")), scale);
  },
};

/** FRoD: `frod({ sparseRate: 0.01, targetModules: ["q_proj", "v_proj"] })`. */
export const frod = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2512.23485"],
  formula: "U·(diag(λ) + S)·Vᵀ, S sparse",
  check({ saveProjection, sparseRate }) {
    if (!saveProjection)
      throw new ConfigError(
        "`saveProjection` must be true: the signs of a basis that is found again, and its directions where eigenvalues are equal, are those of a library of linear algebra, not of the seed, and the trained values are for these.",
        {
          operation: "frod",
          got: saveProjection,
          hint: "Train with projections that are saved, or merge the adapter with PEFT where it was trained.",
        },
      );
    if (sparseRate === 0)
      throw new ConfigError("`sparseRate` must be more than 0: nothing would be mixed.", { operation: "frod", got: sparseRate });
  },
  targets: { ...defaultTargets, phi: ["q_proj", "v_proj"], vit: ["query", "value"] },
  shared,
  layers: { linear },
  samples: (draw, { in: into }) =>
    into < 2
      ? null
      : {
          projectionPrngKey: draw.integer(0, 99),
          sparseRate: draw.integer(1, 10) / 20,
          regularizationAlpha: draw.integer(1, 10) / 1000,
          initWeights: draw.integer(0, 2) > 0,
        },
});
