/**
 * Sparse high-rank adapters: W′ = W + S, S zero but for r·(in + out) entries at random places, as many as LoRA of that rank trains. The
 * change has full rank, and several adapters overlap little. The places are drawn when the adapter is made and stand in its file.
 */
import { ConfigError } from "../../errors.ts";
import { boolean, choice, configSchema, integer, key, targetKeys } from "../../formats/peft-config.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";
import { defaultTargets } from "../default-target.ts";
import { type Base, defineMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { linearChange, sparseAt, times } from "../weight-change.ts";

const { target_modules, modules_to_save } = targetKeys;
const schema = configSchema("SHIRA", "shira_", {
  target_modules,
  modules_to_save,
  r: key(32, integer(1)),
  mask_type: key("random", choice("random")),
  random_seed: key(null, integer()),
  fan_in_fan_out: key(false, boolean),
  init_weights: key(true, boolean),
});
type Config = MethodConfig<typeof schema>;

const countOf = ({ in: into, out }: Base, { r }: Config): number => r * (into + out);

/** SHiRA: `shira({ r: 32, targetModules: ["q_proj", "v_proj"] })`. */
export const shira = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2406.13175"],
  formula: "W + S, S sparse",
  targets: { ...defaultTargets, phi: ["q_proj", "v_proj"] },
  startsAtZero: ({ initWeights }) => initWeights,
  layers: {
    linear: linearChange<Config, "values" | "indices">({
      files: { values: "shira_weight", indices: "shira_indices" },
      parameters(base, c) {
        const n = countOf(base, c);
        if (n > base.in * base.out)
          throw new ConfigError(`\`r\` (= ${c.r}) asks for ${n} entries of ${base.path}, which has ${base.in * base.out}.`, {
            operation: "attach",
            got: c.r,
          });
        return { values: { shape: [n] }, indices: { shape: [2, n], trainable: false, dtype: "int32" } };
      },
      initialise(base, c, random) {
        const n = countOf(base, c);
        const from = c.randomSeed === null ? random : new TorchGenerator(c.randomSeed);
        const places = from.randperm(base.in * base.out, n).sort();
        const indices = new Int32Array(2 * n);
        for (const [i, place] of places.entries()) {
          indices[i] = Math.floor(place / base.in);
          indices[n + i] = place % base.in;
        }
        return { values: { values: c.initWeights ? new Float32Array(n) : random.randn(n), indices } };
      },
      delta: ({ in: into, out }, { values, indices }, _, scale) => times(sparseAt(values, indices, [out, into]), scale),
    }),
  },
  samples(draw, { in: into, out }) {
    const most = Math.floor((into * out) / (into + out));
    return most < 1
      ? null
      : { r: draw.integer(1, Math.min(3, most)), randomSeed: draw.integer(0, 99), initWeights: draw.integer(0, 2) > 0 };
  },
});
