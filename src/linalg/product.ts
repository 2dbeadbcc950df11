/** Products of float64 matrices, cut into blocks that stay in the caches. */
import { tile } from "../../kernels/wasm/float64.ts";
import { newKernels } from "./kernel.ts";
import { type Matrix, matrix } from "./matrix.ts";

/** A part of an array as a matrix: element (i, j) is `values[at + i·rowStep + j·columnStep]`. */
export interface View {
  readonly values: Float64Array;
  readonly at: number;
  readonly rows: number;
  readonly columns: number;
  readonly rowStep: number;
  readonly columnStep: number;
}

/** Rows and columns of a matrix, from `row` and `column` on. */
export const part = (A: Matrix, row: number, column: number, rows = A.rows - row, columns = A.columns - column): View => ({
  values: A.values,
  at: row * A.columns + column,
  rows,
  columns,
  rowStep: A.columns,
  columnStep: 1,
});

/** The transpose of a view. */
export const turn = ({ rows, columns, rowStep, columnStep, ...rest }: View): View => ({
  ...rest,
  rows: columns,
  columns: rows,
  rowStep: columnStep,
  columnStep: rowStep,
});

// of C and A, of B and C, and of what is summed at once: the block of A stays in the second cache, a panel of B in the first
const rowBlock = 64;
const columnBlock = 256;
const depthBlock = 256;

let blocks: ReturnType<typeof makeBlocks> | undefined;

function makeBlocks() {
  const kernels = newKernels((rowBlock + columnBlock) * depthBlock + rowBlock * columnBlock);
  const [a, b] = [kernels.array(rowBlock * depthBlock), kernels.array(columnBlock * depthBlock)];
  return { multiply: kernels.multiply, a, b, c: kernels.array(rowBlock * columnBlock) };
}

/** Rows of a view as panels of four: for each of `depth` columns the four values; zeros below the last row. */
function pack(to: Float64Array, view: View, row: number, rows: number, column: number, depth: number): void {
  const { values, rowStep, columnStep } = view;
  for (let i = 0; i < rows; i += tile) {
    const panel = i * depth;
    const first = view.at + (row + i) * rowStep + column * columnStep;
    if (i + 2 * tile <= rows && rowStep === 1) {
      // two panels at a time: what shares a line of the cache is read together
      for (let k = 0, from = first, into = panel, next = panel + tile * depth; k < depth; k++, from += columnStep) {
        for (let r = 0; r < tile; r++, into++, next++) {
          to[into] = values[from + r]!;
          to[next] = values[from + r + tile]!;
        }
      }
      i += tile;
      continue;
    }
    for (let r = 0; r < tile; r++) {
      const inside = i + r < rows;
      let from = first + r * rowStep;
      for (let k = 0, into = panel + r; k < depth; k++, from += columnStep, into += tile) to[into] = inside ? values[from]! : 0;
    }
  }
}

/** C += factor·A·B. C may be neither A nor B. */
export function multiplyAdd(C: View, A: View, B: View, factor = 1): void {
  const [m, n, depth] = [A.rows, B.columns, A.columns];
  if (m * n * depth < 1000) {
    multiplyFew(C, A, B, factor);
    return;
  }
  blocks ??= makeBlocks();
  const { a, b, c, multiply } = blocks;
  const columnsOfB = turn(B);
  for (let k = 0; k < depth; k += depthBlock) {
    const deep = Math.min(depthBlock, depth - k);
    for (let j = 0; j < n; j += columnBlock) {
      const wide = Math.min(columnBlock, n - j);
      const columnPanels = Math.ceil(wide / tile);
      pack(b, columnsOfB, j, wide, k, deep);
      for (let i = 0; i < m; i += rowBlock) {
        const high = Math.min(rowBlock, m - i);
        pack(a, A, i, high, k, deep);
        multiply(a, b, c, Math.ceil(high / tile), columnPanels, deep, columnPanels * tile);
        for (let row = 0; row < high; row++)
          addTo(
            C.values,
            C.at + (i + row) * C.rowStep + j * C.columnStep,
            C.columnStep,
            c,
            row * columnPanels * tile,
            wide,
            factor,
          );
      }
    }
  }
}

/** y += factor·x for `count` elements, those of y `step` apart. */
function addTo(y: Float64Array, at: number, step: number, x: Float64Array, from: number, count: number, factor: number): void {
  for (let i = 0, to = at; i < count; i++, to += step) y[to] = y[to]! + factor * x[from + i]!;
}

/** The same for products too small to be worth packing. */
function multiplyFew(C: View, A: View, B: View, factor: number): void {
  for (let i = 0; i < A.rows; i++)
    for (let j = 0; j < B.columns; j++) {
      let sum = 0;
      let [a, b] = [A.at + i * A.rowStep, B.at + j * B.columnStep];
      for (let k = 0; k < A.columns; k++, a += A.columnStep, b += B.rowStep) sum += A.values[a]! * B.values[b]!;
      const to = C.at + i * C.rowStep + j * C.columnStep;
      C.values[to] = C.values[to]! + factor * sum;
    }
}

/** A·B */
export function product(A: Matrix, B: Matrix): Matrix {
  const C = matrix(A.rows, B.columns);
  multiplyAdd(part(C, 0, 0), part(A, 0, 0), part(B, 0, 0));
  return C;
}
