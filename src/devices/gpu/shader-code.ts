/**
 * The statements of a kernel in a language of shaders, WGSL or GLSL. Addresses are whole numbers there, and the values of four neighbours along
 * the inner axis can be one variable, a vector: what is read along that axis is one, and so is what is computed from one. Everything else stays
 * a float, and is spread where it meets a vector. A vector has no branches, so conditions choose between values that are both computed.
 */
import { type Bound, Code, fewEnough, inverseText, type Value } from "./code.ts";

/** Elements that one variable holds. */
export type Lanes = 1 | 4;

/** Names of the four components of a vector. */
const components = ["x", "y", "z", "w"] as const;

/** What has no form of the same look: whole numbers' bits, and both of "and" and "or", which have no order in WGSL. */
const isForeign = (line: string): boolean => /[^&]&[^&]|[^|]\|[^|]|\^|&&.*\|\||\|\|.*&&/.test(line);

/** A float as a vector of it. */
export type Spread = (value: string) => string;

/** What the types of a language are called. */
export interface Types {
  readonly float: string;
  readonly vector: string;
  readonly int: string;
  readonly ints: string;
  readonly uint: string;
}

/** JavaScript of `Code` on floats, or on vectors where it says how a float is spread. */
export const onFloats = (text: string, spread: Spread = (value) => value): string =>
  text
    .replace(/\bMath\./g, "")
    .replaceAll("===", "==")
    .replaceAll("!==", "!=")
    .replace(/(?<![\w.])\d+(?:\.\d+)?(?![\w.])/g, (number) => spread(number.includes(".") ? number : `${number}.0`));

/** Statements of a shader that is not translated by GPU.js, with vectors of four; what differs between WGSL and GLSL is abstract. */
export abstract class ShaderCode extends Code {
  abstract readonly types: Types;
  /** The one thing that says how many elements are computed at once from here on; `each` sets it. */
  private lanes: Lanes = 1;
  /** Variables that are vectors. */
  private readonly vectors = new Set<string>();
  /** Arrays of vectors. */
  protected readonly wide: ReadonlySet<string>;
  /** What index variables are made of, and those that are four times another: a vector lies at that one. */
  private readonly made = new Map<string, string>();
  private readonly quarters = new Map<string, string>();
  private foreign = false;

  /** @param wide names of the arrays whose elements along the inner axis are read as vectors: they lie side by side, and begin at fours */
  constructor(wide: ReadonlySet<string>) {
    super();
    this.wide = wide;
  }

  /** A new variable; `isFixed` says that it never changes. */
  protected abstract declaration(type: string, name: string, value: string, isFixed: boolean): string;
  /** Statements and expressions on floats, which may hold conditions. */
  protected abstract inLanguage(text: string, spread?: Spread): string;
  /** That all of the conditions hold, of four neighbours each where it says how a float is spread; `null` where it has no form. */
  protected abstract condition(texts: readonly string[], spread?: Spread): string | null;
  /** That `value` lies in a range, for each component of a vector of whole numbers. */
  protected abstract inRange(value: string, from: number, to: number): string;
  /** `value` where the condition holds, which is one for each component or one for all. */
  protected abstract chosen(otherwise: string, value: string, condition: string, isEach: boolean): string;
  /** The start of a loop over whole numbers. */
  protected abstract loop(name: string, first: string, end: number, step: number): string;
  /** A float of an array of floats, and a vector of one of vectors. */
  protected abstract at(array: string, address: string): string;
  /** Writes values to a result: a vector, or floats from an address on. */
  protected abstract write(result: number, address: string, value: string): void;

  /** Whether there were statements that this has no form for: then nothing of it may be used. */
  get isForeign(): boolean {
    return this.foreign || this.functions.size > 0 || [...this.numbers.values()].some(Number.isInteger);
  }

  /** Whether an array is one of vectors. */
  isWide(array: string): boolean {
    return this.wide.has(array);
  }

  /** What `write` writes is for so many neighbours at once. */
  each(lanes: Lanes, write: () => void): void {
    this.lanes = lanes;
    write();
    this.lanes = 1;
  }

