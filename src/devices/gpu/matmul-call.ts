/** The matrix product as a plan: a loop program everywhere, tuned kernels where the mode has them and the matrices are large. */
import {
  type BatchAxis,
  type MatmulSizes,
  type MatrixWalk,
  multiplyPacked,
  pack,
  packColumns,
  packRows,
  unpack,
  unpackAdd,
} from "../../../kernels/gpu/matmul.ts";
import { type Drawing, gridOf, isInRows, multiplySquares, packSquares, unpackSquares } from "../../../kernels/gpu/matmul-glsl.ts";
import { cardWgsl, registerWgsl } from "../../../kernels/gpu/matmul-wgsl.ts";
import { elementwise } from "../../graph/elementwise.ts";
import type { CallGeometry, Operand } from "../../graph/primitive.ts";
import { sumOp } from "../../graph/reduction.ts";
import { sizeOf } from "../../graph/shape.ts";
import type { KernelCall } from "../device.ts";
import type { Geometry, Instruction, LoopProgram, Slot, SlotGeometry } from "../loop-program.ts";
import type { Backend } from "./backend.ts";
import { exactIn32Bits } from "./limits.ts";
import { loopPlan } from "./loop-passes.ts";
import { binding, kernel, type Pass, type Plan, pass, rowsOf } from "./plan.ts";

/** Σₖ a[m, k] · b[k, n] (+ start): for every batch, row and column a loop over k. */
function matmulProgram(start: boolean, batchAxes: number): LoopProgram {
  const slot = (buffer: number): Slot => ({ buffer, dtype: "float32", inner: "strided", masked: [] });
  const typed = { dtype: "float32", stage: 0 } as const;
  const instructions: Instruction[] = [
    { ...typed, kind: "load", slot: 0, level: "body" },
    { ...typed, kind: "load", slot: 1, level: "body" },
    { ...typed, kind: "apply", op: elementwise.mul, args: [0, 1], level: "body" },
    { ...typed, kind: "reduce", op: sumOp, arg: 2, level: "element" },
  ];
  if (start) {
    instructions.push({ ...typed, kind: "load", slot: 2, level: "element" });
    instructions.push({ ...typed, kind: "apply", op: elementwise.add, args: [3, 4], level: "element" });
  }
  const out = start ? 3 : 2;
  return {
    shape: "columns",
    outer: batchAxes + 1,
    reduce: 1,
    stages: 1,
    instructions,
    slots: Array.from({ length: out + 1 }, (_, buffer) => slot(buffer)),
    stores: [{ register: instructions.length - 1, slot: out, stage: 0 }],
    buffers: out + 1,
    key: `matmul${start}${batchAxes}`,
  };
}

function plainPlan({ operands, results }: CallGeometry, inputs: number): Plan {
  const [a, b, start] = operands as [Operand, Operand, Operand?];
  const c = results[0]!;
  const rank = c.shape.length;
  const walk = ({ strides, offset }: Operand, row: number, column: number, reduce: number): SlotGeometry => ({
    offset,
    outer: [...strides.slice(0, rank - 2), row],
    inner: column,
    reduce: [reduce],
    valid: [],
  });
  const [row, column] = [rank - 2, rank - 1];
  const geometry: Geometry = {
    outer: c.shape.slice(0, -1),
    inner: c.shape[column]!,
    reduce: [a.shape[column]!],
    slots: [
      walk(a, a.strides[row]!, 0, a.strides[column]!),
      walk(b, 0, b.strides[column]!, b.strides[row]!),
      ...(start ? [walk(start, start.strides[row]!, start.strides[column]!, 0)] : []),
      walk(c, c.strides[row]!, c.strides[column]!, 0),
    ],
  };
  return loopPlan(matmulProgram(start !== undefined, rank - 2), geometry, inputs);
}

/** Sizes and walks; neighbouring axes of the batch are one where the operand walks them evenly. */
function sizesOf({ operands, results }: CallGeometry): MatmulSizes {
  const [a, b, start] = operands as [Operand, Operand, Operand?];
  const { shape } = results[0]!;
  const rank = shape.length;
  const walk = ({ strides, offset }: Operand): MatrixWalk => {
    const batch: BatchAxis[] = [];
    for (let axis = 0; axis < rank - 2; axis++) {
      const [extent, stride] = [shape[axis]!, strides[axis]!];
      if (extent === 1) continue;
      const before = batch.at(-1);
      if (before?.stride === stride * extent) batch[batch.length - 1] = { extent: before.extent * extent, stride };
      else batch.push({ extent, stride });
    }
    return { offset, batch, row: strides[rank - 2]!, column: strides[rank - 1]! };
  };
  const walks = [a, b, ...(start ? [start] : [])].map(walk);
  return {
    batches: sizeOf(shape.slice(0, -2)),
    M: shape[rank - 2]!,
    N: shape[rank - 1]!,
    K: a.shape[rank - 1]!,
    a: walks[0]!,
    b: walks[1]!,
    ...(start && { start: walks[2]! }),
  };
}

function shaderPlan(sizes: MatmulSizes, software: boolean): Plan {
  const args = [binding(0), binding(1), ...(sizes.start ? [binding(2)] : [])];
  // GPU.js takes the names of the arguments from a body that never runs
  const source = `function (a, b${sizes.start ? ", c" : ""}) { return a[0] + b[0]${sizes.start ? " + c[0]" : ""}; }`;
  const count = sizes.batches * sizes.M * sizes.N;
  return {
    passes: [{ source, functions: [], args, count, wgsl: software ? registerWgsl(sizes) : cardWgsl(sizes) }],
    results: [{ binding: args.length, pass: 0 }],
  };
}

