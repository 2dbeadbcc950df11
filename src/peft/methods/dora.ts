/**
 * Weight-decomposed low-rank adaptation: W′ = m ⊙ (W + s·B·A) / n, row by row, with n = ‖W + s·B·A‖ of each row (of an embedding:
 * of each column). Trained are LoRA's A and B and the magnitudes m [out], which start as n, so a fresh adapter changes nothing.
 * It equals LoRA while m = n.
 *
 * n counts as constant for the gradient, as in §4.3 of the paper. As in PEFT, dropout acts on the whole direction, not on
 * B·A alone, and with several adapters n is that of the layer's own weight with this adapter only.
 */
import { currentDevice, upload } from "../../compile/program.ts";
import type { TypedArray } from "../../graph/dtype.ts";
import { add, cast, div, mul, sqrt, sub } from "../../graph/elementwise.ts";
import { reshape, stopGradient } from "../../graph/movement.ts";
import { Tensor } from "../../graph/node.ts";
import { reduceSum } from "../../graph/reduction.ts";
import { kernelOf, perChannel, refuseGroups } from "../convolution-layer.ts";
import { type Base, defineMethod, type LayerMethod } from "../method.ts";
import { product, type Scale } from "../scale.ts";
import { through, times } from "../weight-change.ts";
import { complete, type LoraConfig, lora, lowRankConvolution, refuseMica, scaling, startsAtZero, variantOfLora } from "./lora.ts";

type Factors = { readonly A: Tensor; readonly B: Tensor };
type Dora = LayerMethod<LoraConfig, "A" | "B" | "magnitude">;

/** LoRA's part of the method for this kind of layer. */
const low = (base: Base) => lora.layers[base.kind] as LayerMethod<LoraConfig, "A" | "B">;

/** n [out], of W + s·B·A. */
function norms(W: Tensor, base: Base, p: Factors, c: LoraConfig, scale: Scale): Tensor {
  const changed = add(cast(W, "float32"), low(base).delta?.(base, p, c, scale) as Tensor);
  return reshape(sqrt(reduceSum(mul(changed, changed), [base.kind === "embedding" ? 0 : 1])), [base.out]);
}

/** m / n [out]. */
const gains = (base: Base, p: Factors & { readonly magnitude: Tensor }, c: LoraConfig, scale: Scale): Tensor =>
  div(reshape(p.magnitude, [base.out]), stopGradient(norms(base.original, base, p, c, scale)));

const common = {
  parameters: (base, c) => ({ ...low(base).parameters(base, c), magnitude: { shape: [base.out] } }),
  initialise(base, c, random, calibration) {
    const { values, ...rest } = low(base).initialise(base, c, random, calibration);
    const { A, B } = low(base).parameters(base, c);
    const tensor = (value: TypedArray | Tensor | undefined, { shape }: { readonly shape: readonly number[] }) =>
      value instanceof Tensor ? value : upload(currentDevice(), value as TypedArray, shape, "float32");
    const factors = { A: tensor(values["A"], A), B: tensor(values["B"], B) };
    return { ...rest, values: { ...values, magnitude: norms(rest.weight ?? base.original, base, factors, c, 1) } };
  },
  residual: (base, c) => low(base).residual?.(base, c),
  delta(base, p, c, scale) {
    const g = gains(base, p, c, scale);
    const changed = add(base.weight, low(base).delta?.(base, p, c, scale) as Tensor);
    return sub(mul(base.kind === "embedding" ? g : reshape(g, [base.out, 1]), changed), base.weight);
  },
} satisfies Omit<Dora, "files" | "forward">;

/**
 * The adapted output, where the last axis or that of the channels is as long as the magnitudes.
 * @param along makes values for each output broadcast to y
 */
const forward =
  (
    share: (x: Tensor, base: Base, p: Factors, s: Scale) => Tensor,
    along: (values: Tensor, y: Tensor) => Tensor,
  ): Dora["forward"] =>
  (x, base, p, c, use) => {
    const y = base(x);
    const dropped = use.dropout(x, c.loraDropout);
    const undropped = dropped === x ? y : base(dropped);
    const z = base.bias ? sub(undropped, along(base.bias, y)) : undropped;
    const turned = add(z, share(dropped, base, p, product(scaling(c), use.scale)));
    return add(y, sub(mul(along(gains(base, p, c, use.scale), y), turned), z));
  };

const linear: Dora = {
  ...common,
  files: { A: "lora_A.weight", B: "lora_B.weight", magnitude: "lora_magnitude_vector" },
  forward: forward(
    (x, _, { A, B }, s) => through(times(through(x, A), s), B),
    (values) => values,
  ),
};

const convolution: Dora = {
  ...linear,
  parameters(base, c) {
    refuseGroups("DoRA", base);
    return { ...low(base).parameters(base, c), magnitude: { shape: [1, base.out, ...kernelOf(base).map(() => 1)] } };
  },
  initialise(base, c, random, calibration) {
    const start = common.initialise(base, c, random, calibration);
    const { shape } = convolution.parameters(base, c).magnitude;
    return { ...start, values: { ...start.values, magnitude: reshape(start.values.magnitude, shape) } };
  },
  forward: forward((x, base, { A, B }, s) => lowRankConvolution(x, base, A, B, s), perChannel),
};

const embedding: Dora = {
  ...common,
  files: { A: "lora_embedding_A", B: "lora_embedding_B", magnitude: "lora_magnitude_vector" },
  forward: (ids, base, p, c, use) => mul(gains(base, p, c, use.scale), low(base).forward(ids, base, p, c, use)),
};

/** DoRA: `dora({ r: 8, loraAlpha: 16 })`, with LoRA's options. `lora({ useDora: true })` is the same, as are its files. */
export const dora = defineMethod({
  ...variantOfLora,
  variant: { useDora: true },
  papers: ["https://arxiv.org/abs/2402.09353"],
  formula: "m ⊙ (W + s·B·A) / ‖W + s·B·A‖",
  keys: lora.keys.filter((key) => key !== "loraBias" && key !== "targetParameters"),
  check(config) {
    lora.check?.(config);
    refuseMica("dora", "useDora", config);
  },
  complete,
  ...(lora.whenLoaded ? { whenLoaded: lora.whenLoaded } : {}),
  startsAtZero,
  layers: { linear, embedding, conv1d: convolution, conv2d: convolution, conv3d: convolution },
  samples: lora.samples,
});
