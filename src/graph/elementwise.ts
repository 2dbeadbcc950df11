/** Elementwise primitives: one entry each, with its meaning, its SIMD form and its derivative. */
import { DTypeError } from "../errors.ts";
import { checkDType, type DType, isFloat, promote } from "./dtype.ts";
import { expand } from "./movement.ts";
import { Tensor } from "./node.ts";
import type { Elementwise } from "./primitive.ts";
import { broadcastShapes, sameShape } from "./shape.ts";
import { constant } from "./source.ts";

type Entry = Omit<Elementwise, "kind" | "name">;

/** Checks dtypes and shapes, broadcasts, and makes the node. */
function apply(op: Elementwise, inputs: readonly Tensor[], dtype: DType, attributes: Record<string, unknown> = {}): Tensor {
  const shape = broadcastShapes(op.name, ...inputs.map((x) => x.shape));
  return new Tensor(
    op,
    inputs.map((x) => (sameShape(x.shape, shape) ? x : expand(x, shape))),
    shape,
    dtype,
    attributes,
  );
}

const define = (name: string, entry: Entry): Elementwise => ({ kind: "elementwise", name, ...entry });
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
  const number = dtype === "bool" ? "int32" : dtype;
  return apply(op, [cast(x, number), cast(y, number)], number);
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

export const negOp = define("neg", {
  formula: "−x",
  arity: 1,
  js: ([x]) => `-${x}`,
  wasm: (simd, [x]) => simd.neg(x!),
  vjp: (g) => [neg(g)],
  domain: [all],
  takes: "both",
});

export const recipOp = define("recip", {
  formula: "1 / x",
  arity: 1,
  js: ([x]) => `1 / ${x}`,
  wasm: (simd, [x], to) => simd.div(simd.constant(1, to), x!),
  vjp: (g, y) => [neg(mul(g, mul(y, y)))],
  domain: [[0.4, 2]],
  takes: "float",
});

export const expOp = define("exp", {
  formula: "eˣ",
  arity: 1,
  js: ([x]) => `Math.exp(${x})`,
  wasm: (simd, [x]) => simd.exp(x!),
  vjp: (g, y) => [mul(g, y)],
  domain: [[-4, 4]],
  takes: "float",
  heavy: true,
});

export const logOp = define("log", {
  formula: "ln x",
  arity: 1,
  js: ([x]) => `Math.log(${x})`,
  wasm: (simd, [x]) => simd.log(x!),
  vjp: (g, _y, x) => [mul(g, recip(x!))],
  domain: [[0.3, 4]],
  takes: "float",
  heavy: true,
});

export const sinOp = define("sin", {
  formula: "sin x",
  arity: 1,
  js: ([x]) => `Math.sin(${x})`,
  wasm: (simd, [x]) => simd.sin(x!),
  // cos x = 1 − 2·sin²(x/2): halving is exact, so large x lose nothing, as they would in sin(x + π/2)
  vjp: (g, _y, x) => {
    const half = sin(mul(constant(0.5, [], g.dtype), x!));
    return [mul(g, sub(constant(1, [], g.dtype), mul(constant(2, [], g.dtype), mul(half, half))))];
  },
  domain: [[-6, 6]],
  takes: "float",
  heavy: true,
});

export const sqrtOp = define("sqrt", {
  formula: "√x",
  arity: 1,
  js: ([x]) => `Math.sqrt(${x})`,
  wasm: (simd, [x]) => simd.sqrt(x!),
  vjp: (g, y) => [mul(g, mul(constant(0.5, [], g.dtype), recip(y)))],
  domain: [[0.3, 4]],
  takes: "float",
});

export const floorOp = define("floor", {
  formula: "⌊x⌋",
  arity: 1,
  js: ([x]) => `Math.floor(${x})`,
  wasm: (simd, [x]) => simd.floor(x!),
  vjp: () => [null],
  domain: [[0.1, 0.9]],
  takes: "float",
});