/** `null` where an operand walks the batch by more than one stride. */
function packedPlan({ batches, M, N, K, a, b, start }: MatmulSizes): Plan | null {
  if ([a, b, start].some((operand) => operand && operand.batch.length > 1)) return null;
  const constantsOf = ({ offset, batch, row, column }: MatrixWalk) => ({ offset, batch: batch[0]?.stride ?? 0, row, column });
  const [deep, wide] = [Math.ceil(K / 4), Math.ceil(N / 4)];
  const packed = (index: number, walk: MatrixWalk, rows: number, height: number, width: number, texels: number): Pass => {
    const { offset, row, column } = walk;
    // a flat index would be too large for a float
    const large = offset + (height - 1) * row + (width - 1) * column >= exactIn32Bits;
    const pitch = column === 1 ? row : row === 1 ? column : 0;
    // a frozen weight is packed once, not at every step
    const kept = `packed: ${JSON.stringify([rows, height, width, texels, walk])}`;
    if (large && batches === 1 && offset === 0 && pitch >= (column === 1 ? width : height)) {
      const source = column === 1 ? packRows : packColumns;
      return { ...kernel(source, { height, width, texels }, [rowsOf(index, pitch)], rows * texels), kept };
    }
    const constants = { rows, height, width, texels, ...constantsOf(walk) };
    return { ...kernel(pack, constants, [binding(index)], batches * rows * texels), kept };
  };
  const passes = [
    packed(0, a, M, M, K, deep),
    packed(1, b, 4 * deep, K, N, wide),
    kernel(multiplyPacked, { rows: M, deep, wide }, [pass(0), pass(1)], batches * M * wide),
    start
      ? kernel(unpackAdd, { width: N, texels: wide, rows: M, ...constantsOf(start) }, [pass(2), binding(2)], batches * M * N)
      : kernel(unpack, { width: N, texels: wide }, [pass(2)], batches * M * N),
  ];
  return { passes, results: [{ binding: start ? 3 : 2, pass: 3 }] };
}

/** The longest side of a texture that every device has. */
const mostTexels = 4096;

/**
 * Squares of elements in textures of their own shape; `null` where one would be too large.
 *
 * @param rows whether results that can be rows are written so: `"copied"` to a flat value through a buffer, which is quick in the memory of
 *   a processor and which some drivers of cards wait for; or `"kept"` as they are
 */
function squaresPlan(sizes: MatmulSizes, rows: "copied" | "kept" | null): Plan | null {
  const { batches, M, N, start } = sizes;
  const grid = gridOf(sizes, mostTexels);
  if (!grid) return null;
  const drawn = ({ code, size, layers = 1 }: Drawing, args: Pass["args"]): Pass => ({
    source: "",
    functions: [],
    args,
    count: size[0] * size[1] * layers,
    glsl: code,
    size,
    layers,
  });
  const packed = (operand: "a" | "b", index: number): Pass => {
    const drawing = packSquares(sizes, operand, grid);
    // a frozen weight is packed once, not at every step
    return { ...drawn(drawing, [binding(index)]), kept: `${drawing.size}:${drawing.code}` };
  };
  const inRows = rows !== null && isInRows(sizes, grid);
  const started = start ? [binding(2)] : [];
  const flat = { functions: [], count: batches * M * N };
  const multiplied = drawn(multiplySquares(sizes, grid, inRows), [pass(0), pass(1), ...(inRows ? started : [])]);
  const passes: Pass[] = [
    packed("a", 0),
    packed("b", 1),
    ...(!inRows
      ? [multiplied, { ...flat, source: "", args: [pass(2), ...started], glsl: unpackSquares(sizes, grid) }]
      : rows === "kept"
        ? [{ ...multiplied, count: flat.count, fours: N }]
        : [multiplied, { ...flat, source: `rows of ${N}`, args: [pass(2)], copiedColumns: N }]),
  ];
  return { passes, results: [{ binding: start ? 3 : 2, pass: passes.length - 1 }] };
}

/** Sides from which a tuned kernel is the faster one. */
const least = { squares: 4, packed: 4 };

/** The batched product [..., M, K] · [..., K, N] with what its sums begin with, by the kernel that suits mode and sizes. */
export function matmulPlan(
  _call: KernelCall,
  geometry: CallGeometry,
  { mode, inputs, software = false, draws = false }: Pick<Backend, "mode" | "inputs" | "software" | "draws">,
): Plan {
  if (mode === "cpu" || mode === "webasm") return plainPlan(geometry, inputs);
  const sizes = sizesOf(geometry);
  const side = Math.min(sizes.M, sizes.N, sizes.K);
  if (mode === "webgpu" && side >= 1) return shaderPlan(sizes, software);
  const rows = mode === "webgl" ? "kept" : software ? "copied" : null;
  const squares = draws && side >= least.squares ? squaresPlan(sizes, rows) : null;
  const packed = mode !== "webgpu" && side >= least.packed ? packedPlan(sizes) : null;
  return squares ?? packed ?? plainPlan(geometry, inputs);
}
