/** Four-lane arithmetic as expressions: each method emits its instructions and returns a new local with the result. */
import { type Expression, type FunctionBuilder, type Local, load, type SimpleOp } from "../../src/devices/wasm/assembler.ts";
import { features } from "../../src/devices/wasm/features.ts";

/** Four lanes of 32 bits in a local. Which type they hold is known to the caller. */
export type V128 = Local<"v128">;
/** A vector, or a number for four equal lanes: a float where the method works on floats, an integer where on integers. */
export type Operand = V128 | number;

const signBit = -0x80000000;
/** Coefficients of a polynomial that is one chain. */
const longestChain = 10;

/**
 * Emits f32x4 and i32x4 code into one function. Constants are put into locals at the function's entry (`FunctionBuilder.constant`).
 * Masks are lanes of all ones or all zeros.
 */
export class SimdBasics {
  readonly f: FunctionBuilder;
  /** Whether `madd` is one fused instruction, rounded once. */
  readonly fused: boolean;

  constructor(f: FunctionBuilder, fused: boolean = features().relaxedSimd) {
    this.f = f;
    this.fused = fused;
  }

  // --- values

  f32(value: number): V128 {
    return this.f.constant("f32", value);
  }

  i32(value: number): V128 {
    return this.f.constant("i32", value);
  }

  /** Any instruction that leaves a vector. Numbers become four equal lanes, integers for `i…` instructions, else floats. */
  apply(op: SimpleOp, ...operands: Operand[]): V128 {
    const lane = op.startsWith("i") ? "i32" : "f32";
    return this.f.local("v128", [op, ...operands.map((x) => (typeof x === "number" ? this.f.constant(lane, x) : x))]);
  }

  /** Keeps the value of an expression (a load, a scalar splat) in a new local. */
  keep(value: Expression): V128 {
    return this.f.local("v128", value);
  }

  load(address: Expression, offset = 0): V128 {
    return this.keep(load("v128.load", address, offset));
  }

  store(address: Expression, value: Operand, offset = 0): void {
    this.f.store("v128.store", address, this.float(value), offset);
  }

  // --- floats

  add = (x: Operand, y: Operand): V128 => this.apply("f32x4.add", x, y);
  sub = (x: Operand, y: Operand): V128 => this.apply("f32x4.sub", x, y);
  mul = (x: Operand, y: Operand): V128 => this.apply("f32x4.mul", x, y);
  div = (x: Operand, y: Operand): V128 => this.apply("f32x4.div", x, y);

  /** x · y + z, rounded once where fused, else twice. */
  madd(x: Operand, y: Operand, z: Operand): V128 {
    return this.fused ? this.apply("f32x4.relaxed_madd", x, y, z) : this.add(this.mul(x, y), z);
  }

  /** z − x · y, rounded once where fused, else twice. */
  nmadd(x: Operand, y: Operand, z: Operand): V128 {
    return this.fused ? this.apply("f32x4.relaxed_nmadd", x, y, z) : this.sub(z, this.mul(x, y));
  }

  /**
   * c₀ xⁿ + c₁ xⁿ⁻¹ + … + cₙ, by Horner's rule: each sum takes the register of the one before it, and the vectors that go through a
   * loop together fill each other's waits. A long chain is two, the higher one times a power of x.
   */
  polynomial(x: V128, coefficients: readonly number[]): V128 {
    const { length } = coefficients;
    if (length > longestChain) {
      const cut = 2 ** Math.round(Math.log2(length / 2));
      const [high, low] = [coefficients.slice(0, -cut), coefficients.slice(-cut)].map((part) => this.polynomial(x, part));
      let power = x;
      for (let degree = 1; degree < cut; degree *= 2) power = this.mul(power, power);
      return this.madd(high!, power, low!);
    }
    const [first = 0, ...rest] = coefficients;
    return rest.reduce<V128>((sum, c) => this.madd(sum, x, c), this.f32(first));
  }

  // V8 makes three instructions of `f32x4.neg` and `f32x4.abs`, with a mask that it builds each time

  neg = (x: Operand): V128 => this.xor(this.float(x), this.i32(signBit));
  abs = (x: Operand): V128 => this.andNot(this.float(x), this.i32(signBit));
  /** Correctly rounded. */
  sqrt = (x: Operand): V128 => this.apply("f32x4.sqrt", x);
  /** 1/x, correctly rounded. */
  recip = (x: Operand): V128 => this.div(1, x);
  floor = (x: Operand): V128 => this.apply("f32x4.floor", x);
  /** The larger; NaN where either is NaN. */
  max = (x: Operand, y: Operand): V128 => this.apply("f32x4.max", x, y);

  /** x limited to [low, high], faster than a minimum and a maximum; NaN stays NaN. */
  clamp(x: V128, low: number, high: number): V128 {
    return this.apply("f32x4.pmax", this.apply("f32x4.pmin", x, high), low);
  }

  /** |x| with the sign of `sign`. */
  copySign(magnitude: V128, sign: V128): V128 {
    return this.apply("v128.bitselect", sign, magnitude, this.i32(signBit));
  }

