/** The statements of a kernel in WGSL. */
import { onFloats, ShaderCode, type Spread } from "./shader-code.ts";

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

/** Statements of a compute shader. */
export class WgslCode extends ShaderCode {
  /** Results that are written over an array that is read, by its name. */
  readonly inPlace = new Map<number, string>();
  override readonly types = { float: "f32", vector: "vec4<f32>", int: "i32", ints: "vec4<i32>", uint: "u32" };

  protected override declaration(type: string, name: string, value: string, isFixed: boolean): string {
    return `${isFixed ? "let" : "var"} ${name} : ${type} = ${value};`;
  }

  protected override inLanguage(text: string, spread?: Spread): string {
    return onFloats(withoutBranches(text), spread);
  }

  protected override condition(texts: readonly string[], spread?: Spread): string {
    return texts.map((text) => `(${this.inLanguage(text, spread)})`).join(" & ");
  }

  protected override inRange(value: string, from: number, to: number): string {
    return `(${value} >= vec4<i32>(${from})) & (${value} < vec4<i32>(${to}))`;
  }

  protected override chosen(otherwise: string, value: string, condition: string): string {
    return `select(${otherwise}, ${value}, ${condition})`;
  }

  protected override loop(name: string, first: string, end: number, step: number): string {
    return `for (var ${name} = ${first}; ${name} < ${end}; ${name} += ${step}) {`;
  }

  protected override at(array: string, address: string): string {
    return `${array}[${address}]`;
  }

  protected override write(result: number, address: string, value: string): void {
    this.raw(`${this.inPlace.get(result) ?? resultName(result)}[${address}] = ${value};`);
  }
}

/** Name of the result of that number. */
export const resultName = (result: number): string => (result ? `result${result}` : "result");
