/**
 * LoftQ: the weight becomes what its codes stand for, and A and B what a low-rank product can give back of the difference. Repeated,
 * the weight without the product is quantised next:
 *
 * D = dequantise(quantise(W − B·A)), then B·A = the best of rank r to W − D, starting from B·A = 0.
 *
 * As in PEFT, B·A is not divided by the scaling s: choose α = r, so that s = 1. The model on which the adapter runs holds D; quantised
 * in the same way its codes are those of D.
 *
 * @see https://arxiv.org/abs/2310.08659
 */
import { downloadSync, upload } from "../../compile/program.ts";
import type { Device } from "../../devices/device.ts";
import { ConfigError } from "../../errors.ts";
import { integer, type Kind, key } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { cast, mul, sqrt, sub } from "../../graph/elementwise.ts";
import { reshape, sliceAxis } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { svd } from "../../linalg/svd.ts";
import { QuantisedLinear } from "../../nn/quantised-linear.ts";
import {
  dequantiseBlockwise,
  dequantiseInt8,
  type Int8Weight,
  nf4,
  quantiseBlockwise,
  quantiserOptions,
  quantiseWeight,
} from "../../nn/quantiser.ts";
import type { Initialiser } from "../initialiser.ts";
import { requireLinear, requireRank } from "./factors.ts";

/** PEFT's blocks of NF4 here; scales are not quantised. */
const block = 64;

/** What codes of `values` stand for. */
function rounded(values: Float32Array, shape: readonly [number, number], bits: 4 | 8): Float32Array {
  if (bits === 4) return dequantiseBlockwise(quantiseBlockwise(values, nf4, block), nf4, block);
  return dequantiseInt8(quantiseWeight(values, shape, quantiserOptions("loftq", { type: "int8" })) as Int8Weight, shape[1]);
}

/** The best B·A of rank r to a matrix: √S goes to both. */
export function lowRankFactors(M: Tensor, r: number): { readonly A: Tensor; readonly B: Tensor } {
  const { U, S, Vt } = svd(M);
  const root = sqrt(sliceAxis(S, 0, 0, r));
  return { A: mul(reshape(root, [r, 1]), sliceAxis(Vt, 0, 0, r)), B: mul(sliceAxis(U, 1, 0, r), root) };
}

/** PEFT's keys of `loftq_config`. */
export const loftqKeys = {
  loftq_bits: key(4, { expects: "4 or 8", accepts: (x) => x === 4 || x === 8 } satisfies Kind<number>),
  loftq_iter: key(1, integer(1)),
};

/** `initLoraWeights: "loftq"`. */
export const loftq: Initialiser = {
  startsAtZero: false,
  residual: "from the weight",
  start(base, { r, options }) {
    requireLinear("loftq", base);
    requireRank("loftq", base, r);
    if (base.layer instanceof QuantisedLinear)
      throw new ConfigError(`"loftq" starts from the weight before it is quantised; ${base.path} holds codes already.`, {
        operation: "lora",
        got: base.path,
        hint: "Attach first and quantise the saved model, or use replaceLoraWeightsLoftq.",
      });
    const { loftq_bits: bits, loftq_iter: iterations } = options as { readonly loftq_bits: 4 | 8; readonly loftq_iter: number };
    const shape = [base.out, base.in] as const;
    const W = cast(base.original, "float32");
    const device = base.layer.parameters()[0]?.stored.storage?.device as Device;
    let rest = W;
    for (let i = 0; ; i++) {
      const D = upload(device, rounded(downloadSync(rest) as Float32Array, shape, bits), shape, "float32");
      const values = lowRankFactors(sub(W, D), r);
      if (i + 1 === iterations) return { values, weight: D };
      rest = sub(W, matmul(values.B, values.A));
    }
  },
};
