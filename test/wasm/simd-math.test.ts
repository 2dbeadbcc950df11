import { describe, expect, test } from "vitest";
import { SimdMath, type V128 } from "../../kernels/wasm/simd-math.ts";
import { load, ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { features } from "../../src/devices/wasm/features.ts";
import { fromBFloat16Bits, fromFloat16Bits, toBFloat16Bits, toFloat16Bits } from "../../src/graph/dtype.ts";

const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
const capacity = 1 << 16; // lanes a buffer
memory.grow((3 * capacity * 4) / 65536 + 1);

/** Runs four-lane code over arrays of 32-bit lanes, padded to a multiple of four. */
function mapLanes(
  fused: boolean,
  emit: (simd: SimdMath, x: V128, y: V128) => V128,
): (x: ArrayLike<number>, y?: ArrayLike<number>, kind?: "f32" | "i32") => Float32Array | Int32Array {
  features(); // switches relaxed SIMD on where it needs a flag
  const module = new ModuleBuilder({ shared: false });
  const f = module.function("map", ["i32", "i32", "i32", "i32"]);
  const [x, y, out, vectors] = f.params;
  const simd = new SimdMath(f, fused);
  f.repeat(vectors, () => {
    const result = emit(simd, f.local("v128", load("v128.load", x)), f.local("v128", load("v128.load", y)));
    f.store("v128.store", out, result);
    for (const p of [x, y, out]) f.increment(p, 16);
  });
  const instance = new WebAssembly.Instance(new WebAssembly.Module(module.bytes()), { env: { memory } });
  const map = instance.exports["map"] as (...x: number[]) => void;
  return (a, b = [], kind = "f32") => {
    const view = kind === "f32" ? Float32Array : Int32Array;
    const result = new view(a.length);
    for (let start = 0; start < a.length; start += capacity) {
      const count = Math.min(capacity, a.length - start);
      new view(memory.buffer, 65536, count).set(Array.prototype.slice.call(a, start, start + count));
      new view(memory.buffer, 65536 + 4 * capacity, count).set(Array.prototype.slice.call(b, start, start + count));
      map(65536, 65536 + 4 * capacity, 65536 + 8 * capacity, Math.ceil(count / 4));
      result.set(new view(memory.buffer, 65536 + 8 * capacity, count), start);
    }
    return result;
  };
}

const bits = new DataView(new ArrayBuffer(4));
function fromBits(value: number): number {
  bits.setUint32(0, value);
  return bits.getFloat32(0);
}

/** One unit in the last place of the float32 next to `value`. */
const ulp = (value: number): number => 2 ** (Math.max(-126, Math.floor(Math.log2(Math.abs(value) || 1e-300))) - 23);

const extremes = [
  0,
  -0,
  1,
  -1,
  0.5,
  -0.5,
  2,
  3,
  -3,
  1e-45,
  -1e-45,
  1e-40,
  2 ** -126,
  3.4028234663852886e38,
  -3.4028234663852886e38,
  88.72,
  88.73,
  89,
  -87.3,
  -87.4,
  -103,
  -103.9,
  -104,
  -200,
  1e10,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  Number.NaN,
  0.35,
  3.93,
  9.02,
].map(Math.fround);

/** How many float32 bit patterns lie between two samples; `STRIDE=257 npx vitest run test/wasm/simd-math` looks closer. */
const stride = Number(process.env["STRIDE"] ?? 65_539);

/** Every `stride`-th float32 bit pattern and a dense even sampling of [low, high]. */
function samples(low: number, high: number): number[] {
  const values = [...extremes];
  for (let i = 0; i < 2 ** 32; i += stride) values.push(fromBits(i));
  for (let i = 0; i <= 100_000; i++) values.push(Math.fround(low + ((high - low) * i) / 100_000));
  return values;
}

/** The largest error in ulp; special values must be met exactly. */
function worstUlp(
  got: ArrayLike<number>,
  x: readonly number[],
  exact: (x: number, i: number) => number,
): [ulp: number, at: number] {
  let worst = 0;
  let at = Number.NaN;
  for (let i = 0; i < x.length; i++) {
    const want = exact(x[i]!, i);
    const rounded = Math.fround(want);
    const value = got[i]!;
    if (!Number.isFinite(rounded) || !Number.isFinite(value)) {
      // the last half ulp before infinity may go either way
      if (Object.is(rounded, value) || (Math.abs(want) > 3.40282e38 && Math.abs(value) > 3.40282e38 && want * value > 0))
        continue;
      return [Number.POSITIVE_INFINITY, x[i]!];
    }
    const error = Math.abs(value - want) / ulp(want);
    if (error > worst) [worst, at] = [error, x[i]!];
  }
  return [worst, at];
}

/** Error function in float64: Taylor series near 0, continued fraction of erfc beyond. */
function erf(x: number): number {
  const a = Math.abs(x);
  if (Number.isNaN(x)) return x;
  if (a > 6) return Math.sign(x);
  if (a < 2.5) {
    let term = x;
    let sum = x;
    for (let n = 1; n < 80; n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let k = 120; k >= 1; k--) fraction = k / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + fraction));
}