  /** A statement that is in the language already. */
  raw(text: string): void {
    this.lines.push(text);
  }

  private isVector(...texts: readonly string[]): boolean {
    return texts.some((text) => text.match(/\bv\d+\b/g)?.some((name) => this.vectors.has(name)) ?? false);
  }

  private readonly spread: Spread = (value) => `${this.types.vector}(${value})`;

  /** Variables that are floats, as vectors. */
  private spreadNames(text: string): string {
    return text.replace(/\b[vn]\d+\b/g, (name) => (this.vectors.has(name) ? name : this.spread(name)));
  }

  private text(expression: string, asVector: boolean): string {
    this.foreign ||= isForeign(expression);
    return asVector ? this.spreadNames(this.inLanguage(expression, this.spread)) : this.inLanguage(expression);
  }

  protected declare(value: string, asVector: boolean): string {
    const name = `v${this.next++}`;
    if (asVector) this.vectors.add(name);
    this.lines.push(this.declaration(asVector ? this.types.vector : this.types.float, name, value, false));
    return name;
  }

  override line(text: string): void {
    this.foreign ||= isForeign(text) || this.isVector(text);
    this.lines.push(
      this.inLanguage(text).replace(/\blet (\w+) = ([^;]*);/g, (_, name: string, value: string) =>
        this.declaration(this.types.float, name, value, false),
      ),
    );
  }

  override let(expression: string): string {
    const asVector = this.isVector(expression);
    return this.declare(this.text(expression, asVector), asVector);
  }

  override accumulator(expression: string): string {
    const asVector = this.lanes > 1;
    return this.declare(this.text(expression, asVector), asVector);
  }

  override index(expression: string): string {
    const name = `a${this.next++}`;
    this.lines.push(this.declaration(this.types.int, name, expression, true));
    this.made.set(name, expression);
    return name;
  }

  override base(expression: string): string {
    const name = this.index(expression);
    this.isFour(name, this.index(`${name} >> 2u`));
    return name;
  }

  /** Says that an index is four times another one. */
  isFour(index: string, quarter: string): void {
    this.quarters.set(index, quarter);
  }

  /** Place of the vector at an address, which is a multiple of four. */
  protected quarter(address: string): string {
    const parts = (this.made.get(address) ?? address).split(" + ").map((part) => this.quarters.get(part));
    return parts.every((part) => part !== undefined) ? parts.join(" + ") : `(${address}) >> 2u`;
  }

  override number(index: string, stride: number): string {
    const { float, ints, vector } = this.types;
    if (this.lanes === 1 || stride === 0) return this.declare(`${float}(${index})`, false);
    return this.declare(`${vector}(${ints}(${index}) + ${this.steps(stride)})`, true);
  }

  /**
   * Begins a loop over whole numbers, all of them multiples of so many lanes.
   *
   * @param first text of an index
   */
  walk(first: string, end: number, step: number, lanes: Lanes): string {
    const [name, count] = [`k${this.next}`, `q${this.next++}`];
    if (lanes === 1) this.lines.push(this.loop(name, first, end, step));
    else {
      this.lines.push(this.loop(count, `(${first}) / ${lanes}`, end / lanes, step / lanes));
      this.lines.push(this.declaration(this.types.int, name, `${count} * ${lanes}`, true));
      this.isFour(name, count);
    }
    return name;
  }

  /** An int32 as an index. */
  wholeOf(value: Value): string {
    const { int, uint } = this.types;
    if (value.kind === "single") return this.index(`${int}(${this.inLanguage(value.name)})`);
    const [high, low] = [value.high, value.low].map((limb) => `${uint}(${this.inLanguage(limb)})`);
    return this.index(`${int}((${high} << 16u) | ${low})`);
  }

  /** A new variable: a float where an index is one of so many, else 0. */
  within(index: string, extent: number, value: string): string {
    return this.declare(this.chosen("0.0", value, `${index} >= 0 && ${index} < ${extent}`, false), false);
  }

  /** Distances of the neighbours. */
  private steps(stride: number): string {
    return `${this.types.ints}(${components.map((_, lane) => lane * stride).join(", ")})`;
  }

