/**
 * Rotary adaptation: y = R·(W·x + b), R turning pairs of outputs by trained angles θ and stretching them by trained lengths α. In groups
 * of g outputs the first half is paired with the second: u′ = c·u − d·v, v′ = c·v + d·u, with c = α·cos θ and d = α·sin θ. They start
 * at 0 and 1, so a fresh adapter changes nothing. W′ = R·W and b′ = R·b; of full rank, so it equals no LoRA.
 *
 * `road_1` has one θ and α for a pair, `road_2` one for each output, `road_4` others for c than for d. `setScale(s)` takes
 * I + s·(R − I), which PEFT does not have.
 */
import { ConfigError } from "../../errors.ts";
import { boolean, choice, configSchema, integer, key, targetKeys } from "../../formats/peft-config.ts";
import { concatenate } from "../../graph/composite.ts";
import { add, cast, mul, neg, sin, sub } from "../../graph/elementwise.ts";
import { expand, reshape, sliceAxis, transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { cos } from "../../tensor/math.ts";
import { type Base, defineMethod, type LayerMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import type { Scale } from "../scale.ts";
import { times } from "../weight-change.ts";

const schema = configSchema("ROAD", "road_", {
  target_modules: targetKeys.target_modules,
  modules_to_save: targetKeys.modules_to_save,
  variant: key("road_1", choice("road_1", "road_2", "road_4")),
  group_size: key(64, integer(2)),
  init_weights: key(true, boolean),
});
type Config = MethodConfig<typeof schema>;
type Values = { readonly theta: Tensor; readonly alpha: Tensor };

const sizeOf = ({ out }: Base, { variant }: Config): number => out * { road_1: 0.5, road_2: 1, road_4: 2 }[variant];

/** c and d for each output, [groups, 2, g/2]. */
function coefficients({ theta, alpha }: Values, out: number, { variant, groupSize: g }: Config): readonly [c: Tensor, d: Tensor] {
  const [c, d] = [mul(alpha, cos(theta)), mul(alpha, sin(theta))];
  const groups = out / g;
  if (variant === "road_1") {
    const both = (x: Tensor) => expand(reshape(x, [groups, 1, g / 2]), [groups, 2, g / 2]);
    return [both(c), both(d)];
  }
  const split = (x: Tensor) => reshape(x, [groups, 2, g / 2]);
  if (variant === "road_2") return [split(c), split(d)];
  const part = (x: Tensor, i: number) => split(sliceAxis(reshape(x, [groups, 2, g]), 1, i, i + 1));
  return [part(c, 0), part(d, 1)];
}

/** The last axis, of `out` values, turned. */
function turn(y: Tensor, p: Values, out: number, config: Config, scale: Scale): Tensor {
  const [c, d] = coefficients(p, out, config);
  const [groups, , half] = c.shape as [number, number, number];
  const pairs = reshape(y, [y.size / out, groups, 2, half]);
  const partners = concatenate([neg(sliceAxis(pairs, 2, 1, 2)), sliceAxis(pairs, 2, 0, 1)], 2);
  const turned = reshape(add(mul(pairs, c), mul(partners, d)), y.shape);
  return scale === 1 ? turned : add(y, times(sub(turned, y), scale));
}

const linear: LayerMethod<Config, "theta" | "alpha"> = {
  files: { theta: "road_theta", alpha: "road_alpha" },
  parameters(base, c) {
    if (base.out % c.groupSize !== 0)
      throw new ConfigError(
        `${base.path} has ${base.out} outputs, which do not divide into groups of \`groupSize\` (= ${c.groupSize}).`,
        {
          operation: "attach",
          got: c.groupSize,
          expected: base.out,
        },
      );
    return { theta: { shape: [sizeOf(base, c)] }, alpha: { shape: [sizeOf(base, c)] } };
  },
  initialise(base, c, random) {
    const n = sizeOf(base, c);
    if (c.initWeights) return { values: { theta: new Float32Array(n), alpha: new Float32Array(n).fill(1) } };
    return { values: { theta: random.normal(n, 0, 0.5), alpha: random.normal(n, 1, 0.5) } };
  },
  forward: (x, base, p, c, use) => turn(base(x), p, base.out, c, use.scale),
  delta(base, p, c, scale) {
    const columns = transpose(cast(base.weight, "float32"));
    return transpose(sub(turn(columns, p, base.out, c, scale), columns));
  },
  biasDelta: (base, p, c, scale) => sub(turn(base.bias as Tensor, p, base.out, c, scale), base.bias as Tensor),
};

/** RoAd: `road({ variant: "road_1", groupSize: 64, targetModules: ["q_proj"] })`. */
export const road = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2409.00119"],
  formula: "R·W, R turning pairs of outputs",
  check({ groupSize }) {
    if (groupSize % 2 !== 0)
      throw new ConfigError(`\`groupSize\` (= ${groupSize}) must be even: outputs are turned in pairs.`, {
        operation: "road",
        got: groupSize,
      });
  },
  startsAtZero: ({ initWeights }) => initWeights,
  layers: { linear },
  samples(draw, { out }) {
    const groupSize = [8, 6, 4, 2].filter((size) => out % size === 0)[draw.integer(0, 1)] ?? (out % 2 === 0 ? 2 : null);
    if (groupSize === null) return null;
    const variant = (["road_1", "road_2", "road_4"] as const)[draw.integer(0, 2)]!;
    return { groupSize, variant, initWeights: draw.integer(0, 3) > 0 };
  },
});