export const tanhOp = define("tanh", {
  formula: "tanh x",
  arity: 1,
  js: ([x]) => `Math.tanh(${x})`,
  wasm: (simd, [x]) => simd.tanh(x!),
  vjp: (g, y) => [mul(g, sub(constant(1, [], g.dtype), mul(y, y)))],
  domain: [[-3, 3]],
  takes: "float",
  heavy: true,
});

export const erfOp = define("erf", {
  formula: "erf x",
  arity: 1,
  js: ([x]) => `erf(${x})`,
  wasm: (simd, [x]) => simd.erf(x!),
  vjp: (g, _y, x) => [mul(g, mul(constant(2 / Math.sqrt(Math.PI), [], g.dtype), exp(neg(mul(x!, x!)))))],
  domain: [[-3, 3]],
  takes: "float",
  heavy: true,
});

export const addOp = define("add", {
  formula: "x + y",
  arity: 2,
  js: ([x, y]) => `${x} + ${y}`,
  wasm: (simd, [x, y]) => simd.add(x!, y!),
  vjp: (g) => [g, g],
  domain: [all, all],
  takes: "both",
});

export const mulOp = define("mul", {
  formula: "x · y",
  arity: 2,
  js: ([x, y], { to }) => (to === "int32" ? `Math.imul(${x}, ${y})` : `${x} * ${y}`),
  wasm: (simd, [x, y]) => simd.mul(x!, y!),
  vjp: (g, _y, x, z) => [mul(g, z!), mul(g, x!)],
  domain: [all, all],
  takes: "both",
});

export const divOp = define("div", {
  formula: "x / y",
  arity: 2,
  // not x · (1/y), which would make 49 / 49 less than 1
  js: ([x, y]) => `${x} / ${y}`,
  wasm: (simd, [x, y]) => simd.div(x!, y!),
  vjp: (g, y, _x, z) => [div(g, z!), neg(mul(g, div(y, z!)))],
  domain: [all, [0.4, 2]],
  takes: "float",
});

export const maxOp = define("max", {
  formula: "the larger of x and y",
  arity: 2,
  js: ([x, y]) => `Math.max(${x}, ${y})`,
  wasm: (simd, [x, y]) => simd.max(x!, y!),
  // where both are equal each gets half, as in PyTorch
  vjp: (g, _y, x, z) => {
    const half = constant(0.5, [], g.dtype);
    const tie = cast(equal(x!, z!), g.dtype);
    const toX = add(cast(less(z!, x!), g.dtype), mul(half, tie));
    return [mul(g, toX), mul(g, sub(constant(1, [], g.dtype), toX))];
  },
  domain: [
    [-2, 0],
    [0.1, 2],
  ],
  takes: "both",
});

export const powOp = define("pow", {
  formula: "xʸ",
  arity: 2,
  js: ([x, y]) => `(${x}) ** (${y})`,
  wasm: (simd, [x, y]) => simd.pow(x!, y!),
  vjp: (g, y, x, z) => [
    mul(g, mul(z!, pow(x!, sub(z!, constant(1, [], g.dtype))))),
    mul(
      g,
      mul(
        y,
        where(
          less(constant(0, [], g.dtype), x!),
          log(where(less(constant(0, [], g.dtype), x!), x!, constant(1, [], g.dtype))),
          constant(0, [], g.dtype),
        ),
      ),
    ),
  ],
  domain: [
    [0.3, 2],
    [-2, 3],
  ],
  takes: "float",
  heavy: true,
  tolerance: 1e-5,
});

export const modOp = define("mod", {
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
});

const noGradient = { vjp: () => [null, null], arity: 2 as const, domain: [all, all] };

export const lessOp = define("less", {
  ...noGradient,
  formula: "x < y",
  js: ([x, y]) => `${x} < ${y} ? 1 : 0`,
  wasm: (simd, [x, y]) => simd.less(x!, y!),
  takes: "both",
});

export const equalOp = define("equal", {
  ...noGradient,
  formula: "x = y",
  js: ([x, y]) => `${x} === ${y} ? 1 : 0`,
  wasm: (simd, [x, y]) => simd.equal(x!, y!),
  takes: "both",
});

