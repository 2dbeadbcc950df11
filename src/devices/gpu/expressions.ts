/** What every elementwise entry and fold is in a GPU.js kernel: on floats, on 8-bit whole numbers, and on int32 limbs. */
import { DTypeError } from "../../errors.ts";
import { type DType, isFloat } from "../../graph/dtype.ts";
import type { Elementwise, Reduction } from "../../graph/primitive.ts";
import { type Code, type Limbs, type Single, single, type Value } from "./code.ts";
import {
  addLimbs,
  bitwiseLimbs,
  chooseLimbs,
  equalLimbs,
  floatFromLimbs,
  lessLimbs,
  limbsFromFloat,
  limbsFromSmall,
  maxLimbs,
  modLimbs,
  mulLimbs,
  negLimbs,
  shiftLeftLimbs,
  shiftRightLimbs,
} from "./limbs.ts";

type OnSingles = (code: Code, x: readonly string[], to: DType) => string;
type OnLimbs = (code: Code, x: readonly Limbs[]) => Value;

const formula =
  (write: (x: readonly string[]) => string): OnSingles =>
  (code, x) =>
    code.let(write(x));
const called =
  (name: string): OnSingles =>
  (code, x) =>
    code.call(name, ...x);

/** Condition that `x` is NaN: neither at most 0 nor above it. (WGSL's compilers take `x != x` for false.) */
const isNaNText = (x: string): string => `!(${x} <= 0 || ${x} > 0)`;

/** The larger of the two; NaN when either is, as Math.max has it. */
const larger = (code: Code, x: string, y: string): string => code.choose(`${y} > ${x} || ${isNaNText(y)}`, y, x);

/**
 * Cards find logarithms to an absolute error, which is large beside one near 0 (WGSL, §15.7.4; Vulkan, "Precision of core operations"): there
 * it is 2·artanh(s), s = (x − 1) / (x + 1), by its series.
 */
function logarithm(code: Code, [x]: readonly string[]): string {
  const s = code.let(`(${x} - 1) / (${x} + 1)`);
  const squared = code.let(`${s} * ${s}`);
  const terms = [9, 7, 5, 3].reduce((sum, n) => `(${2 / n} + ${squared} * ${sum})`, `${2 / 11}`);
  const near = code.let(`${s} * (2 + ${squared} * ${terms})`);
  return code.choose(`${x} > 0.75 && ${x} < 1.25`, near, code.let(`Math.log(${x})`));
}

const onSingles: Record<string, OnSingles> = {
  neg: formula(([x]) => `0 - ${x}`),
  recip: formula(([x]) => `1 / ${x}`),
  exp: formula(([x]) => `Math.exp(${x})`),
  log: logarithm,
  sin: called("sine"),
  sqrt: formula(([x]) => `Math.sqrt(${x})`),
  floor: formula(([x]) => `Math.floor(${x})`),
  tanh: called("hyperbolicTangent"),
  erf: called("errorFunction"),
  copy: formula(([x]) => `${x}`),
  add: formula(([x, y]) => `${x} + ${y}`),
  mul: formula(([x, y]) => `${x} * ${y}`),
  div: formula(([x, y]) => `${x} / ${y}`),
  max: (code, [x, y]) => larger(code, x!, y!),
  pow: called("power"),
  mod: (code, [x, y], to) => {
    const r = code.call("remainder", x!, y!);
    return isFloat(to) ? r : code.choose(`${y} === 0`, "0", r);
  },
  less: (code, [x, y]) => code.choose(`${x} < ${y}`, "1", "0"),
  equal: (code, [x, y]) => code.choose(`${x} === ${y}`, "1", "0"),
  and: formula(([x, y]) => `${x} & ${y}`),
  or: formula(([x, y]) => `${x} | ${y}`),
  xor: formula(([x, y]) => `${x} ^ ${y}`),
  where: (code, [c, x, y]) => code.choose(`${c} !== 0`, x!, y!),
};

const onLimbs: Record<string, OnLimbs> = {
  neg: (code, [x]) => negLimbs(code, x!),
  floor: (_, [x]) => x!,
  copy: (_, [x]) => x!,
  add: (code, [x, y]) => addLimbs(code, x!, y!),
  mul: (code, [x, y]) => mulLimbs(code, x!, y!),
  max: (code, [x, y]) => maxLimbs(code, x!, y!),
  mod: (code, [x, y]) => modLimbs(code, x!, y!),
  less: (code, [x, y]) => lessLimbs(code, x!, y!),
  equal: (code, [x, y]) => equalLimbs(code, x!, y!),
  and: (code, [x, y]) => bitwiseLimbs(code, "&", x!, y!),
  or: (code, [x, y]) => bitwiseLimbs(code, "|", x!, y!),
  xor: (code, [x, y]) => bitwiseLimbs(code, "^", x!, y!),
  shiftLeft: (code, [x, y]) => shiftLeftLimbs(code, x!, y!),
  shiftRight: (code, [x, y]) => shiftRightLimbs(code, x!, y!),
};

