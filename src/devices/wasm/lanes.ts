/** The `Simd` that elementwise entries are written in, over the assembler: picks the instructions by dtype. */
import { SimdMath, type V128 } from "../../../kernels/wasm/simd-math.ts";
import { type DType, fromBFloat16Bits, fromFloat16Bits, isFloat, toBFloat16Bits, toFloat16Bits } from "../../graph/dtype.ts";
import type { Lanes, Simd } from "../../graph/primitive.ts";
import type { FunctionBuilder, SimpleOp } from "./assembler.ts";

/**
 * Four values. Floats of every width are float32 lanes (16-bit ones rounded to their format), int32 and uint8 are int32 lanes
 * (uint8 within 0…255), bool is a mask: all ones or all zeros.
 */
export interface Vector extends Lanes {
  readonly local: V128;
  /** Set when all four lanes are this number. */
  readonly constant?: number;
  /** Bit patterns in int32 lanes, where the value came from 16-bit memory or was just rounded. */
  readonly bits?: V128;
}

/** Largest value below every int32: where a maximum of integers starts. */
export const lowestInt32 = -(2 ** 31);

/** The functions of elementwise entries (`Simd`) on vectors of four, of one dtype each. */
export class LaneMath implements Simd {
  readonly math: SimdMath;

  constructor(f: FunctionBuilder, relaxed: boolean) {
    this.math = new SimdMath(f, relaxed);
  }

  constant(value: number, dtype: DType): Vector {
    const { math } = this;
    if (dtype === "bool") return { dtype, local: math.i32(value !== 0 ? -1 : 0), constant: value };
    if (!isFloat(dtype)) return { dtype, local: math.i32(value), constant: value };
    const rounded =
      dtype === "float16"
        ? fromFloat16Bits(toFloat16Bits(value))
        : dtype === "bfloat16"
          ? fromBFloat16Bits(toBFloat16Bits(value))
          : Math.fround(value);
    return { dtype, local: math.f32(rounded), constant: rounded };
  }

  add = (x: Lanes, y: Lanes): Vector => this.arithmetic(x, y, "f32x4.add", "i32x4.add", "v128.or");
  sub = (x: Lanes, y: Lanes): Vector => this.arithmetic(x, y, "f32x4.sub", "i32x4.sub", "v128.xor");
  mul = (x: Lanes, y: Lanes): Vector => this.arithmetic(x, y, "f32x4.mul", "i32x4.mul", "v128.and");
  max = (x: Lanes, y: Lanes): Vector => this.arithmetic(x, y, "f32x4.max", "i32x4.max_s", "v128.or");
  div = (x: Lanes, y: Lanes): Vector => this.float(x.dtype, this.math.div(of(x), of(y)));

  /** x · y + z, rounded once where the engine can. */
  madd = (x: Lanes, y: Lanes, z: Lanes): Vector => this.float(z.dtype, this.math.madd(of(x), of(y), of(z)));
  /** z − x · y, rounded once; only where `fused`. */
  nmadd = (x: Lanes, y: Lanes, z: Lanes): Vector => this.float(z.dtype, this.math.nmadd(of(x), of(y), of(z)));

  neg(x: Lanes): Vector {
    if (isFloat(x.dtype)) return { dtype: x.dtype, local: this.math.neg(of(x)) };
    return this.integer(x.dtype, this.math.apply("i32x4.neg", of(x)));
  }

  floor = (x: Lanes): Vector => (isFloat(x.dtype) ? this.float(x.dtype, this.math.floor(of(x))) : (x as Vector));
  sqrt = (x: Lanes): Vector => this.float(x.dtype, this.math.sqrt(of(x)));
  exp = (x: Lanes): Vector => this.float(x.dtype, this.math.exp(of(x)));
  expBelowZero = (x: Lanes): Vector => this.float(x.dtype, this.math.expBelowZero(of(x)));
  log = (x: Lanes): Vector => this.float(x.dtype, this.math.log(of(x)));
  sin = (x: Lanes): Vector => this.float(x.dtype, this.math.sin(of(x)));
  erf = (x: Lanes): Vector => this.float(x.dtype, this.math.erf(of(x)));
  tanh = (x: Lanes): Vector => this.float(x.dtype, this.math.tanh(of(x)));
  pow = (x: Lanes, y: Lanes): Vector => this.float(x.dtype, this.math.pow(of(x), of(y)));

  mod(x: Lanes, y: Lanes): Vector {
    const { math } = this;
    if (isFloat(x.dtype)) return this.float(x.dtype, math.mod(of(x), of(y)));
    const divisor = (y as Vector).constant;
    if (divisor !== undefined && divisor > 0 && Number.isInteger(Math.log2(divisor)))
      return { dtype: x.dtype, local: math.and(of(x), math.i32(divisor - 1)) };
    const remainder = math.i32Mod(of(x), of(y));
    if (divisor !== undefined && divisor > 0) return { dtype: x.dtype, local: remainder };
    // 0 for the divisors 0 and −1, whose quotients may not exist
    return { dtype: x.dtype, local: math.andNot(remainder, math.apply("i32x4.lt_u", math.i32Add(of(y), 1), 2)) };
  }

