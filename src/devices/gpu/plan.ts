/**
 * What the device runs: passes, each one launch, that write values: a kernel of GPU.js writes one, a shader of ours may write several.
 * A loop program or a kernel call of the compiler becomes a plan of one or more passes; values between them are temporaries. The values of
 * a plan are numbered as they are written.
 */
import { quotient } from "../../../kernels/gpu/math.ts";
import { functionSource } from "./function-source.ts";

/** What a kernel reads: a binding of the dispatch, what an earlier pass of the plan wrote, or a number. */
export type Argument = ArrayArgument | { readonly kind: "number"; readonly value: number };

/** An array that a kernel reads: a binding of the dispatch, or a value that an earlier pass wrote, by its number. */
export interface ArrayArgument {
  readonly kind: "binding" | "pass";
  readonly index: number;
  /** Floats in a row of a value that the kernel reads as `value[row][column]`, which any number of floats allows. */
  readonly row?: number;
}

/** One kernel of a plan. */
export interface Pass {
  /** JavaScript source of the kernel, sizes and strides included: equal sources, equal kernels. */
  readonly source: string;
  /** Functions of kernels/gpu/math.ts that it calls. */
  readonly functions: readonly string[];
  /** Sizes, and numbers made of them, that the source reads as `this.constants`. */
  readonly constants?: Readonly<Record<string, number>>;
  readonly args: readonly Argument[];
  /** What it writes: one float a thread, or one texel of four. */
  readonly count: number;
  /** The same of further values, which only shaders of ours write. */
  readonly also?: readonly number[];
  /** For each value the argument in whose memory it is written, if any: nobody reads that one any more. Mode webgpu. */
  readonly inPlace?: readonly (number | undefined)[];
  /** Mode webgpu runs this shader in place of the source. */
  readonly wgsl?: {
    readonly code: string;
    readonly workgroups: number;
    /** Addresses are floats, as GPU.js's are, and not whole numbers. */
    readonly indices?: "float";
  };
  /** Modes webgl2 and webgl run this fragment shader in place of the source. */
  readonly glsl?: string;
  /**
   * Mode webgl2 copies its one array, four layers of which each holds every fourth row of matrices so wide, to a flat value: no shader
   * runs. Equal passes have equal sources here, too.
   */
  readonly copiedColumns?: number;
  /** Mode webgl2 copies its one array, a flat value, to the texture of `size` and draws `glsl` only where it cannot. */
  readonly copiesFours?: boolean;
  /** In mode webgl the four layers that `glsl` writes, each of which holds every fourth row of matrices so wide, are the flat value. */
  readonly fours?: number;
  /** What it makes of its one array is kept with that array under this name, from the second time on, for whoever asks for the same. */
  readonly kept?: string;
  /** The texture of four floats a texel that `glsl` writes, and its layers; without it a flat value is written. */
  readonly size?: readonly [width: number, height: number];
  readonly layers?: number;
}

/** What the `gpu` device runs for one program or call: kernels, one after the other. */
export interface Plan {
  readonly passes: readonly Pass[];
  /** The value, by its number, that is each result. */
  readonly results: readonly { readonly binding: number; readonly pass: number }[];
  /** Looks at operands before it runs, in modes whose memory can be read at no cost; throws for what no kernel may meet. */
  readonly check?: (read: (binding: number) => ArrayLike<number>) => void;
}

/** Counts of all that a pass writes. */
export const countsOf = ({ count, also = [] }: Pass): readonly number[] => [count, ...also];

/** The passes of a plan while it is made. */
export class Passes {
  readonly all: Pass[] = [];
  private values = 0;

  /** Adds a pass; gives the number of the first value that it writes. */
  add(pass: Pass): number {
    const first = this.values;
    this.all.push(pass);
    this.values += countsOf(pass).length;
    return first;
  }
}

/** Floats that a value of a dtype takes per element: an int32 lies as its lower and its upper 16 bits. */
export const floatsPerElement = (dtype: string): number => (dtype === "int32" ? 2 : 1);

/** Operand or result `index` of the call, as a flat array. */
export const binding = (index: number): ArrayArgument => ({ kind: "binding", index });
/** Read by row and column. */
export const rowsOf = (index: number, row: number): ArrayArgument => ({ kind: "binding", index, row });
/** The value that pass `index` of the plan has written. */
export const pass = (index: number): ArrayArgument => ({ kind: "pass", index });

const quotientCall = /const (\w+) = quotient\(([\w.]+), ([\w.]+), (.+)\);/g;

/** A kernel with the statements of `quotient` in place of its calls, which GPU.js does not inline: in mode webasm they took a tenth to a third of the time. */
function withQuotients(text: string): string {
  const [, body] = /\{([\s\S]*?)return q;/.exec(functionSource(quotient))!;
  return text.replace(quotientCall, (_call, q, x, n, estimate) => {
    const given: Readonly<Record<string, string>> = { q, x, n, estimate };
    return body!.replace(/(?<![.\w])(q|x|n|estimate)\b/g, (name) => given[name]!).trim();
  });
}

/** A pass that runs a function of kernels/gpu, which GPU.js takes as text. */
export function kernel(
  source: (...args: never[]) => number | number[],
  constants: Readonly<Record<string, number>>,
  args: readonly Argument[],
  count: number,
): Pass {
  return { source: withQuotients(functionSource(source)), functions: [], constants, args, count };
}
