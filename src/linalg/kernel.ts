/** The inner loops of the factorisations and the memory that they run in. */
import { float64Module, tile } from "../../kernels/wasm/float64.ts";
import { features } from "../devices/wasm/features.ts";

/**
 * What takes most of the time of a factorisation, over arrays of one memory: a WebAssembly module where vectors of two float64 are to
 * be had, plain loops elsewhere.
 */
export interface Kernels {
  /** Takes `length` elements of the memory, all zero. At most 32 arrays. */
  array(length: number): Float64Array;
  /**
   * c = a·b for panels: a holds, for each four rows and each k, the four values of column k; b, for each four columns and each k,
   * the four values of row k. c has `rowStep` elements a row.
   */
  multiply(
    a: Float64Array,
    b: Float64Array,
    c: Float64Array,
    rowPanels: number,
    columnPanels: number,
    depth: number,
    rowStep: number,
  ): void;
  /** y = A·x, rows of A `step` elements apart. */
  dots(y: Float64Array, A: Float64Array, x: Float64Array, rows: number, columns: number, step: number): void;
  /** y += Aᵀ·x. */
  combine(y: Float64Array, A: Float64Array, x: Float64Array, rows: number, columns: number, step: number): void;
}

type Loops = Omit<Kernels, "array">;

/** In JavaScript: what the kernels mean. */
export const plainLoops: Loops = {
  multiply(a, b, c, rowPanels, columnPanels, depth, rowStep) {
    for (let i = 0; i < rowPanels * tile; i++)
      for (let j = 0; j < columnPanels * tile; j++) {
        let [sum, at, from] = [0, (i - (i % tile)) * depth + (i % tile), (j - (j % tile)) * depth + (j % tile)];
        for (let k = 0; k < depth; k++, at += tile, from += tile) sum += a[at]! * b[from]!;
        c[i * rowStep + j] = sum;
      }
  },
  dots(y, A, x, rows, columns, step) {
    for (let i = 0; i < rows; i++) {
      let sum = 0;
      for (let j = 0; j < columns; j++) sum += A[i * step + j]! * x[j]!;
      y[i] = sum;
    }
  },
  combine(y, A, x, rows, columns, step) {
    for (let i = 0; i < rows; i++) {
      const factor = x[i]!;
      for (let j = 0; j < columns; j++) y[j] = y[j]! + A[i * step + j]! * factor;
    }
  },
};

type Address = (...integers: number[]) => void;

let module: WebAssembly.Module | undefined;

function wasmLoops(memory: WebAssembly.Memory): Loops {
  module ??= new WebAssembly.Module(float64Module(features().relaxedSimd));
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  const { multiply, dots, combine } = exports as Record<"multiply" | "dots" | "combine", Address>;
  return {
    multiply: (a, b, c, rowPanels, columnPanels, depth, rowStep) =>
      multiply(a.byteOffset, b.byteOffset, c.byteOffset, rowPanels, columnPanels, depth, 8 * rowStep),
    dots: (y, A, x, rows, columns, step) => dots(y.byteOffset, A.byteOffset, x.byteOffset, rows, columns, 8 * step),
    combine: (y, A, x, rows, columns, step) => combine(y.byteOffset, A.byteOffset, x.byteOffset, rows, columns, 8 * step),
  };
}

const pageBytes = 65536;

/** Kernels with a new memory of `elements` float64. */
export function newKernels(elements: number): Kernels & { readonly bytes: number; free(): void } {
  const bytes = Math.ceil((elements * 8 + 4096) / pageBytes) * pageBytes;
  const memory = features().simd ? new WebAssembly.Memory({ initial: bytes / pageBytes, maximum: 65536 }) : undefined;
  const buffer = memory?.buffer ?? new ArrayBuffer(bytes);
  let next = 0;
  return {
    ...(memory ? wasmLoops(memory) : plainLoops),
    bytes,
    free() {
      next = 0;
    },
    array(length) {
      const array = new Float64Array(buffer, next, length).fill(0);
      next += Math.ceil((length * 8) / 64) * 64;
      return array;
    },
  };
}

/** A memory larger than this is not kept for the next factorisation. */
const keptBytes = 64 * 2 ** 20;

let kept: ReturnType<typeof newKernels> | undefined;

/** The same, with the memory of an earlier call if that is large enough: arrays that it gave are not to be used any more. */
export function openKernels(elements: number): Kernels {
  const kernels = kept && kept.bytes >= elements * 8 + 4096 ? kept : newKernels(elements);
  kernels.free();
  kept = kernels.bytes > keptBytes ? undefined : kernels;
  return kernels;
}
