/** Scaled rotary positions in GGUF files: the converter writes what each angle is divided by, not how that was computed. */
import { FormatError } from "../errors.ts";
import type { GgufSettings } from "./gguf-model.ts";

type RopeScaling = Readonly<Record<string, unknown>>;

async function factors(settings: GgufSettings, name: string): Promise<number[] | undefined> {
  const tensor = settings.file.tensors.get(`${name}.weight`);
  return tensor && Array.from(await tensor.load());
}

/**
 * Phi-3's two lists of factors.
 *
 * @throws {FormatError} when there is only one of them
 */
export async function longFactors(settings: GgufSettings): Promise<RopeScaling | undefined> {
  const [short, long] = [await factors(settings, "rope_factors_short"), await factors(settings, "rope_factors_long")];
  if (!short && !long) return undefined;
  if (!short || !long)
    throw new FormatError(`${settings.file.source} has only one of rope_factors_short and rope_factors_long.`, {
      operation: "readGguf",
    });
  const attention = settings.optional("rope.scaling.attn_factor");
  return {
    rope_type: "longrope",
    short_factor: short,
    long_factor: long,
    ...(attention === undefined ? {} : { attention_factor: attention }),
  };
}

/**
 * Llama 3's scaling, from `rope_freqs`: angles of many turns within the training length L are kept, those of few are divided by
 * `factor`, and between `low` and `high` turns the share kept grows with the turns. Published models have low 1, high 4, L 8192;
 * otherwise the two ends are found from the factors. Only low/L and high/L matter.
 *
 * @throws {FormatError} when no such scaling gives these factors
 */
export async function scaledFrequencies(settings: GgufSettings): Promise<RopeScaling | undefined> {
  const given = await factors(settings, "rope_freqs");
  if (!given || given.every((each) => each === 1)) return undefined;
  const factor = Math.max(...given);
  const theta = settings.optional("rope.freq_base") ?? 10000;
  const angles = given.map((_, i) => theta ** (-i / given.length));
  /** Share of the unscaled angle: given = 1 / ((1 − share) / factor + share). */
  const shares = given.map((each) => (1 / each - 1 / factor) / (1 - 1 / factor));
  for (const [low, high, length] of candidates(angles, shares)) {
    const fits = shares.every((share, i) => {
      const turns = (length * (angles[i] as number)) / (2 * Math.PI);
      return Math.abs(Math.min(1, Math.max(0, (turns - low) / (high - low))) - share) < 1e-4;
    });
    if (fits)
      return {
        rope_type: "llama3",
        factor,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position_embeddings: length,
      };
  }
  throw new FormatError(`${settings.file.source} has rope_freqs that are not of the kind of Llama 3.`, {
    operation: "readGguf",
    got: given,
  });
}

/** L of the published models; also what the ends are expressed in where they are found. */
const usualLength = 8192;

function* candidates(angles: readonly number[], shares: readonly number[]): Generator<[low: number, high: number, L: number]> {
  yield [1, 4, usualLength];
  /** Ends in turns per token: nothing is kept below `none`, everything above `all`. */
  const ends = (none: number, all: number): [number, number, number] => [none * usualLength, all * usualLength, usualLength];
  const turns = angles.map((angle) => angle / (2 * Math.PI));
  const between = shares.flatMap((share, i) => (share > 1e-5 && share < 1 - 1e-5 ? [i] : []));
  const first = between[0] ?? shares.findLastIndex((share) => share >= 1 - 1e-5);
  const last = between.at(-1) ?? first;
  const from = turns[first] ?? (turns[0] as number) * 2; // where all angles are scaled, the ends lie before the first
  if (between.length > 1) {
    const slope = ((shares[first] as number) - (shares[last] as number)) / (from - (turns[last] as number));
    const none = from - (shares[first] as number) / slope;
    yield ends(none, none + 1 / slope);
  } else {
    // a line through one point, or none: anywhere before the first angle that is scaled
    const to = turns[last + 1] ?? (turns[last] as number) / 2;
    for (let step = 1; step < 50; step++) {
      const none = to * (from / to) ** (step / 50);
      yield ends(none, between.length ? none + (from - none) / (shares[first] as number) : none * (1 + 1e-6));
    }
  }
}
