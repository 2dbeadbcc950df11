/** Exact 32-bit integer arithmetic on pairs of floats. Every intermediate value is a whole number below 2²⁴. */
import { type Code, type Limbs, type Single, single } from "./code.ts";

const limbs = (high: string, low: string): Limbs => ({ kind: "limbs", high, low });

/** `value` as an int32 constant. */
export const limbsConstant = (value: number): Limbs => limbs(String((value >>> 16) & 65535), String(value & 65535));

/** A whole number in 0…65535 as an int32. */
export const limbsFromSmall = (name: string): Limbs => limbs("0", name);

/** Remainder by 65,536 of a whole number that is not negative. */
const wrapped = (code: Code, x: string): string => code.let(`${x} - Math.floor(${x} * 0.0000152587890625) * 65536`);

/** The upper limb as a signed number. */
const signed = (code: Code, { high }: Limbs): string => {
  const name = code.let(high);
  code.update(name, [`${name} >= 32768`], `${name} - 65536`);
  return name;
};

/** x + y modulo 2³². */
export function addLimbs(code: Code, x: Limbs, y: Limbs): Limbs {
  const low = code.let(`${x.low} + ${y.low}`);
  const high = code.let(`${x.high} + ${y.high}`);
  code.line(`if (${low} >= 65536) { ${low} = ${low} - 65536; ${high} = ${high} + 1; }`);
  code.line(`if (${high} >= 65536) { ${high} = ${high} - 65536; }`);
  return limbs(high, low);
}

/** −x modulo 2³². */
export function negLimbs(code: Code, x: Limbs): Limbs {
  const low = code.let(`65536 - ${x.low}`);
  const high = code.let(`65535 - ${x.high}`);
  code.line(`if (${low} >= 65536) { ${low} = 0; ${high} = ${high} + 1; }`);
  code.line(`if (${high} >= 65536) { ${high} = 0; }`);
  return limbs(high, low);
}

/** Product of two limbs: its upper and lower 16 bits, by bytes. */
function wideProduct(code: Code, x: string, y: string): { high: string; low: string } {
  const [x1, y1] = [code.let(`Math.floor(${x} * 0.00390625)`), code.let(`Math.floor(${y} * 0.00390625)`)];
  const [x0, y0] = [code.let(`${x} - ${x1} * 256`), code.let(`${y} - ${y1} * 256`)];
  const middle = code.let(`${x1} * ${y0} + ${x0} * ${y1}`);
  const over = code.let(`Math.floor(${middle} * 0.00390625)`);
  const sum = code.let(`${x0} * ${y0} + (${middle} - ${over} * 256) * 256`);
  const carry = code.let(`Math.floor(${sum} * 0.0000152587890625)`);
  return { high: code.let(`${x1} * ${y1} + ${over} + ${carry}`), low: code.let(`${sum} - ${carry} * 65536`) };
}

/** x · y modulo 2³². */
export function mulLimbs(code: Code, x: Limbs, y: Limbs): Limbs {
  const { high, low } = wideProduct(code, x.low, y.low);
  const [p, q] = [wideProduct(code, x.high, y.low).low, wideProduct(code, x.low, y.high).low];
  return limbs(wrapped(code, code.let(`${high} + ${p} + ${q}`)), low);
}

/** 1 where x < y, else 0. */
export function lessLimbs(code: Code, x: Limbs, y: Limbs): Single {
  if (x.high === "0" && y.high === "0") return single(code.choose(`${x.low} < ${y.low}`, "1", "0"));
  const [p, q] = [signed(code, x), signed(code, y)];
  return single(code.choose(`${p} < ${q} || (${p} === ${q} && ${x.low} < ${y.low})`, "1", "0"));
}

/** 1 where x = y, else 0. */
export const equalLimbs = (code: Code, x: Limbs, y: Limbs): Single =>
  single(code.choose(`${x.high} === ${y.high} && ${x.low} === ${y.low}`, "1", "0"));

/** x where the condition holds, else y. */
export function chooseLimbs(code: Code, condition: string, x: Limbs, y: Limbs): Limbs {
  return limbs(code.choose(condition, x.high, y.high), code.choose(condition, x.low, y.low));
}

/** The larger one, signed. */
export const maxLimbs = (code: Code, x: Limbs, y: Limbs): Limbs => chooseLimbs(code, `${lessLimbs(code, x, y).name} > 0.5`, y, x);

/** `operator` is one of & | ^; GPU.js has these on whole numbers. */
export const bitwiseLimbs = (code: Code, operator: string, x: Limbs, y: Limbs): Limbs =>
  limbs(code.let(`${x.high} ${operator} ${y.high}`), code.let(`${x.low} ${operator} ${y.low}`));

/** For a shift by y mod 32: 2^s and 2^−s, of which neither is a quotient that a driver may round, s = y mod 16; whether y counts 16 or more. */
function shiftOf(code: Code, y: Limbs): { power: string; inverse: string; far: string } {
  const constant = Number(y.low);
  if (Number.isFinite(constant)) {
    const power = 2 ** (constant & 15);
    return { power: String(power), inverse: String(1 / power), far: constant & 16 ? "1" : "0" };
  }
  let rest = code.let(`${y.low} - Math.floor(${y.low} * 0.03125) * 32`);
  const far = code.choose(`${rest} >= 16`, "1", "0");
  rest = code.let(`${rest} - 16 * ${far}`);
  const [power, inverse] = [code.let("1"), code.let("1")];
  for (const step of [8, 4, 2, 1])
    code.line(
      `if (${rest} >= ${step}) { ${power} = ${power} * ${2 ** step}; ${inverse} = ${inverse} * ${2 ** -step}; ${rest} = ${rest} - ${step}; }`,
    );
  return { power, inverse, far };
}

