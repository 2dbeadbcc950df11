/**
 * PEANuT: W′ = W + s·N(W), a small network that reads the weight itself. Each column w of W goes through φ(A·w) with A [r, out], then
 * `depth` encoders and as many decoders, φ(E·h) [r, r], each decoder adding what went into its encoder, and last B [out, r], which
 * starts at zero. Trained are A, B and the encoders and decoders.
 */
import { boolean, configSchema, float, integer, key, targetKeys, text } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, cast } from "../../graph/elementwise.ts";
import type { Tensor } from "../../graph/node.ts";
import { activation, activations } from "../../nn/activation.ts";
import { uniform, zeros } from "../init/standard.ts";
import { defineMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { product } from "../scale.ts";
import { linearChange, times } from "../weight-change.ts";

const schema = configSchema("PEANUT", "peanut_", {
  ...targetKeys,
  r: key(32, integer(1)),
  depth: key(0, integer(0)),
  act_fn: key("relu", text),
  scaling: key(1, float()),
  init_weights: key(true, boolean),
});
type Config = MethodConfig<typeof schema>;
type Layer = `encoder.${number}` | `decoder.${number}`;

const numbers = (depth: number): number[] => Array.from({ length: depth }, (_, i) => i);

/** PEANuT: `peanut({ r: 32, depth: 1, targetModules: ["q_proj", "v_proj"] })`. */
export const peanut = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2410.01870"],
  formula: "W + s·N(W), N a small network",
  check: ({ actFn }) => void activation(actFn),
  startsAtZero: ({ initWeights }) => initWeights,
  layers: {
    linear: linearChange<Config, "A" | "B" | Layer>({
      files: {
        A: "peanut_A.weight",
        B: "peanut_B.weight",
        "encoder.*": "peanut_encoders.*.weight",
        "decoder.*": "peanut_decoders.*.weight",
      },
      parameters: (base, { r, depth }) => ({
        A: { shape: [r, base.out] },
        ...Object.fromEntries(
          numbers(depth).flatMap((i) => ["encoder", "decoder"].map((of) => [`${of}.${i}`, { shape: [r, r] }])),
        ),
        B: { shape: [base.out, r] },
      }),
      initialise({ out }, { r, depth, initWeights }, random) {
        const inner = (of: string) => numbers(depth).map((i) => [`${of}.${i}`, uniform(r)(random, r * r)] as const);
        const A = uniform(out)(random, r * out);
        const layers = Object.fromEntries([...inner("encoder"), ...inner("decoder")]);
        return { values: { A, ...layers, B: (initWeights ? zeros : uniform(r))(random, out * r) } };
      },
      delta(base, { A, B, ...layers }, { depth, actFn, scaling }, scale) {
        const phi = activation(actFn);
        const of = (name: Layer): Tensor => layers[name] as Tensor;
        const before: Tensor[] = [];
        let h = phi(matmul(A, cast(base.original, "float32"))); // [r, in]
        for (const i of numbers(depth)) {
          before.push(h);
          h = phi(matmul(of(`encoder.${i}`), h));
        }
        for (const i of numbers(depth)) h = add(phi(matmul(of(`decoder.${i}`), h)), before[depth - 1 - i] as Tensor);
        return times(matmul(B, h), product(scaling, scale));
      },
    }),
  },
  samples(draw) {
    const names = Object.keys(activations).filter((name) => name !== "linear");
    return {
      r: draw.integer(1, 5),
      depth: draw.integer(0, 2),
      actFn: names[draw.integer(0, names.length - 1)] as string,
      scaling: draw.integer(1, 4) / 2,
      initWeights: draw.integer(0, 2) > 0,
    };
  },
});
