/** Tensors as text, as numpy writes them: aligned columns, big ones with their middle left out, shape and dtype at the end. */
import { downloadSync } from "../compile/program.ts";
import { checkOptions } from "../errors.ts";
import { concatenate } from "../graph/composite.ts";
import { type DType, fromBFloat16Bits, fromFloat16Bits, isFloat, type TypedArray } from "../graph/dtype.ts";
import { sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import type { Shape } from "../graph/shape.ts";
import { isObserved } from "../graph/variable.ts";

/** How much of a tensor is printed, and how exactly. */
export interface PrintOptions {
  /** Digits after the point, at most. */
  readonly precision?: number;
  /** Tensors of more values are shown by their edges. */
  readonly threshold?: number;
  /** How many values an edge has. */
  readonly edgeItems?: number;
  /** Longest line, in characters. */
  readonly lineWidth?: number;
}

const defaults = { precision: 4, threshold: 1000, edgeItems: 3, lineWidth: 100 } satisfies Required<PrintOptions>;

/** 16-bit floats as numbers; other values as they are. */
export function readable(values: TypedArray, dtype: DType): TypedArray {
  if (dtype === "float16") return Float32Array.from(values, fromFloat16Bits);
  return dtype === "bfloat16" ? Float32Array.from(values, fromBFloat16Bits) : values;
}

/** Values as aligned text, one function for all of them. */
function formatter(values: ArrayLike<number>, dtype: DType, precision: number): (value: number) => string {
  if (dtype === "bool") return (value) => (value ? "true" : "false");
  if (!isFloat(dtype)) return String;
  let [largest, smallest] = [0, Number.POSITIVE_INFINITY];
  for (let i = 0; i < values.length; i++) {
    const size = Math.abs(values[i]!);
    if (!Number.isFinite(size) || size === 0) continue;
    largest = Math.max(largest, size);
    smallest = Math.min(smallest, size);
  }
  const special = (value: number) => (Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf");
  const exponential = largest >= 1e8 || smallest < 1e-4;
  const write = exponential
    ? (value: number, digits: number) => value.toExponential(digits).replace(/e([+-])(\d)$/, "e$10$2")
    : (value: number, digits: number) => value.toFixed(digits);
  // no more digits than some value needs
  let digits = 0;
  for (let i = 0; i < values.length && digits < precision; i++) {
    const value = values[i]!;
    if (!Number.isFinite(value)) continue;
    const rounded = Number(write(value, precision));
    while (digits < precision && Number(write(value, digits)) !== rounded) digits++;
  }
  return (value) => (Number.isFinite(value) ? write(value, digits) : special(value));
}

/**
 * Values in row-major order as text. `cut` are the axes of which only the edges are there, with `…` between them.
 */
function format(
  values: ArrayLike<number>,
  shape: Shape,
  dtype: DType,
  options: PrintOptions = {},
  cut: readonly boolean[] = [],
): string {
  const { precision, edgeItems, lineWidth } = { ...defaults, ...options };
  const write = formatter(values, dtype, precision);
  const texts = Array.from(values, write);
  const width = texts.reduce((widest, { length }) => Math.max(widest, length), 0);
  const block = (axis: number, start: number, stride: number): string => {
    if (axis === shape.length) return texts[start]!.padStart(shape.length ? width : 0);
    const extent = shape[axis]!;
    const inner = stride / Math.max(extent, 1);
    const items = Array.from({ length: extent }, (_, i) => block(axis + 1, start + i * inner, inner));
    if (cut[axis]) items.splice(edgeItems, 0, "…");
    const indent = " ".repeat(axis + 1);
    if (axis < shape.length - 1) return `[${items.join(`${"\n".repeat(shape.length - 1 - axis)}${indent}`)}]`;
    let line = "";
    const lines: string[] = [];
    for (const item of items) {
      if (line && indent.length + line.length + 1 + item.length > lineWidth) {
        lines.push(line);
        line = item;
      } else line = line ? `${line} ${item}` : item;
    }
    return `[${[...lines, line].join(`\n${indent}`)}]`;
  };
  return block(0, 0, values.length);
}

const suffix = (x: Tensor): string => `${x.dtype} [${x.shape.join(", ")}]`;

/** Only the first and last `edgeItems` along every axis that is longer. */
function edges(x: Tensor, edgeItems: number): { shown: Tensor; cut: boolean[] } {
  const cut = x.shape.map((extent) => extent > 2 * edgeItems + 1);
  const shown = cut.reduce((y, isCut, axis) => {
    const extent = x.shape[axis]!;
    return isCut ? concatenate([sliceAxis(y, axis, 0, edgeItems), sliceAxis(y, axis, extent - edgeItems, extent)], axis) : y;
  }, x);
  return { shown, cut };
}

/**
 * The values of `x`, its dtype and its shape; computes it if it was not.
 *
 * @example
 * print(tensor([[1, 2.5], [-3, 4]]))
 * // [[ 1.0  2.5]
 * //  [-3.0  4.0]] float32 [2, 2]
 */
export function print(x: Tensor, options: PrintOptions = {}): string {
  checkOptions("print", options, {
    precision: "a whole number from 0 to 100",
    threshold: "a number",
    edgeItems: "a whole number from 0",
    lineWidth: "a number",
  });
  const { threshold, edgeItems } = { ...defaults, ...options };
  const { shown, cut } = x.size > threshold ? edges(x, edgeItems) : { shown: x, cut: [] };
  return `${format(readable(downloadSync(shown), x.dtype), shown.shape, x.dtype, options, cut)} ${suffix(x)}`;
}

/** `print`, or only dtype and shape where there are no values: while tracing, after disposal, on devices that cannot be read at once. */
export function describe(x: Tensor): string {
  if (isObserved()) return `${suffix(x)}, being traced`;
  if (x.storage?.disposed) return `${suffix(x)}, disposed`;
  try {
    return print(x);
  } catch {
    return suffix(x);
  }
}
