/**
 * Threefry-2x32 with 20 rounds: random bits as a pure function of a key and a counter, so that any element can be made anywhere,
 * in any order, with the same bits. The plain-number form of the generator that the devices run.
 *
 * @see https://www.thesalmons.org/john/random123/papers/random123sc11.pdf, section 3.3
 */

const rotations = [13, 15, 26, 6, 17, 29, 16, 24] as const;

/**
 * Two random 32-bit words for a 64-bit key and a 64-bit counter. Equal to Random123's `threefry2x32` and JAX's `threefry_2x32`.
 *
 * @returns unsigned words
 * @example
 * threefry2x32(0, 0, 0, 0)   // [0x6b200159, 0x99ba4efe]
 */
export function threefry2x32(key0: number, key1: number, counter0: number, counter1: number): [number, number] {
  const keys = [key0, key1, key0 ^ key1 ^ 0x1bd11bda] as const; // the constant keeps an all-zero key from being a fixed point
  let x = (counter0 + key0) | 0;
  let y = (counter1 + key1) | 0;
  for (let group = 1; group <= 5; group++) {
    const first = group % 2 === 1 ? 0 : 4;
    for (let round = first; round < first + 4; round++) {
      const rotation = rotations[round] as number;
      x = (x + y) | 0;
      y = ((y << rotation) | (y >>> (32 - rotation))) ^ x;
    }
    x = (x + (keys[group % 3] as number)) | 0;
    y = (y + (keys[(group + 1) % 3] as number) + group) | 0;
  }
  return [x >>> 0, y >>> 0];
}

/** A number of [0, 1) from the upper 24 bits of a random word: a multiple of 2⁻²⁴, exact in float32. */
export function uniformFromBits(bits: number): number {
  return (bits >>> 8) * 2 ** -24;
}
