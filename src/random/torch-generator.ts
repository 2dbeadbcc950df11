/**
 * PyTorch's random numbers on the CPU, bit for bit. Some adapter files (FourierFT, VeRA, ...) store only a seed and are garbage
 * without exactly these streams; everything else in lorikeet uses the counter-based generator of `threefry.ts`.
 *
 * @see http://www.math.sci.hiroshima-u.ac.jp/m-mat/MT/ARTICLES/mt.pdf
 */
import { ConfigError, wordArgument } from "../errors.ts";

const stateSize = 624;
const middle = 397;

/**
 * The stream of `torch.Generator().manual_seed(seed)`: MT19937 and the distributions that PyTorch draws from it.
 * Methods advance the stream exactly as far as PyTorch's do, so that calls can be mixed in the same order.
 *
 * @example
 * new TorchGenerator(0).uniform(2)   // Float32Array [0.4962566, 0.7682218]
 */
export class TorchGenerator {
  readonly #state = new Int32Array(stateSize);
  #next = stateSize;
  /** The second value of a Box-Muller pair, which PyTorch keeps for the next small draw, even of a later call. */
  #spareNormal: number | undefined;

  /** @param seed only the low 32 bits count, as in PyTorch; negative numbers wrap around */
  constructor(seed: number | bigint) {
    if (typeof seed !== "bigint" && !Number.isSafeInteger(seed))
      throw new ConfigError(`\`seed\` (= ${wordArgument(seed)}) must be an integer.`, { operation: "TorchGenerator", got: seed });
    const state = this.#state;
    state[0] = Number(BigInt.asIntN(32, BigInt(seed)));
    for (let i = 1; i < stateSize; i++) {
      const previous = state[i - 1]!;
      state[i] = Math.imul(1812433253, previous ^ (previous >>> 30)) + i;
    }
  }

