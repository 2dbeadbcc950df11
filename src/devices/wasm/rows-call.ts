/** `take` and `scatterAdd` as kernel calls. The host looks at the indices first, so that one outside is an error and not a wild read. */
import { blockOf } from "../../../kernels/wasm/argument-block.ts";
import { anyOutsideModule, scatterAddModule, scatterArgument, takeArgument, takeModule } from "../../../kernels/wasm/rows.ts";
import { bytesPerElement } from "../../graph/dtype.ts";
import { checkIndex } from "../../graph/indexing.ts";
import type { CallGeometry } from "../../graph/primitive.ts";
import { sizeOf } from "../../graph/shape.ts";
import type { CallEntry, Step } from "./calls.ts";
import type { DeviceMemory } from "./memory.ts";

/** Bytes below which a second thread is not woken. */
const smallestSplit = 1 << 17;
/** Tasks of `take` for a thread, so that a thread that is interrupted does not hold up the others. */
const tasksPerThread = 3;

type AnyOutside = (index: number, count: number, rows: number) => number;
/** See {@link anyOutsideModule}: one instance a memory, for the calling thread. */
const inspectors = new WeakMap<DeviceMemory, AnyOutside>();

function inspectorOf(memory: DeviceMemory): AnyOutside {
  let anyOutside = inspectors.get(memory);
  if (!anyOutside) {
    const module = new WebAssembly.Module(anyOutsideModule({ shared: memory.shared }));
    const { exports } = new WebAssembly.Instance(module, { env: { memory: memory.memory } });
    inspectors.set(memory, (anyOutside = exports["anyOutside"] as AnyOutside));
  }
  return anyOutside;
}

/** Throws for the first index that is outside. */
const checkOf =
  (operation: string, memory: DeviceMemory, address: number, count: number, rows: number, { attributes }: CallGeometry) =>
  () => {
    if (!inspectorOf(memory)(address, count, rows)) return;
    for (const index of memory.i32(address, count)) checkIndex(operation, index, rows, attributes["extent"]);
  };

/** `take` as a kernel call: a table [rows, width] of any dtype, indices int32. @throws {ShapeError} for an index outside, when it runs */
export const take: CallEntry = ({ operands }, { memory, threads, module }) => {
  const bytes = bytesPerElement(operands[0]!);
  return (geometry, addresses) => {
    const [table, index] = geometry.operands;
    const [rows, width] = table!.shape as [number, number];
    const count = sizeOf(index!.shape);
    const rowBytes = width * bytes;
    const indexAddress = addresses[1]! + 4 * index!.offset;
    const isSplit = threads > 1 && count * rowBytes >= smallestSplit;
    const block = Math.ceil(count / (isSplit ? threads * tasksPerThread : 1));
    const args = blockOf(takeArgument, {
      table: addresses[0]! + bytes * table!.offset,
      index: indexAddress,
      out: addresses[2]! + bytes * geometry.results[0]!.offset,
      ...{ count, rowBytes, block },
    });
    const kernel = module("take", () => takeModule({ shared: memory.shared }))["take"]!;
    return [
      {
        kernel,
        tasks: count * rowBytes > 0 ? Math.ceil(count / block) : 0,
        args,
        before: checkOf("take", memory, indexAddress, count, rows, geometry),
      } satisfies Step,
    ];
  };
};

/** `scatterAdd` as a kernel call: float32 and int32; rows are added in the order of the indices, by any number of threads. */
export const scatterAdd: CallEntry = ({ results }, { memory, threads, module }) => {
  const [type] = results;
  if (type !== "float32" && type !== "int32") return null;
  return (geometry, addresses) => {
    const [index, updates] = geometry.operands;
    const [rows, width] = geometry.results[0]!.shape as [number, number];
    const count = sizeOf(index!.shape);
    const indexAddress = addresses[0]! + 4 * index!.offset;
    const isSplit = threads > 1 && 4 * count * Math.max(width, 4) >= smallestSplit;
    // each task passes over all updates
    const parts = isSplit ? threads : 1;
    // by rows every task goes through all indices, which is soon done; by columns the processor foresees none of the short reads
    const byRows = rows >= 4 * parts;
    const rowBlock = byRows ? Math.ceil(rows / parts) : rows;
    const columnBlock = byRows ? width : 16 * Math.ceil(width / parts / 16);
    const columnBlocks = Math.ceil(width / Math.max(1, columnBlock));
    const args = blockOf(scatterArgument, {
      index: indexAddress,
      updates: addresses[1]! + 4 * updates!.offset,
      out: addresses[2]! + 4 * geometry.results[0]!.offset,
      ...{ count, rows, width, rowBlock, columnBlock, columnBlocks },
    });
    const kernel = module(`scatterAdd ${type}`, () => scatterAddModule(type, { shared: memory.shared }))["scatterAdd"]!;
    return [
      {
        kernel,
        tasks: rows * width > 0 ? columnBlocks * Math.ceil(rows / Math.max(1, rowBlock)) : 0,
        args,
        before: checkOf("scatterAdd", memory, indexAddress, count, rows, geometry),
      } satisfies Step,
    ];
  };
};
