/**
 * Generalised LoRA: W′ = W + W ⊙ A + B and, in a layer with a bias, b′ = b + b ⊙ D + E + W·C. Each of the five is of a form that the config
 * chooses: a product of two factors of rank r ("lora"), a vector, one number, or nothing. All start at zero.
 *
 * What is "none" stands in the file as zeros. In a layer without a bias C, D and E are none, whatever the config says, as in PEFT.
 */
import { boolean, choice, configSchema, integer, key, targetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { add, cast, mul } from "../../graph/elementwise.ts";
import { reshape } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { type Shape, sizeOf } from "../../graph/shape.ts";
import { constant } from "../../graph/source.ts";
import { type Draw, normal, uniform, zeros } from "../init/standard.ts";
import { type Base, defineMethod, type LayerMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import type { Scale } from "../scale.ts";
import { through, times } from "../weight-change.ts";

const { target_modules, modules_to_save } = targetKeys;
const schema = configSchema("GLORA", "glora_", {
  target_modules,
  modules_to_save,
  r: key(8, integer(1)),
  bias: key("none", choice("none", "all", "glora_only")),
  config_A_B: key("lora", choice("lora", "vector", "constant", "none")),
  config_C: key("lora", choice("lora", "vector", "none")),
  config_D_E: key("constant", choice("vector", "constant", "none")),
  init_weights: key(true, boolean),
});
type Config = MethodConfig<typeof schema>;

const letters = ["A", "B", "C", "D", "E"] as const;
type Letter = (typeof letters)[number];
type Part = "down" | "up" | "value" | "zeros";
type Name = `${Letter}.${Part}`;

/** In the file. */
const partFiles = { down: "Xd", up: "Xu", value: "X", zeros: "zeros" } as const;

/** A parameter: its part, its shape, and the first values that it has where they are not zero. */
interface Piece {
  readonly part: Part;
  readonly shape: Shape;
  readonly random: Draw;
  readonly always?: true;
}

/** What one of the five consists of in this layer. */
function pieces(base: Base, letter: Letter, { r, configAB, configC, configDE }: Config): readonly Piece[] {
  const wanted = letter === "A" || letter === "B" ? configAB : !base.bias ? "none" : letter === "C" ? configC : configDE;
  const [rows, columns] = letter === "C" ? [base.in, 1] : [base.out, base.in];
  const isVector = letter === "D" || letter === "E";
  const whole: Shape = isVector ? [base.out] : [rows, columns];
  if (wanted === "none") return [{ part: "zeros", shape: whole, random: zeros }];
  if (wanted === "constant") return [{ part: "value", shape: [1], random: normal(0.02) }];
  if (wanted === "vector") {
    const random = uniform(isVector ? base.out : 1);
    return [{ part: "value", shape: isVector ? [base.out] : [rows, 1], random }];
  }
  return [
    { part: "down", shape: [rows, r], random: uniform(r) },
    { part: "up", shape: [r, columns], random: uniform(columns), always: true },
  ];
}

type Values = { readonly [K in Name]?: Tensor };

/** One of the five as something that broadcasts; `null` for nothing. */
function made(p: Values, letter: Letter): Tensor | null {
  const [down, up] = [p[`${letter}.down`], p[`${letter}.up`]];
  return down && up ? matmul(down, up) : (p[`${letter}.value`] ?? null);
}

/** The sum of what is there; `null` for nothing. */
const sumOf = (...terms: readonly (Tensor | null)[]): Tensor | null => {
  const there = terms.filter((term) => term !== null);
  return there.length > 0 ? there.reduce(add) : null;
};

function change(base: Base, p: Values): Tensor {
  const [A, B] = [made(p, "A"), made(p, "B")];
  const scaled = A ? mul(cast(base.original, "float32"), A) : constant(0, [base.out, base.in]);
  return B ? add(scaled, B) : scaled;
}

function biasChange(base: Base, p: Values, scale: Scale): Tensor | null {
  if (!base.bias) return null;
  const [C, D, E] = [made(p, "C"), made(p, "D"), made(p, "E")];
  const fromWeight = C && reshape(matmul(cast(base.original, "float32"), C), [base.out]);
  const sum = sumOf(D && mul(base.bias, D), E, fromWeight);
  return sum && times(sum, scale);
}

const linear: LayerMethod<Config, never, Name> = {
  files: Object.fromEntries(
    letters.flatMap((letter) =>
      Object.entries(partFiles).map(([part, file]) => [`${letter}.${part}`, `glora_${letter}.${file}`]),
    ),
  ) as { readonly [K in Name]: string },
  parameters: (base, c) =>
    Object.fromEntries(
      letters.flatMap((letter) =>
        pieces(base, letter, c).map(({ part, shape }) => [
          `${letter}.${part}`,
          { shape, ...(part === "zeros" && { trainable: false }) },
        ]),
      ),
    ),
  initialise: (base, c, random) => ({
    values: Object.fromEntries(
      letters.flatMap((letter) =>
        pieces(base, letter, c).map(({ part, shape, random: draw, always }) => {
          const count = sizeOf(shape);
          return [`${letter}.${part}`, (always || !c.initWeights ? draw : zeros)(random, count)];
        }),
      ),
    ),
  }),
  forward(x, base, p, _, use) {
    const y = add(base(x), times(through(x, change(base, p)), use.scale));
    const bias = biasChange(base, p, use.scale);
    return bias ? add(y, bias) : y;
  },
  delta: (base, p, _, scale) => times(change(base, p), scale),
  biasDelta: (base, p, _, scale) => biasChange(base, p, scale),
};

/** GLoRA: `glora({ r: 8, targetModules: ["q_proj", "v_proj"] })`. */
export const glora = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2306.07967"],
  formula: "W + W ⊙ A + B",
  startsAtZero: ({ initWeights }) => initWeights,
  layers: { linear },
  samples(draw) {
    const one = <T>(of: readonly T[]): T => of[draw.integer(0, of.length - 1)] as T;
    return {
      r: draw.integer(1, 4),
      configAB: one(["lora", "vector", "constant", "none"] as const),
      configC: one(["lora", "vector", "none"] as const),
      configDE: one(["vector", "constant", "none"] as const),
      initWeights: draw.integer(0, 2) > 0,
    };
  },
});
