/**
 * QA-LoRA: W′ = W + s·B·A·P, where P takes the mean of every g inputs that lie together, times in/g: A is [r, in/g]. For weights of codes that have
 * one scale and zero for each such group, the change is one of the zeros: so the paper merges it and stays quantised.
 *
 * PEFT has it for layers of GPTQ codes only, and reads past `use_qalora` on others, where its adapter is plain LoRA; here any linear layer has
 * it, and is merged like every other change of the weight. The values of the file are those of PEFT on GPTQ. A file whose A is [r, in] is
 * plain LoRA here, too, and so is every adapter with groups of 1, which share nothing: PEFT multiplies it by `in` on GPTQ codes alone.
 */
import { ConfigError } from "../../errors.ts";
import { matmul } from "../../graph/contraction.ts";
import { add } from "../../graph/elementwise.ts";
import { expand, reshape } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { reduceSum } from "../../graph/reduction.ts";
import { uniform, zeros } from "../init/standard.ts";
import { type Base, defineMethod, type LayerMethod } from "../method.ts";
import { product } from "../scale.ts";
import { through, times } from "../weight-change.ts";
import { type LoraConfig, lora, scaling, variantKeys, variantOfLora } from "./lora.ts";

/** in/g. @throws {ConfigError} when the inputs do not come in groups of that size */
function groupsOf(path: string, into: number, { qaloraGroupSize: g }: LoraConfig): number {
  if (into % g === 0) return into / g;
  throw new ConfigError(`${path} has ${into} inputs, no multiple of \`qaloraGroupSize\` (= ${g}).`, {
    operation: "attach",
    got: g,
    hint: "Give a divisor, or take the layer out with `excludeModules`.",
  });
}

/** x·Pᵀ, [..., in/g]: the sum of each group, times (in/g)/g. */
function pooled(x: Tensor, g: number): Tensor {
  const into = x.shape[x.rank - 1] as number;
  const before = x.shape.slice(0, -1);
  const sums = reduceSum(reshape(x, [...before, into / g, g]), [x.rank]);
  return times(reshape(sums, [...before, into / g]), into / g / g);
}

/** A layer's config, with the inputs of its A where that comes from a file. */
type OwnConfig = LoraConfig & { readonly inputsOfA?: number };

/** PEFT reads past `use_qalora`. */
const isPlain = (base: Base, c: OwnConfig): boolean => c.inputsOfA === base.in || c.qaloraGroupSize === 1;

const plain = lora.layers.linear as LayerMethod<OwnConfig, "A" | "B">;

const linear: LayerMethod<OwnConfig, "A" | "B"> = {
  files: { A: "lora_A.weight", B: "lora_B.weight" },
  parameters: (base, c) => ({
    A: { shape: [c.r, isPlain(base, c) ? base.in : groupsOf(base.path, base.in, c)] },
    B: { shape: [base.out, c.r] },
  }),
  initialise(base, c, random) {
    const { r, initLoraWeights: name } = c;
    const groups = groupsOf(base.path, base.in, c);
    // PEFT puts a new layer in the place of A after its start, so that A is drawn alike whatever `initLoraWeights` says
    const A = uniform(groups)(random, r * groups);
    return { values: { A, B: (name === false ? uniform(r) : zeros)(random, base.out * r) } };
  },
  forward(x, base, { A, B }, c, use) {
    if (isPlain(base, c)) return plain.forward(x, base, { A, B }, c, use);
    const s = product(scaling(c), use.scale);
    const low = through(pooled(use.dropout(x, c.loraDropout), c.qaloraGroupSize), A);
    return add(base(x), through(times(low, s), B));
  },
  delta(base, { A, B }, c, scale) {
    if (isPlain(base, c)) return times(matmul(B, A), product(scaling(c), scale));
    const g = c.qaloraGroupSize;
    const groups = base.in / g;
    const wide = reshape(expand(reshape(A, [c.r, groups, 1]), [c.r, groups, g]), [c.r, base.in]);
    return times(matmul(B, wide), product((scaling(c) * groups) / g, scale));
  },
};

/** QA-LoRA: `qalora({ r: 8, qaloraGroupSize: 32 })`, with LoRA's options. */
export const qalora = defineMethod({
  ...variantOfLora,
  variant: { useQalora: true },
  papers: ["https://arxiv.org/abs/2309.14717"],
  formula: "W + s·B·A·P, P the means of g inputs",
  keys: variantKeys("useQalora", "qaloraGroupSize"),
  check(config) {
    lora.check?.(config);
    const { initLoraWeights: name } = config;
    if (typeof name !== "boolean" && name !== "gaussian")
      throw new ConfigError(`\`useQalora\` does not go with \`initLoraWeights\` (= ${JSON.stringify(name)}).`, {
        operation: "qalora",
        got: name,
        hint: 'Use true, false or "gaussian".',
      });
  },
  startsAtZero: ({ initLoraWeights }) => initLoraWeights !== false,
  keptInFile: (tensors) =>
    new Map(
      [...tensors].flatMap(([name, { shape }]) => {
        const [, path] = /^base_model\.model\.(.*)\.lora_A\.weight$/.exec(name) ?? [];
        return path === undefined ? [] : [[path, { inputsOfA: shape[1] }]];
      }),
    ),
  layers: { linear },
  samples(draw, { in: into }) {
    const divisors = Array.from({ length: into }, (_, i) => i + 1).filter((g) => into % g === 0);
    return {
      r: draw.integer(1, 6),
      loraAlpha: draw.integer(1, 32) / 2,
      qaloraGroupSize: divisors[draw.integer(0, divisors.length - 1)] as number,
      initLoraWeights: [true, false, "gaussian"][draw.integer(0, 2)]!,
    };
  },
});
