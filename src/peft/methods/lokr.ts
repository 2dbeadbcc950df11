/**
 * Low-rank Kronecker product: W′ = W + s·(C ⊗ D), s = α/r. out = l·k and in = m·n are split into about equal factors; C [l, m] is
 * a matrix, D [k, n] a product of rank r, or a matrix where that is no larger; with `decomposeBoth` C is a product, too, where
 * that is smaller. All are trained; C (its first factor) starts at zero. rank(C ⊗ D) = rank C · rank D, so a few values can
 * make a change of high rank. It equals LoRA where C is a single value.
 *
 * PEFT follows LyCORIS: α counts as given even where D is a whole matrix, and its search for factors stops by the first sum.
 */
import {
  boolean,
  choice,
  configSchema,
  float,
  integer,
  key,
  number,
  numberByPattern,
  targetKeys,
} from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import type { Tensor } from "../../graph/node.ts";
import { kron } from "../../tensor/arrange.ts";
import { uniform, zeros } from "../init/standard.ts";
import { type Base, defineMethod, type MethodConfig } from "../method.ts";
import { linearChange, times } from "../weight-change.ts";

const schema = configSchema("LOKR", "lokr_", {
  ...targetKeys,
  rank_pattern: key({}, numberByPattern),
  alpha_pattern: key({}, numberByPattern),
  r: key(8, integer(1)),
  alpha: key(8, number),
  rank_dropout: key(0, float(0, 1)),
  module_dropout: key(0, float(0, 1)),
  use_effective_conv2d: key(false, boolean),
  decompose_both: key(false, boolean),
  decompose_factor: key(-1, integer(-1)),
  rank_dropout_scale: key(false, boolean),
  init_weights: key(true, boolean, choice("lycoris")),
});
type Config = MethodConfig<typeof schema>;

/** n as a product of two: `factor` first where it divides n, else as nearly square as the divisors up to `factor` allow. */
export function twoFactors(n: number, factor: number): readonly [number, number] {
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

/** Shapes of the parameters; a factor that is a whole matrix has no `a` and `b`. */
function shapes({ in: into, out }: Base, { r, decomposeBoth, decomposeFactor }: Config) {
  const [l, k] = twoFactors(out, decomposeFactor);
  const [m, n] = twoFactors(into, decomposeFactor);
  const C = decomposeBoth && r < Math.max(l, m) / 2 ? { Ca: { shape: [l, r] }, Cb: { shape: [r, m] } } : { C: { shape: [l, m] } };
  const D = r < Math.max(k, n) / 2 ? { Da: { shape: [k, r] }, Db: { shape: [r, n] } } : { D: { shape: [k, n] } };
  return { ...C, ...D };
}

/** LoKr: `lokr({ r: 8, alpha: 16, targetModules: ["q_proj"] })`. */
export const lokr = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2212.10650", "https://arxiv.org/abs/2309.14859"],
  formula: "W + s·(C ⊗ D)",
  keys: [
    ...["r", "alpha", "rankPattern", "alphaPattern", "decomposeBoth", "decomposeFactor", "initWeights"],
    ...["useEffectiveConv2d", "rankDropoutScale"], // for convolutions and dropout only
  ] as (keyof Config)[],
  patterns: { rankPattern: "r", alphaPattern: "alpha" },
  startsAtZero: ({ initWeights }) => initWeights !== false,
  layers: {
    linear: linearChange<Config, never, "C" | "Ca" | "Cb" | "D" | "Da" | "Db">({
      files: { C: "lokr_w1", Ca: "lokr_w1_a", Cb: "lokr_w1_b", D: "lokr_w2", Da: "lokr_w2_a", Db: "lokr_w2_b" },
      parameters: shapes,
      initialise(base, c, random) {
        const atZero = c.initWeights === true ? ["C", "Ca"] : c.initWeights === "lycoris" ? ["D", "Db"] : [];
        const values = Object.entries(shapes(base, c)).map(([name, { shape }]) => {
          const [rows, columns] = shape as [number, number];
          return [name, (atZero.includes(name) ? zeros : uniform(columns))(random, rows * columns)];
        });
        return { values: Object.fromEntries(values) };
      },
      delta(_, { C, Ca, Cb, D, Da, Db }, { r, alpha }, scale) {
        const left = C ?? matmul(Ca as Tensor, Cb as Tensor);
        const right = D ?? matmul(Da as Tensor, Db as Tensor);
        return kron(times(left, (alpha / r) * scale), right);
      },
    }),
  },
  samples: (draw) => ({
    r: draw.integer(1, 3),
    alpha: draw.integer(1, 8) / 2,
    decomposeBoth: draw.integer(0, 1) === 1,
    decomposeFactor: [-1, 2, 4][draw.integer(0, 2)]!,
    initWeights: ([true, false, "lycoris"] as const)[draw.integer(0, 2)]!,
  }),
});