describe.each([true, false])("fused multiply-add %s", (fused) => {
  const unary: [
    name: string,
    emit: (s: SimdMath, x: V128) => V128,
    exact: (x: number) => number,
    domain: [number, number],
    bound: number,
  ][] = [
    ["exp", (s, x) => s.exp(x), Math.exp, [-110, 90], 1.5],
    ["log", (s, x) => s.log(x), Math.log, [0.4, 3], 1.5],
    ["tanh", (s, x) => s.tanh(x), Math.tanh, [-10, 10], 2],
    ["erf", (s, x) => s.erf(x), erf, [-4.5, 4.5], 2],
    ["sqrt", (s, x) => s.sqrt(x), Math.sqrt, [0, 10], 0.5001],
    ["recip", (s, x) => s.recip(x), (x) => 1 / x, [-10, 10], 0.5001],
    ["floor", (s, x) => s.floor(x), Math.floor, [-10, 10], 0],
  ];
  test.each(unary)("%s is within its stated error everywhere", (name, emit, exact, [low, high], bound) => {
    const x = samples(low, high);
    const [worst, at] = worstUlp(mapLanes(fused, emit)(x), x, exact);
    console.log(`${name}${fused ? "" : " (mul + add)"}: ${worst.toFixed(3)} ulp at ${at}`);
    expect(worst, `at ${at}`).toBeLessThanOrEqual(bound);
  });

  test("erf is 1 where it rounds to 1, or gelu of −10⁴ would be −0.0003", () => {
    const x = [4, 5, 100, 1e30, Number.POSITIVE_INFINITY];
    const got = mapLanes(fused, (s, v) => s.erf(v))([...x, ...x.map((value) => -value)]);
    expect([...got]).toEqual([...x.map(() => 1), ...x.map(() => -1)]);
  });

  test("exp is 0 below, infinite above, and keeps subnormal results", () => {
    const x = [-104, -1e30, Number.NEGATIVE_INFINITY, 88.73, 1000, Number.POSITIVE_INFINITY, -100, Number.NaN].map(Math.fround);
    const got = mapLanes(fused, (s, v) => s.exp(v))(x);
    expect([...got]).toEqual([0, 0, 0, Infinity, Infinity, Infinity, Math.fround(Math.exp(-100)), Number.NaN]);
  });

  test("expBelowZero is within 1.5 ulp of what is a normal number, and 0 far below", () => {
    const x = samples(-89, 0).filter((value) => !(value > 0));
    const got = mapLanes(fused, (s, v) => s.expBelowZero(v))(x);
    const normal = x.map((value) => value > -87.33 || Number.isNaN(value));
    const [worst, at] = worstUlp(
      got.filter((_, i) => normal[i]),
      x.filter((_, i) => normal[i]),
      Math.exp,
    );
    console.log(`expBelowZero${fused ? "" : " (mul + add)"}: ${worst.toFixed(3)} ulp at ${at}`);
    expect(worst, `at ${at}`).toBeLessThanOrEqual(1.5);
    for (const [i, value] of x.entries()) {
      const isGone = got[i] === 0;
      if (value < -87.7) expect(isGone, `at ${value}`).toBe(true);
      else if (value < -87.67) expect(isGone || Math.abs(got[i]! - Math.exp(value)) < 2 ** -148, `at ${value}`).toBe(true);
      else if (value < -87.33) expect(Math.abs(got[i]! - Math.exp(value)), `at ${value}`).toBeLessThan(2 ** -148);
    }
  });

  test("sin and cos are within 2 ulp up to 2^20, bounded beyond and NaN at infinity", () => {
    for (const [emit, exact] of [
      [(s: SimdMath, x: V128) => s.sin(x), Math.sin],
      [(s: SimdMath, x: V128) => s.cos(x), Math.cos],
    ] as const) {
      const map = mapLanes(fused, emit);
      for (const high of [4, 100, 1e5, 2 ** 20]) {
        const x = samples(-high, high).filter((value) => Math.abs(value) <= high);
        const [worst, at] = worstUlp(map(x), x, exact);
        console.log(`${exact.name} to ${high}${fused ? "" : " (mul + add)"}: ${worst.toFixed(3)} ulp at ${at}`);
        expect(worst, `at ${at}`).toBeLessThanOrEqual(2);
      }
      const all = samples(-1, 1).filter(Number.isFinite);
      expect(map(all).every((value) => Math.abs(value) <= 1)).toBe(true);
      const large = samples(-1e12, 1e12).filter((value) => Math.abs(value) <= 1e12);
      const got = map(large);
      expect(large.every((value, i) => Math.abs(got[i]! - exact(value)) < 1e-7 + Math.abs(value) * 2 ** -53)).toBe(true);
      expect([...map([Infinity, -Infinity, Number.NaN, 0])].slice(0, 3)).toEqual([Number.NaN, Number.NaN, Number.NaN]);
    }
  });

  test("pow agrees with Math.pow to 1 ulp, special cases included", () => {
    const x: number[] = [];
    const y: number[] = [];
    const exponents = [...extremes, -2, 0.25, 1.5, 7, 8, -7, 101, 16777217, 1e-3];
    for (const a of [...extremes, -2, -2.5, 0.9999, 1.0001, 10])
      for (const b of exponents) {
        x.push(Math.fround(a));
        y.push(Math.fround(b));
      }
    for (let i = 0; i < 100_000; i++) {
      x.push(fromBits((i * 42_947) % 0x7f800000));
      y.push(Math.fround(((i * 7919) % 4001) / 100 - 20));
    }
    const got = mapLanes(fused, (s, a, b) => s.pow(a, b))(x, y);
    const [worst, at] = worstUlp(got, x, (a, i) => a ** y[i]!);
    const i = x.indexOf(at);
    console.log(`pow${fused ? "" : " (mul + add)"}: ${worst.toFixed(3)} ulp at ${at}`);
    expect(worst, `${x[i]} ** ${y[i]} = ${got[i]}`).toBeLessThanOrEqual(1);
  });

  test("mod has the sign of the divisor and is correctly rounded", () => {
    const x: number[] = [];
    const y: number[] = [];
    for (let i = 0; i < 50_000; i++) {
      x.push(Math.fround(Math.sin(i) * 10 ** (i % 6)));
      y.push(Math.fround(Math.cos(i * 3) * 10 ** (i % 3)));
    }
    x.push(5, -5, 5, -5, 0, 7, -7, 7, -7, 5, Infinity);
    y.push(Infinity, Infinity, -Infinity, -Infinity, 3, 7, 7, -7, 2, 0, 3);
    const want = (a: number, b: number) => {
      const r = a % b;
      if (Number.isNaN(r)) return r;
      return r !== 0 && r < 0 !== b < 0 ? r + b : r;
    };
    const got = mapLanes(fused, (s, a, b) => s.mod(a, b))(x, y);
    for (let i = 0; i < x.length; i++)
      expect([x[i], y[i], got[i]! + 0]).toEqual([x[i], y[i], Math.fround(want(x[i]!, y[i]!)) + 0]);
  });
});

