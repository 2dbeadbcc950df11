/**
 * LoRA-GA: A and B are singular vectors of the weight's gradient on some data, so that the first step of training changes B·A as it would
 * change W; the weight keeps W − s·B·A. `direction` says which of the first 2r vectors go where, `scale` how large they are.
 *
 * As in PEFT, "stable" takes the first axis of the weight as it is stored, which for GPT-2's Conv1D is the input's.
 *
 * @see https://arxiv.org/abs/2407.05000
 */
import { choice, integer, key } from "../../formats/peft-config.ts";
import { matrix } from "../../linalg/matrix.ts";
import { svdLowrankMatrix } from "../../linalg/svd-lowrank.ts";
import type { TorchGenerator } from "../../random/torch-generator.ts";
import type { Given, Initialiser } from "../initialiser.ts";
import { kindOf } from "../layer-kind.ts";
import type { Base } from "../method.ts";
import { calibrationOf, requireRank, requireScaling, takenOut, weightOf } from "./factors.ts";
import { standard } from "./standard.ts";

/** `lora_ga_config`. */
export const loraGaKeys = {
  direction: key("ArB2r", choice("ArBr", "A2rBr", "ArB2r", "random")),
  scale: key("stable", choice("stable", "weight_svd", "gd_scale", "unit")),
  stable_gamma: key(16, integer(1)),
};

const count = (r: number, at: (i: number) => number): number[] => Array.from({ length: r }, (_, i) => at(i));

/** Which of the 2r vectors A and B are. */
const directions: Record<string, (r: number, random: TorchGenerator) => { readonly A: number[]; readonly B: number[] }> = {
  ArBr: (r) => ({ A: count(r, (i) => 2 * i + 1), B: count(r, (i) => 2 * i) }),
  A2rBr: (r) => ({ A: count(r, (i) => r + i), B: count(r, (i) => i) }),
  ArB2r: (r) => ({ A: count(r, (i) => i), B: count(r, (i) => r + i) }),
  random(r, random) {
    const chosen = [...random.randperm(2 * r).subarray(0, r)];
    return { A: chosen, B: chosen };
  },
};

/** Reads the gradient [out, in] that `calibrateLoraGa` gives. Layers other than linear ones start as with `true`. */
export const loraGa: Initialiser = {
  startsAtZero: true,
  residual: "from data",
  start(base, given, random) {
    const { r, scaling, calibration, options } = given;
    if (base.kind !== "linear") return standard.start(base, given, random);
    const G = calibrationOf("lora_ga", base, calibration);
    requireRank("lora_ga", base, r, 2 * r);
    requireScaling("lora_ga", scaling);
    const { U, S, Vt } = svdLowrankMatrix(G, Math.min(4 * r, base.in, base.out), { niter: 4, random });
    const from = directions[options["direction"] as string]!(r, random);
    const [A, B] = [matrix(r, base.in), matrix(base.out, r)];
    from.A.forEach((row, i) => {
      A.values.set(Vt.values.subarray(row * base.in, (row + 1) * base.in), i * base.in);
    });
    const [forA, forB] = factorsOf(base, given, S[from.B[0]!]!, random);
    A.values.forEach((value, at) => {
      A.values[at] = value * forA;
    });
    B.values.forEach((_, at) => {
      const column = from.B[at % r]!;
      B.values[at] = U.values[Math.floor(at / r) * U.columns + column]! * S[column]! * forB;
    });
    return takenOut(base, A, B, scaling);
  },
};

/** What A and B are multiplied with. @param largest singular value that B has */
function factorsOf(
  base: Base,
  { r, scaling, options }: Given,
  largest: number,
  random: TorchGenerator,
): readonly [number, number] {
  switch (options["scale"]) {
    case "stable": {
      const stored = kindOf(base.layer)?.weight(base.layer).shape[0] ?? base.out;
      return [1, stored ** 0.25 / Math.sqrt(options["stable_gamma"] as number)];
    }
    case "weight_svd": {
      const { S } = svdLowrankMatrix(weightOf(base), r, { niter: 4, random });
      return [1, largest > 0 ? S[0]! / largest : 1];
    }
    case "gd_scale":
      return [1 / scaling, 1 / scaling];
    default:
      return [1, 1];
  }
}
