/**
 * The statements of a kernel in WGSL. Addresses are whole numbers there, and the values of four neighbours along the inner axis can be one
 * variable, a vec4: what is read along that axis is one, and so is what is computed from one. Everything else stays a float, and is spread
 * where it meets a vec4. A vec4 has no branches, so conditions choose between values that are both computed.
 */
import { type Bound, Code, fewEnough, inverseText, type Value } from "./code.ts";

/** Elements that one variable holds. */
export type Lanes = 1 | 4;

const components = ["x", "y", "z", "w"] as const;

/** What has no WGSL of the same look: whole numbers' bits, and both of "and" and "or", which have no order there. */
const isForeign = (line: string): boolean => /[^&]&[^&]|[^|]\|[^|]|\^|&&.*\|\||\|\|.*&&/.test(line);

/**
 * Conditions are all computed: a compiler makes branches of `&&`, and SwiftShader needs minutes for a few dozen of them in a loop.
 */
const withoutBranches = (text: string): string =>
  /&&|\|\|/.test(text)
    ? text
        .replace(/[\w.]+ (?:[<>]=?|[=!]==?) -?[\w.]+/g, "($&)")
        .replaceAll("&&", "&")
        .replaceAll("||", "|")
    : text;

/** JavaScript of `Code` on floats, or on vec4 where it says how a float is spread. */
const inWgsl = (text: string, spread = (value: string): string => value): string =>
  withoutBranches(text)
    .replace(/\bMath\./g, "")
    .replaceAll("===", "==")
    .replaceAll("!==", "!=")
    .replace(/(?<![\w.])\d+(?:\.\d+)?(?![\w.])/g, (number) => spread(number.includes(".") ? number : `${number}.0`));

export class WgslCode extends Code {
  /** The one thing that says how many elements are computed at once from here on; `each` sets it. */
  private lanes: Lanes = 1;
  /** Variables that are vec4. */
  private readonly vectors = new Set<string>();
  /** Arrays that are bound as vec4. */
  private readonly wide: ReadonlySet<string>;
  /** What index variables are made of, and those that are four times another: a vec4 lies at that one. */
  private readonly made = new Map<string, string>();
  private readonly quarters = new Map<string, string>();
  private foreign = false;

  /** @param wide names of the arrays whose elements along the inner axis are read as vec4: they lie side by side, and begin at fours */
  constructor(wide: ReadonlySet<string>) {
    super();
    this.wide = wide;
  }

  /** Whether there were statements that this has no form for: then nothing of it may be used. */
  get isForeign(): boolean {
    return this.foreign || this.functions.size > 0 || [...this.numbers.values()].some(Number.isInteger);
  }

  /** Type of the elements of an array. */
  typeOf(array: string): string {
    return this.wide.has(array) ? "vec4<f32>" : "f32";
  }

  /** What `write` writes is for so many neighbours at once. */
  each(lanes: Lanes, write: () => void): void {
    this.lanes = lanes;
    write();
    this.lanes = 1;
  }

  /** A statement that is WGSL already. */
  wgsl(text: string): void {
    this.lines.push(text);
  }

  private isVector(...texts: readonly string[]): boolean {
    return texts.some((text) => text.match(/\bv\d+\b/g)?.some((name) => this.vectors.has(name)) ?? false);
  }

  private text(expression: string, asVector: boolean): string {
    this.foreign ||= isForeign(expression);
    if (!asVector) return inWgsl(expression);
    const spread = (value: string) => `vec4<f32>(${value})`;
    return inWgsl(expression, spread).replace(/\b[vn]\d+\b/g, (name) => (this.vectors.has(name) ? name : spread(name)));
  }

  private declare(value: string, asVector: boolean): string {
    const name = `v${this.next++}`;
    if (asVector) this.vectors.add(name);
    this.lines.push(`var ${name} : ${asVector ? "vec4<f32>" : "f32"} = ${value};`);
    return name;
  }

  override line(text: string): void {
    this.foreign ||= isForeign(text) || this.isVector(text);
    this.lines.push(inWgsl(text).replace(/\blet (\w+) =/g, "var $1 : f32 ="));
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
    this.lines.push(`let ${name} : i32 = ${expression};`);
    this.made.set(name, expression);
    return name;
  }

  override base(expression: string): string {
    const name = this.index(expression);
    this.quarters.set(name, this.index(`${name} >> 2u`));
    return name;
  }

  /** Place of the vec4 at an address, which is a multiple of four. */
  private quarter(address: string): string {
    const parts = (this.made.get(address) ?? address).split(" + ").map((part) => this.quarters.get(part));
    return parts.every((part) => part !== undefined) ? parts.join(" + ") : `(${address}) >> 2u`;
  }

