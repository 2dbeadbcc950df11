/**
 * RandLoRA: W′ = W + s·Σₖ Bₖ·diag(λₖ)·A·diag(γₖ), s = α/r, a sum of n products of rank r, enough of them for full rank. A [r, 1, m] and
 * B [M, n, r] are random, frozen and the same for all layers, which use as much of them as they need; m and M are the smaller and the larger
 * size of a layer. Trained are λ [r, n], which starts at zero, and γ [n, m]. Where the layer's smaller size is not the one that goes in,
 * the sum is transposed.
 *
 * PEFT lays A out by place in the rank and then by product, but B the other way round, and so is it done here: the λ of one pair scales
 * a row of A, that meets the column of B at the same place.
 */
import { boolean, choice, configSchema, float, integer, key, plainTargetKeys } from "../../formats/peft-config.ts";
import type { TensorToWrite } from "../../formats/safetensors.ts";
import { matmul } from "../../graph/contraction.ts";
import { fromBFloat16Bits, toBFloat16Bits } from "../../graph/dtype.ts";
import { mul } from "../../graph/elementwise.ts";
import { reshape, sliceAxis, transpose } from "../../graph/movement.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";
import { type Base, defineMethod, type PackedFile, type SharedParameters } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { product } from "../scale.ts";
import { linearChange, times } from "../weight-change.ts";

const schema = configSchema("RANDLORA", "randlora_", {
  ...plainTargetKeys,
  r: key(32, integer(1)),
  projection_prng_key: key(0, integer()),
  save_projection: key(true, boolean),
  sparse: key(false, boolean),
  very_sparse: key(false, boolean),
  randlora_dropout: key(0, float(0, 1)),
  fan_in_fan_out: key(false, boolean),
  randlora_alpha: key(640, integer()),
  bias: key("none", choice("none", "all", "randlora_only")),
  init_weights: key(true, boolean),
});
type Config = MethodConfig<typeof schema>;

interface Sizes {
  readonly small: number;
  readonly large: number;
  /** How many products are added. */
  readonly count: number;
}

const sizesOf = (into: number, out: number, { r }: Config): Sizes => {
  const [small, large] = [Math.min(into, out), Math.max(into, out)];
  return { small, large, count: Math.ceil(small / r) };
};

/** For the largest of each side, which need not be one layer's. */
const sharedSizes = (bases: readonly Base[], c: Config): Sizes =>
  sizesOf(Math.max(...bases.map((base) => base.in)), Math.max(...bases.map((base) => base.out)), c);

const rounded = (value: number): number => fromBFloat16Bits(toBFloat16Bits(value));

/** PyTorch's standard deviation, of n − 1; 1 where there is none. */
function deviation(values: Float32Array): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1)) || 1;
}

/** ±1/√fanIn over its deviation, with every step rounded to bfloat16, in which PEFT does it. */
function dense(r: number, { small, large, count }: Sizes, random: TorchGenerator) {
  const draw = (n: number, fanIn: number) => {
    const bound = rounded(1 / Math.sqrt(fanIn));
    // what is rounded up to the bound, which is not among the values, PyTorch takes to the other end
    return random
      .uniform(n, -1 / Math.sqrt(fanIn), 1 / Math.sqrt(fanIn))
      .map((u) => (rounded(u) === bound ? -bound : rounded(u)));
  };
  const A = draw(r * small, small);
  const B = new Float32Array(large * count * r);
  for (let b = 0; b < count; b++) {
    const one = draw(large * r, r);
    for (let row = 0; row < large; row++) B.set(one.subarray(row * r, (row + 1) * r), (row * count + b) * r);
  }
  const even = (values: Float32Array): Float32Array => {
    const std = rounded(deviation(values));
    return values.map((value) => rounded(value / std));
  };
  return { A: even(A), B: even(B) };
}

