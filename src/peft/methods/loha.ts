/**
 * Low-rank Hadamard product: W′ = W + s·(A₁·B₁) ⊙ (A₂·B₂), s = α/r, with Aᵢ [out, r] and Bᵢ [r, in] trained. The elementwise product
 * of two matrices of rank r has up to rank r², for the parameters of a LoRA of rank 2r; B₂ starts at zero. It equals LoRA of
 * rank r where one of the factors is constant.
 *
 * From federated learning (FedPara), where it replaces W; as a change of W it is LyCORIS's, which PEFT follows. A convolution's kernel
 * is a matrix [out, in·places]; with `useEffectiveConv2d` each of the two factors is a core T [r, r, ...places] between Aᵢ [r, out]
 * and Bᵢ [r, in]. `rankDropout` leaves out rows of ΔW, `moduleDropout` all of it, in training.
 */
import { boolean, configSchema, float, integer, key, number, numberByPattern, targetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { mul } from "../../graph/elementwise.ts";
import { type Shape, sizeOf } from "../../graph/shape.ts";
import type { TorchGenerator } from "../../random/torch-generator.ts";
import { coreKernel, fromCore, kernelOf } from "../convolution-layer.ts";
import { rowMask } from "../dropout-mask.ts";
import { uniform, zeros } from "../init/standard.ts";
import { type Base, defineMethod, type Start } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { product } from "../scale.ts";
import { convolutionChange, linearChange, times, type WeightChange } from "../weight-change.ts";

/** Keys of the two methods that are LyCORIS's. */
export const lycorisKeys = {
  ...targetKeys,
  rank_pattern: key({}, numberByPattern),
  alpha_pattern: key({}, numberByPattern),
  r: key(8, integer(1)),
  alpha: key(8, number),
  rank_dropout: key(0, float(0, 1)),
  module_dropout: key(0, float(0, 1)),
  use_effective_conv2d: key(false, boolean),
};
const schema = configSchema("LOHA", "hada_", { ...lycorisKeys, init_weights: key(true, boolean) });
type Config = MethodConfig<typeof schema>;

type Name = "A1" | "B1" | "A2" | "B2";
type Cores = "T1" | "T2";

/** Whether the kernel is made from cores: asked for, and more than a point. */
const hasCores = (base: Base, { useEffectiveConv2d }: Config): boolean =>
  useEffectiveConv2d && base.kind !== "linear" && kernelOf(base).some((size) => size > 1);

/** Shapes of the parameters. */
function shapes(base: Base, c: Config) {
  const { r } = c;
  if (!hasCores(base, c)) {
    const [A, B] = [{ shape: [base.out, r] }, { shape: [r, base.in] }];
    return { A1: A, B1: B, A2: A, B2: B };
  }
  const kernel = coreKernel(base);
  const [A, B] = [{ shape: [r, base.out] }, { shape: [r, base.in / sizeOf(kernel)] }];
  const T = { shape: [r, r, ...kernel] };
  return { T1: T, A1: A, B1: B, T2: T, A2: A, B2: B };
}

/** First values of parameters of these shapes: random, or zero for those named. */
export const drawn = (
  shapes: Readonly<Record<string, { readonly shape: Shape }>>,
  atZero: readonly string[],
  random: TorchGenerator,
): Start => ({
  values: Object.fromEntries(
    Object.entries(shapes).map(([name, { shape }]) => [
      name,
      (atZero.includes(name) ? zeros : uniform(sizeOf(shape.slice(1))))(random, sizeOf(shape)),
    ]),
  ),
});

const change = {
  files: { A1: "hada_w1_a", B1: "hada_w1_b", A2: "hada_w2_a", B2: "hada_w2_b", T1: "hada_t1", T2: "hada_t2" },
  parameters: shapes,
  initialise: (base, c, random) => drawn(shapes(base, c), c.initWeights ? ["B2"] : [], random),
  delta(_, { A1, B1, A2, B2, T1, T2 }, { r, alpha }, scale) {
    const [left, right] = T1 && T2 ? [fromCore(T1, A1, B1), fromCore(T2, A2, B2)] : [matmul(A1, B1), matmul(A2, B2)];
    return times(mul(left, right), product(alpha / r, scale));
  },
  mask: (base, c, use) => rowMask(base, c, use, true),
} satisfies WeightChange<Config, Name, Cores>;

const convolution = convolutionChange<Config, Name, Cores>(change);

/** LoHa: `loha({ r: 8, alpha: 16, targetModules: ["q_proj"] })`. */
export const loha = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2108.06098", "https://arxiv.org/abs/2309.14859"],
  formula: "W + s·(A₁·B₁) ⊙ (A₂·B₂)",
  patterns: { rankPattern: "r", alphaPattern: "alpha" },
  startsAtZero: ({ initWeights }) => initWeights,
  layers: { linear: linearChange<Config, Name, Cores>(change), conv1d: convolution, conv2d: convolution },
  samples: (draw) => ({
    r: draw.integer(1, 4),
    alpha: draw.integer(1, 8) / 2,
    initWeights: draw.integer(0, 2) > 0,
    useEffectiveConv2d: draw.integer(0, 1) === 1,
  }),
});
