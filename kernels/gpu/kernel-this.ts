/** What `this` is inside of a kernel: the thread's number, and the sizes that it was made for. */
export interface KernelThis<Size extends string> {
  readonly thread: { readonly x: number };
  readonly constants: Readonly<Record<Size, number>>;
}

/** Flat, in row-major order. An int32 lies as two floats, its lower and its upper 16 bits. */
export type Floats = ArrayLike<number>;

/** By row and column: whole numbers find any element, where a flat index is a float and exact up to 2²⁴ only. */
export type Rows = ArrayLike<Floats>;
