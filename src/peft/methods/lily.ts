/**
 * Low-rank interconnected adaptation: y = W·x + s·B̄·A·x, B̄ = Σₑ pₑ·Bₑ, a LoRA whose second factor is mixed of several that all layers of
 * one kind share. A router R of each layer says of what: p = the mean over all tokens of the batch of softmax(R·A·x). A [r, in] is shared by
 * `strideA` such layers in a row, the Bₑ [r, out], one above the other, by all of them. Layers are of one kind when the same name of
 * `targetModules` means them and their sizes are the same. B starts at zero. There is no α.
 *
 * It is no change of the weight and cannot be merged; a text's output depends on what else is in the batch, padding too, and on how many
 * tokens at a time it is read. The file has what is shared under each of the layers.
 */
import { boolean, configSchema, float, integer, key, targetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add } from "../../graph/elementwise.ts";
import { reshape } from "../../graph/movement.ts";
import { mean, softmax } from "../../tensor/statistics.ts";
import { uniform, zeros } from "../init/standard.ts";
import { type Base, defineMethod, type LayerMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { product } from "../scale.ts";
import { through, times } from "../weight-change.ts";

const schema = configSchema("LILY", "lily_", {
  ...targetKeys,
  r: key(32, integer(1)),
  stride_A: key(1, integer(1)),
  num_B: key(2, integer(2)),
  scaling: key(1, float()),
  init_weights: key(true, boolean),
});

/** Paths of the layers whose A and B this one has, where they are not its own. */
type Place = {
  readonly ofA?: string;
  readonly ofB?: string;
};
type Config = MethodConfig<typeof schema> & Place;

/** The name of `targetModules` that means the layer; the last one, where several do. */
const nameOf = ({ path }: Base, targets: unknown): string =>
  typeof targets === "string" ? targets : ((targets as readonly string[]).findLast((name) => path.endsWith(name)) ?? path);

const linear: LayerMethod<Config, "A" | "B" | "router"> = {
  files: { A: "lily_A.weight", B: "lily_B.weight", router: "lily_router.weight" },
  parameters: (base, { r, numB, ofA, ofB }) => ({
    A: { shape: [r, base.in], ...(ofA === undefined ? {} : { of: ofA }) },
    B: { shape: [numB * r, base.out], ...(ofB === undefined ? {} : { of: ofB }) },
    router: { shape: [numB, r] },
  }),
  initialise: (base, { r, numB, initWeights }, random) => ({
    values: {
      A: uniform(base.in)(random, r * base.in),
      B: (initWeights ? zeros : uniform(base.out))(random, numB * r * base.out),
      router: uniform(r)(random, numB * r),
    },
  }),
  forward(x, base, { A, B, router }, { r, numB, scaling }, use) {
    const inner = reshape(through(x, A), [x.size / base.in, r]);
    const parts = mean(softmax(through(inner, router)), 0); // [numB]
    const mixed = reshape(matmul(reshape(parts, [1, numB]), reshape(B, [numB, r * base.out])), [r, base.out]);
    const share = reshape(matmul(inner, mixed), [...x.shape.slice(0, -1), base.out]);
    return add(base(x), times(share, product(scaling, use.scale)));
  },
};

/** Lily: `lily({ r: 32, strideA: 2, numB: 4, targetModules: ["q_proj", "v_proj"] })`. */
export const lily = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2407.09946"],
  formula: "y + s·B̄·A·x, B̄ mixed by a router",
  startsAtZero: ({ initWeights }) => initWeights,
  mixesRows: true,
  perLayer(bases, { strideA, targetModules }) {
    const kinds = new Map<string, string[]>();
    return bases.map((base): Place => {
      const kind = `${nameOf(base, targetModules)} ${base.out} ${base.in}`;
      const before = kinds.get(kind) ?? [];
      kinds.set(kind, [...before, base.path]);
      const ofA = before[Math.floor(before.length / strideA) * strideA];
      const ofB = before[0];
      return { ...(ofA === undefined ? {} : { ofA }), ...(ofB === undefined ? {} : { ofB }) };
    });
  },
  layers: { linear },
  samples: (draw) => ({
    r: draw.integer(1, 4),
    strideA: draw.integer(1, 3),
    numB: draw.integer(2, 4),
    scaling: draw.integer(1, 6) / 2,
    initWeights: draw.integer(0, 2) > 0,
  }),
});