  // --- masks and bits

  equal = (x: Operand, y: Operand): V128 => this.apply("f32x4.eq", x, y);
  less = (x: Operand, y: Operand): V128 => this.apply("f32x4.lt", x, y);
  lessOrEqual = (x: Operand, y: Operand): V128 => this.apply("f32x4.le", x, y);

  /** `x` in the lanes where the mask is all ones, `y` where it is all zeros. */
  select(mask: V128, x: Operand, y: Operand): V128 {
    return this.apply(this.fused ? "i32x4.relaxed_laneselect" : "v128.bitselect", this.float(x), this.float(y), mask);
  }

  and = (x: V128, y: V128): V128 => this.apply("v128.and", x, y);
  /** Bits of `x` where `y` has zeros. */
  andNot = (x: V128, y: V128): V128 => this.apply("v128.andnot", x, y);
  or = (x: V128, y: V128): V128 => this.apply("v128.or", x, y);
  xor = (x: V128, y: V128): V128 => this.apply("v128.xor", x, y);

  // --- integers

  i32Add = (x: Operand, y: Operand): V128 => this.apply("i32x4.add", x, y);
  i32Sub = (x: Operand, y: Operand): V128 => this.apply("i32x4.sub", x, y);
  /** The low 32 bits of the product. */
  i32Mul = (x: Operand, y: Operand): V128 => this.apply("i32x4.mul", x, y);

  /** The high 32 bits of the unsigned product. */
  u32MulHigh(x: Operand, y: Operand): V128 {
    const low = this.apply("i64x2.extmul_low_i32x4_u", x, y);
    const high = this.apply("i64x2.extmul_high_i32x4_u", x, y);
    return this.keep(() => this.f.shuffle([1, 3, 5, 7], low, high));
  }

  /** Shifts every lane by the same number of bits (mod 32). */
  shift(direction: "shl" | "shr_s" | "shr_u", x: V128, bits: Expression): V128 {
    return this.keep([`i32x4.${direction}`, x, bits]);
  }

  /** Shifts every lane by its own number of bits (mod 32); lane by lane, as SIMD has no such instruction. */
  shiftLanes(direction: "shl" | "shr_s" | "shr_u", x: V128, bits: V128): V128 {
    const { f } = this;
    const result = f.local("v128", x);
    for (let i = 0; i < 4; i++) {
      const lane = (from: V128) => () => f.lane("i32x4.extract_lane", i, from);
      f.lane("i32x4.replace_lane", i, result, [`i32.${direction}`, lane(x), lane(bits)]).set(result);
    }
    return result;
  }

  /** ⌊x / y⌋; a zero divisor gives an arbitrary number, never a trap. */
  i32FloorDiv(x: Operand, y: Operand): V128 {
    // a quotient of two 32-bit integers in float64 never rounds up to the next integer
    const halves = ([0, 1] as const).map((half) => {
      const wide = (value: Operand) => this.apply("f64x2.convert_low_i32x4_s", this.pair(value, half));
      return this.apply("i32x4.trunc_sat_f64x2_s_zero", this.apply("f64x2.floor", this.apply("f64x2.div", wide(x), wide(y))));
    });
    return this.joinPairs(halves[0] as V128, halves[1] as V128);
  }

  /** x − ⌊x/y⌋·y: the remainder with the sign of the divisor. */
  i32Mod(x: Operand, y: Operand): V128 {
    return this.i32Sub(x, this.i32Mul(this.i32FloorDiv(x, y), y));
  }

  toFloat = (x: Operand): V128 => this.apply("f32x4.convert_i32x4_s", x);
  /** Towards zero; out of range gives the nearest integer that exists, NaN gives 0. */
  toInteger = (x: V128): V128 => this.apply("i32x4.trunc_sat_f32x4_s", x);

  // --- across lanes

  /** Folds the four lanes as (0 ∘ 2) ∘ (1 ∘ 3) and puts the result in all of them. */
  across(x: V128, fold: (x: V128, y: V128) => V128): V128 {
    const halves = fold(
      x,
      this.keep(() => this.f.shuffle([2, 3, 0, 1], x)),
    );
    return fold(
      halves,
      this.keep(() => this.f.shuffle([1, 0, 3, 2], halves)),
    );
  }

  sumAcross = (x: V128): V128 => this.across(x, (a, b) => this.add(a, b));
  maxAcross = (x: V128): V128 => this.across(x, (a, b) => this.max(a, b));
  productAcross = (x: V128): V128 => this.across(x, (a, b) => this.mul(a, b));

  // --- 16-bit floats

  /** Four bfloat16 at `address` (64 bits), widened exactly. */
  loadBFloat16(address: Expression, offset = 0): V128 {
    return this.widenBFloat16(this.keep(load("v128.load16x4_u", address, offset)));
  }

  /** Four float16 at `address` (64 bits), widened exactly. */
  loadFloat16(address: Expression, offset = 0): V128 {
    return this.widenFloat16(this.keep(load("v128.load16x4_u", address, offset)));
  }