  less(x: Lanes, y: Lanes): Vector {
    const { math } = this;
    if (isFloat(x.dtype)) return { dtype: "bool", local: math.less(of(x), of(y)) };
    if (x.dtype === "bool") return { dtype: "bool", local: math.andNot(of(y), of(x)) };
    return { dtype: "bool", local: math.apply("i32x4.lt_s", of(x), of(y)) };
  }

  equal(x: Lanes, y: Lanes): Vector {
    const { math } = this;
    return { dtype: "bool", local: isFloat(x.dtype) ? math.equal(of(x), of(y)) : math.apply("i32x4.eq", of(x), of(y)) };
  }

  and = (x: Lanes, y: Lanes): Vector => ({ dtype: x.dtype, local: this.math.and(of(x), of(y)) });
  or = (x: Lanes, y: Lanes): Vector => ({ dtype: x.dtype, local: this.math.or(of(x), of(y)) });
  xor = (x: Lanes, y: Lanes): Vector => ({ dtype: x.dtype, local: this.math.xor(of(x), of(y)) });
  shiftLeft = (x: Lanes, y: Lanes): Vector => this.shift("shl", x, y);
  shiftRight = (x: Lanes, y: Lanes): Vector => this.shift("shr_u", x, y);

  select(condition: Lanes, x: Lanes, y: Lanes): Vector {
    const mask = of(this.cast(condition, "bool"));
    const isElseZero = Object.is((y as Vector).constant, 0);
    return { dtype: x.dtype, local: isElseZero ? this.math.and(mask, of(x)) : this.math.select(mask, of(x), of(y)) };
  }

  cast(x: Lanes, dtype: DType): Vector {
    const { math } = this;
    const from = x.dtype;
    if (from === dtype) return x as Vector;
    if (dtype === "bool")
      return { dtype, local: isFloat(from) ? math.apply("f32x4.ne", of(x), 0) : math.apply("i32x4.ne", of(x), 0) };
    if (isFloat(dtype)) {
      if (from === "bool") return { dtype, local: math.and(of(x), math.f32(1)) };
      return this.float(dtype, isFloat(from) ? of(x) : math.toFloat(of(x)));
    }
    if (from === "bool") return { dtype, local: math.and(of(x), math.i32(1)) };
    return this.integer(dtype, isFloat(from) ? math.toInteger(of(x)) : of(x));
  }

  bitcast = (x: Lanes, dtype: DType): Vector => ({ dtype, local: of(x) });

  /** Float lanes as a value of `dtype`: rounded to 16 bits where it has no more. */
  float(dtype: DType, lanes: V128): Vector {
    const { math } = this;
    if (dtype === "float16") {
      const bits = math.narrowFloat16(lanes);
      return { dtype, local: math.widenFloat16(bits), bits };
    }
    if (dtype === "bfloat16") {
      const bits = math.narrowBFloat16(lanes);
      return { dtype, local: math.widenBFloat16(bits), bits };
    }
    return { dtype, local: lanes };
  }

  /** Memory's bits in int32 lanes as a value of `dtype`. */
  decode(dtype: DType, bits: V128): Vector {
    const { math } = this;
    if (dtype === "bool") return { dtype, local: math.apply("i32x4.ne", bits, 0) };
    if (dtype === "float16") return { dtype, local: math.widenFloat16(bits), bits };
    if (dtype === "bfloat16") return { dtype, local: math.widenBFloat16(bits), bits };
    return { dtype, local: bits };
  }

  /** Memory's bits in int32 lanes; those above the width of the dtype are free, for 16-bit floats zero. */
  encode(value: Vector): V128 {
    const { math } = this;
    if (value.dtype === "bool") return math.and(value.local, math.i32(1));
    if (value.dtype === "float16") return value.bits ?? math.narrowFloat16(value.local);
    if (value.dtype === "bfloat16") return value.bits ?? math.narrowBFloat16(value.local);
    return value.local;
  }

  private integer(dtype: DType, lanes: V128): Vector {
    return { dtype, local: dtype === "uint8" ? this.math.and(lanes, this.math.i32(255)) : lanes };
  }

  private arithmetic(x: Lanes, y: Lanes, float: SimpleOp, integer: SimpleOp, bool: SimpleOp): Vector {
    const apply = (op: SimpleOp): V128 => this.math.apply(op, of(x), of(y));
    if (isFloat(x.dtype)) return this.float(x.dtype, apply(float));
    return x.dtype === "bool" ? { dtype: "bool", local: apply(bool) } : this.integer(x.dtype, apply(integer));
  }

  private shift(direction: "shl" | "shr_u", x: Lanes, y: Lanes): Vector {
    const { constant } = y as Vector;
    const { math } = this;
    return this.integer(
      x.dtype,
      constant === undefined ? math.shiftLanes(direction, of(x), of(y)) : math.shift(direction, of(x), constant),
    );
  }
}

const of = (x: Lanes): V128 => (x as Vector).local;
