/**
 * Matrix shard sharing (before: Bone): ΔW is one trained matrix M [r, out], repeated: inputs c, c + r, c + 2·r, … share row c of it, ΔW[o, c] =
 * M[c mod r, o]. M starts at zero. It is LoRA with B = Mᵀ and an A of repeated identities, frozen; there is no α.
 *
 * `initWeights: "mini"` repeats along the outputs, too, M [r, miniR]. `"bat"` has a matrix M [r, r] for each r outputs and depends on the
 * weight: in blocks of r by r, ΔW = W·M + M. With several adapters that is the weight with the
 * earlier ones in it, as in PEFT.
 */
import { ConfigError } from "../../errors.ts";
import { boolean, choice, configSchema, float, integer, key, targetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, cast, mod } from "../../graph/elementwise.ts";
import { take } from "../../graph/indexing.ts";
import { permute, reshape, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { constant, iota } from "../../graph/source.ts";
import { uniform, zeros } from "../init/standard.ts";
import { type Base, defineMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { linearChange, times } from "../weight-change.ts";

const schema = configSchema("MISS", "miss_", {
  ...targetKeys,
  r: key(64, integer(1)),
  miss_dropout: key(0, float(0, 1)),
  mini_r: key(1, integer(1)),
  init_weights: key(true, boolean, choice("bat", "mini")),
  bias: key("none", choice("none", "all", "miss_only")),
});
type Config = MethodConfig<typeof schema>;

/** Rows 0, 1, … of M over and over, `count` of them. */
const repeated = (M: Tensor, count: number): Tensor => take(M, mod(iota([count]), constant(M.shape[0] as number, [], "int32")));

function shape({ in: into, out, path }: Base, { r, miniR, initWeights }: Config): number[] {
  const refuse = (problem: string, got: number) => {
    throw new ConfigError(`${path} is [${out}, ${into}], ${problem}.`, { operation: "attach", got });
  };
  if (initWeights === "bat" && (out % r !== 0 || into % r !== 0)) refuse(`which \`r\` (= ${r}) does not divide`, r);
  if (initWeights === "mini" && out % miniR !== 0) refuse(`and \`miniR\` (= ${miniR}) does not divide ${out}`, miniR);
  return initWeights === "bat" ? [out / r, r, r] : initWeights === "mini" ? [r, miniR] : [r, out];
}

/** MiSS: `miss({ r: 64, targetModules: ["q_proj"] })`. */
export const miss = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2409.15371"],
  formula: "W + repeated M",
  startsAtZero: ({ initWeights }) => initWeights !== false,
  layers: {
    linear: linearChange<Config, "M">({
      files: { M: "miss_block" },
      parameters: (base, c) => ({ M: { shape: shape(base, c) } }),
      initialise(base, c, random) {
        const extents = shape(base, c);
        const draw = c.initWeights === false ? uniform(extents[1] as number) : zeros;
        return {
          values: {
            M: draw(
              random,
              extents.reduce((product, extent) => product * extent),
            ),
          },
        };
      },
      delta(base, { M }, { r, initWeights }, scale) {
        const { in: into, out } = base;
        if (initWeights !== "bat") {
          const columns = initWeights === "mini" ? transpose(repeated(transpose(M), out)) : M;
          return times(transpose(repeated(columns, into)), scale);
        }
        const W = permute(reshape(cast(base.weight, "float32"), [out / r, r, into / r, r]), [0, 2, 1, 3]);
        const blocks = reshape(M, [out / r, 1, r, r]);
        return times(reshape(permute(add(matmul(W, blocks), blocks), [0, 2, 1, 3]), [out, into]), scale);
      },
      dropout: ({ missDropout }) => missDropout,
    }),
  },
  samples(draw, { in: into, out }) {
    const initWeights = ([true, false, "bat", "mini"] as const)[draw.integer(0, 3)]!;
    const dividing = [4, 3, 2, 1].find((n) => into % n === 0 && out % n === 0)!;
    return { r: initWeights === "bat" ? dividing : draw.integer(1, 5), miniR: dividing, initWeights };
  },
});