/** A limb cut where a shift cuts it: ⌊limb / place⌋ and the rest below `place`, a power of two; `share` is 1 / place. */
function cut(code: Code, limb: string, place: string, share: string): { above: string; below: string } {
  const above = code.let(`Math.floor(${limb} * ${share})`);
  return { above, below: code.let(`${limb} - ${above} * ${place}`) };
}

/** x · 2^(y mod 32) modulo 2³². */
export function shiftLeftLimbs(code: Code, x: Limbs, y: Limbs): Limbs {
  const { power, inverse, far } = shiftOf(code, y);
  const [place, share] = [code.let(`65536 * ${inverse}`), code.let(`0.0000152587890625 * ${power}`)];
  const low = cut(code, x.low, place, share);
  const { below } = cut(code, x.high, place, share);
  const near = limbs(code.let(`${below} * ${power} + ${low.above}`), code.let(`${low.below} * ${power}`));
  return far === "0" ? near : chooseLimbs(code, `${far} > 0.5`, limbs(near.low, "0"), near);
}

/** x shifted right by y mod 32, zeros coming in. */
export function shiftRightLimbs(code: Code, x: Limbs, y: Limbs): Limbs {
  const { power, inverse, far } = shiftOf(code, y);
  const high = cut(code, x.high, power, inverse);
  const low = code.let(`Math.floor(${x.low} * ${inverse})`);
  const near = limbs(high.above, code.let(`${low} + ${high.below} * (65536 * ${inverse})`));
  return far === "0" ? near : chooseLimbs(code, `${far} > 0.5`, limbs("0", near.high), near);
}

/** Remainder with the sign of the divisor, 0 for a divisor of 0: long division, bit by bit. */
export function modLimbs(code: Code, x: Limbs, y: Limbs): Limbs {
  const zero = limbsConstant(0);
  const [negativeX, negativeY] = [code.let(lessLimbs(code, x, zero).name), code.let(lessLimbs(code, y, zero).name)];
  const a = chooseLimbs(code, `${negativeX} > 0.5`, negLimbs(code, x), x);
  const b = chooseLimbs(code, `${negativeY} > 0.5`, negLimbs(code, y), y);
  const [high, low] = [code.let("0"), code.let("0")];
  const [restHigh, restLow] = [code.let(a.high), code.let(a.low)];
  code.line("for (let bit = 0; bit < 32; bit++) {");
  // shift one bit of a into the remainder, which stays below 2·|y| ≤ 2³²
  code.line(`let top = 0; if (${restHigh} >= 32768) { top = 1; }`);
  code.line(`${restHigh} = (${restHigh} - top * 32768) * 2; ${restLow} = ${restLow} * 2;`);
  code.line(`if (${restLow} >= 65536) { ${restLow} = ${restLow} - 65536; ${restHigh} = ${restHigh} + 1; }`);
  code.line(`${high} = ${high} * 2; ${low} = ${low} * 2 + top;`);
  code.line(`if (${low} >= 65536) { ${low} = ${low} - 65536; ${high} = ${high} + 1; }`);
  code.line(`if (${high} > ${b.high} || (${high} === ${b.high} && ${low} >= ${b.low})) {`);
  code.line(`${high} = ${high} - ${b.high}; ${low} = ${low} - ${b.low};`);
  code.line(`if (${low} < 0) { ${low} = ${low} + 65536; ${high} = ${high} - 1; } }`);
  code.line("}");
  const r = limbs(high, low);
  // of |x| mod |y|: the sign of x first, then into the range of y
  const none = code.choose(`${high} === 0 && ${low} === 0`, "1", "0");
  const same = limbs(r.high, r.low);
  const withX = chooseLimbs(code, `${negativeX} > 0.5`, negLimbs(code, same), same);
  const moved = addLimbs(code, withX, y);
  const mended = chooseLimbs(code, `${none} < 0.5 && ${negativeX} !== ${negativeY}`, moved, withX);
  return chooseLimbs(code, `${y.high} === 0 && ${y.low} === 0`, zero, mended);
}

/** The int32 as a float, rounded once. */
export const floatFromLimbs = (code: Code, x: Limbs): Single => single(code.let(`${signed(code, x)} * 65536 + ${x.low}`));

/** A whole number between `least` and `most`, which a float holds exactly, in 32 bits. */
export function limbsFromIndex(code: Code, x: string, least: number, most: number): Limbs {
  if (least < 0) return limbsFromFloat(code, x);
  if (most < 65536) return limbsFromSmall(x);
  const upper = code.let(`Math.floor(${x} * 0.0000152587890625)`);
  return limbs(upper, code.let(`${x} - ${upper} * 65536`));
}

/** A float cut to a whole number, in 32 bits; 0 for what is not finite. */
export function limbsFromFloat(code: Code, x: string): Limbs {
  const whole = code.let(`Math.floor(Math.abs(${x}))`);
  // ∞ divided by 2⁶⁴ is still 2⁶⁴ (`x - x` may be taken for 0, and what follows from NaN for false)
  const scaled = code.let(`${whole}${" * 0.0000152587890625".repeat(4)}`);
  code.update(whole, [`${scaled} >= 18446744073709552000 || !(${x} <= 0 || ${x} > 0)`], "0");
  const upper = code.let(`Math.floor(${whole} * 0.0000152587890625)`);
  const low = code.let(`${whole} - ${upper} * 65536`);
  const y = limbs(wrapped(code, upper), low);
  return chooseLimbs(code, `${x} < 0`, negLimbs(code, y), y);
}