test("integer helpers agree with integer arithmetic", () => {
  const edge = [0, 1, -1, 2, -2, 7, -7, 255, 65537, 2 ** 31 - 1, -(2 ** 31), 123456789, -987654321];
  const x = edge.flatMap((a) => edge.map(() => a));
  const y = edge.flatMap(() => edge);
  const check = (
    emit: (s: SimdMath, a: V128, b: V128) => V128,
    want: (a: number, b: number) => number,
    skip = (_a: number, _b: number) => false,
  ) => {
    const got = mapLanes(true, emit)(x, y, "i32");
    x.forEach((a, i) => {
      if (!skip(a, y[i]!)) expect([a, y[i], got[i]]).toEqual([a, y[i], want(a, y[i]!) | 0]);
    });
  };
  check((s, a, b) => s.i32Mul(a, b), Math.imul);
  check(
    (s, a, b) => s.u32MulHigh(a, b),
    (a, b) => Number((BigInt(a >>> 0) * BigInt(b >>> 0)) >> 32n),
  );
  check(
    (s, a, b) => s.shiftLanes("shl", a, b),
    (a, b) => a << b,
  );
  check(
    (s, a, b) => s.shiftLanes("shr_u", a, b),
    (a, b) => a >>> b,
  );
  const impossible = (a: number, b: number) => b === 0 || (a === -(2 ** 31) && b === -1);
  check(
    (s, a, b) => s.i32FloorDiv(a, b),
    (a, b) => Math.floor(a / b),
    impossible,
  );
  check(
    (s, a, b) => s.i32Mod(a, b),
    (a, b) => a - Math.floor(a / b) * b,
    impossible,
  );
});