  /** Where the stream stands: its 624 words, how many are used, and the spare normal value as a flag and two words. A copy. */
  get state(): Int32Array<ArrayBuffer> {
    float64[0] = this.#spareNormal ?? 0;
    return Int32Array.of(...this.#state, this.#next, this.#spareNormal === undefined ? 0 : 1, ...words);
  }

  /** Goes on where another generator stood. @throws {ConfigError} for what is no state */
  set state(saved: Int32Array) {
    const next = saved instanceof Int32Array && saved.length === stateSize + 4 ? saved[stateSize]! : -1;
    if (next < 0 || next > stateSize)
      throw new ConfigError("`state` is not the state of such a generator.", { operation: "TorchGenerator", got: saved });
    this.#state.set(saved.subarray(0, stateSize));
    this.#next = next;
    words.set(saved.subarray(stateSize + 2));
    this.#spareNormal = saved[stateSize + 1] ? float64[0] : undefined;
  }

  /** The next 32 random bits, unsigned. */
  u32(): number {
    if (this.#next === stateSize) this.#twist();
    let y = this.#state[this.#next++]!;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** The next 64 random bits: the first word is the upper half. */
  u64(): bigint {
    const high = this.u32();
    return (BigInt(high) << 32n) | BigInt(this.u32());
  }

  /** `n` float32 values of [lo, hi): `torch.empty(n).uniform_(lo, hi)`; one word each. */
  uniform(n: number, lo = 0, hi = 1): Float32Array {
    requireRange("uniform", lo, hi);
    const values = new Float32Array(requireCount("uniform", n));
    const low = Math.fround(lo);
    const width = Math.fround(Math.fround(hi) - low);
    for (let i = 0; i < n; i++) {
      const product = (this.u32() & 0xffffff) * 2 ** -24 * width; // 24 + 24 bits: exact in a double
      values[i] = low === 0 ? product : addOddly(product, low);
    }
    return values;
  }

  /** `n` float64 values of [lo, hi): the same call on a float64 tensor; two words each. */
  uniform64(n: number, lo = 0, hi = 1): Float64Array {
    requireRange("uniform64", lo, hi);
    const values = new Float64Array(requireCount("uniform64", n));
    for (let i = 0; i < n; i++) values[i] = this.#unit64() * (hi - lo) + lo;
    return values;
  }

  /** `n` standard normal float32 values: `torch.randn(n)`. PyTorch's float32 cosines differ in the last bits; ours agree to about 1e-7. */
  randn(n: number): Float32Array {
    return this.normal(n, 0, 1);
  }

  /** `n` standard normal float64 values: `torch.randn(n, dtype=torch.float64)`. */
  randn64(n: number): Float64Array {
    requireCount("randn64", n);
    const values = new Float64Array(n);
    if (n < 16) for (let i = 0; i < n; i++) values[i] = this.#normal();
    else {
      for (let i = 0; i < n; i++) values[i] = this.#unit64();
      const last = n - (n % 16);
      for (let i = 0; i < last; i += 16) boxMuller64(values, i);
      if (last < n) {
        for (let i = n - 16; i < n; i++) values[i] = this.#unit64();
        boxMuller64(values, n - 16);
      }
    }
    return values;
  }

  /**
   * `n` float32 values of N(mean, std²): `torch.empty(n).normal_(mean, std)`. Fewer than 16 values take another path in PyTorch,
   * with other values.
   */
  normal(n: number, mean: number, std: number): Float32Array {
    const values = new Float32Array(requireCount("normal", n));
    if (n < 16) {
      for (let i = 0; i < n; i++) values[i] = this.#normal() * std + mean;
      return values;
    }
    for (let i = 0; i < n; i++) values[i] = (this.u32() & 0xffffff) * 2 ** -24;
    const last = n - (n % 16);
    for (let i = 0; i < last; i += 16) boxMuller(values, i, mean, std);
    if (last < n) {
      // PyTorch draws the last 16 anew, over values that the blocks before have already finished
      for (let i = n - 16; i < n; i++) values[i] = (this.u32() & 0xffffff) * 2 ** -24;
      boxMuller(values, n - 16, mean, std);
    }
    return values;
  }

  /** `n` integers of [lo, hi): `torch.randint(lo, hi, (n,))`. */
  randint(n: number, lo: number, hi: number): Int32Array {
    const values = new Int32Array(requireCount("randint", n));
    const fits = (x: number) => x === (x | 0);
    if (!fits(lo) || !fits(hi - 1) || hi <= lo)
      throw new ConfigError(`\`lo\` (= ${lo}) and \`hi\` (= ${hi}) must be integers with lo < hi that fit 32 bits.`, {
        operation: "randint",
        got: [lo, hi],
      });
    const range = hi - lo;
    for (let i = 0; i < n; i++) values[i] = lo + (this.u32() % range);
    return values;
  }

  /**
   * The first `k` entries of a random permutation of 0 … n-1: `torch.randperm(n)[:k]`.
   * With `k` given the stream advances only as far as these need, in memory of the order of `k` where that is much less than `n`.
   */
  randperm(n: number, k: number = n): Int32Array {
    if (!Number.isInteger(n) || n < 0 || n > 2 ** 31 || !Number.isInteger(k) || k < 0 || k > n)
      throw new ConfigError(`\`n\` (= ${n}) and \`k\` (= ${k}) must be integers with 0 ≤ k ≤ n ≤ 2³¹.`, {
        operation: "randperm",
        got: [n, k],
      });
    return k * 8 < n ? this.#sparsePermutation(n, k) : this.#densePermutation(n, k);
  }

  #densePermutation(n: number, k: number): Int32Array {
    const values = new Int32Array(n);
    for (let i = 0; i < n; i++) values[i] = i;
    for (let i = 0; i < Math.min(k, n - 1); i++) {
      const other = i + (this.u32() % (n - i));
      const value = values[i]!;
      values[i] = values[other]!;
      values[other] = value;
    }
    return k === n ? values : values.slice(0, k);
  }

  /** The same swaps on an imagined 0 … n-1, of which only the displaced entries are kept. */
  #sparsePermutation(n: number, k: number): Int32Array {
    const values = new Int32Array(k);
    const displaced = new Map<number, number>();
    for (let i = 0; i < k; i++) {
      const other = i + (this.u32() % (n - i));
      const value = displaced.get(i) ?? i;
      values[i] = other === i ? value : (displaced.get(other) ?? other);
      displaced.set(other, value);
      displaced.delete(i); // no later draw reaches back
    }
    return values;
  }

  #unit64(): number {
    const high = this.u32() & 0x1fffff;
    return (high * 2 ** 32 + this.u32()) * 2 ** -53;
  }

