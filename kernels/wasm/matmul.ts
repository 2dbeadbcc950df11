/**
 * Batched matrix product C = A · B (+ addend) in float32 for the wasm device.
 *
 * How a device uses it:
 * 1. `planMatmul(problem, threads)` looks at sizes and strides and says which code to use, how the work is split into tasks and how
 *    much scratch a thread needs; `undefined` means that an operand must be copied to have a contiguous axis first.
 * 2. `matmulModule(plan.variant, …)` gives the bytes of a module with one kernel, `matmul`; cache it by `plan.key`.
 * 3. `writeMatmulArguments(words, plan, addresses)` fills the argument block (`matmulArgumentWords` words).
 * 4. `pool.run(kernel, plan.tasks, address of the block)`.
 *
 * The split depends on the number of threads, the results do not, to the bit. Loads may run up to 64 bytes past the end of an
 * operand's last row (the slack of `memory.ts`); nothing is written outside C. The addend may be C itself.
 */
import { ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { features } from "../../src/devices/wasm/features.ts";
import { argument, argumentWords, bytesOfB, type MatmulVariant } from "./matmul-arguments.ts";
import { depthBlockOf, emitTiles, panelColumns, tileRows, tileScratchBytes } from "./matmul-tiles.ts";
import { emitVector, vectorRows, vectorScratchBytes } from "./matmul-vector.ts";

export { argumentWords as matmulArgumentWords, type MatmulVariant } from "./matmul-arguments.ts";

/** Strides of an operand in elements; a stride of 0 repeats. */
export interface MatmulOperand {
  /** Of the three batch axes, outermost first. */
  readonly batch: readonly [number, number, number];
  readonly row: number;
  readonly column: number;
}

/** A batch of products C = A·B (+ addend) (+ a second, shallow product), all with strides. */
export interface MatmulProblem {
  /** Sizes of the batch axes, outermost first; 1 where there are fewer. */
  readonly batch: readonly [number, number, number];
  readonly M: number;
  readonly N: number;
  readonly K: number;
  /** [M, K], float32. */
  readonly a: MatmulOperand;
  /** [K, N] of `bType`. */
  readonly b: MatmulOperand;
  readonly bType?: MatmulVariant["bType"];
  /** [M, N], float32; its columns must be contiguous. */
  readonly c: MatmulOperand;
  /** [M, N], float32, added to the product. */
  readonly addend?: MatmulOperand;
  /** A second product of the same batch, M and N, added too: float32, at most `updateDepth` deep. */
  readonly update?: { readonly K: number; readonly a: MatmulOperand; readonly b: MatmulOperand };
}

/** How a product is computed: which code, in how many tasks, with how much scratch. */
export interface MatmulPlan {
  readonly variant: MatmulVariant;
  /** Equal keys, equal modules. */
  readonly key: string;
  readonly tasks: number;
  /** Too little work for a second thread to be worth waking. */
  readonly small: boolean;
  /** Bytes of scratch each thread needs, a multiple of 64. */
  readonly scratchBytes: number;
  /** The argument block but for addresses. @internal */
  readonly words: Int32Array;
  /** Whether A and B have changed places. @internal */
  readonly swapped: boolean;
}

/** Addresses, in bytes, of the first elements and of scratch. */
export interface MatmulAddresses {
  readonly a: number;
  readonly b: number;
  readonly c: number;
  readonly addend?: number;
  readonly update?: { readonly a: number; readonly b: number };
  /** Of `threads × plan.scratchBytes` bytes. */
  readonly scratch: number;
}

/** Multiply-adds below which a task is not split further: about 3 µs. */
const smallestTask = 1 << 16;
/** Multiply-adds below which a whole product is not worth a second thread. */
const smallProduct = 1 << 16;
/** Multiply-adds from which a product is worth code of its own for the distance of A's rows. */
const knownStrideProduct = 1 << 22;
/** Only for such distances, in elements: lengths of text are any number, widths of models are not, and each takes a module. */
const knownStrideStep = 16;
/** Tasks a thread, so that a thread that is interrupted does not hold up the others. */
const tasksPerThread = 3;
/** And so many where more of them cost nothing: cores differ, and the last task of the slowest is waited for. */
const freeTasksPerThread = 16;
/** Multiply-adds of such a task: about 20 µs. */
const smallestFreeTask = 1 << 20;
/** Columns of such a task. Short rows of A stay in the second-level cache from one task to the next; long ones come from behind it. */
const narrowest = { short: 16, long: 32 } as const;
/** Depth of a block of K that the next two are for. */
const usualDepth = 256;
/** Blocks of packed B (and A) that stay in a second-level cache. */
const columnBlockLimit = { rows: 128, columns: 256, narrow: 128 } as const;
const rowBlockLimit = { rows: 480, columns: 192, narrow: 480 } as const;
/** Depth of a second product that is still added in the tiles of the first: both panels fit into a first-level cache. */
export const updateDepth = 64;
/** Up to so many columns of C a transposed A is read as it lies. */
const narrowColumns = 8;

/**
 * How to compute a product, or `undefined` when no axis of A or B is contiguous, or C's or the addend's columns are not. With an
 * update also where the two cannot share their tiles: then it is a product of its own, before or after.
 */
export function planMatmul(problem: MatmulProblem, threads: number): MatmulPlan | undefined {
  const exchanged = exchange(problem);
  const { batch, M, N, K, a, b, c, addend, bType = "float32" } = exchanged ?? problem;
  // an axis of size 1 is contiguous whatever its stride
  const aLayout = a.column === 1 || K <= 1 ? "rows" : a.row === 1 || M <= 1 ? "columns" : undefined;
  const bLayout = b.column === 1 || N <= 1 ? "rows" : b.row === 1 || K <= 1 ? "columns" : undefined;
  const cContiguous = c.column === 1 || N <= 1;
  const addendLayout =
    addend === undefined ? "none" : addend.column === 1 || N <= 1 ? "matrix" : addend.column === 0 ? "column" : undefined;
  if (aLayout === undefined || bLayout === undefined || addendLayout === undefined || !cContiguous) return undefined;

  const vector = M <= vectorRows;
  const { update } = problem;
  const updateLayout =
    update === undefined ? "none" : update.b.column === 1 ? "rows" : update.b.row === 1 ? "columns" : undefined;
  const joins = !vector && exchanged === undefined && aLayout === "rows" && updateLayout !== undefined;
  if (update && !(joins && update.K <= updateDepth && (update.a.column === 1 || update.K <= 1))) return undefined;
  const batches = batch[0] * batch[1] * batch[2];
  const updateK = update?.K ?? 0;
  const work = batches * M * N * (K + updateK);
  const knowsStride = !vector && aLayout === "rows" && work >= knownStrideProduct && a.row % knownStrideStep === 0;
  const variant: MatmulVariant = {
    method: vector ? "vector" : "tiles",
    rows: vector ? Math.max(1, M) : 0,
    a: aLayout === "columns" && !vector && N <= narrowColumns ? "narrow" : aLayout,
    b: bLayout,
    bType,
    aStride: knowsStride ? 4 * a.row : 0,
    addend: addendLayout,
    update: updateLayout ?? "none",
  };
  const { rowBlock, columnBlock } = vector
    ? { rowBlock: Math.max(1, M), columnBlock: vectorBlock(variant, N, K, batches, threads) }
    : tileBlocks(variant, M, N, K, batches, threads);
  const rowBlocks = Math.ceil(M / rowBlock);
  const columnBlocks = Math.ceil(N / columnBlock);
  const scratch = vector
    ? vectorScratchBytes(variant, columnBlock, K)
    : tileScratchBytes(variant, rowBlock, columnBlock, K, updateK);
  const scratchBytes = Math.ceil(scratch / 64) * 64;

  const words = new Int32Array(argumentWords);
  const set = (index: number, ...values: number[]) => words.set(values, index);
  const bBytes = bytesOfB(variant);
  set(argument.M, M, N, K);
  set(argument.aStride, 4 * (aLayout === "rows" ? a.row : a.column));
  set(argument.bStride, bBytes * (bLayout === "rows" ? b.row : b.column));
  set(argument.cStride, 4 * c.row);
  set(argument.dStride, 4 * (addend?.row ?? 0));
  set(argument.rowBlock, rowBlock, columnBlock, rowBlocks, columnBlocks);
  set(argument.scratchStride, scratchBytes, batch[1], batch[2]);
  set(argument.aBatch, ...a.batch.map((stride) => 4 * stride));
  set(argument.bBatch, ...b.batch.map((stride) => bBytes * stride));
  set(argument.cBatch, ...c.batch.map((stride) => 4 * stride));
  set(argument.dBatch, ...(addend?.batch ?? [0, 0, 0]).map((stride) => 4 * stride));
  set(argument.depthBlock, depthBlockOf(variant, K));
  if (update) {
    const { a, b } = update;
    set(argument.updateK, updateK);
    set(argument.updateAStride, 4 * a.row);
    set(argument.updateBStride, 4 * (updateLayout === "rows" ? b.row : b.column));
    set(argument.updateABatch, ...a.batch.map((stride) => 4 * stride));
    set(argument.updateBBatch, ...b.batch.map((stride) => 4 * stride));
  }
  return {
    variant,
    key: Object.values(variant).join(" "),
    tasks: batches * rowBlocks * columnBlocks,
    small: work < smallProduct,
    scratchBytes,
    words,
    swapped: exchanged !== undefined,
  };
}

/** The module of a variant; it exports one kernel, `matmul`. */
export function matmulModule(
  variant: MatmulVariant,
  options: { readonly shared: boolean; readonly fused?: boolean },
): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder({ shared: options.shared });
  const emit = variant.method === "tiles" ? emitTiles : emitVector;
  emit(module, "matmul", variant, options.fused ?? features().relaxedSimd);
  return module.bytes();
}

