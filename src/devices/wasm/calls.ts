/**
 * Kernels that are not loop programs: one entry per name says how its code is made and what one launch needs. A call without an
 * entry here runs its `host` meaning on views of wasm memory.
 */
import { DeviceError } from "../../errors.ts";
import { bytesPerElement, dtypes, type TypedArray } from "../../graph/dtype.ts";
import type { CallGeometry, Operand } from "../../graph/primitive.ts";
import type { KernelCall } from "../device.ts";
import { attention, attentionBackward } from "./attention-call.ts";
import { codedLinear } from "./coded-linear-call.ts";
import { dequantise } from "./dequantise-call.ts";
import { matmul } from "./matmul-call.ts";
import type { DeviceMemory } from "./memory.ts";
import { place } from "./place-call.ts";
import { scatterAdd, take } from "./rows-call.ts";

/** What an entry may use of the device. */
export interface CallContext {
  readonly memory: DeviceMemory;
  readonly threads: number;
  readonly relaxedSimd: boolean;
  /** Kernel ids of a module by its exports' names; equal keys are compiled once. */
  module(key: string, bytes: () => Uint8Array<ArrayBuffer>): Readonly<Record<string, number>>;
}

/** One launch of one kernel (task, args, thread). */
export interface Step {
  readonly kernel: number;
  readonly tasks: number;
  /** The args block, 32-bit words. */
  readonly args: Int32Array;
  /** Scratch memory, the device's to place: `bytes` for every thread, one after the other; `word` of `args` gets the address. */
  readonly scratch?: { readonly word: number; readonly bytes: number };
  /** What the host does before the launch: it looks at values, and what it throws ends the run. */
  readonly before?: () => void;
}

/**
 * Fixes sizes. `addresses` are those of the operands and results in bytes, before an operand's own `offset`.
 * `null` where these sizes and strides have no kernel: the host's meaning runs.
 */
export type BindCall = (geometry: CallGeometry, addresses: readonly number[]) => readonly Step[] | null;

/** How one named call runs; `null` where these dtypes have no kernel. */
export type CallEntry = (call: KernelCall, context: CallContext) => BindCall | null;

/** The kernels of the device by the names of operations. */
export const callEntries: Readonly<Record<string, CallEntry>> = {
  matmul,
  attention,
  attentionBackward,
  place,
  dequantise,
  codedLinear,
  take,
  scatterAdd,
};

const sizeOf = (operand: Operand): number => operand.shape.reduce((product, extent) => product * extent, 1);

function isContiguous(operand: Operand): boolean {
  let stride = 1;
  for (let axis = operand.shape.length - 1; axis >= 0; axis--) {
    if (operand.shape[axis] !== 1 && operand.strides[axis] !== stride) return false;
    stride *= operand.shape[axis]!;
  }
  return true;
}

/** Elements from the buffer's start to the last one that the operand reaches. */
const reach = (operand: Operand): number =>
  operand.offset + 1 + operand.shape.reduce((sum, extent, axis) => sum + Math.max(0, (extent - 1) * operand.strides[axis]!), 0);

/** Runs the plain meaning of a call: contiguous operands come as exactly their elements, others as what they reach. */
export function bindHost(
  call: KernelCall,
  geometry: CallGeometry,
  addresses: readonly number[],
  memory: DeviceMemory,
): () => void {
  const { host } = call;
  if (!host) throw new DeviceError("these sizes and strides have no kernel on wasm.", { operation: call.name, got: geometry });
  const types = [...call.operands, ...call.results];
  const all = [...geometry.operands, ...geometry.results];
  const placed = all.map((operand) => (isContiguous(operand) ? { ...operand, offset: 0 } : operand));
  const plain: CallGeometry = {
    ...geometry,
    operands: placed.slice(0, geometry.operands.length),
    results: placed.slice(geometry.operands.length),
  };
  let buffer: ArrayBuffer | undefined;
  let views: TypedArray[] = [];
  return () => {
    // unshared memory that has grown has left its views empty
    if (buffer !== memory.buffer) {
      buffer = memory.buffer;
      views = all.map((operand, i) => {
        const dtype = types[i]!;
        const contiguous = placed[i] !== operand;
        const address = addresses[i]! + (contiguous ? operand.offset * bytesPerElement(dtype) : 0);
        return new dtypes[dtype].array(memory.buffer, address, contiguous ? sizeOf(operand) : reach(operand));
      });
    }
    host(views.slice(0, geometry.operands.length), views.slice(geometry.operands.length), plain);
  };
}