  override number(index: string, stride: number): string {
    if (this.lanes === 1 || stride === 0) return this.declare(`f32(${index})`, false);
    return this.declare(`vec4<f32>(vec4<i32>(${index}) + ${this.steps(stride)})`, true);
  }

  /**
   * Begins a loop over whole numbers, all of them multiples of so many lanes.
   *
   * @param first text of an index
   */
  walk(first: string, end: number, step: number, lanes: Lanes): string {
    const [name, count] = [`k${this.next}`, `q${this.next++}`];
    if (lanes === 1) this.lines.push(`for (var ${name} = ${first}; ${name} < ${end}; ${name} += ${step}) {`);
    else {
      this.lines.push(`for (var ${count} = (${first}) / ${lanes}; ${count} < ${end / lanes}; ${count} += ${step / lanes}) {`);
      this.lines.push(`let ${name} = ${count} * ${lanes};`);
      this.quarters.set(name, count);
    }
    return name;
  }

  /** An int32 as an index. */
  wholeOf(value: Value): string {
    if (value.kind === "single") return this.index(`i32(${inWgsl(value.name)})`);
    const [high, low] = [value.high, value.low].map((limb) => `u32(${inWgsl(limb)})`);
    return this.index(`i32((${high} << 16u) | ${low})`);
  }

  /** A new variable: a float where an index is one of so many, else 0. */
  within(index: string, extent: number, value: string): string {
    return this.declare(`select(0.0, ${value}, ${index} >= 0 && ${index} < ${extent})`, false);
  }

  /** Distances of the neighbours. */
  private steps(stride: number): string {
    return `vec4<i32>(${components.map((_, lane) => lane * stride).join(", ")})`;
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

  private choice(conditions: readonly string[], expression: string, otherwise: string, asVector: boolean): string {
    const every = this.isVector(...conditions);
    const condition = conditions.map((each) => `(${this.text(each, every)})`).join(" & ");
    return `select(${this.text(otherwise, asVector)}, ${this.text(expression, asVector)}, ${condition})`;
  }

  override read(array: string, address: string, bounds: readonly Bound[], stride: number): string {
    const asVector = this.lanes > 1 && stride !== 0;
    const value = asVector ? this.neighbours(array, address, stride) : this.element(array, address);
    if (!bounds.length) return this.declare(value, asVector);
    const spread = asVector || (this.lanes > 1 && bounds.some(({ isInner }) => isInner));
    const inside = bounds.map(({ index, from, to, isInner }): string => {
      if (spread && isInner) {
        const all = `(vec4<i32>(${index}) + ${this.steps(1)})`;
        return `(${all} >= vec4<i32>(${from})) & (${all} < vec4<i32>(${to}))`;
      }
      return `${spread ? "vec4<bool>" : ""}(${index} >= ${from} && ${index} < ${to})`;
    });
    // what is outside of the bounds may be outside of the array: reading there is harmless
    const [zero, read] = spread ? ["vec4<f32>()", asVector ? value : `vec4<f32>(${value})`] : ["0.0", value];
    return this.declare(`select(${zero}, ${read}, ${inside.join(" & ")})`, spread);
  }

  private element(array: string, address: string): string {
    if (!this.wide.has(array)) return `${array}[${address}]`;
    return `${array}[(${address}) >> 2u][(${address}) & 3]`;
  }

  private neighbours(array: string, address: string, stride: number): string {
    if (this.wide.has(array) && stride === 1) return `${array}[${this.quarter(address)}]`;
    const each = components.map((_, lane) => this.element(array, lane ? `${address} + ${lane * stride}` : address));
    return `vec4<f32>(${each.join(", ")})`;
  }

  override split(x: string, n: number, most: number): [quotient: string, rest: string] {
    if (n === 1) return [x, "0"];
    const quotient = this.index(most <= fewEnough ? `i32((f32(${x}) + 0.5) * ${inverseText(n)})` : `${x} / ${n}`);
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

  /** Writes a value to `result` at an address, from which on it has so many neighbours. */
  store(address: string, name: string, lanes: Lanes, isWide: boolean): void {
    const isVector = this.vectors.has(name);
    if (lanes === 1) this.lines.push(`result[${address}] = ${name};`);
    else if (isWide) this.lines.push(`result[${this.quarter(address)}] = ${isVector ? name : `vec4<f32>(${name})`};`);
    else
      components.forEach((component, lane) => {
        this.lines.push(`result[${address} + ${lane}] = ${isVector ? `${name}.${component}` : name};`);
      });
  }
}