/** Fills an argument block. */
export function writeMatmulArguments(words: Int32Array, plan: MatmulPlan, addresses: MatmulAddresses): void {
  words.set(plan.words);
  const { a, b } = addresses;
  words[argument.a] = plan.swapped ? b : a;
  words[argument.b] = plan.swapped ? a : b;
  words[argument.c] = addresses.c;
  words[argument.d] = addresses.addend ?? 0;
  words[argument.scratch] = addresses.scratch;
  words[argument.updateA] = addresses.update?.a ?? 0;
  words[argument.updateB] = addresses.update?.b ?? 0;
}

/** A · x with x a column is the row xᵀ · Aᵀ, which the vector method computes without packing; `undefined` where that does not apply. */
function exchange(problem: MatmulProblem): MatmulProblem | undefined {
  const { M, N, a, b, c, addend, bType = "float32" } = problem;
  const contiguous = c.row === 1 && (addend === undefined || addend.row === 1 || addend.row === 0);
  if (N !== 1 || M <= vectorRows || bType !== "float32" || !contiguous) return undefined;
  const turn = (x: MatmulOperand): MatmulOperand => ({ batch: x.batch, row: x.column, column: x.row });
  return { ...problem, M: N, N: M, a: turn(b), b: turn(a), c: turn(c), ...(addend && { addend: turn(addend) }) };
}