  /**
   * Eight float16 at `address` (128 bits), widened exactly unless they are ±∞ or NaN: half of the instructions. The bits of the magnitudes
   * go into `largest`, for `isInfiniteFloat16` to say whether any was.
   */
  loadFiniteFloat16(address: Expression, largest: V128): readonly [V128, V128] {
    const bits = this.load(address);
    this.f.set(largest, ["i16x8.max_u", largest, ["v128.and", bits, this.i32(0x7fff7fff)]]);
    // the sign moves into the exponent's upper bits, too, and is taken out of them; the product puts the exponent's bias right
    const widen = (half: V128) => this.mul(this.and(this.shift("shl", half, 13), this.i32(0x8fffe000 | 0)), 2 ** 112);
    return [widen(this.keep(["i32x4.extend_low_i16x8_s", bits])), widen(this.keep(["i32x4.extend_high_i16x8_s", bits]))];
  }

  /** Whether ±∞ or NaN were among what `loadFiniteFloat16` has read. */
  isInfiniteFloat16(largest: V128): Expression {
    return ["v128.any_true", ["i16x8.lt_s", this.i32(0x7bff7bff), largest]];
  }

  /** Writes 64 bits: `bits` as `narrowBFloat16` or `narrowFloat16` leaves them. */
  storeHalves(address: Expression, bits: V128, offset = 0): void {
    this.f.laneAccess("v128.store64_lane", 0, address, this.apply("i16x8.narrow_i32x4_u", bits, bits), offset);
  }

  /** From bit patterns in i32 lanes. Exact. */
  widenBFloat16 = (bits: V128): V128 => this.shift("shl", bits, 16);

  /** To bit patterns in i32 lanes: nearest, ties to even; NaN stays NaN. */
  narrowBFloat16(x: V128): V128 {
    const odd = this.and(this.shift("shr_u", x, 16), this.i32(1));
    const rounded = this.shift("shr_u", this.i32Add(this.i32Add(x, 0x7fff), odd), 16);
    const quiet = this.or(this.shift("shr_u", x, 16), this.i32(0x40));
    return this.select(this.apply("f32x4.ne", x, x), quiet, rounded);
  }

  /** From bit patterns in i32 lanes. Exact, subnormals, ±∞ and NaN included. */
  widenFloat16(bits: V128): V128 {
    const magnitude = this.shift("shl", this.and(bits, this.i32(0x7fff)), 13);
    const rebased = this.i32Add(magnitude, (127 - 15) << 23);
    const infinite = this.apply("i32x4.ge_u", magnitude, 0x7c00 << 13);
    // no subnormal float32 on the way, which some processors take a hundred cycles for: 2⁻¹⁴·(1 + fraction) − 2⁻¹⁴
    const subnormal = this.sub(this.i32Add(rebased, 1 << 23), 2 ** -14);
    const finite = this.select(this.apply("i32x4.lt_u", magnitude, 0x400 << 13), subnormal, rebased);
    const wide = this.i32Add(finite, this.and(infinite, this.i32((128 - 16) << 23)));
    return this.or(wide, this.shift("shl", this.and(bits, this.i32(0x8000)), 16));
  }

  /** To bit patterns in i32 lanes: nearest, ties to even, with subnormals; past 65,504 (65,520 and more) infinite; NaN stays NaN. */
  narrowFloat16(x: V128): V128 {
    const magnitude = this.and(x, this.i32(0x7fffffff));
    const odd = this.and(this.shift("shr_u", x, 13), this.i32(1));
    const normal = this.shift("shr_u", this.i32Add(this.i32Add(magnitude, 0xfff - ((127 - 15) << 23)), odd), 13);
    // adding 0.5 lets the float adder round to whole units of 2⁻²⁴, which then are the low bits
    const subnormal = this.i32Sub(this.add(magnitude, 0.5), 0x3f000000);
    const special = this.select(this.apply("i32x4.gt_s", magnitude, 0x7f800000), this.i32(0x7e00), this.i32(0x7c00));
    const finite = this.select(this.apply("i32x4.lt_s", magnitude, 113 << 23), subnormal, normal);
    const half = this.select(this.apply("i32x4.ge_s", magnitude, (127 + 16) << 23), special, finite);
    return this.or(half, this.and(this.shift("shr_u", x, 16), this.i32(0x8000)));
  }

  // --- float64 in pairs, for the few steps that need it

  /** Lanes 0 and 1, or 2 and 3, moved to the front, where the instructions between 32 and 64 bits want them. */
  protected pair(x: Operand, half: 0 | 1): V128 {
    if (typeof x === "number") return this.i32(x);
    return half === 0 ? x : this.keep(() => this.f.shuffle([2, 3, 2, 3], x));
  }

  protected joinPairs(low: V128, high: V128): V128 {
    return this.keep(() => this.f.shuffle([0, 1, 4, 5], low, high));
  }

  private float(x: Operand): V128 {
    return typeof x === "number" ? this.f32(x) : x;
  }
}
