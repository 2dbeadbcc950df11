/**
 * Wavelet fine-tuning: W′ = W + α·D⁻¹(S), S a matrix of zeros but for n entries at random places, which are trained, and D⁻¹ one level of
 * the inverse two-dimensional wavelet transform: ΔW is a sum of n small patches. The same places in every layer of the same size, from
 * PyTorch's generator with `randomLocSeed`: the file holds the values only. It starts at zero. With `useIdwt: false` ΔW = α·S.
 *
 * As in PEFT S is widened by what the filters cut off at the edges, and to even sizes, with the drawn places in the middle; the quadrant
 * on the upper right is the fine half of the rows and the coarse half of the columns, the one on the lower left the other way
 * round. PEFT's table also names wavelets that it then does not know, and a "coif5" whose filter does not fit its size.
 */
import { currentDevice, upload } from "../../compile/program.ts";
import { boolean, choice, configSchema, float, integer, key, numberByPattern, targetKeys } from "../../formats/peft-config.ts";
import { roundHalfEven } from "../../graph/dtype.ts";
import { mul } from "../../graph/elementwise.ts";
import { reshape } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { synthesisFilters, waveletNames } from "../../linalg/wavelet.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";
import { defaultTargets } from "../default-target.ts";
import { type Base, defineMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { product } from "../scale.ts";
import { linearChange, sparse, times } from "../weight-change.ts";
import { spectrumOf } from "./fourierft.ts";

const schema = configSchema("WAVEFT", "waveft_", {
  ...targetKeys,
  n_frequency: key(2592, integer(1)),
  scaling: key(25, float()),
  wavelet_family: key("db1", choice(...waveletNames)),
  use_idwt: key(true, boolean),
  random_loc_seed: key(777, integer()),
  fan_in_fan_out: key(false, boolean),
  bias: key("none", choice("none", "all", "waveft_only")),
  n_frequency_pattern: key({}, numberByPattern),
  proportional_parameters: key(false, boolean),
  init_weights: key(true, boolean),
});
type Config = MethodConfig<typeof schema>;

const { btlm: _, rwkv: __, rwkv7: ___, ...common } = defaultTargets;
const targets = { ...common, gpt2: ["mlp.c_proj"], gpt_bigcode: ["mlp.c_proj"] };

/** Of a place along one axis of S, whose size is given: whether it is in the fine half, and the first place of ΔW that it reaches. */
function reach(size: number, taps: number): (place: number) => { readonly isFine: boolean; readonly first: number } {
  const cut = taps - 2;
  const half = Math.ceil((size + cut) / 2);
  const before = Math.floor((2 * half - size) / 2);
  const after = cut + Math.floor((2 * half - cut - size) / 2);
  return (place) => ({ isFine: place + before >= half, first: 2 * ((place + before) % half) - after });
}

/** Where in ΔW the values at some places of S go, `width` places each, and with which factors. */
function patches({ in: into, out }: Base, drawn: Int32Array, { waveletFamily }: Config) {
  const { low, high } = synthesisFilters(waveletFamily);
  const width = low.length ** 2;
  const [down, across] = [reach(out, low.length), reach(into, low.length)];
  const [places, factors] = [new Int32Array(drawn.length * width), new Float32Array(drawn.length * width)];
  for (const [k, place] of drawn.entries()) {
    const [row, column] = [down(Math.floor(place / into)), across(place % into)];
    const vertical = column.isFine ? high : low;
    const horizontal = row.isFine ? high : low;
    for (const [i, a] of vertical.entries())
      for (const [j, b] of horizontal.entries()) {
        const [y, x] = [row.first + i, column.first + j];
        if (y < 0 || y >= out || x < 0 || x >= into) continue; // stays a zero for the first place
        const at = k * width + i * low.length + j;
        places[at] = y * into + x;
        factors[at] = a * b;
      }
  }
  return { places, factors, width };
}

/** WaveFT: `waveft({ nFrequency: 2592, scaling: 25, targetModules: ["q_proj"] })`. */
export const waveft = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2505.12532"],
  formula: "W + α·D⁻¹(S), S sparse",
  patterns: { nFrequencyPattern: "nFrequency" },
  targets,
  startsAtZero: ({ initWeights }) => initWeights,
  /** With `proportionalParameters` all layers together have as many values as without it, each by its size, and one at least. */
  perLayer(bases, { proportionalParameters, nFrequency }) {
    if (!proportionalParameters) return [];
    const sizes = bases.map((base) => base.in * base.out);
    const total = sizes.reduce((sum, size) => sum + size, 0);
    return sizes.map((size) => ({ nFrequency: Math.max(1, roundHalfEven((size / total) * (nFrequency * bases.length))) }));
  },
  layers: {
    linear: linearChange<Config, "spectrum">({
      files: { spectrum: "waveft_spectrum" },
      parameters: spectrumOf,
      initialise: (_, { nFrequency, initWeights }, random) => ({
        values: { spectrum: initWeights ? new Float32Array(nFrequency) : random.normal(nFrequency, 0, 0.01) },
      }),
      delta(base, { spectrum }, c, scale) {
        const { in: into, out } = base;
        const n = spectrum.size;
        const drawn = new TorchGenerator(c.randomLocSeed).randperm(out * into, n);
        const scaled = times(spectrum, product(c.scaling, scale));
        const known = (values: Int32Array | Float32Array, shape: readonly number[]): Tensor =>
          upload(currentDevice(), values, shape, values instanceof Int32Array ? "int32" : "float32");
        if (!c.useIdwt) return sparse(scaled, known(drawn, [n]), [out, into]);
        const { places, factors, width } = patches(base, drawn, c);
        const values = mul(reshape(scaled, [n, 1]), known(factors, [n, width]));
        return sparse(reshape(values, [n * width]), known(places, [n * width]), [out, into]);
      },
    }),
  },
  samples: (draw, { in: into, out }) => ({
    nFrequency: draw.integer(1, Math.min(9, into * out)),
    scaling: draw.integer(1, 40) / 2,
    waveletFamily: waveletNames[draw.integer(0, waveletNames.length - 1)] as (typeof waveletNames)[number],
    useIdwt: draw.integer(0, 3) > 0,
    randomLocSeed: draw.integer(0, 999),
    proportionalParameters: draw.integer(0, 3) === 0,
    initWeights: draw.integer(0, 2) > 0,
  }),
});
