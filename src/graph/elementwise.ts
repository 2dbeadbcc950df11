/** Elementwise primitives: one entry each, with its meaning, its SIMD form and its derivative. */
import { DTypeError } from "../errors.ts";
import { checkDType, type DType, isFloat, promote } from "./dtype.ts";
import { expand } from "./movement.ts";
import { Tensor } from "./node.ts";
import type { Elementwise } from "./primitive.ts";
import { broadcastShapes, sameShape } from "./shape.ts";
import { constant, isConstant, number } from "./source.ts";

type Entry = Omit<Elementwise, "kind" | "name">;

/** Checks dtypes and shapes, broadcasts, and makes the node. */
function apply(op: Elementwise, inputs: readonly Tensor[], dtype: DType, attributes: Record<string, unknown> = {}): Tensor {
  const shape = broadcastShapes(op.name, ...inputs.map((x) => x.shape));
  return new Tensor(
    op,
    inputs.map((x) => (sameShape(x.shape, shape) ? x : spread(x, shape))),
    shape,
    dtype,
    attributes,
  );
}

/** `x` at every index of `shape`: a number is made there, which is one node instead of three. */
const spread = (x: Tensor, shape: readonly number[]): Tensor =>
  isConstant(x) ? constant(x.attributes["value"] as number, shape, x.dtype) : expand(x, shape);

/** The entries with their names. */
const define = <Name extends string>(entries: Readonly<Record<Name, Entry>>): Readonly<Record<Name, Elementwise>> => {
  const named = Object.entries<Entry>(entries).map(([name, entry]) => [name, { kind: "elementwise", name, ...entry }]);
  return Object.fromEntries(named) as Record<Name, Elementwise>;
};

const all: readonly [number, number] = [-2, 2];

const float =
  (op: Elementwise) =>
  (x: Tensor): Tensor => {
    if (!isFloat(x.dtype))
      throw new DTypeError(`needs floating-point values, got ${x.dtype}.`, {
        operation: op.name,
        got: x.dtype,
        hint: 'Use x.cast("float32").',
      });
    return apply(op, [x], x.dtype);
  };

/** Two operands of one dtype: the wider of the two. */
function arithmetic(op: Elementwise, x: Tensor, y: Tensor): Tensor {
  const dtype = promote(x.dtype, y.dtype);
  const numeric = dtype === "bool" ? "int32" : dtype;
  return apply(op, [cast(x, numeric), cast(y, numeric)], numeric);
}

/** Two operands in floating point; integers are widened to float32. */
function real(op: Elementwise, x: Tensor, y: Tensor): Tensor {
  const wide = promote(x.dtype, y.dtype);
  const dtype = isFloat(wide) ? wide : "float32";
  return apply(op, [cast(x, dtype), cast(y, dtype)], dtype);
}

function comparison(op: Elementwise, x: Tensor, y: Tensor): Tensor {
  const dtype = promote(x.dtype, y.dtype);
  return apply(op, [cast(x, dtype), cast(y, dtype)], "bool");
}

function bits(op: Elementwise, x: Tensor, y: Tensor): Tensor {
  const dtype = promote(x.dtype, y.dtype);
  if (isFloat(dtype))
    throw new DTypeError(`works on bits of integers or booleans, got ${x.dtype} and ${y.dtype}.`, {
      operation: op.name,
      got: [x.dtype, y.dtype],
    });
  return apply(op, [cast(x, dtype), cast(y, dtype)], dtype);
}

/** A number as JavaScript narrows it to a dtype; the other dtypes hold it as it is. */
const narrowed: { readonly [To in DType]?: (x: string) => string } = {
  int32: (x) => `Math.trunc(${x}) | 0`,
  uint8: (x) => `Math.trunc(${x}) & 255`,
  bool: (x) => `${x} !== 0 ? 1 : 0`,
  float16: (x) => `roundFloat16(${x})`,
  bfloat16: (x) => `roundBFloat16(${x})`,
};

const noGradient = { vjp: () => [null, null], arity: 2 as const, domain: [all, all] };
const shift = { ...noGradient, domain: [[-100, 100] as const, [0, 31] as const] };