test("across folds all four lanes", () => {
  const x = [1, 2, 3, 4, -1, 8, 0.5, 2];
  expect([...mapLanes(true, (s, v) => s.sumAcross(v))(x)]).toEqual([10, 10, 10, 10, 9.5, 9.5, 9.5, 9.5]);
  expect([...mapLanes(true, (s, v) => s.maxAcross(v))(x)]).toEqual([4, 4, 4, 4, 8, 8, 8, 8]);
  expect([...mapLanes(true, (s, v) => s.productAcross(v))(x)]).toEqual([24, 24, 24, 24, -8, -8, -8, -8]);
});

test("16-bit floats widen exactly, all 65,536 of each", () => {
  const patterns = Int32Array.from({ length: 65536 }, (_, i) => i);
  for (const [emit, from] of [
    [(s: SimdMath, v: V128) => s.widenFloat16(v), fromFloat16Bits],
    [(s: SimdMath, v: V128) => s.widenBFloat16(v), fromBFloat16Bits],
  ] as const) {
    const got = new Float32Array(mapLanes(true, emit)(patterns, [], "i32").buffer);
    expect(patterns.every((p) => Object.is(got[p], Math.fround(from(p))))).toBe(true);
  }
});

test("float32 narrows to 16 bits like the scalar functions: ties, subnormals, overflow, NaN", () => {
  const x = samples(-70000, 70000);
  for (let i = 0; i < 65536; i++) {
    const half = fromFloat16Bits(i);
    if (Number.isFinite(half)) x.push(half, half * (1 + 2 ** -11), half * (1 + 2 ** -12), Math.fround(half + 2 ** -25));
  }
  x.push(65504, 65519, 65520, 65536, 2 ** -24, 2 ** -25, 1.0001 * 2 ** -25, 2 ** -14);
  const floats = Float32Array.from(x);
  for (const [emit, to] of [
    [(s: SimdMath, v: V128) => s.narrowFloat16(v), toFloat16Bits],
    [(s: SimdMath, v: V128) => s.narrowBFloat16(v), toBFloat16Bits],
  ] as const) {
    const got = new Int32Array(mapLanes(true, emit)(floats).buffer);
    const nan = (p: number) => Number.isNaN(to === toFloat16Bits ? fromFloat16Bits(p) : fromBFloat16Bits(p));
    floats.forEach((value, i) => {
      const want = to(value);
      if (got[i] !== want && !(nan(want) && nan(got[i]!))) expect([value, got[i]]).toEqual([value, want]);
    });
  }
});

test("halves are loaded and stored as 64 bits, touching nothing else", () => {
  const got = mapLanes(true, (s, x) => {
    const scratch = () => s.f.i32(64);
    s.f.store("v128.store", scratch, s.i32(-1));
    s.storeHalves(scratch, s.narrowFloat16(x));
    s.store(scratch, s.loadFloat16(scratch), 16);
    s.storeHalves(scratch, s.narrowBFloat16(x), 32);
    return s.add(s.loadBFloat16(scratch, 32), s.load(scratch, 16));
  })([1, 2.5, -3, 100]);
  expect([...got]).toEqual([2, 5, -6, 200]);
  expect([...new Int32Array(memory.buffer, 64, 4)].slice(2)).toEqual([-1, -1]);
});
