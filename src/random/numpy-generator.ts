/**
 * NumPy's random numbers, as `numpy.random.default_rng(seed)` draws them: UniLoRA's files store only a seed and are garbage without
 * exactly this stream.
 *
 * @see https://www.pcg-random.org/pdf/hmc-cs-2014-0905.pdf (PCG XSL RR 128/64)
 */
import { ConfigError } from "../errors.ts";

const multiplier = 0x2360ed051fc65da44385df649fccf645n;
const low128 = (1n << 128n) - 1n;
const low64 = (1n << 64n) - 1n;

/** Four words of 64 bits from a seed of any length: NumPy's SeedSequence. */
function seedWords(seed: bigint): readonly bigint[] {
  const entropy: number[] = [];
  for (let rest = seed; rest > 0n || entropy.length < 4; rest >>= 32n) entropy.push(Number(rest & 0xffffffffn));
  let constant = 0x43b0d7e5;
  const hash = (value: number): number => {
    const first = value ^ constant;
    constant = Math.imul(constant, 0x931e8875);
    const product = Math.imul(first, constant);
    return product ^ (product >>> 16);
  };
  const mix = (x: number, y: number): number => {
    const sum = Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y);
    return sum ^ ((sum >>> 0) >>> 16);
  };
  const pool = entropy.slice(0, 4).map(hash);
  for (let from = 0; from < 4; from++)
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to] as number, hash(pool[from] as number));
  for (const word of entropy.slice(4)) for (let to = 0; to < 4; to++) pool[to] = mix(pool[to] as number, hash(word));
  constant = 0x8b51f9dd;
  const words = Array.from({ length: 8 }, (_, i) => {
    const first = (pool[i % 4] as number) ^ constant;
    constant = Math.imul(constant, 0x58f38ded);
    const product = Math.imul(first, constant);
    return BigInt((product ^ (product >>> 16)) >>> 0);
  });
  return [0, 2, 4, 6].map((i) => (words[i] as bigint) | ((words[i + 1] as bigint) << 32n));
}

/**
 * The stream of `numpy.random.default_rng(seed)`.
 *
 * @example
 * const random = new NumpyGenerator(42);
 * random.shuffle(Int32Array.of(0, 1, 2));   // [2, 1, 0]
 */
export class NumpyGenerator {
  #state: bigint;
  readonly #increment: bigint;
  /** The upper half of a word whose lower half has been given out. */
  #half: number | undefined;

  /** @throws {ConfigError} for anything but a whole number ≥ 0, as in NumPy */
  constructor(seed: number | bigint) {
    if (typeof seed === "number" && !Number.isSafeInteger(seed))
      throw new ConfigError(`\`seed\` (= ${seed}) must be an integer.`, { operation: "NumpyGenerator", got: seed });
    if (seed < 0) throw new ConfigError(`\`seed\` (= ${seed}) must not be negative.`, { operation: "NumpyGenerator", got: seed });
    const [a, b, c, d] = seedWords(BigInt(seed)) as [bigint, bigint, bigint, bigint];
    this.#increment = ((((c << 64n) | d) << 1n) | 1n) & low128;
    this.#state = (this.#increment + ((a << 64n) | b)) & low128;
    this.#step();
  }

  #step(): void {
    this.#state = (this.#state * multiplier + this.#increment) & low128;
  }

  /** The next 64 random bits. */
  u64(): bigint {
    this.#step();
    const folded = (this.#state >> 64n) ^ (this.#state & low64);
    const turns = this.#state >> 122n;
    return ((folded >> turns) | (folded << (64n - turns))) & low64;
  }

  /** The next 32 random bits, unsigned: the lower half of a word, then its upper half. */
  u32(): number {
    if (this.#half !== undefined) {
      const half = this.#half;
      this.#half = undefined;
      return half;
    }
    const word = this.u64();
    this.#half = Number(word >> 32n);
    return Number(word & 0xffffffffn);
  }

  /** One of 0 … most, by Lemire's method. @see https://arxiv.org/abs/1805.10941 */
  #upTo(most: number): number {
    if (most === 0) return 0;
    const count = BigInt(most + 1);
    const least = BigInt((2 ** 32 - 1 - most) % (most + 1));
    for (;;) {
      const product = BigInt(this.u32()) * count;
      if ((product & 0xffffffffn) >= least) return Number(product >> 32n);
    }
  }

  /** Puts the values into random order, in place: `shuffle(values)`. */
  shuffle(values: Int32Array): Int32Array {
    for (let i = values.length - 1; i > 0; i--) {
      const mask = 2 ** (32 - Math.clz32(i)) - 1;
      let j: number;
      do j = (this.u32() & mask) >>> 0;
      while (j > i);
      swap(values, i, j);
    }
    return values;
  }

  /**
   * `k` different ones of 0 … n − 1: `choice(n, size=k, replace=False)`.
   *
   * @throws {ConfigError} unless 0 ≤ k ≤ n < 2³¹
   */
  choice(n: number, k: number): Int32Array {
    if (!Number.isInteger(n) || !Number.isInteger(k) || k < 0 || k > n || n >= 2 ** 31)
      throw new ConfigError(`\`n\` (= ${n}) and \`k\` (= ${k}) must be integers with 0 ≤ k ≤ n < 2³¹.`, {
        operation: "choice",
        got: [n, k],
      });
    if (n > 10_000 && k > Math.floor(n / 50))
      return this.#order(
        Int32Array.from({ length: n }, (_, i) => i),
        n - k,
      ).slice(n - k);
    // Floyd's: one draw for each, of a range that grows; what is there already is replaced with the end of the range
    const found = new Set<number>();
    for (let last = n - k; last < n; last++) {
      const drawn = this.#upTo(last);
      found.add(found.has(drawn) ? last : drawn);
    }
    return this.#order(Int32Array.from(found), 1);
  }

  /** Random order from the end down to a place, at least 1. */
  #order(values: Int32Array, first: number): Int32Array {
    for (let i = values.length - 1; i >= Math.max(first, 1); i--) swap(values, i, this.#upTo(i));
    return values;
  }
}

function swap(values: Int32Array, i: number, j: number): void {
  const value = values[i] as number;
  values[i] = values[j] as number;
  values[j] = value;
}