function castTo(code: Code, x: Value, to: DType): Value {
  if (to === "int32") return x.kind === "limbs" ? x : limbsFromFloat(code, x.name);
  if (to === "bool")
    return single(
      x.kind === "limbs" ? code.choose(`${x.high} !== 0 || ${x.low} !== 0`, "1", "0") : code.choose(`${x.name} !== 0`, "1", "0"),
    );
  if (to === "uint8") {
    const { low } = x.kind === "limbs" ? x : limbsFromFloat(code, x.name);
    return single(code.let(`${low} - Math.floor(${low} / 256) * 256`));
  }
  const wide = x.kind === "limbs" ? floatFromLimbs(code, x) : x;
  if (to === "float16") return single(code.call("roundFloat16", wide.name));
  return to === "bfloat16" ? single(code.call("roundBFloat16", wide.name)) : wide;
}

function bitcastTo(code: Code, x: Value, to: DType): Value {
  if (x.kind === "limbs") return to === "int32" ? x : single(code.call("bitsFloat", x.high, x.low));
  return { kind: "limbs", high: code.call("floatBits", x.name, "1"), low: code.call("floatBits", x.name, "0") };
}

/** Writes one instruction. `from` are the dtypes of the arguments. */
export function writeElementwise(code: Code, op: Elementwise, args: readonly Value[], from: readonly DType[], to: DType): Value {
  if (op.name === "cast") {
    const [x] = args as [Value];
    // 8-bit numbers need no arithmetic to be wider
    if (to === "int32" && !isFloat(from[0]!) && x.kind === "single") return limbsFromSmall(x.name);
    return castTo(code, x, to);
  }
  if (op.name === "bitcast") return bitcastTo(code, args[0]!, to);
  if (op.name === "where" && to === "int32") {
    const [condition, x, y] = args as [Single, Limbs, Limbs];
    return chooseLimbs(code, `${condition.name} !== 0`, x, y);
  }
  const write = args[0]!.kind === "limbs" ? onLimbs[op.name] : onSingles[op.name];
  if (!write) throw new DTypeError(`has no form on the gpu device for ${from.join(", ")}.`, { operation: op.name, got: from });
  if (args[0]!.kind === "limbs") return (write as OnLimbs)(code, args as Limbs[]);
  const y = (write as OnSingles)(
    code,
    args.map((x) => (x as Single).name),
    to,
  );
  // whole numbers of 8 bits wrap
  if (to === "uint8" && ["neg", "add", "mul"].includes(op.name)) return single(code.let(`${y} - Math.floor(${y} / 256) * 256`));
  return single(y);
}

/** Starts a fold: the variables it accumulates in. The largest int32 starts at the first value, and `started` says whether it has. */
export function writeFoldStart(code: Code, op: Reduction, dtype: DType): { value: Value; started: string } {
  const isMax = op.name === "maxReduce";
  const identity = op.name === "product" ? "1" : "0";
  if (dtype !== "int32")
    return { value: single(code.accumulator(isMax ? code.literal(Number.NEGATIVE_INFINITY) : identity)), started: "" };
  const started = isMax ? code.let("0") : "";
  return { value: { kind: "limbs", high: code.let("0"), low: code.let(identity) }, started };
}

/** Folds `x` into the variables of `fold`. */
export function writeFoldStep(code: Code, op: Reduction, fold: { value: Value; started: string }, x: Value): void {
  const { value, started } = fold;
  if (value.kind === "limbs") {
    const [a, b] = [value, x as Limbs];
    const next = op.name === "sum" ? addLimbs(code, a, b) : op.name === "product" ? mulLimbs(code, a, b) : maxLimbs(code, a, b);
    const chosen = started ? chooseLimbs(code, `${started} < 0.5`, b, next) : next;
    code.line(`${value.high} = ${chosen.high}; ${value.low} = ${chosen.low};`);
  } else {
    const { name } = x as Single;
    if (op.name !== "maxReduce") code.assign(value.name, `${value.name} ${op.name === "sum" ? "+" : "*"} ${name}`);
    // most values take one comparison; NaN is not at most anything, and stays once it is the largest
    else code.update(value.name, [`!(${name} <= ${value.name})`, `${value.name} <= 0 || ${value.name} > 0`], name);
  }
  if (started) code.line(`${started} = 1;`);
}