/** All of them. A device, the laws and the reference pages find them here, under their names. */
export const elementwise = define({
  neg: {
    formula: "−x",
    arity: 1,
    js: ([x]) => `-${x}`,
    wasm: (simd, [x]) => simd.neg(x!),
    vjp: (g) => [neg(g)],
    domain: [all],
    takes: "both",
  },
  recip: {
    formula: "1 / x",
    arity: 1,
    js: ([x]) => `1 / ${x}`,
    wasm: (simd, [x], to) => simd.div(simd.constant(1, to), x!),
    vjp: (g, y) => [neg(mul(g, mul(y, y)))],
    domain: [[0.4, 2]],
    takes: "float",
  },
  exp: {
    formula: "eˣ",
    arity: 1,
    js: ([x]) => `Math.exp(${x})`,
    wasm: (simd, [x]) => simd.exp(x!),
    vjp: (g, y) => [mul(g, y)],
    domain: [[-4, 4]],
    takes: "float",
    heavy: true,
  },
  log: {
    formula: "ln x",
    arity: 1,
    js: ([x]) => `Math.log(${x})`,
    wasm: (simd, [x]) => simd.log(x!),
    vjp: (g, _y, x) => [mul(g, recip(x!))],
    domain: [[0.3, 4]],
    takes: "float",
    heavy: true,
  },
  sin: {
    formula: "sin x",
    arity: 1,
    js: ([x]) => `Math.sin(${x})`,
    wasm: (simd, [x]) => simd.sin(x!),
    // cos x = 1 − 2·sin²(x/2): halving is exact, so large x lose nothing, as they would in sin(x + π/2)
    vjp: (g, _y, x) => {
      const half = sin(mul(number(g, 0.5), x!));
      return [mul(g, sub(number(g, 1), mul(number(g, 2), mul(half, half))))];
    },
    domain: [[-6, 6]],
    takes: "float",
    heavy: true,
  },
  sqrt: {
    formula: "√x",
    arity: 1,
    js: ([x]) => `Math.sqrt(${x})`,
    wasm: (simd, [x]) => simd.sqrt(x!),
    vjp: (g, y) => [mul(g, mul(number(g, 0.5), recip(y)))],
    domain: [[0.3, 4]],
    takes: "float",
  },
  floor: {
    formula: "⌊x⌋",
    arity: 1,
    js: ([x]) => `Math.floor(${x})`,
    wasm: (simd, [x]) => simd.floor(x!),
    vjp: () => [null],
    domain: [[0.1, 0.9]],
    takes: "float",
  },
  tanh: {
    formula: "tanh x",
    arity: 1,
    js: ([x]) => `Math.tanh(${x})`,
    wasm: (simd, [x]) => simd.tanh(x!),
    vjp: (g, y) => [mul(g, sub(number(g, 1), mul(y, y)))],
    domain: [[-3, 3]],
    takes: "float",
    heavy: true,
  },
  erf: {
    formula: "erf x",
    arity: 1,
    js: ([x]) => `erf(${x})`,
    wasm: (simd, [x]) => simd.erf(x!),
    vjp: (g, _y, x) => [mul(g, mul(number(g, 2 / Math.sqrt(Math.PI)), exp(neg(mul(x!, x!)))))],
    domain: [[-3, 3]],
    takes: "float",
    heavy: true,
  },
  cast: {
    formula: "the same number in another dtype",
    arity: 1,
    js: ([x], { to }) => narrowed[to]?.(x!) ?? `${x}`,
    wasm: (simd, [x], to) => simd.cast(x!, to),
    vjp: (g, _y, x) => [isFloat(x!.dtype) ? cast(g, x!.dtype) : null],
    domain: [all],
    takes: "float",
  },
  copy: {
    formula: "x, written out in row-major order",
    arity: 1,
    js: ([x]) => `${x}`,
    wasm: (_simd, [x]) => x!,
    vjp: (g) => [g],
    domain: [all],
    takes: "both",
  },
  bitcast: {
    formula: "the same 32 bits, read as another dtype",
    arity: 1,
    js: ([x], { to }) => (to === "int32" ? `floatBits(${x})` : `bitsFloat(${x})`),
    wasm: (simd, [x], to) => simd.bitcast(x!, to),
    vjp: () => [null],
    domain: [all],
    takes: "both",
  },
  add: {
    formula: "x + y",
    arity: 2,
    js: ([x, y]) => `${x} + ${y}`,
    wasm: (simd, [x, y]) => simd.add(x!, y!),
    vjp: (g) => [g, g],
    domain: [all, all],
    takes: "both",
  },
  mul: {
    formula: "x · y",
    arity: 2,
    js: ([x, y], { to }) => (to === "int32" ? `Math.imul(${x}, ${y})` : `${x} * ${y}`),
    wasm: (simd, [x, y]) => simd.mul(x!, y!),
    // of a square once for both: where g is one value a row, as in norms, so is 2g
    vjp: (g, _y, x, z) => (x === z ? [mul(mul(g, number(g, 2)), x!), null] : [mul(g, z!), mul(g, x!)]),
    domain: [all, all],
    takes: "both",
  },
  div: {
    formula: "x / y",
    arity: 2,
    // not x · (1/y), which would make 49 / 49 less than 1
    js: ([x, y]) => `${x} / ${y}`,
    wasm: (simd, [x, y]) => simd.div(x!, y!),
    vjp: (g, y, _x, z) => [div(g, z!), neg(mul(g, div(y, z!)))],
    domain: [all, [0.4, 2]],
    takes: "float",
  },
  max: {
    formula: "the larger of x and y",
    arity: 2,
    js: ([x, y]) => `Math.max(${x}, ${y})`,
    wasm: (simd, [x, y]) => simd.max(x!, y!),
    // where both are equal each gets half, as in PyTorch
    vjp: (g, _y, x, z) => {
      const half = number(g, 0.5);
      const tie = cast(equal(x!, z!), g.dtype);
      const toX = add(cast(less(z!, x!), g.dtype), mul(half, tie));
      return [mul(g, toX), mul(g, sub(number(g, 1), toX))];
    },
    domain: [
      [-2, 0],
      [0.1, 2],
    ],
    takes: "both",
  },
  pow: {
    formula: "xʸ",
    arity: 2,
    js: ([x, y]) => `(${x}) ** (${y})`,
    wasm: (simd, [x, y]) => simd.pow(x!, y!),
    vjp: (g, y, x, z) => {
      const isPositive = less(number(g, 0), x!);
      const logX = where(isPositive, log(where(isPositive, x!, number(g, 1))), number(g, 0));
      // x⁰ is 1 everywhere, at 0 too, where 0·0⁻¹ would be no number
      const below = where(equal(z!, number(g, 0)), number(g, 0), sub(z!, number(g, 1)));
      return [mul(g, mul(z!, pow(x!, below))), mul(g, mul(y, logX))];
    },
    domain: [
      [0.3, 2],
      [-2, 3],
    ],
    takes: "float",
    heavy: true,
    tolerance: 1e-5,
  },
  mod: {
    formula: "x − ⌊x/y⌋·y",
    arity: 2,
    js: ([x, y]) => `mod(${x}, ${y})`,
    wasm: (simd, [x, y]) => simd.mod(x!, y!),
    vjp: (g, _y, x, z) => [g, neg(mul(g, floor(mul(x!, recip(z!)))))],
    domain: [
      [0.6, 0.9],
      [0.35, 0.55],
    ],
    takes: "both",
  },
  less: {
    ...noGradient,
    formula: "x < y",
    js: ([x, y]) => `${x} < ${y} ? 1 : 0`,
    wasm: (simd, [x, y]) => simd.less(x!, y!),
    takes: "both",
  },
  equal: {
    ...noGradient,
    formula: "x = y",
    js: ([x, y]) => `${x} === ${y} ? 1 : 0`,
    wasm: (simd, [x, y]) => simd.equal(x!, y!),
    takes: "both",
  },
  and: {
    ...noGradient,
    formula: "x and y, bit by bit",
    js: ([x, y]) => `${x} & ${y}`,
    wasm: (simd, [x, y]) => simd.and(x!, y!),
    takes: "integer",
  },
  or: {
    ...noGradient,
    formula: "x or y, bit by bit",
    js: ([x, y]) => `${x} | ${y}`,
    wasm: (simd, [x, y]) => simd.or(x!, y!),
    takes: "integer",
  },
  xor: {
    ...noGradient,
    formula: "x exclusive-or y, bit by bit",
    js: ([x, y]) => `${x} ^ ${y}`,
    wasm: (simd, [x, y]) => simd.xor(x!, y!),
    takes: "integer",
  },
  shiftLeft: {
    ...shift,
    formula: "x·2ʸ in 32 bits",
    js: ([x, y]) => `${x} << ${y}`,
    wasm: (simd, [x, y]) => simd.shiftLeft(x!, y!),
    takes: "integer",
  },
  shiftRight: {
    ...shift,
    formula: "x as 32 unsigned bits, divided by 2ʸ",
    js: ([x, y]) => `(${x} >>> ${y}) | 0`,
    wasm: (simd, [x, y]) => simd.shiftRight(x!, y!),
    takes: "integer",
  },
  where: {
    formula: "x where the condition holds, else y",
    arity: 3,
    js: ([c, x, y]) => `${c} ? ${x} : ${y}`,
    wasm: (simd, [c, x, y]) => simd.select(c!, x!, y!),
    vjp: (g, _y, c) => [null, where(c!, g, number(g, 0)), where(c!, number(g, 0), g)],
    domain: [[0, 1], all, all],
    takes: "both",
  },
});

