/**
 * Block-diagonal LoRA: W′ = W + s·B·A, where A (of the layers that `target_modules_bd_a` names) or B (`target_modules_bd_b`) has blocks on
 * its diagonal only, `nblocks` of them, so that a layer that is cut into as many pieces has its adapter cut like it. The blocks lie one
 * upon the other: A [r, in/nblocks], B [out, r/nblocks]. It equals LoRA with one block.
 */
import { ConfigError } from "../../errors.ts";
import { boolean, integer, key, texts } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, equal, where } from "../../graph/elementwise.ts";
import { permute, reshape, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { constant, iota } from "../../graph/source.ts";
import { type Base, defineMethod, type LayerMethod } from "../method.ts";
import { product } from "../scale.ts";
import { subConfig } from "../sub-config.ts";
import { through, times } from "../weight-change.ts";
import { type LoraConfig, lora, refuseMadeStarts, scaling, startsAtZero, variantKeys, variantOfLora } from "./lora.ts";

const keys = {
  target_modules_bd_a: key(null, texts),
  target_modules_bd_b: key(null, texts),
  nblocks: key(1, integer(1)),
  match_strict: key(true, boolean),
};

/** Blocks of A and of B; 1 for a whole matrix. */
function blocks({ path, in: into, out }: Base, { useBdlora, r }: LoraConfig): { readonly a: number; readonly b: number } {
  const { target_modules_bd_a, target_modules_bd_b, nblocks, match_strict } = subConfig("useBdlora", useBdlora, keys);
  const refuse = (problem: string, hint?: string): never => {
    throw new ConfigError(problem, { operation: "attach", got: useBdlora, ...(hint === undefined ? {} : { hint }) });
  };
  const [inA, inB] = [target_modules_bd_a, target_modules_bd_b].map((names) => (names ?? []).some((name) => path.includes(name)));
  if (inA && inB) refuse(`${path} is named by \`target_modules_bd_a\` and by \`target_modules_bd_b\`.`);
  if (!inA && !inB && match_strict)
    refuse(
      `${path} is named neither by \`target_modules_bd_a\` nor by \`target_modules_bd_b\`.`,
      "Set `match_strict` to false to give it a plain LoRA adapter.",
    );
  const sizes = inA ? { in: into, r } : inB ? { r, out } : {};
  for (const [name, size] of Object.entries(sizes))
    if (size % nblocks !== 0) refuse(`\`nblocks\` (= ${nblocks}) does not divide ${name} (= ${size}) of ${path}.`);
  return { a: inA ? nblocks : 1, b: inB ? nblocks : 1 };
}

/** x [..., n·i] through n blocks W [n·o, i]: [..., n·o]. */
function throughBlocks(x: Tensor, W: Tensor, n: number): Tensor {
  if (n === 1) return through(x, W);
  const [rows, into] = W.shape as [number, number];
  const T = x.size / (n * into);
  const y = matmul(permute(reshape(x, [T, n, into]), [1, 0, 2]), transpose(reshape(W, [n, rows / n, into])));
  return reshape(permute(y, [1, 0, 2]), [...x.shape.slice(0, -1), rows]);
}

/** The same matrix with its zeros, [n·o, n·i]. */
function dense(W: Tensor, n: number): Tensor {
  if (n === 1) return W;
  const [rows, into] = W.shape as [number, number];
  const diagonal = equal(reshape(iota([n]), [n, 1, 1, 1]), reshape(iota([n]), [1, 1, n, 1]));
  return reshape(where(diagonal, reshape(W, [n, rows / n, 1, into]), constant(0, [], "float32")), [rows, n * into]);
}

const linear: LayerMethod<LoraConfig, "A" | "B"> = {
  files: { A: "lora_A.weight", B: "lora_B.weight" },
  parameters(base, c) {
    const { a, b } = blocks(base, c);
    return { A: { shape: [c.r, base.in / a] }, B: { shape: [base.out, c.r / b] } };
  },
  initialise(base, c, random) {
    const { a, b } = blocks(base, c);
    const { values } = lora.layers.linear!.initialise(base, c, random);
    // blocks start as PEFT's, whatever `initLoraWeights` says: uniform with a = 0, or zero
    const bound = Math.sqrt(6 / (base.in / a));
    return {
      values: {
        A: a === 1 ? values["A"]! : random.uniform((c.r * base.in) / a, -bound, bound),
        B: b === 1 ? values["B"]! : new Float32Array((base.out * c.r) / b),
      },
    };
  },
  forward(x, base, { A, B }, c, use) {
    const { a, b } = blocks(base, c);
    const low = times(throughBlocks(use.dropout(x, c.loraDropout), A, a), product(scaling(c), use.scale));
    return add(base(x), throughBlocks(low, B, b));
  },
  delta(base, { A, B }, c, scale) {
    const { a, b } = blocks(base, c);
    return times(matmul(dense(B, b), dense(A, a)), product(scaling(c), scale));
  },
};

/** BD-LoRA: `bdlora({ r: 8, useBdlora: { target_modules_bd_a: ["o_proj"], target_modules_bd_b: ["q_proj"], nblocks: 2 } })`. */
export const bdlora = defineMethod({
  ...variantOfLora,
  variant: { useBdlora: {} },
  isMeant: ({ useBdlora }) => useBdlora !== null,
  papers: ["https://arxiv.org/abs/2510.23346"],
  formula: "W + s·B·A, A or B block-diagonal",
  keys: variantKeys("layerReplication", "useBdlora"),
  check(config) {
    lora.check?.(config);
    subConfig("useBdlora", config.useBdlora, keys);
    refuseMadeStarts("bdlora", "useBdlora", config);
  },
  startsAtZero: (config) => config.initLoraWeights !== "orthogonal" && startsAtZero(config),
  complete: (config) => ({ ...config, useBdlora: subConfig("useBdlora", config.useBdlora, keys) }),
  layers: { linear },
  samples(draw, { in: into, out }) {
    const [nblocks, isA] = [draw.integer(1, 3), draw.integer(0, 1) === 1];
    if ((isA ? into : out) % nblocks !== 0) return null;
    return {
      r: nblocks * draw.integer(1, 3),
      loraAlpha: draw.integer(1, 32) / 2,
      useRslora: draw.integer(0, 1) === 1,
      useBdlora: { [isA ? "target_modules_bd_a" : "target_modules_bd_b"]: ["l"], nblocks }, // in all paths of the laws
    };
  },
});
