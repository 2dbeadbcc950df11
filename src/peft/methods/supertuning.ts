/**
 * Super: W′ = W + S, S zero but for the entries where |W| is largest (or, with `selectTop: false`, smallest), a share of 1 − sparsity of them,
 * whose changes are trained. Where they are is found when the adapter is made and stands in its file, unless `savePrecomputedIndices` is
 * false: then it is found again in the model's weights. With `r` it is Supra: W + S + s·B·A, a LoRA beside it, s = α/r.
 *
 * The places are in the order of the sizes, as PyTorch's topk gives them. Entries of equal size are here in the order of the weight; topk
 * tells no order, so that a file of PEFT's without places may have the values of such entries the other way round.
 */
import { ConfigError } from "../../errors.ts";
import { boolean, configSchema, float, integer, key, targetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add } from "../../graph/elementwise.ts";
import { readValues } from "../../linalg/matrix.ts";
import { uniform, zeros } from "../init/standard.ts";
import { type Base, defineMethod, type LayerMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { product, type Scale } from "../scale.ts";
import { sparse, through, times } from "../weight-change.ts";

const { target_modules, modules_to_save } = targetKeys;
const schema = configSchema("SUPERTUNING", "supertuning_", {
  target_modules,
  modules_to_save,
  sparsity: key(0.99, float(0, 1)),
  select_top: key(true, boolean),
  r: key(null, integer(1)),
  lora_alpha: key(null, float(0)),
  lora_dropout: key(0, float(0, 1)),
  init_weights: key(true, boolean),
  save_precomputed_indices: key(true, boolean),
});
type Config = MethodConfig<typeof schema>;

const countOf = ({ in: into, out }: Base, { sparsity }: Config): number => Math.floor(into * out * (1 - sparsity));

/** Of the largest or smallest sizes, the first of equal ones. */
function chosen(base: Base, c: Config): Int32Array {
  const sizes = readValues(base.original).map(Math.abs);
  const places = Int32Array.from(sizes.keys());
  const sign = c.selectTop ? -1 : 1;
  return places.sort((a, b) => sign * (sizes[a]! - sizes[b]!) || a - b).slice(0, countOf(base, c));
}

const scaling = ({ r, loraAlpha }: Config, scale: Scale): Scale => product((loraAlpha as number) / (r as number), scale);

const linear: LayerMethod<Config, "values" | "indices", "A" | "B"> = {
  files: {
    values: "supertuning_values",
    indices: "supertuning_indices",
    A: "supertuning_lora_A.weight",
    B: "supertuning_lora_B.weight",
  },
  parameters(base, c) {
    const n = countOf(base, c);
    if (n < 1)
      throw new ConfigError(`\`sparsity\` (= ${c.sparsity}) leaves nothing of ${base.path} to train.`, {
        operation: "attach",
        got: c.sparsity,
        hint: `It has ${base.in * base.out} entries.`,
      });
    return {
      values: { shape: [n] },
      indices: { shape: [n], trainable: false, dtype: "int32", derived: !c.savePrecomputedIndices },
      ...(c.r === null ? {} : { A: { shape: [c.r, base.in] }, B: { shape: [base.out, c.r] } }),
    };
  },
  initialise(base, c, random) {
    const n = countOf(base, c);
    const values = {
      values: c.initWeights ? new Float32Array(n) : random.randn(n),
      indices: chosen(base, c),
    };
    if (c.r === null) return { values };
    const A = uniform(base.in)(random, c.r * base.in);
    return { values: { ...values, A, B: (c.initWeights ? zeros : uniform(c.r))(random, base.out * c.r) } };
  },
  derive: (base, c) => (c.savePrecomputedIndices ? {} : { indices: chosen(base, c) }),
  forward(x, base, { values, indices, A, B }, c, use) {
    const y = add(base(x), through(x, times(sparse(values, indices, [base.out, base.in]), use.scale)));
    if (!A || !B) return y;
    return add(y, through(times(through(use.dropout(x, c.loraDropout), A), scaling(c, use.scale)), B));
  },
  delta(base, { values, indices, A, B }, c, scale) {
    const S = times(sparse(values, indices, [base.out, base.in]), scale);
    return A && B ? add(S, times(matmul(B, A), scaling(c, scale))) : S;
  },
};

/** Super and Supra: `supertuning({ sparsity: 0.99, targetModules: ["q_proj", "v_proj"] })`. */
export const supertuning = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2607.09287"],
  formula: "W + S, S where W is large; + s·B·A",
  check({ r, loraAlpha }) {
    if (r === null && loraAlpha !== null)
      throw new ConfigError("`loraAlpha` is that of a LoRA beside the entries, which there is none of without `r`.", {
        operation: "supertuning",
        got: loraAlpha,
        hint: "Give `r`, or leave `loraAlpha` out.",
      });
  },
  complete: (config) => (config.r !== null && config.loraAlpha === null ? { ...config, loraAlpha: 2 * config.r } : config),
  startsAtZero: ({ initWeights }) => initWeights,
  perLayer: (bases, { savePrecomputedIndices }) =>
    bases.map(({ path, original: { dtype } }) => {
      const warning = `${path} is ${dtype}, in which many entries are of equal size: without \`savePrecomputedIndices\` PyTorch and lorikeet may give a value to different ones of them.`;
      return savePrecomputedIndices || dtype === "float32" ? {} : { warning };
    }),
  layers: { linear },
  samples(draw, { in: into, out }) {
    const r = draw.integer(0, 1) === 1 ? draw.integer(1, 4) : null;
    return {
      sparsity: into * out < 3 ? 0 : draw.integer(0, 2) / 4,
      selectTop: draw.integer(0, 3) > 0,
      r,
      loraAlpha: r === null ? null : draw.integer(1, 16) / 2,
      initWeights: draw.integer(0, 2) > 0,
    };
  },
});