  override assign(name: string, expression: string): void {
    this.lines.push(`${name} = ${this.text(expression, this.isVector(name))};`);
  }

  override update(name: string, conditions: readonly string[], expression: string): void {
    this.lines.push(`${name} = ${this.choice(conditions, expression, name, this.isVector(name))};`);
  }

  override choose(condition: string, expression: string, otherwise: string): string {
    const asVector = this.isVector(condition, expression, otherwise);
    return this.declare(this.choice([condition], expression, otherwise, asVector), asVector);
  }

  /** Text of the larger of two floats, NaN when either is. */
  largest(mine: string, other: string): string {
    return this.choice([`${other} > ${mine} || !(${other} <= 0 || ${other} > 0)`], other, mine, false);
  }

  private choice(conditions: readonly string[], expression: string, otherwise: string, asVector: boolean): string {
    const every = this.isVector(...conditions);
    this.foreign ||= conditions.some(isForeign);
    const condition = this.condition(conditions, every ? this.spread : undefined);
    this.foreign ||= condition === null;
    const text = every ? this.spreadNames(condition ?? "") : (condition ?? "");
    return this.chosen(this.text(otherwise, asVector), this.text(expression, asVector), text, every);
  }

  override read(array: string, address: string, bounds: readonly Bound[], stride: number): string {
    const { vector, ints } = this.types;
    const asVector = this.lanes > 1 && stride !== 0;
    const value = asVector ? this.neighbours(array, address, stride) : this.element(array, address);
    if (!bounds.length) return this.declare(value, asVector);
    const isInside = ({ index, from, to }: Bound) => `${index} >= ${from} && ${index} < ${to}`;
    // what is outside of the bounds may be outside of the array: reading there is harmless
    let read = value;
    let isRead = asVector;
    for (const bound of bounds) {
      const each = this.lanes > 1 && bound.isInner;
      if (each && !isRead) read = `${vector}(${read})`;
      isRead ||= each;
      const zero = isRead ? `${vector}(0.0)` : "0.0";
      const condition = each
        ? this.inRange(`(${ints}(${bound.index}) + ${this.steps(1)})`, bound.from, bound.to)
        : isInside(bound);
      read = this.chosen(zero, read, condition, each);
    }
    return this.declare(read, isRead);
  }

  private element(array: string, address: string): string {
    if (!this.wide.has(array)) return this.at(array, address);
    return `${this.at(array, `(${address}) >> 2u`)}[(${address}) & 3]`;
  }

  private neighbours(array: string, address: string, stride: number): string {
    if (this.wide.has(array) && stride === 1) return this.at(array, this.quarter(address));
    const each = components.map((_, lane) => this.element(array, lane ? `${address} + ${lane * stride}` : address));
    return `${this.types.vector}(${each.join(", ")})`;
  }

  override split(x: string, n: number, most: number): [quotient: string, rest: string] {
    if (n === 1) return [x, "0"];
    const { int, float } = this.types;
    const quotient = this.index(most <= fewEnough ? `${int}((${float}(${x}) + 0.5) * ${inverseText(n)})` : `${x} / ${n}`);
    return [quotient, this.index(`${x} - ${quotient} * ${n}`)];
  }

  /** A float made of the lanes of a variable, two by two; the variable itself where it has one. */
  folded(name: string, combine: (mine: string, other: string) => string): string {
    if (!this.vectors.has(name)) return name;
    const [x, y, z, w] = components.map((component) => this.declare(`${name}.${component}`, false)) as [
      string,
      string,
      string,
      string,
    ];
    return this.declare(combine(this.declare(combine(x, y), false), this.declare(combine(z, w), false)), false);
  }

  /** Writes a value to a result at an address, from which on it has so many neighbours. */
  store(address: string, name: string, lanes: Lanes, isWide: boolean, result = 0): void {
    const isVector = this.vectors.has(name);
    if (lanes === 1) this.write(result, address, name);
    else if (isWide) this.write(result, this.quarter(address), isVector ? name : this.spread(name));
    else
      components.forEach((component, lane) => {
        this.write(result, `${address} + ${lane}`, isVector ? `${name}.${component}` : name);
      });
  }
}
