/**
 * The statements of a kernel in the GLSL of WebGL 2, where a thread writes one place of each result and reads arrays by the readers of
 * gl-shader.ts: `at_a(i)` a float, `four_a(i)` four, `own_a()` and `own_four_a()` those that have the place of what is written.
 */
import { onFloats, ShaderCode, type Spread } from "./shader-code.ts";

/** Parts of a text between the signs that stand outside of all parentheses. */
function apart(text: string, sign: string): string[] {
  const parts = [""];
  let depth = 0;
  for (const word of text.split(/(\(|\)| && | \|\| )/)) {
    depth += word === "(" ? 1 : word === ")" ? -1 : 0;
    if (depth === 0 && word === ` ${sign} `) parts.push("");
    else parts[parts.length - 1] += word;
  }
  return parts;
}

const comparisons: Readonly<Record<string, string>> = {
  "<": "lessThan",
  "<=": "lessThanEqual",
  ">": "greaterThan",
  ">=": "greaterThanEqual",
  "===": "equal",
  "!==": "notEqual",
};

/** A condition on four neighbours: comparisons are functions, and there is no "and" of their results. */
function onVectors(text: string, spread: Spread): string | null {
  for (const [sign, name] of [
    ["||", "either"],
    ["&&", "both"],
  ] as const) {
    const parts = apart(text, sign);
    if (parts.length === 1) continue;
    const each = parts.map((part) => onVectors(part, spread));
    return each.includes(null) ? null : each.reduce((a, b) => `${name}(${a}, ${b})`);
  }
  const [, not, inside] = /^(!?)\((.*)\)$/.exec(text) ?? [];
  if (inside !== undefined) {
    const condition = onVectors(inside, spread);
    return condition && (not ? `not(${condition})` : condition);
  }
  const [, left, sign, right] = /^(-?[\w.]+) ([<>]=?|[=!]==) (-?[\w.]+)$/.exec(text) ?? [];
  return sign === undefined ? null : `${comparisons[sign]}(${onFloats(left!, spread)}, ${onFloats(right!, spread)})`;
}

/** What `onVectors` calls. */
export const onBooleans = `bvec4 both(bvec4 a, bvec4 b) { return bvec4(uvec4(a) & uvec4(b)); }
bvec4 either(bvec4 a, bvec4 b) { return bvec4(uvec4(a) | uvec4(b)); }`;

/** Statements of a fragment shader. */
export class GlslCode extends ShaderCode {
  override readonly types = { float: "float", vector: "vec4", int: "int", ints: "ivec4", uint: "uint" };
  private readonly own: string;
  private readonly ownIsFour: boolean;

  /**
   * @param own       index of the one place that is written, among floats or among fours
   * @param ownIsFour which of both
   */
  constructor(wide: ReadonlySet<string>, own: string, ownIsFour: boolean) {
    super(wide);
    this.own = own;
    this.ownIsFour = ownIsFour;
  }

  protected override declaration(type: string, name: string, value: string): string {
    return `${type} ${name} = ${value};`;
  }

  protected override inLanguage(text: string, spread?: Spread): string {
    return onFloats(text, spread);
  }

  protected override condition(texts: readonly string[], spread?: Spread): string | null {
    if (!spread) return texts.map((text) => `(${onFloats(text)})`).join(" && ");
    return onVectors(texts.length > 1 ? texts.map((text) => `(${text})`).join(" && ") : texts[0]!, spread);
  }

  protected override inRange(value: string, from: number, to: number): string {
    return `both(greaterThanEqual(${value}, ivec4(${from})), lessThan(${value}, ivec4(${to})))`;
  }

  protected override chosen(otherwise: string, value: string, condition: string, isEach: boolean): string {
    return isEach ? `mix(${otherwise}, ${value}, ${condition})` : `(${condition} ? ${value} : ${otherwise})`;
  }

  protected override loop(name: string, first: string, end: number, step: number): string {
    return `for (int ${name} = ${first}; ${name} < ${end}; ${name} += ${step}) {`;
  }

  protected override at(array: string, address: string): string {
    const isWide = this.isWide(array);
    if (address === this.own && isWide === this.ownIsFour) return `own_${isWide ? "four_" : ""}${array}()`;
    return `${isWide ? "four" : "at"}_${array}(${address})`;
  }

  protected override write(result: number, _address: string, value: string): void {
    this.raw(`data${result} = vec4(${value});`);
  }

  /** Numbers that have no literal are made of their bits. */
  override literal(value: number): string {
    const text = super.literal(value);
    if (!this.numbers.delete(text)) return text;
    const bits = new Uint32Array(Float32Array.of(value).buffer)[0]!;
    return this.declare(`uintBitsToFloat(${bits}u)`, false);
  }
}