/** The same values in memory of their own, in row-major order. */
export const copy = (x: Tensor): Tensor => apply(elementwise.copy, [x], x.dtype);
/** The functions of the entries. Operands are promoted to one dtype and broadcast; `formula` above says what comes out. */
export const neg = (x: Tensor): Tensor =>
  apply(elementwise.neg, [x.dtype === "bool" ? cast(x, "int32") : x], x.dtype === "bool" ? "int32" : x.dtype);
/** 1 / x; integers are widened to float32, as for the functions below. */
export const recip = float(elementwise.recip);
/** eˣ. */
export const exp = float(elementwise.exp);
/** ln x; NaN below 0. */
export const log = float(elementwise.log);
/** sin x, in radians. */
export const sin = float(elementwise.sin);
/** √x; NaN below 0. */
export const sqrt = float(elementwise.sqrt);
/** tanh x. */
export const tanh = float(elementwise.tanh);
/** erf x = 2/√π · ∫₀ˣ e^(−t²) dt. */
export const erf = float(elementwise.erf);
/** ⌊x⌋; integers as they are. No gradient. */
export const floor = (x: Tensor): Tensor => (isFloat(x.dtype) ? apply(elementwise.floor, [x], x.dtype) : x);
/** x + y; two booleans are added as int32. */
export const add = (x: Tensor, y: Tensor): Tensor => arithmetic(elementwise.add, x, y);
/** x − y. */
export const sub = (x: Tensor, y: Tensor): Tensor => arithmetic(elementwise.add, x, neg(y));
/** x · y. */
export const mul = (x: Tensor, y: Tensor): Tensor => arithmetic(elementwise.mul, x, y);
/** The larger one of x and y; NaN where either is. Where they are equal each gets half of the gradient. */
export const max = (x: Tensor, y: Tensor): Tensor => arithmetic(elementwise.max, x, y);
/** The remainder of x / y with the sign of y, as in Python. */
export const mod = (x: Tensor, y: Tensor): Tensor => arithmetic(elementwise.mod, x, y);
/** x < y, bool. */
export const less = (x: Tensor, y: Tensor): Tensor => comparison(elementwise.less, x, y);
/** x = y, bool; NaN equals nothing. */
export const equal = (x: Tensor, y: Tensor): Tensor => comparison(elementwise.equal, x, y);
/** Bits in both. @throws {DTypeError} for floats */
export const and = (x: Tensor, y: Tensor): Tensor => bits(elementwise.and, x, y);
/** Bits in either. @throws {DTypeError} for floats */
export const or = (x: Tensor, y: Tensor): Tensor => bits(elementwise.or, x, y);
/** Bits in one of both. @throws {DTypeError} for floats */
export const xor = (x: Tensor, y: Tensor): Tensor => bits(elementwise.xor, x, y);
/** x · 2^(y mod 32), modulo 2³²; int32. */
export const shiftLeft = (x: Tensor, y: Tensor): Tensor => bits(elementwise.shiftLeft, cast(x, "int32"), cast(y, "int32"));
/** The 32 bits of x moved down by y mod 32, zeros coming in; int32. */
export const shiftRight = (x: Tensor, y: Tensor): Tensor => bits(elementwise.shiftRight, cast(x, "int32"), cast(y, "int32"));

