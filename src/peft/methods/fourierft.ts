/**
 * Fourier fine-tuning: W′ = W + α·Re(F⁻¹(S)), S a matrix of zeros but for n entries at random places, which are trained: ΔW is a sum of n
 * waves. The same places in every layer of the same size, from PyTorch's generator with `randomLocSeed`: the file holds the
 * values only, and another generator would make noise of it. It has no rank like LoRA's; each wave is of rank 2 at most.
 *
 * PEFT starts with random values, so that a fresh adapter changes the output; `initWeights: true` starts at zero.
 */
import { currentDevice, upload } from "../../compile/program.ts";
import { ConfigError } from "../../errors.ts";
import { boolean, choice, configSchema, float, integer, key, numberByPattern, targetKeys } from "../../formats/peft-config.ts";
import { matmul } from "../../graph/contraction.ts";
import { mul, sin, sub } from "../../graph/elementwise.ts";
import { transpose } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { angles } from "../../linalg/fourier.ts";
import { TorchGenerator } from "../../random/torch-generator.ts";
import { cos } from "../../tensor/math.ts";
import { type Base, defineMethod, type ParameterSpec } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { product } from "../scale.ts";
import { linearChange, times } from "../weight-change.ts";

const schema = configSchema("FOURIERFT", "fourierft_", {
  ...targetKeys,
  n_frequency: key(1000, integer(1)),
  scaling: key(150, float()),
  random_loc_seed: key(777, integer()),
  fan_in_fan_out: key(false, boolean),
  bias: key("none", choice("none", "all", "fourier_only")),
  n_frequency_pattern: key({}, numberByPattern),
  init_weights: key(false, boolean),
});
type Config = MethodConfig<typeof schema>;

/** The angles of the waves with these frequencies: [n, frequencies]. */
const waveAngles = (n: number, frequencies: Int32Array): Tensor =>
  angles(n, upload(currentDevice(), frequencies, [frequencies.length], "int32"));

/** A few values of a matrix as large as the weight. */
export function spectrumOf(base: Base, { nFrequency }: { readonly nFrequency: number }): { readonly spectrum: ParameterSpec } {
  const places = base.in * base.out;
  if (nFrequency > places)
    throw new ConfigError(`${base.path} has ${places} places for \`nFrequency\` (= ${nFrequency}).`, {
      operation: "attach",
      got: nFrequency,
    });
  return { spectrum: { shape: [nFrequency] } };
}

/** FourierFT: `fourierft({ nFrequency: 1000, scaling: 150, targetModules: ["q_proj"] })`. */
export const fourierft = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2405.03003"],
  formula: "W + α·Re(F⁻¹(S)), S sparse",
  patterns: { nFrequencyPattern: "nFrequency" },
  startsAtZero: ({ initWeights }) => initWeights,
  layers: {
    linear: linearChange<Config, "spectrum">({
      files: { spectrum: "fourierft_spectrum" },
      parameters: spectrumOf,
      initialise: (_, { nFrequency, initWeights }, random) => ({
        values: { spectrum: initWeights ? new Float32Array(nFrequency) : random.randn(nFrequency) },
      }),
      delta({ in: into, out }, { spectrum }, { scaling, randomLocSeed }, scale) {
        const places = new TorchGenerator(randomLocSeed).randperm(out * into, spectrum.size);
        const down = waveAngles(
          out,
          places.map((place) => Math.floor(place / into)),
        );
        const across = waveAngles(
          into,
          places.map((place) => place % into),
        );
        // cos(a + b) = cos a · cos b − sin a · sin b: two products instead of a sum of n matrices
        const waves = sub(
          matmul(mul(cos(down), spectrum), transpose(cos(across))),
          matmul(mul(sin(down), spectrum), transpose(sin(across))),
        );
        return times(waves, product(scaling / (out * into), scale));
      },
    }),
  },
  samples: (draw, { in: into, out }) => ({
    nFrequency: draw.integer(1, Math.min(9, into * out)),
    scaling: draw.integer(1, 40) / 2,
    randomLocSeed: draw.integer(0, 999),
    initWeights: draw.integer(0, 1) === 1,
  }),
});