const roundUp = (value: number, step: number): number => Math.ceil(value / step) * step;
/** `size` in `parts` nearly equal blocks of whole steps. */
const blockOf = (size: number, parts: number, step: number): number => roundUp(Math.max(1, Math.ceil(size / parts)), step);

/** Blocks of C, one a task: by the caches at first, then smaller until every thread has some. */
function tileBlocks(
  variant: MatmulVariant,
  M: number,
  N: number,
  K: number,
  batches: number,
  threads: number,
): { rowBlock: number; columnBlock: number } {
  let rowParts = Math.max(1, Math.ceil(M / rowBlockLimit[variant.a]));
  // panels that are twice as deep are half as many
  const columnLimit = columnBlockLimit[variant.a] / (depthBlockOf(variant, K) > usualDepth ? 2 : 1);
  let columnParts = Math.max(1, Math.ceil(N / columnLimit));
  const wanted = threads === 1 ? 1 : threads * tasksPerThread;
  // as long as A is not packed, nothing is done twice for narrower columns
  const mayNarrow = threads > 1 && variant.a === "rows";
  const least = K > usualDepth ? narrowest.long : narrowest.short;
  for (;;) {
    const rowBlock = blockOf(M, rowParts, tileRows);
    const columnBlock = blockOf(N, columnParts, panelColumns);
    const tasks = batches * Math.ceil(M / rowBlock) * Math.ceil(N / columnBlock);
    const work = rowBlock * columnBlock * K;
    const enough = tasks >= wanted || work < 2 * smallestTask || batches === 0;
    const narrows = mayNarrow && tasks < threads * freeTasksPerThread && columnBlock >= 2 * least && work >= 2 * smallestFreeTask;
    if (enough && !narrows) return { rowBlock, columnBlock };
    // halving columns packs A twice, if A is packed; halving rows packs B twice
    const byColumns = enough || columnBlock >= 8 * panelColumns || (columnBlock > panelColumns && rowBlock <= 4 * tileRows);
    if (byColumns) columnParts *= 2;
    else if (rowBlock > tileRows) rowParts *= 2;
    else return { rowBlock, columnBlock };
  }
}

function vectorBlock(variant: MatmulVariant, N: number, K: number, batches: number, threads: number): number {
  // sums of a block stay in the first-level cache
  const limit = variant.b === "rows" ? 2048 : Number.POSITIVE_INFINITY;
  const wanted = threads === 1 ? 1 : threads * tasksPerThread;
  const smallest = Math.ceil(smallestTask / 8 / Math.max(1, K));
  const parts = Math.ceil(wanted / Math.max(1, batches));
  return roundUp(Math.max(1, Math.min(limit, N, Math.max(smallest, Math.ceil(N / parts)))), 16);
}