/** xʸ in floating point; integers are widened to float32 first. */
export const pow = (x: Tensor, y: Tensor): Tensor => real(elementwise.pow, x, y);
/** x / y; integers are widened to float32 first. */
export const div = (x: Tensor, y: Tensor): Tensor => real(elementwise.div, x, y);

/** Elements of `x` where `condition` is true, else of `y`. */
export function where(condition: Tensor, x: Tensor, y: Tensor): Tensor {
  const dtype = promote(x.dtype, y.dtype);
  return apply(elementwise.where, [cast(condition, "bool"), cast(x, dtype), cast(y, dtype)], dtype);
}

/** Casts towards zero to integers (wrapping in 32 or 8 bits), to the nearest value in 16-bit floats, to `x ≠ 0` in bool. */
export function cast(x: Tensor, dtype: DType): Tensor {
  checkDType("cast", dtype);
  if (x.dtype === dtype) return x;
  if (isConstant(x)) {
    const value = x.attributes["value"] as number;
    if (dtype !== "float16" && dtype !== "bfloat16") return constant(isFloat(dtype) ? value : Math.trunc(value), x.shape, dtype);
  }
  return apply(elementwise.cast, [x], dtype);
}

/** The 32 bits of float32 as int32, or back. */
export function bitcast(x: Tensor, dtype: "float32" | "int32"): Tensor {
  if (x.dtype === dtype) return x;
  if (x.dtype !== "float32" && x.dtype !== "int32")
    throw new DTypeError(`reads the bits of float32 or int32, got ${x.dtype}.`, { operation: "bitcast", got: x.dtype });
  return apply(elementwise.bitcast, [x], dtype);
}
