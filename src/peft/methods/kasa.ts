/**
 * Knowledge-aware singular-value adaptation: W′ = W₋ + s·B·diag(d)·A, where W₋ is W without its r smallest singular components. Trained are
 * A, B and d. B starts at zero, so a fresh adapter leaves W₋, which stays for as long as the adapter is on the layer, disabled or not, as
 * in PEFT. The loss has β·Σd² + γ·(‖BᵀB − I‖ + ‖AAᵀ − I‖) of each layer besides, Frobenius norms, so that d are nearly singular values; in
 * PEFT whoever trains has to add it (`_get_kasa_loss`).
 */
import { ConfigError } from "../../errors.ts";
import { float, key } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, cast, mul } from "../../graph/elementwise.ts";
import { reshape, sliceAxis, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { svd } from "../../linalg/svd.ts";
import { sum } from "../../tensor/statistics.ts";
import { defineMethod, type LayerMethod } from "../method.ts";
import { product } from "../scale.ts";
import { subConfig } from "../sub-config.ts";
import { through, times } from "../weight-change.ts";
import { offOrthonormal } from "./adalora.ts";
import { type LoraConfig, lora, refuseMadeStarts, scaling, variantKeys, variantOfLora } from "./lora.ts";

const keys = { beta: key(1e-4, float(0)), gamma: key(1e-3, float(0)) };

const linear: LayerMethod<LoraConfig, "A" | "B" | "diagonal"> = {
  files: { A: "lora_A.weight", B: "lora_B.weight", diagonal: "lora_diag" },
  parameters(base, { r }) {
    const most = Math.min(base.in, base.out) - 1;
    if (r > most)
      throw new ConfigError(
        `\`r\` (= ${r}) must be less than ${most + 1}, the smaller size of ${base.path}, for something of it to be left.`,
        {
          operation: "attach",
          got: r,
        },
      );
    return { A: { shape: [r, base.in] }, B: { shape: [base.out, r] }, diagonal: { shape: [r] } };
  },
  underlay(base, { r }) {
    const { U, S, Vt } = svd(cast(base.original, "float32"));
    const k = Math.min(base.in, base.out) - r;
    return matmul(mul(sliceAxis(U, 1, 0, k), sliceAxis(S, 0, 0, k)), sliceAxis(Vt, 0, 0, k));
  },
  initialise(base, c, random) {
    const { values } = lora.layers.linear!.initialise(base, c, random);
    return { values: { ...values, diagonal: random.randn(c.r) } };
  },
  forward(x, base, { A, B, diagonal }, c, use) {
    const low = mul(through(use.dropout(x, c.loraDropout), A), diagonal);
    return add(base(x), through(times(low, product(scaling(c), use.scale)), B));
  },
  delta: (_, { A, B, diagonal }, c, scale) =>
    times(matmul(mul(B, reshape(diagonal, [1, diagonal.size])), A), product(scaling(c), scale)),
};

/** KaSA: `kasa({ r: 8, targetModules: ["q_proj"] })`, with LoRA's options. */
export const kasa = defineMethod({
  ...variantOfLora,
  variant: { kasaConfig: { beta: 1e-4, gamma: 1e-3 } },
  isMeant: ({ kasaConfig }) => kasaConfig !== null,
  papers: ["https://arxiv.org/abs/2412.06071"],
  formula: "W₋ + s·B·diag(d)·A",
  keys: variantKeys("kasaConfig"),
  check(config) {
    lora.check?.(config);
    subConfig("kasaConfig", config.kasaConfig, keys);
    refuseMadeStarts("kasa", "kasaConfig", config);
  },
  penaltyIsOptional: true,
  penalty(all, { kasaConfig }) {
    const { beta, gamma } = kasaConfig as { readonly beta: number; readonly gamma: number };
    const terms = all.map(({ A, B, diagonal: d }) => {
      const [a, b, squares] = [A as Tensor, B as Tensor, mul(d as Tensor, d as Tensor)];
      const far = add(offOrthonormal(transpose(b)), offOrthonormal(a));
      return add(times(sum(squares), beta), times(far, gamma));
    });
    return terms.reduce(add);
  },
  complete: (config) => ({ ...config, kasaConfig: subConfig("kasaConfig", config.kasaConfig, keys) }),
  layers: { linear },
  samples: (draw, { in: into, out }) => {
    const most = Math.min(into, out) - 1;
    return most < 1 ? null : { r: draw.integer(1, Math.min(4, most)), loraAlpha: draw.integer(1, 32) / 2 };
  },
});
