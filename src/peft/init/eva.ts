/**
 * EVA: A holds the principal components of what goes into the layer, B = 0, and ranks go to the layers where they explain most. The
 * components come from a pass over data, see calibration/eva.ts.
 *
 * @see https://arxiv.org/abs/2410.07170
 */
import { boolean, float, integer, key } from "../../formats/peft-config.ts";
import type { Initialiser } from "../initialiser.ts";
import { calibrationOf, requireLinear } from "./factors.ts";
import { standard } from "./standard.ts";

/** `eva_config`. */
export const evaKeys = {
  rho: key(2, float(1)),
  tau: key(0.99, float(0, 1)),
  use_label_mask: key(true, boolean),
  label_mask_value: key(-100, integer()),
  whiten: key(false, boolean),
  adjust_scaling_factors: key(true, boolean),
};

/** Reads the components [r, in] that `calibrateEva` gives; a layer without them starts as with `true`. */
export const eva: Initialiser = {
  startsAtZero: true,
  start(base, given, random) {
    const { r, calibration } = given;
    if (calibration && !calibration.has(base.path)) return standard.start(base, given, random);
    const components = calibrationOf("eva", base, calibration);
    requireLinear("eva", base);
    return { values: { A: Float32Array.from(components.values), B: new Float32Array(base.out * r) } };
  },
};