  #normal(): number {
    if (this.#spareNormal !== undefined) {
      const value = this.#spareNormal;
      this.#spareNormal = undefined;
      return value;
    }
    const u1 = this.#unit64();
    const radius = Math.sqrt(-2 * Math.log1p(-this.#unit64()));
    const angle = 2 * Math.PI * u1;
    this.#spareNormal = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  #twist(): void {
    const state = this.#state;
    for (let i = 0; i < stateSize; i++) {
      const joined = (state[i]! & 0x80000000) | (state[i + 1 < stateSize ? i + 1 : 0]! & 0x7fffffff);
      const far = state[i + middle < stateSize ? i + middle : i + middle - stateSize]!;
      state[i] = far ^ (joined >>> 1) ^ (-(joined & 1) & 0x9908b0df);
    }
    this.#next = 0;
  }
}

/** Sixteen uniforms become sixteen normals in place, rounded to float32 where PyTorch's vectorised code rounds. */
function boxMuller(values: Float32Array, start: number, mean: number, std: number): void {
  for (let j = start; j < start + 8; j++) {
    const radius = Math.fround(Math.sqrt(-2 * Math.fround(Math.log(1 - values[j]!))));
    const angle = Math.fround(Math.fround(2 * Math.PI) * values[j + 8]!);
    values[j] = radius * Math.fround(Math.cos(angle)) * std + mean;
    values[j + 8] = radius * Math.fround(Math.sin(angle)) * std + mean;
  }
}

function boxMuller64(values: Float64Array, start: number): void {
  for (let j = start; j < start + 8; j++) {
    const radius = Math.sqrt(-2 * Math.log(1 - values[j]!));
    const angle = 2 * Math.PI * values[j + 8]!;
    values[j] = radius * Math.cos(angle);
    values[j + 8] = radius * Math.sin(angle);
  }
}

const float64 = new Float64Array(1);
const words = new Int32Array(float64.buffer);

/**
 * a + b rounded to odd: when the sum is not exact, of the two doubles around it the one with the last bit set. Rounding that to
 * float32 gives what a fused multiply-add gives with its single rounding; rounding the nearest double could land on a tie and
 * go the wrong way.
 */
function addOddly(a: number, b: number): number {
  const sum = a + b;
  const back = sum - a;
  const error = a - (sum - back) + (b - back);
  if (error === 0) return sum;
  float64[0] = sum;
  if ((words[0]! & 1) === 1) return sum;
  // one step towards the exact sum: away from zero where error and sum agree in sign. From an even last bit that carries
  // nothing; the step towards zero may borrow from the upper word
  if (Math.sign(error) === Math.sign(sum)) words[0]! += 1;
  else {
    if (words[0] === 0) words[1]! -= 1;
    words[0]! -= 1;
  }
  return float64[0]!;
}

function requireCount(operation: string, n: number): number {
  if (!Number.isInteger(n) || n < 0)
    throw new ConfigError(`\`n\` (= ${n}) must be a non-negative integer.`, { operation, got: n });
  return n;
}

function requireRange(operation: string, lo: number, hi: number): void {
  if (!(lo <= hi) || !Number.isFinite(hi - lo))
    throw new ConfigError(`\`lo\` (= ${lo}) must not be above \`hi\` (= ${hi}), and both must be finite.`, {
      operation,
      got: [lo, hi],
    });
}