/** −1, 0 and 1, of which 1/q are not 0, over their deviation. @see https://arxiv.org/abs/2406.02528 */
function signs(r: number, { small, large, count }: Sizes, q: number, random: TorchGenerator) {
  const draw = (n: number): Float32Array => {
    const values = random.uniform(n, 0, 1).map((u) => (u < 1 / (2 * q) ? -1 : u > 1 - 1 / (2 * q) ? 1 : 0));
    const std = Math.fround(deviation(values));
    return values.map((value) => value / std);
  };
  const A = draw(r * small);
  return { A, B: draw(large * count * r) };
}

const shared: SharedParameters<Config> = {
  files: { A: "randlora_A", B: "randlora_B" },
  parameters(bases, c) {
    const { small, large, count } = sharedSizes(bases, c);
    return { A: { shape: [c.r, 1, small], trainable: false }, B: { shape: [large, count, c.r], trainable: false } };
  },
  initialise(bases, c) {
    const sizes = sharedSizes(bases, c);
    const random = new TorchGenerator(c.projectionPrngKey);
    if (c.verySparse) return signs(c.r, sizes, Math.sqrt(sizes.small), random);
    return c.sparse ? signs(c.r, sizes, 3, random) : dense(c.r, sizes, random);
  },
  saved: ({ saveProjection }) => saveProjection,
};

/** PEFT writes A and B once more for each layer. */
const packed: PackedFile<Config> = {
  pack(tensors) {
    const projections = [...tensors].filter(([name]) => /^base_model\.randlora_[AB]$/.test(name));
    const paths = [...tensors.keys()].flatMap((name) =>
      name.endsWith(".randlora_lambda") ? [name.slice(0, -"lambda".length)] : [],
    );
    const copies = paths.flatMap((path) => projections.map(([name, tensor]) => [path + name.slice(-1), tensor] as const));
    return new Map<string, TensorToWrite>([...tensors, ...copies]);
  },
  unpack: (tensors) => new Map([...tensors].filter(([name]) => !/^base_model\.model\..*\.randlora_[AB]$/.test(name))),
};

/** RandLoRA: `randlora({ r: 32, targetModules: ["q_proj", "v_proj"] })`. */
export const randlora = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2502.00987"],
  formula: "W + s·Σₖ Bₖ·diag(λₖ)·A·diag(γₖ)",
  startsAtZero: ({ initWeights }) => initWeights,
  shared,
  packed,
  layers: {
    linear: linearChange<Config, "lambda" | "gamma", never, "A" | "B">({
      files: { lambda: "randlora_lambda", gamma: "randlora_gamma" },
      parameters(base, c) {
        const { small, count } = sizesOf(base.in, base.out, c);
        return { lambda: { shape: [c.r, count] }, gamma: { shape: [count, small] } };
      },
      initialise(base, c, random) {
        const { small, large, count } = sizesOf(base.in, base.out, c);
        const start = c.initWeights ? Math.max(count, small) : large;
        const gamma = new Float32Array(count * small).fill(1 / start);
        return { values: { lambda: c.initWeights ? new Float32Array(c.r * count) : random.randn(c.r * count), gamma } };
      },
      dropout: ({ randloraDropout }) => randloraDropout,
      delta(base, { A, B, lambda, gamma }, c, scale) {
        const { small, large, count } = sizesOf(base.in, base.out, c);
        const scaled = mul(mul(sliceAxis(A, 2, 0, small), reshape(lambda, [c.r, count, 1])), gamma); // [r, n, m]
        const parts = sliceAxis(sliceAxis(B, 0, 0, large), 1, 0, count); // [M, n, r]
        const sum = matmul(reshape(parts, [large, count * c.r]), reshape(scaled, [c.r * count, small]));
        return times(small === base.in ? sum : transpose(sum), product(c.randloraAlpha / c.r, scale));
      },
    }),
  },
  samples: (draw) => ({
    r: draw.integer(1, 6),
    randloraAlpha: draw.integer(1, 40),
    projectionPrngKey: draw.integer(0, 99),
    saveProjection: draw.integer(0, 1) === 1,
    sparse: draw.integer(0, 2) === 0,
    verySparse: draw.integer(0, 3) === 0,
    initWeights: draw.integer(0, 2) > 0,
  }),
});
