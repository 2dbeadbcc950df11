/** What `this` is inside of a kernel: the thread's number, and the sizes that it was made for. */
export interface KernelThis<Size extends string> {
  readonly thread: { readonly x: number };
  readonly constants: Readonly<Record<Size, number>>;
}

/** Flat, in row-major order. An int32 lies as two floats, its lower and its upper 16 bits. */
export type Floats = ArrayLike<number>;

/** By row and column: whole numbers find any element, where a flat index is a float and exact up to 2²⁴ only. */
export type Rows = ArrayLike<Floats>;

/** A kernel in place of the instructions of a loop program that compute one of its values. */
export interface HandKernel {
  readonly kernel: (...args: never[]) => number;
  /** What it takes, in order: arrays by the names that `computes` gives them, numbers, and numbers that the program chooses. */
  readonly reads: string;
  /** The value, as the compiler writes it; rows.ts says how to read it. */
  readonly computes: string;
  /** Worth the memory only where computing is what takes time, and where somebody else reads it, too. */
  readonly isKept?: boolean;
}
