/**
 * Orthogonal subspace fine-tuning: W = U·diag(S)·Vᵀ without its first k values, which are frozen, is trained: W′ = W + U·diag(S)·V −
 * U₀·diag(S₀)·V₀, where U [out, n − k], S and V [n − k, in] begin at what they are in the weight, U₀, S₀ and V₀, n the smaller size of the layer.
 * Gradients of U and V lose what lies in the directions of the first k values, so that what those know is not forgotten.
 *
 * The file has U, S and V; the rest is taken from the weight again. `effectiveRank` is k, or a part of n between 0 and 1, or absent
 * for a half; the number 1 is one value.
 */
import { withVjp } from "../../autograd/custom.ts";
import { ConfigError } from "../../errors.ts";
import { boolean, configSchema, key, number, numberByPattern, object, targetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, mul, sub } from "../../graph/elementwise.ts";
import { transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { type Matrix, matrix, sliceColumns } from "../../linalg/matrix.ts";
import { svdMatrix } from "../../linalg/svd.ts";
import { weightOf } from "../init/factors.ts";
import { type Base, defineMethod, type LayerMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { searchMatch } from "../python-regex.ts";
import { through, times } from "../weight-change.ts";

const schema = configSchema("OSF", "osf_", {
  target_modules: targetKeys.target_modules,
  modules_to_save: targetKeys.modules_to_save,
  effective_rank: key(null, number),
  rank_pattern: key(null, numberByPattern),
  init_weights: key(true, boolean),
  target_svd_config: key(null, object()),
});
type Config = MethodConfig<typeof schema>;

const all = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj"];
const fused = ["query_key_value", "dense_4h_to_h"];
const conv1d = ["c_attn", "c_proj"];
const targets: Readonly<Record<string, readonly string[]>> = {
  ...{ llama: all, llama4: all, mistral: all, mixtral: all, gemma: all, gemma2: all, gemma3_text: all, qwen2: all, qwen3: all },
  ...{ phi: all, gpt2: conv1d, gpt_bigcode: conv1d, bloom: fused, gpt_neox: fused, falcon: fused },
  opt: ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
  gptj: ["q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"],
};

/** How many values of the layer are frozen. @throws {ConfigError} when none is, or all are */
function frozenValues(base: Base, { effectiveRank, rankPattern }: Config): number {
  const most = Math.min(base.in, base.out);
  const own = Object.entries(rankPattern ?? {}).find(([pattern]) => searchMatch(pattern, "attach", "rankPattern")(base.path));
  const wanted = own?.[1] ?? effectiveRank ?? 0.5;
  const k = wanted > 0 && wanted < 1 ? Math.floor(most * wanted) : Math.trunc(wanted);
  if (k > 0 && k < most) return k;
  throw new ConfigError(
    `\`effectiveRank\` (= ${wanted}) ${k > 0 ? "leaves nothing to train" : "freezes nothing"} in ${base.path}, which has ${most} singular values.`,
    { operation: "attach", got: wanted, hint: `Use a number from 1 to ${most - 1}, or a part of 1, also in \`rankPattern\`.` },
  );
}

const floats = ({ values }: Matrix): Float32Array => new Float32Array(values);
const sliceRows = ({ columns, values }: Matrix, start: number, end: number): Matrix =>
  matrix(end - start, columns, values.subarray(start * columns, end * columns));

/** The weight's own factors, and where U or V is not square its frozen directions; where it is, the others say which those are. */
function factorsOf(base: Base, c: Config) {
  const k = frozenValues(base, c);
  const { U, S, Vt } = svdMatrix(weightOf(base));
  const n = S.length;
  return {
    U0: floats(sliceColumns(U, k, n)),
    S0: new Float32Array(S.subarray(k)),
    V0: floats(sliceRows(Vt, k, n)),
    ...(base.out > base.in ? { frozenU: floats(sliceColumns(U, 0, k)) } : {}),
    ...(base.in > base.out ? { frozenV: floats(sliceRows(Vt, 0, k)) } : {}),
  };
}

/** M·Mᵀ·g, or what that leaves of g. */
const alongColumns = (M: Tensor, g: Tensor, left: boolean): Tensor => {
  const along = matmul(M, matmul(transpose(M), g));
  return left ? sub(g, along) : along;
};

/** U with a gradient that has nothing in the frozen directions. @param M those of its columns, or when `left` the frozen ones */
const guarded = (U: Tensor, M: Tensor, left: boolean): Tensor =>
  withVjp(
    (x) => x as Tensor,
    (g, _, __, M) => [alongColumns(M as Tensor, g, left), null],
  )(U, M);

type Values = { readonly [K in "U" | "S" | "V" | "U0" | "S0" | "V0"]: Tensor } & {
  readonly [K in "frozenU" | "frozenV"]?: Tensor;
};

/** U·diag(S) [out, n − k] and V [n − k, in] as they are trained. */
function trained({ U, S, V, U0, V0, frozenU, frozenV }: Values): readonly [US: Tensor, V: Tensor] {
  const own = guarded(U, frozenU ?? U0, frozenU !== undefined);
  const other = transpose(guarded(transpose(V), transpose(frozenV ?? V0), frozenV !== undefined));
  return [mul(own, S), other];
}

const linear: LayerMethod<Config, "U" | "S" | "V" | "U0" | "S0" | "V0", "frozenU" | "frozenV"> = {
  files: {
    ...{ U: "osf_svd_params.U_low", S: "osf_svd_params.S_low", V: "osf_svd_params.V_low" },
    ...{ U0: "osf_U_low_init", S0: "osf_S_low_init", V0: "osf_V_low_init", frozenU: "osf_U_high", frozenV: "osf_V_high" },
  },
  parameters(base, c) {
    const k = frozenValues(base, c);
    const low = Math.min(base.in, base.out) - k;
    const [U, S, V] = [[base.out, low], [low], [low, base.in]];
    const fixed = (shape: readonly number[]) => ({ shape, trainable: false, derived: true });
    return {
      ...{ U: { shape: U }, S: { shape: S }, V: { shape: V }, U0: fixed(U), S0: fixed(S), V0: fixed(V) },
      ...(base.out > base.in ? { frozenU: fixed([base.out, k]) } : {}),
      ...(base.in > base.out ? { frozenV: fixed([k, base.in]) } : {}),
    };
  },
  initialise(base, c, random) {
    const found = factorsOf(base, c);
    const { U0: U, S0: S, V0: V } = found;
    const drawn = (like: Float32Array) => random.randn(like.length);
    return { values: { ...found, ...(c.initWeights ? { U, S, V } : { U: drawn(U), S: drawn(S), V: drawn(V) }) } };
  },
  derive: factorsOf,
  forward(x, base, p, _, use) {
    const [US, V] = trained(p);
    const before = through(through(x, p.V0), mul(p.U0, p.S0));
    return add(base(x), times(sub(through(through(x, V), US), before), use.scale));
  },
  delta(_, p, __, scale) {
    const [US, V] = trained(p);
    return times(sub(matmul(US, V), matmul(mul(p.U0, p.S0), p.V0)), scale);
  },
};

/** OSF: `osf({ effectiveRank: 0.9, targetModules: ["q_proj", "v_proj"] })`. */
export const osf = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2504.07097"],
  formula: "W + U·diag(S)·V − U₀·diag(S₀)·V₀",
  startsAtZero: ({ initWeights }) => initWeights,
  /** Models that the table does not know have all linear layers adapted. */
  complete: (config, modelType) => ({
    ...config,
    targetModules: config.targetModules ?? targets[modelType ?? ""] ?? "all-linear",
  }),
  layers: { linear },
  samples(draw, { in: into, out }) {
    const most = Math.min(into, out);
    return most < 2
      ? null
      : {
          effectiveRank: [null, 0.5, draw.integer(1, most - 1)][draw.integer(0, 2)] ?? null,
          initWeights: draw.integer(0, 2) > 0,
        };
  },
});
