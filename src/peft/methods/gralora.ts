/**
 * Granular low-rank adaptation: ΔW in k by k blocks, each a LoRA of rank r/k of its own: block (o, i) is s·(Aᵢ[:, part o]·Bₒ[part i, :])ᵀ, s =
 * α/(r + h). As many parameters as LoRA of rank r, for a change of rank up to k·r. With k = 1 it equals LoRA. B starts at zero.
 * `hybridR` h adds a plain LoRA of rank h beside it, with the same s.
 */
import { ConfigError } from "../../errors.ts";
import { boolean, choice, configSchema, float, integer, key, number, plainTargetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add } from "../../graph/elementwise.ts";
import { permute, reshape } from "../../graph/movement.ts";
import { uniform, zeros } from "../init/standard.ts";
import { defineMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { product } from "../scale.ts";
import { linearChange, times } from "../weight-change.ts";

const schema = configSchema("GRALORA", "gralora_", {
  ...plainTargetKeys,
  r: key(32, integer(1)),
  hybrid_r: key(0, integer(0)),
  alpha: key(64, number),
  gralora_dropout: key(0, float(0, 1)),
  gralora_k: key(2, integer(1)),
  fan_in_fan_out: key(false, boolean),
  bias: key("none", choice("none", "all", "gralora_only")),
  init_weights: key(true, boolean),
});
type Config = MethodConfig<typeof schema>;

/** GraLoRA: `gralora({ r: 32, alpha: 64, graloraK: 2, targetModules: ["q_proj"] })`; k must divide r and the layers' sizes. */
export const gralora = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2505.20355"],
  formula: "W + s·B·A in each of k² blocks",
  check({ r, graloraK: k }) {
    if (r % k !== 0) throw new ConfigError(`\`graloraK\` (= ${k}) must divide \`r\` (= ${r}).`, { operation: "gralora", got: k });
  },
  startsAtZero: ({ initWeights }) => initWeights,
  layers: {
    linear: linearChange<Config, "A" | "B", "wholeA" | "wholeB">({
      files: {
        A: "gralora_A",
        B: "gralora_B",
        wholeA: "gralora_A_general.weight",
        wholeB: "gralora_B_general.weight",
      },
      parameters({ in: into, out, path }, { r, graloraK: k, hybridR: h }) {
        if (into % k !== 0 || out % k !== 0)
          throw new ConfigError(`${path} is [${out}, ${into}]; \`graloraK\` (= ${k}) must divide both.`, {
            operation: "attach",
            got: k,
          });
        const whole = h > 0 ? { wholeA: { shape: [h, into] }, wholeB: { shape: [out, h] } } : {};
        return { A: { shape: [k, into / k, r] }, B: { shape: [k, r, out / k] }, ...whole };
      },
      initialise({ in: into, out }, { r, graloraK: k, hybridR: h, initWeights }, random) {
        const B = (fanIn: number) => (initWeights ? zeros : uniform(fanIn));
        const own = { A: uniform(into / k)(random, into * r), B: B(r)(random, r * out) };
        return { values: h > 0 ? { ...own, wholeA: uniform(into)(random, h * into), wholeB: B(h)(random, out * h) } : own };
      },
      delta({ in: into, out }, { A, B, wholeA, wholeB }, { r, alpha, graloraK: k, hybridR }, scale) {
        const q = r / k;
        const left = permute(reshape(B, [k, k, q, out / k]), [0, 1, 3, 2]); // [o, i, out/k, q]
        const right = permute(reshape(A, [k, into / k, k, q]), [2, 0, 3, 1]); // [o, i, q, in/k]
        const blocks = reshape(permute(matmul(left, right), [0, 2, 1, 3]), [out, into]);
        return times(wholeA && wholeB ? add(blocks, matmul(wholeB, wholeA)) : blocks, product(alpha / (r + hybridR), scale));
      },
      dropout: ({ graloraDropout }) => graloraDropout,
    }),
  },
  samples(draw, { in: into, out }) {
    const graloraK = [3, 2].find((k) => into % k === 0 && out % k === 0) ?? 1;
    return {
      r: graloraK * draw.integer(1, 2),
      graloraK,
      hybridR: draw.integer(0, 2),
      alpha: draw.integer(1, 8) / 2,
      initWeights: draw.integer(0, 3) > 0,
    };
  },
});
