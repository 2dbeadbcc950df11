/**
 * Block-circular convolution adaptation: ΔW in blocks of b by b that are circulants, each made of one trained vector k [b]: C[i, j] =
 * k[(j − i) mod b]; W′ = W + C/in. b² entries for b numbers, of full rank in general. It equals no LoRA.
 *
 * `initWeights: true` starts at zero, the others do not. PEFT feeds each of several active adapters the one before; here they add up,
 * as in merging. PEFT's gradient with respect to x (0.21.2) is not the derivative (gradcheck refuses it), so training of more than
 * the last layer goes another way there. The paper multiplies by FFT; here the blocks are written out.
 */
import { ConfigError } from "../../errors.ts";
import { boolean, choice, configSchema, integer, key, numberByPattern, plainTargetKeys } from "../../formats/peft-config.ts";
import { add, mod, sub } from "../../graph/elementwise.ts";
import { take } from "../../graph/indexing.ts";
import { permute, reshape } from "../../graph/movement.ts";
import { constant, iota } from "../../graph/source.ts";
import { normal, uniform, zeros } from "../init/standard.ts";
import { defineMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { product } from "../scale.ts";
import { linearChange, times } from "../weight-change.ts";

const schema = configSchema("C3A", "c3a_", {
  ...plainTargetKeys,
  block_size: key(256, integer(1)),
  bias: key("none", choice("none", "all", "c3a_only")),
  block_size_pattern: key({}, numberByPattern),
  init_weights: key("xavier_uniform", boolean, choice("gaussian", "kaiming_uniform", "xavier_uniform")),
});
type Config = MethodConfig<typeof schema>;

/** C3A: `c3a({ blockSize: 64, targetModules: ["q_proj"] })`; the size must divide the layers'. */
export const c3a = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2407.19342"],
  formula: "W + C/in, blocks of C circulant",
  patterns: { blockSizePattern: "blockSize" },
  startsAtZero: ({ initWeights }) => initWeights === true,
  layers: {
    linear: linearChange<Config, "kernel">({
      files: { kernel: "c3a_kernel" },
      parameters({ in: into, out, path }, { blockSize: b }) {
        if (into % b !== 0 || out % b !== 0)
          throw new ConfigError(`${path} is [${out}, ${into}], which \`blockSize\` (= ${b}) does not divide.`, {
            operation: "attach",
            got: b,
          });
        return { kernel: { shape: [out / b, into / b, b] } };
      },
      initialise({ in: into, out }, { blockSize, initWeights }, random) {
        const xavier = uniform((into + out) / 6); // ±√(6/(in + out))
        const draw = { true: zeros, gaussian: normal(1), kaiming_uniform: uniform(into), xavier_uniform: xavier, false: xavier };
        return { values: { kernel: draw[`${initWeights}`](random, (out * into) / blockSize) } };
      },
      delta({ in: into, out }, { kernel }, { blockSize: b }, scale) {
        const size = constant(b, [], "int32");
        const place = mod(add(sub(reshape(iota([b]), [1, b]), reshape(iota([b]), [b, 1])), size), size); // (j − i) mod b
        const blocks = take(permute(kernel, [2, 0, 1]), place); // [i, j, out/b, in/b]
        return times(reshape(permute(blocks, [2, 0, 3, 1]), [out, into]), product(1 / into, scale));
      },
    }),
  },
  samples(draw, { in: into, out }) {
    const blockSize = [5, 4, 3, 2].find((n) => into % n === 0 && out % n === 0) ?? 1;
    return { blockSize, initWeights: ([true, false, "gaussian", "kaiming_uniform"] as const)[draw.integer(0, 3)]! };
  },
});
