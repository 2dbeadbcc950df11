/**
 * VeLoRA: LoRA whose derivative of A is taken of a compressed input. x is cut into `num_groups` pieces, of which only the length along one
 * direction v is kept, so that in place of x there is x̂ = scale·⟨piece, v⟩·v. Values and all other derivatives are LoRA's.
 *
 * v is a random direction (`random`), or the mean of all pieces of the batch, which is taken anew in every step (`batch_average`) or in the first
 * one after the adapter came onto the model (`batch_average_once`), as in PEFT also when it came from a file. The file holds the last one.
 */
import { ConfigError } from "../../errors.ts";
import { choice, float, integer, key } from "../../formats/peft-config.ts";
import { add, div, equal, mul, sqrt, sub, where } from "../../graph/elementwise.ts";
import { pad, reshape, sliceAxis, stopGradient } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { reduceSum } from "../../graph/reduction.ts";
import { constant, number } from "../../graph/source.ts";
import { defineMethod, type LayerMethod } from "../method.ts";
import { product } from "../scale.ts";
import { keptState } from "../schedules/kept-state.ts";
import { subConfig } from "../sub-config.ts";
import { through, times } from "../weight-change.ts";
import { type LoraConfig, lora, scaling, startsAtZero, variantKeys, variantOfLora } from "./lora.ts";

const keys = {
  num_groups: key(64, integer(1)),
  scale: key(1, float(0)),
  init_type: key("batch_average", choice("batch_average", "batch_average_once", "random")),
};
const settings = ({ veloraConfig }: LoraConfig) => subConfig("veloraConfig", veloraConfig, keys);
/** Length of a piece. */
const pieceSize = (into: number, c: LoraConfig): number => Math.ceil(into / settings(c).num_groups);

/** Whether v is that of the first batch. */
const isOnce = (c: LoraConfig): boolean => settings(c).init_type === "batch_average_once";

/** [1, 1, d] of length 1; all alike when it was zero. */
function normalised(v: Tensor): Tensor {
  const square = reduceSum(mul(v, v), [2]);
  const one = constant(1 / Math.sqrt(v.size), v.shape, v.dtype);
  const isZero = equal(square, number(v, 0));
  return where(isZero, one, div(v, sqrt(where(isZero, constant(1, square.shape, v.dtype), square))));
}

/** x̂ [T, in] of x [T, in], and v [1, 1, d]. @param isSet 1 once v is that of a batch */
function compressed(
  x: Tensor,
  stored: Tensor,
  isSet: Tensor | undefined,
  c: LoraConfig,
): { readonly kept: Tensor; readonly v: Tensor } {
  const { num_groups: groups, scale, init_type } = settings(c);
  const [T, into] = x.shape as [number, number];
  const d = pieceSize(into, c);
  const pieces = reshape(pad(x, [0, 0], [0, groups * d - into]), [T, groups, d]);
  const before = reshape(stored, [1, 1, d]);
  const ofBatch = () => normalised(reduceSum(times(pieces, 1 / (T * groups)), [0, 1]));
  const once = (flag: Tensor) => where(equal(flag, constant(1, [], "int32")), before, ofBatch());
  const v = init_type === "random" ? before : isSet ? once(isSet) : ofBatch();
  const lengths = reduceSum(mul(pieces, v), [2]); // [T, groups, 1]
  return { kept: times(sliceAxis(reshape(mul(lengths, v), [T, groups * d]), 1, 0, into), scale), v };
}

const linear: LayerMethod<LoraConfig, "A" | "B" | "direction", "isSet"> = {
  files: { A: "lora_A.weight", B: "lora_B.weight", direction: "lora_velora_embed", isSet: "lora_velora_initialized" },
  parameters: (base, c) => ({
    A: { shape: [c.r, base.in] },
    B: { shape: [base.out, c.r] },
    direction: { shape: [pieceSize(base.in, c)], trainable: false },
    ...(isOnce(c) && { isSet: { shape: [], trainable: false, dtype: "int32", derived: true } }),
  }),
  derive: (_, c) => (isOnce(c) ? { isSet: new Int32Array(1) } : {}),
  initialise(base, c, random) {
    const d = pieceSize(base.in, c);
    const drawn = settings(c).init_type === "random" ? random.randn(d) : new Float32Array(d);
    const length = Math.hypot(...drawn);
    const { values, ...rest } = lora.layers.linear!.initialise(base, c, random);
    return { ...rest, values: { ...values, direction: length > 0 ? drawn.map((value) => value / length) : drawn } };
  },
  forward(x, base, { A, B, direction, isSet }, c, use) {
    const dropped = use.dropout(x, c.loraDropout);
    let low = through(dropped, use.training ? stopGradient(A) : A);
    if (use.training) {
      const rows = reshape(stopGradient(dropped), [dropped.size / base.in, base.in]);
      const { kept, v } = compressed(rows, direction, isSet, c);
      if (settings(c).init_type !== "random") use.keep("direction", reshape(v, direction.shape));
      if (isSet) use.keep("isSet", constant(1, [], "int32"));
      const share = reshape(through(kept, A), low.shape);
      low = add(low, sub(share, stopGradient(share))); // nothing but the derivative of A
    }
    return add(base(x), through(times(low, product(scaling(c), use.scale)), B));
  },
  delta: (base, p, c, scale) => lora.layers.linear!.delta!(base, p, c, scale),
};

/** VeLoRA: `velora({ r: 8, veloraConfig: { num_groups: 64 } })`, with LoRA's options. */
export const velora = defineMethod({
  ...variantOfLora,
  variant: { veloraConfig: {} },
  isMeant: ({ veloraConfig }) => veloraConfig !== null,
  papers: ["https://arxiv.org/abs/2405.17991"],
  formula: "W + s·B·A, with ∂A from compressed inputs",
  keys: variantKeys("layerReplication", "veloraConfig"),
  check(config) {
    lora.check?.(config);
    const { scale } = settings(config);
    const refuse = (problem: string) => {
      throw new ConfigError(problem, { operation: "velora", got: config.veloraConfig });
    };
    if (config.initLoraWeights === "mica") refuse('`veloraConfig` does not go with `initLoraWeights` "mica".');
    if (scale <= 0) refuse(`\`veloraConfig.scale\` (= ${scale}) must be more than 0.`);
  },
  startsAtZero,
  complete: (config) => ({ ...config, veloraConfig: subConfig("veloraConfig", config.veloraConfig, keys) }),
  schedule: keptState((config) => (isOnce(config as LoraConfig) ? ["direction", "isSet"] : [])),
  layers: { linear },
  samples: (draw) => ({
    r: draw.integer(1, 6),
    loraAlpha: draw.integer(1, 32) / 2,
    veloraConfig: {
      num_groups: draw.integer(1, 5),
      scale: draw.integer(1, 4) / 2,
      init_type: ["batch_average", "random", "batch_average_once"][draw.integer(0, 2)],
    },
  }),
});