export const andOp = define("and", {
  ...noGradient,
  formula: "x and y, bit by bit",
  js: ([x, y]) => `${x} & ${y}`,
  wasm: (simd, [x, y]) => simd.and(x!, y!),
  takes: "integer",
});

export const orOp = define("or", {
  ...noGradient,
  formula: "x or y, bit by bit",
  js: ([x, y]) => `${x} | ${y}`,
  wasm: (simd, [x, y]) => simd.or(x!, y!),
  takes: "integer",
});

export const xorOp = define("xor", {
  ...noGradient,
  formula: "x exclusive-or y, bit by bit",
  js: ([x, y]) => `${x} ^ ${y}`,
  wasm: (simd, [x, y]) => simd.xor(x!, y!),
  takes: "integer",
});

export const shiftLeftOp = define("shiftLeft", {
  ...noGradient,
  formula: "x·2ʸ in 32 bits",
  js: ([x, y]) => `${x} << ${y}`,
  wasm: (simd, [x, y]) => simd.shiftLeft(x!, y!),
  domain: [
    [-100, 100],
    [0, 31],
  ],
  takes: "integer",
});

export const shiftRightOp = define("shiftRight", {
  ...noGradient,
  formula: "x as 32 unsigned bits, divided by 2ʸ",
  js: ([x, y]) => `(${x} >>> ${y}) | 0`,
  wasm: (simd, [x, y]) => simd.shiftRight(x!, y!),
  domain: [
    [-100, 100],
    [0, 31],
  ],
  takes: "integer",
});

export const whereOp = define("where", {
  formula: "x where the condition holds, else y",
  arity: 3,
  js: ([c, x, y]) => `${c} ? ${x} : ${y}`,
  wasm: (simd, [c, x, y]) => simd.select(c!, x!, y!),
  vjp: (g, _y, c) => [null, where(c!, g, constant(0, [], g.dtype)), where(c!, constant(0, [], g.dtype), g)],
  domain: [[0, 1], all, all],
  takes: "both",
});

export const castOp = define("cast", {
  formula: "the same number in another dtype",
  arity: 1,
  js: ([x], { to }) =>
    to === "int32"
      ? `Math.trunc(${x}) | 0`
      : to === "uint8"
        ? `Math.trunc(${x}) & 255`
        : to === "bool"
          ? `${x} !== 0 ? 1 : 0`
          : to === "float16"
            ? `roundFloat16(${x})`
            : to === "bfloat16"
              ? `roundBFloat16(${x})`
              : `${x}`,
  wasm: (simd, [x], to) => simd.cast(x!, to),
  vjp: (g, _y, x) => [isFloat(x!.dtype) ? cast(g, x!.dtype) : null],
  domain: [all],
  takes: "float",
});

export const copyOp = define("copy", {
  formula: "x, written out in row-major order",
  arity: 1,
  js: ([x]) => `${x}`,
  wasm: (_simd, [x]) => x!,
  vjp: (g) => [g],
  domain: [all],
  takes: "both",
});

export const bitcastOp = define("bitcast", {
  formula: "the same 32 bits, read as another dtype",
  arity: 1,
  js: ([x], { to }) => (to === "int32" ? `floatBits(${x})` : `bitsFloat(${x})`),
  wasm: (simd, [x], to) => simd.bitcast(x!, to),
  vjp: () => [null],
  domain: [all],
  takes: "both",
});

/** The same values in memory of their own, in row-major order. */
export const copy = (x: Tensor): Tensor => apply(copyOp, [x], x.dtype);
export const neg = (x: Tensor): Tensor =>
  apply(negOp, [x.dtype === "bool" ? cast(x, "int32") : x], x.dtype === "bool" ? "int32" : x.dtype);
