/**
 * Types of GGUF blocks with few bits for an element, which few files have: this module is loaded when one is met.
 *
 * Most draw eight values, or four, at once from a grid: a list of points that were chosen for how often weights lie near them.
 * Points are in ascending order as numbers whose first digit is the lowest, so that a grid is known by which numbers it has.
 *
 * @see https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (iq2xxs_grid, …), ggml-quants.c (dequantize_row_iq2_xxs, …)
 */
import { fromFloat16Bits } from "../graph/dtype.ts";
import { type DecodeBlock, half } from "./gguf-block.ts";

interface Grid {
  /** Values of a point. */
  readonly width: 4 | 8;
  /** Of all points, one after the other. */
  readonly points: Int8Array;
}

/** @param text a bit for every number that a point could be, in base64 */
function grid(width: 4 | 8, digits: readonly number[], text: string): Grid {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const points: number[] = [];
  for (let number = 0; number < digits.length ** width; number++)
    if ((bytes[number >> 3]! >> (number & 7)) & 1)
      for (let i = 0; i < width; i++) points.push(digits[Math.floor(number / digits.length ** i) % digits.length]!);
  return { width, points: Int8Array.from(points) };
}

// biome-ignore format: a line each
const grids = {
  iq2xxs: grid(8, [8, 25, 43], "VRUUVRBEQUEABBREABAAAAAEQAAUAEAAAAAABAAAUBBAQREAARQEQFAEQAAQAAAFEAAAUAAAAQAAQAAAQRQEQBQUAAAEAAAEAAAEAAAAAAAABBAAAAAAAAAAABQEEBAAQAAEEQAEARAAQEAAAQAAAAAAAQQAAAAAABAEQARAAAAEAAAAABAAAAAQAAAAQAAQAAAAAAAAAAAFAQAEAABAAAAAEQAAAAAAAAAAAQAAAABAAAAAAAAUBAAAAQABBQAAAAAAEBAAAAAAAFAAAAAAAAAAAABAQQAAAUAAAAAAQAAAAAQAQAAAAAAAAAAAAAAAQAAAQAAEAAAAAAAEAAAAAAAAAAAAAAAAAAAAAQAAAAAAUBBEQRAQARQEABAAQAAAAAREAABAQAAAQEAAAQAAQBAAAQAAABAAEAAABBAAAAAAAAAAAQAAAAAAAAAAABQEABABAAAAAAAEAAAAABABBAAAAAAAAAQAAAAEABBEUAAAAAAEAQAAAQAABAAAAAAAAQAAAAAAAABAAAAAAAAAAAAAQAEAAAEAAAAAAAAAAAQAAAAAAQAAAAAEEAQAAAAEAAAAAAAAQAAAAAAAAAAEAAAAAAAAAAAAQQAAAQAAAQAAQAAAAABAAAAAAAAAQAAAABAAAAAAEQAAAAAAAAAAAAAUAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAQEEAAAQAAEAAAAAEQAAEAAAAAAAAAAQAAAAAAAAAABREABAAQAAAAAAEAAAABAAAABAAAAQAQAAAAQAAAEAAAAAAAAAAAAAAAQAAAAAAAAAAAAABAAAAAAAAAAAEARAEAAAAAAABAEAAAAAAQAAAAAAAAAABAAAAAAAEAEAAAQAAAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAAAEAAAAAAAAQAAAAAAAAAAAAAAAAAAAAAABAAAABAAAAQAAAABAAAAAAAAAAAEAAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
  iq2xs: grid(8, [8, 25, 43], "VVVVUVVFQRVFAVRVVVBFQRAFAQBUURBAQQQAAQEAUFVFQRUVARQEAFBFQQAFAQQEAABAQQAQBQAAQAAAQFUFERQEARAAQEAFAQAEAABAEAAAAQAEAQAAAAAQAVRVUVBFQUAFAQBUURBAQQAAAVAAUBEAQAAAAQAAAFBFQQBFARAEAABAQQAAAQAAAAAAQAAEAAABAAAAAAAFBQAEQAAABAAAEQAAAAAABAAAAAAAAABAAAAAAABVVRBAQQAAAQAEUBAAQBAAEAAAABAAAAEAAAAEAABEQQBAAQAAAAAAQAAAAAQQAAAAEAABAAEAAAAAAAAQQQEEAAABABAABAAAAAAAABAAAQAAARAAAAAARAEAUFVFQVUFERQEAFBFQQAFAQBEAEBAQQFAAQAAAAAAQBVFARQEABAAAQAFARAEAAAAAEAAAQEAQBAAAAAAABQEABABAQEAAAAEEAAAQQBAAAAAQAAAAAAAAAAAAFBFQRAFAQAEAABAQQQABQAAAAAAQAAAABAAAAAAAEAFAQQEABBAAAABQQAAAAAAQBAAAAAAEAAAABAAAAQEQABAQAAAAAABAAAQQAEAAAAAAAAAAAAAAABAAABAQQAAARAQAAEAUAAAAAAAAAAAAAAAABAABAAAAAEAAUAAAAAAAAAAAAAEABABAAAAABAAAAAAAAAAAAAAEAAAAAAAAAEAAAAAAAQAAAAAAAAABAAAABAQAAAAQBUFARUEAFAAAFAVAQAEEAQAAAAAAQAEAAAAQAEAQRRUABAAQABAAAAEAAAAAQAAAABAAAAEAAAAAAEAABAEAAQAAAEUAAAEBAAAAAAAAAAAAAAABAAAABAEBBAFAQAEAAEAAQAAAQAQAAAAAQAAAAAAAAAABABAAABEAAAAQRAAAAAAAAAAEAAAAAAUAAAAAAABAAAAAAAAAAAAAAQAAAAABAAAAAABAAAAAAAAEAAAABAAAAAARQEEBAAAAAAAAQAAAABAEAAAAEAUAQAQAAAAAQAEAAAAQAAAAABAAAAAAAAAAAAAAAAAAAAAAABAAAAEAEAARQAAAAAAQBAEAAAAAAAABQAAAAAABQAAAAABAAE="),
  iq2s: grid(8, [8, 25, 43], "VVVVUVVFVRUFEVVVUVBFVRQFFRRUURBQVQQAEREQUFVFVVVVFVRFUVBVVRRVVRRUURBAVQQAURQEUBAAQBVVEVVVURABAUAFVQREURBAQAAAARQQBRAAAABAAFRVUVFFVRUVURRUVVVFVRUFVRQAUBRBQQQFABQEAFBFVRRVVRRUURBAVRUFVRQEUBAAQBQFARQEABAAAEBVUQRUURBAAQAAVRQEUBAAEAAABBAEABAABAAAAABUURVRQQUEAREAVFBBQAUFARQEABAQAFEEAQAABQBEVRQFVRQEUBAAQBQFARQEABEAAAAFAQAEAAQAAAAAERQAUBAAAEAAABUEAAAAAAAAEAAABEAAAAAEQAEAUFVVRVVVFRREUVBFVQVVVRRUURBAQRUEURQEUAAAQFVVVVRVUVBFQQBVVRRUURBQQQAAVRQEUBAAQAAAEBRVUVBFQQAEAQBUURBAQQAAAUAAUBAAQAAAAAAAAFBFVRVVVRRUUQBAVRUFVRQEUBAAQBQFARQEABQAAABVVRRUURBAQQAAVRQEUBAAQAAAABQEABEAAAAAAABUURBAQUAAAQAAUBAAQAAAAAAAABAAEAAAAABAAABERRUFURQEQBAAQBUFARQEABAAEAAEAQAEAAEAAAABURQEUBAAQAAAABQEABAQABAABAAEAAAAAAAAABAAUBAAAAAAEAAAARAAAEAAAAAAAAAAAAAABAAAAABAQBVFERRUERBBAQBFVRRUUQBAQQBAERUAUBAAAAAAAFRVEVBFQQAFAQBUURBAQQAAAQEAUBAAUAAAAAAAABBBAQAFAQAAAEBAAQAAAQBAAAAAAAAABAAABUAAAAFFVRBUURBAQQAAERQAUBAQAAAAABQEABAAAAAAAEBUURBAQQAAAUAAUBAAQAAAAAAAERAAAAAQABAAAABAQQAQAQAAAAAAUAAAAAARAAAAAAAAAAAAAAAAQAAAEREQVBAAAAAABAEAABAAAAQAAAAQBEAUAAAARAEAURAAQAAAAAABQBAAEAAAAAAAAAAAAAAAAAQAAAAAAEAAQAAAAAAAAAEAAAAAQAAABAAAQAEUAQAAABAAAAE="),
  iq3xxs: grid(4, [4, 12, 20, 28, 36, 44, 52, 62], "FYoFAgQAACgKBSIFAhAAARUCBYoAggAgggUgAAAAAAEACACAEIAAKIIAAAQABAAAAAAAIAAAEAAAUQAACAACAAoFChWAAQAABQIFAAAAAAAKBQIBAAAABAUAAQJAAEAAIgAAAAABAAAAABEAQAAAAiAAAAAAAAAAAAAEAAEAAAAFCkUCBAAAACoFAgEAAIgBBYIFgAEgAAACEQAAAAAAEQAAACAACAAACACAAAIAABAAAAAAAAAAAApAAAAgAAAAAgUKAAABIAQFAAECUAAAAAoBIAAABAAEAAIACAAAAAAAAAABgAAABEEABAAAIAAAABAAQAAACAAAAAAIAAABABCAAKAAiAAAAAAAAAAAABAAAAGAAQBBAIAAAAAgAAAAEAAAAAACEAAAACAACAAAAQAAAAAAAAAAIAUAAQAAAAAABAAAAgAAAUEAQAAAIAAAABAABAAAAAQEAAAAAAgAAAABiAAAAAAEBAAAAgAAAAAAAAAAAAEAAAAAEAAEAAAAAAAQAFAAEAAAAAIAAAACAACAAAAAABAAAAAAQQAAAAAAAAAAEAAAACAAAAAABAAAAAAACAAAAAAIAAIAAAAAAKgBAAQABAAAAABAAAEAAAAABAAAIAQAAAEgAAgAAAEAAAACAAIAAAAFABAAAAAAAAAAAAEAAAAAAAAAAAAAAAA="),
  iq3s: grid(4, [1, 3, 5, 7, 9, 11, 13, 15], "p1cjCKUKBZIXI4kiEAAiBKNJIhGkCgAJCCIFShAFgCIBiBIECQIAARQARQiiAEAIQAoAAgAEAAIVAEUIABEAABerBVIAUAIESxECCQIFAEEBpBEECSABBJIJghECAAQBKBQACkQRAAACCQIFAAIAAAAAkQBQAAAACgUCIAIABAGrVYoFKgWAKQWJJBIEAgAAkgAKgQKIABIlAhQKBAFAAIIACSQCAAAkEAIEgAEIAAGFAAIAACACACACQAEIAQAABKoEKpQCCAIqEAoAAQABRAEEARQAAQAAAhGKAYogAAgIQgQCAAQRAAIFIAQQQAAIAEAAAAIAAAAKAAUgAAAAABEEkQQCAQABhAoEIQgiAAAKIQIIAYAEARAKBSIAAAAABQAQgAEAAAKgAAIAAAAEAAAIABAAAAEAACEAAQgCAAAEEQQAkQRAECoEAgQAAAAEAQIIQQAIAACEAYAAEAIgCBIAAQRAAAAAAARAAAAKAAAAAAAABAAAABQABAAAAAAAACoACgAAAQABAIEAAAAQAAAEABAEIAQBARACAAEAAAAAACAACAAEAAkAABAAAAEAIAAAAAEAAAAACgAAAAAAAJEABUABEAQABAIQACgAAAASQQIBAAIAAAQAACQACAAAIggBAAABAAAAAAQABAAAAAQAAAIAAAAAAQAAAAAAAAA="),
  iq1s: grid(8, [-1, 0, 1], "VSUUhaACQlEIRTGohiCKohoIKiAUhVAUgiBERSUVBaACgiCIGAAIgqADKqCIu6oKkKoLACIACqqMgqAIQFEIRSGIgFAUQlEIijAImKAIgCoIRSEUhSBIQlUIRQEswqAgiiYAKiSoqqII4q8ICCgoAKACQiiqKCCogCAKmwi5uqggyq6Joq6qOnzr6rq7gg64IrrK0w6SAiIAIiCoiroKggIIACpK4KI7IiArogCBQIGqiigIIgEUhVAVgiAJRSFUhaAIAiOoOiCEgiBUQlEIoiAIlVAUAioIuKiCgKBIAiAIgqJoogIoqyoIhSAIgjAIRUAARSEUhaAAQlEARQEpggCKgioIoTAUBVAUgigIRSEUhSACAiCqKgAgErGKriiouqGqqHAAggoIAigiAoQAggBIgKDqsCqqwiCLuiLq2qeLi26okrAqqnKLikQMKiBIhEAoiioIqiDIzKIioq+aoOioAgACACqoiAAggKCLoqIouqCAgjIKur64uv7roqArogiKCijqogChMgIM+qTq3u8rqC6Nvn7r+vd/v+Z9ut5p+yf/vyb6EunhiiIQqr4OhKoIsqgLgq7/uiTpg4AEYixo8qgKpCsAAioICOKqEgACgioKpiDJgomQgigAogCMgBMAgggIAGyKqqq7Aqa+iqDKAoBrly7QsukQghAuqt4oFdGlBAAKggCKgiAIAaEggqo5uiIyhKAJgBgAiqJiAoEURFEARSGsglAUQlEIqiAoqocKEioIRSEUBaAIQlEIRQEgAqBAoiIAiAAIoghqim64qqqAACAKguLIIiEIRFAUQlEJiiAVhVAUhgoIqioqgAAKQlEIRSGoAFAUQlEI4iCIggoYgioIqqKqirCLAgoqqiAogoCqCigIKACpiAIioL4LKLgIirpLsq7/uqT4rqogUihotqAw5oAKAigIImpigCAKAqqqK6rqoqmgoggIECCgiiIAgg4ARSEUhaAKQFEIRSGpBgBKqgIIpQAQDUQUgigIRSEUBQAIgoKs8iAAAACqCigKuiDqogIAgkgJKOkUABFLRVEARQGoAlAUQlEIiCQIiCgKQAgARQEUBaACQFEIRQE="),
};

type Read = (bytes: Uint8Array, at: number, index: number) => number;

const word: Read = (bytes, at, index) => bytes[at + 2 * index]! | (bytes[at + 2 * index + 1]! << 8);
const longWord: Read = (bytes, at, index) => word(bytes, at, 2 * index) | (word(bytes, at, 2 * index + 1) << 16);
/** Numbers of four bits, the lower half of a byte first. */
const nibble: Read = (bytes, at, index) => (bytes[at + (index >> 1)]! >> (4 * (index & 1))) & 15;

/** Signs of eight values from seven bits: an even number of them is negative. */
function evenSigns(seven: number): number {
  let parity = seven ^ (seven >> 4);
  parity ^= parity >> 2;
  return seven | (((parity ^ (parity >> 1)) & 1) << 7);
}

/**
 * y = d·s·(± point of a grid).
 *
 * @param code  which point, by the number of the point in the block
 * @param signs bits of the eight values of a group
 * @param scale s of a group
 */
const signedPoints =
  ({ width, points }: Grid, code: Read, signs: Read, scale: Read): DecodeBlock =>
  (bytes, at, out, to) => {
    const d = half(bytes, at);
    for (let group = 0; group < 32; group++) {
      const step = d * scale(bytes, at, group);
      const negative = signs(bytes, at, group);
      for (let i = 0; i < 8; i++) {
        const point = code(bytes, at, ((group * 8 + i) / width) | 0);
        const value = points[point * width + (i % width)]!;
        out[to + group * 8 + i] = step * ((negative >> i) & 1 ? -value : value);
      }
    }
  };

/**
 * y = d·s·(point of a grid ± 1/8), the sign in the fourth bit of `high`, whose other three are the highest of the point's number.
 *
 * @param codes where the lower eight bits of the numbers are
 */
const shiftedPoints =
  (codes: number, high: Read, scale: Read): DecodeBlock =>
  (bytes, at, out, to) => {
    for (let group = 0; group < 32; group++) {
      const above = high(bytes, at, group);
      const step = scale(bytes, at, group);
      const shift = above & 8 ? -0.125 : 0.125;
      const point = bytes[at + codes + group]! | ((above & 7) << 8);
      for (let i = 0; i < 8; i++) out[to + group * 8 + i] = step * (grids.iq1s.points[point * 8 + i]! + shift);
    }
  };

/** IQ1_M has its float16 in the highest four bits of four words. */
function scatteredHalf(bytes: Uint8Array, at: number): number {
  let bits = 0;
  for (let i = 0; i < 4; i++) bits |= (bytes[at + 2 * i + 1]! >> 4) << (4 * i);
  return fromFloat16Bits(bits);
}

const nonlinear = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/** Twice the numbers of four bits with an exponent of two. */
const fourBitFloats = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/**
 * y = s·table[q]: parts whose values share a scale, the first half of each in the lower four bits of its bytes.
 *
 * @param codes where the bytes are
 */
const fromTable =
  (table: readonly number[], elements: number, part: number, codes: number, scale: Read): DecodeBlock =>
  (bytes, at, out, to) => {
    for (let from = 0; from < elements; from += part) {
      const step = scale(bytes, at, from / part);
      for (let i = 0; i < part / 2; i++) {
        const byte = bytes[at + codes + from / 2 + i]!;
        out[to + from + i] = step * table[byte & 15]!;
        out[to + from + part / 2 + i] = step * table[byte >> 4]!;
      }
    }
  };

/** Unsigned float of eight bits: four of an exponent and three of a fraction. Halved, since the table is doubled. */
function unsignedFloat(byte: number): number {
  const [exponent, fraction] = [(byte >> 3) & 15, byte & 7];
  if (byte === 0x7f) return 0;
  return exponent === 0 ? fraction * 2 ** -10 : (8 + fraction) * 2 ** (exponent - 11);
}

/** y = d·(q − shift) @param scale where d is */
const integers =
  (elements: number, scale: number, shift: number, code: Read): DecodeBlock =>
  (bytes, at, out, to) => {
    const d = half(bytes, at + scale);
    for (let i = 0; i < elements; i++) out[to + i] = d * (code(bytes, at, i) - shift);
  };

/** Base 3, five digits to a byte or four, scaled so that 3ⁿ times the byte has the digit above its eight bits. */
const ternary: Read = (bytes, at, i) => {
  if (i < 160) return digit(bytes[at + (i & 31)]!, i >> 5);
  return i < 240 ? digit(bytes[at + 32 + (i & 15)]!, (i - 160) >> 4) : digit(bytes[at + 48 + (i & 3)]!, (i - 240) >> 2);
};
const digit = (byte: number, n: number): number => (((byte * powers[n]!) & 255) * 3) >> 8;
const powers = [1, 3, 9, 27, 81];

const fine = (scale: number): number => (0.5 + scale) / 4;
const odd = (scale: number): number => 2 * scale + 1;

/** By ggml's names. */
export const lowBitBlocks = {
  IQ2_XXS: signedPoints(
    grids.iq2xxs,
    (bytes, at, i) => bytes[at + 2 + (i >> 2) * 8 + (i & 3)]!,
    (bytes, at, group) => evenSigns((longWord(bytes, at + 6, (group >> 2) * 2) >> (7 * (group & 3))) & 127),
    (bytes, at, group) => fine(longWord(bytes, at + 6, (group >> 2) * 2) >>> 28),
  ),
  IQ2_XS: signedPoints(
    grids.iq2xs,
    (bytes, at, i) => word(bytes, at + 2, i) & 511,
    (bytes, at, group) => evenSigns(word(bytes, at + 2, group) >> 9),
    (bytes, at, group) => fine(nibble(bytes, at + 66, group >> 1)),
  ),
  IQ2_S: signedPoints(
    grids.iq2s,
    (bytes, at, i) => bytes[at + 2 + i]! | (((bytes[at + 66 + (i >> 2)]! >> (2 * (i & 3))) & 3) << 8),
    (bytes, at, group) => bytes[at + 34 + group]!,
    (bytes, at, group) => fine(nibble(bytes, at + 74, group >> 1)),
  ),
  IQ3_XXS: signedPoints(
    grids.iq3xxs,
    (bytes, at, i) => bytes[at + 2 + i]!,
    (bytes, at, group) => evenSigns((longWord(bytes, at + 66, group >> 2) >> (7 * (group & 3))) & 127),
    (bytes, at, group) => 2 * fine(longWord(bytes, at + 66, group >> 2) >>> 28),
  ),
  IQ3_S: signedPoints(
    grids.iq3s,
    (bytes, at, i) => bytes[at + 2 + i]! | (((bytes[at + 66 + (i >> 3)]! >> (i & 7)) & 1) << 8),
    (bytes, at, group) => bytes[at + 74 + group]!,
    (bytes, at, group) => odd(nibble(bytes, at + 106, group >> 2)),
  ),
  IQ1_S: shiftedPoints(
    2,
    (bytes, at, group) => {
      const high = word(bytes, at + 34, group >> 2);
      return ((high >> (3 * (group & 3))) & 7) | ((high >> 12) & 8);
    },
    (bytes, at, group) => half(bytes, at) * odd((word(bytes, at + 34, group >> 2) >> 12) & 7),
  ),
  IQ1_M: shiftedPoints(
    0,
    (bytes, at, group) => nibble(bytes, at + 32, group),
    (bytes, at, group) => scatteredHalf(bytes, at + 48) * odd((word(bytes, at + 48, group >> 3) >> (3 * ((group >> 1) & 3))) & 7),
  ),
  IQ4_NL: fromTable(nonlinear, 32, 32, 2, (bytes, at) => half(bytes, at)),
  IQ4_XS: fromTable(nonlinear, 256, 32, 8, (bytes, at, part) => {
    const scale = nibble(bytes, at + 4, part) | (((word(bytes, at + 2, 0) >> (2 * part)) & 3) << 4);
    return half(bytes, at) * (scale - 32);
  }),
  MXFP4: fromTable(fourBitFloats, 32, 32, 1, (bytes, at) => 2 ** (bytes[at]! - 128)),
  NVFP4: fromTable(fourBitFloats, 64, 16, 4, (bytes, at, part) => unsignedFloat(bytes[at + part]!)),
  TQ1_0: integers(256, 52, 1, ternary),
  TQ2_0: integers(256, 64, 1, (bytes, at, i) => (bytes[at + (i >> 7) * 32 + (i & 31)]! >> (((i >> 5) & 3) * 2)) & 3),
  Q1_0: integers(128, 0, 1, (bytes, at, i) => ((bytes[at + 2 + (i >> 3)]! >> (i & 7)) & 1) * 2),
  Q2_0: integers(64, 0, 1, (bytes, at, i) => (bytes[at + 2 + (i >> 2)]! >> ((i & 3) * 2)) & 3),
} as const satisfies Readonly<Record<string, DecodeBlock>>;
