/**
 * Low-rank Kronecker product: W′ = W + s·(C ⊗ D), s = α/r. out = l·k and in = m·n are split into about equal factors; C [l, m] is
 * a matrix, D [k, n] a product of rank r, or a matrix where that is no larger; with `decomposeBoth` C is a product, too, where
 * that is smaller. All are trained; C (its first factor) starts at zero. rank(C ⊗ D) = rank C · rank D, so a few values can
 * make a change of high rank. It equals LoRA where C is a single value.
 *
 * PEFT follows LyCORIS: α counts as given even where D is a whole matrix, and its search for factors stops by the first sum. A
 * convolution's kernel belongs to D [k, n·places], or with `useEffectiveConv2d` to a core between D's two factors. `rankDropout`
 * leaves out rows of ΔW, `moduleDropout` all of it, in training.
 */
import { boolean, choice, configSchema, integer, key } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { reshape } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { sizeOf } from "../../graph/shape.ts";
import { kron } from "../../tensor/arrange.ts";
import { coreKernel, fromCore, kernelOf } from "../convolution-layer.ts";
import { rowMask } from "../dropout-mask.ts";
import { type Base, defineMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { product } from "../scale.ts";
import { convolutionChange, linearChange, times, type WeightChange } from "../weight-change.ts";
import { drawn, lycorisKeys } from "./loha.ts";

const schema = configSchema("LOKR", "lokr_", {
  ...lycorisKeys,
  decompose_both: key(false, boolean),
  decompose_factor: key(-1, integer(-1)),
  rank_dropout_scale: key(false, boolean),
  init_weights: key(true, boolean, choice("lycoris")),
});
type Config = MethodConfig<typeof schema>;

/** n as a product of two: `factor` first where it divides n, else as nearly square as the divisors up to `factor` allow. */
function twoFactors(n: number, factor: number): readonly [number, number] {
  if (factor > 0 && n % factor === 0) return [factor, n / factor];
  const limit = factor === -1 ? n : factor;
  let [small, large] = [1, n];
  while (small < large) {
    let next = small + 1;
    while (n % next !== 0) next++;
    if (next + n / next > 1 + n || next > limit) break;
    [small, large] = [next, n / next];
  }
  return small > large ? [large, small] : [small, large];
}

type Name = "C" | "Ca" | "Cb" | "D" | "Da" | "Db" | "T";

/** Shapes of the parameters; a factor that is a whole matrix has no `a` and `b`. A kernel belongs to D. */
function shapes(base: Base, { r, decomposeBoth, decomposeFactor, useEffectiveConv2d }: Config) {
  const kernel = base.kind === "linear" ? [] : kernelOf(base);
  const places = sizeOf(kernel);
  const [l, k] = twoFactors(base.out, decomposeFactor);
  const [m, n] = twoFactors(base.in / places, decomposeFactor);
  const C = decomposeBoth && r < Math.max(l, m) / 2 ? { Ca: { shape: [l, r] }, Cb: { shape: [r, m] } } : { C: { shape: [l, m] } };
  if (r >= Math.max(k, n) / 2) return { ...C, D: { shape: [k, n, ...kernel] } };
  if (useEffectiveConv2d && kernel.some((size) => size > 1))
    return { ...C, T: { shape: [r, r, ...coreKernel(base)] }, Da: { shape: [r, k] }, Db: { shape: [r, n] } };
  return { ...C, Da: { shape: [k, r] }, Db: { shape: [r, n * places] } };
}

const change = {
  files: {
    ...{ C: "lokr_w1", Ca: "lokr_w1_a", Cb: "lokr_w1_b" },
    ...{ D: "lokr_w2", Da: "lokr_w2_a", Db: "lokr_w2_b", T: "lokr_t2" },
  },
  parameters: shapes,
  initialise(base, c, random) {
    const atZero = c.initWeights === true ? ["C", "Ca"] : c.initWeights === "lycoris" ? ["D", "Db"] : [];
    return drawn(shapes(base, c), atZero, random);
  },
  delta(base, { C, Ca, Cb, D, Da, Db, T }, { r, alpha }, scale) {
    const left = times(C ?? matmul(Ca as Tensor, Cb as Tensor), product(alpha / r, scale));
    // a kernel over one axis stays a block of three axes, before whose first PEFT's product puts C's axes: out and in are mixed
    const block = D && base.kind === "conv2d" ? reshape(D, [D.shape[0] as number, -1]) : D;
    const right = block ?? (T ? fromCore(T, Da as Tensor, Db as Tensor) : matmul(Da as Tensor, Db as Tensor));
    return reshape(kron(left, right), [base.out, base.in]);
  },
  mask: (base, c, use) => rowMask(base, c, use, c.rankDropoutScale),
} satisfies WeightChange<Config, never, Name>;

const convolution = convolutionChange<Config, never, Name>(change);

/** LoKr: `lokr({ r: 8, alpha: 16, targetModules: ["q_proj"] })`. */
export const lokr = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2212.10650", "https://arxiv.org/abs/2309.14859"],
  formula: "W + s·(C ⊗ D)",
  patterns: { rankPattern: "r", alphaPattern: "alpha" },
  startsAtZero: ({ initWeights }) => initWeights !== false,
  layers: { linear: linearChange<Config, never, Name>(change), conv1d: convolution, conv2d: convolution },
  samples: (draw) => ({
    r: draw.integer(1, 3),
    alpha: draw.integer(1, 8) / 2,
    decomposeBoth: draw.integer(0, 1) === 1,
    decomposeFactor: [-1, 2, 4][draw.integer(0, 2)]!,
    initWeights: ([true, false, "lycoris"] as const)[draw.integer(0, 2)]!,
    useEffectiveConv2d: draw.integer(0, 1) === 1,
  }),
});