export const recip = float(recipOp);
export const exp = float(expOp);
export const log = float(logOp);
export const sin = float(sinOp);
export const sqrt = float(sqrtOp);
export const tanh = float(tanhOp);
export const erf = float(erfOp);
export const floor = (x: Tensor): Tensor => (isFloat(x.dtype) ? apply(floorOp, [x], x.dtype) : x);
export const add = (x: Tensor, y: Tensor): Tensor => arithmetic(addOp, x, y);
export const sub = (x: Tensor, y: Tensor): Tensor => arithmetic(addOp, x, neg(y));
export const mul = (x: Tensor, y: Tensor): Tensor => arithmetic(mulOp, x, y);
export const max = (x: Tensor, y: Tensor): Tensor => arithmetic(maxOp, x, y);
export const mod = (x: Tensor, y: Tensor): Tensor => arithmetic(modOp, x, y);
export const less = (x: Tensor, y: Tensor): Tensor => comparison(lessOp, x, y);
export const equal = (x: Tensor, y: Tensor): Tensor => comparison(equalOp, x, y);
export const and = (x: Tensor, y: Tensor): Tensor => bits(andOp, x, y);
export const or = (x: Tensor, y: Tensor): Tensor => bits(orOp, x, y);
export const xor = (x: Tensor, y: Tensor): Tensor => bits(xorOp, x, y);
export const shiftLeft = (x: Tensor, y: Tensor): Tensor => bits(shiftLeftOp, cast(x, "int32"), cast(y, "int32"));
export const shiftRight = (x: Tensor, y: Tensor): Tensor => bits(shiftRightOp, cast(x, "int32"), cast(y, "int32"));

/** xʸ in floating point; integers are widened to float32 first. */
export function pow(x: Tensor, y: Tensor): Tensor {
  const wide = promote(x.dtype, y.dtype);
  const dtype = isFloat(wide) ? wide : "float32";
  return apply(powOp, [cast(x, dtype), cast(y, dtype)], dtype);
}

/** x / y; integers are widened to float32 first. */
export function div(x: Tensor, y: Tensor): Tensor {
  const wide = promote(x.dtype, y.dtype);
  const dtype = isFloat(wide) ? wide : "float32";
  return apply(divOp, [cast(x, dtype), cast(y, dtype)], dtype);
}

/** Elements of `x` where `condition` is true, else of `y`. */
export function where(condition: Tensor, x: Tensor, y: Tensor): Tensor {
  const dtype = promote(x.dtype, y.dtype);
  return apply(whereOp, [cast(condition, "bool"), cast(x, dtype), cast(y, dtype)], dtype);
}

/** Casts towards zero to integers (wrapping in 32 or 8 bits), to the nearest value in 16-bit floats, to `x ≠ 0` in bool. */
export function cast(x: Tensor, dtype: DType): Tensor {
  checkDType("cast", dtype);
  if (x.dtype === dtype) return x;
  if (x.op.name === "constant" && x.storage === null) {
    const value = x.attributes["value"] as number;
    if (dtype !== "float16" && dtype !== "bfloat16") return constant(isFloat(dtype) ? value : Math.trunc(value), x.shape, dtype);
  }
  return apply(castOp, [x], dtype);
}

/** The 32 bits of float32 as int32, or back. */
export function bitcast(x: Tensor, dtype: "float32" | "int32"): Tensor {
  if (x.dtype === dtype) return x;
  if (x.dtype !== "float32" && x.dtype !== "int32")
    throw new DTypeError(`reads the bits of float32 or int32, got ${x.dtype}.`, { operation: "bitcast", got: x.dtype });
  return apply(bitcastOp, [x], dtype);
}

export const elementwise = {
  neg: negOp,
  recip: recipOp,
  exp: expOp,
  log: logOp,
  sin: sinOp,
  sqrt: sqrtOp,
  floor: floorOp,
  tanh: tanhOp,
  erf: erfOp,
  cast: castOp,
  copy: copyOp,
  bitcast: bitcastOp,
  add: addOp,
  mul: mulOp,
  div: divOp,
  max: maxOp,
  pow: powOp,
  mod: modOp,
  less: lessOp,
  equal: equalOp,
  and: andOp,
  or: orOp,
  xor: xorOp,
  shiftLeft: shiftLeftOp,
  shiftRight: shiftRightOp,
  where: whereOp,
} as const satisfies Record<string, Elementwise>;

export type ElementwiseName = keyof typeof elementwise;
