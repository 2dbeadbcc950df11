/** Fourth pass of the compiler: a schedule gets addresses and runs. Also the entry for everyday use: `realize`. */
import type { Binding, Buffer, Device, Dispatch, KernelCall } from "../devices/device.ts";
import type { LoopProgram } from "../devices/loop-program.ts";
import { ConfigError, checkOptions, DeviceError, wordArgument, wordShape } from "../errors.ts";
import type { DType, TypedArray } from "../graph/dtype.ts";
import { checkAlive, disposeStorage, requireTensorList, type Storage, type Tensor, topologicalOrder } from "../graph/node.ts";
import { buffer } from "../graph/source.ts";
import { companionsOf } from "../graph/together.ts";
import { setRealize } from "../graph/variable.ts";
import { planFor } from "./plan-cache.ts";
import { isLeaf } from "./prepare.ts";
import { type Schedule, type ScheduleOptions, schedule } from "./schedule.ts";
import { allocate, newStorage } from "./storage.ts";

/** The memory that all programs of a device use for their intermediate values, one after the other. */
class Arena {
  #block: Buffer | null = null;
  /** Changes whenever the memory moves, so that programs know that their addresses are stale. */
  generation = 0;

  take(device: Device, bytes: number): Buffer {
    if (this.#block === null || this.#block.bytes < bytes) {
      this.#block?.[Symbol.dispose]();
      this.#block = null;
      this.#block = allocate(device, Math.max(bytes, 64));
      this.generation++;
    }
    return this.#block;
  }

  dispose(): void {
    this.#block?.[Symbol.dispose]();
    this.#block = null;
  }
}

const arenas = new WeakMap<Device, Arena>();
const arenaOf = (device: Device): Arena => {
  let arena = arenas.get(device);
  if (!arena) arenas.set(device, (arena = new Arena()));
  return arena;
};

/** Gives back the memory for intermediate values; the next program takes it anew. */
export const releaseArena = (device: Device): void => arenas.get(device)?.dispose();

/** A tensor with the given values on `device`. Halves are given as bit patterns. */
export function upload(device: Device, values: TypedArray, shape: readonly number[], dtype: DType): Tensor {
  const storage = newStorage(device, dtype, values.length);
  device.upload(values, dtype, { buffer: storage.buffer as Buffer, offset: 0 });
  return buffer(shape, dtype, storage);
}

/** What a program has bound. Knows nothing of the program, so that it can be released when that is gone. */
class Launches {
  readonly device: Device;
  dispatches: readonly Dispatch[] = [];

  constructor(device: Device) {
    this.device = device;
  }

  release(): void {
    for (const dispatch of this.dispatches) this.device.release(dispatch);
    this.dispatches = [];
  }
}

/** Releases what programs have bound that nobody holds any more, as of a compiled function that was not disposed. */
const dropped = new FinalizationRegistry<Launches>((launches) => launches.release());

/** A schedule bound to memory. */
export class Program {
  readonly schedule: Schedule;
  /** Values that lie in memory of somebody else's. */
  readonly outside: readonly Tensor[];
  readonly #launches: Launches;
  #boundGeneration = -1;
  #boundBuffers: readonly Buffer[] = [];

  constructor(schedule: Schedule) {
    this.schedule = schedule;
    this.outside = [...schedule.places].flatMap(([value, { kind }]) => (kind === "outside" ? [value] : []));
    this.#launches = new Launches(schedule.device);
    dropped.register(this, this.#launches);
  }

  get device(): Device {
    return this.schedule.device;
  }

  /**
   * Runs once. Addresses are fixed anew only when one has changed.
   *
   * @param locate where the values of `outside` lie, given with their numbers
   */
  run(locate: (value: Tensor, index: number) => Buffer): void {
    const { device, steps, places, arenaBytes, lastUsed } = this.schedule;
    if (steps.length === 0) return;
    const arena = arenaOf(device);
    const block = arena.take(device, arenaBytes);
    const buffers = this.outside.map(locate);
    if (this.#boundGeneration !== arena.generation || buffers.some((buffer, i) => buffer !== this.#boundBuffers[i])) {
      this.release();
      const at = new Map<Tensor, Binding>(this.outside.map((value, i) => [value, { buffer: buffers[i]!, offset: 0 }]));
      for (const [value, place] of places) if (place.kind === "arena") at.set(value, { buffer: block, offset: place.offset });
      this.#launches.dispatches = steps.map((step, i) => {
        const executable =
          "instructions" in step.code ? device.compile(step.code as LoopProgram) : device.compileCall(step.code as KernelCall);
        return device.bind(
          executable,
          step.geometry,
          step.values.map((value) => at.get(value)!),
          step.label,
          lastUsed[i],
        );
      });
      this.#boundGeneration = arena.generation;
      this.#boundBuffers = buffers;
    }
    device.run(this.#launches.dispatches);
  }

  /** Runs step by step and reports how long each took, in milliseconds. For profiles, not for speed. */
  profile(locate: (value: Tensor, index: number) => Buffer, report: (step: number, milliseconds: number) => void): void {
    this.run(locate);
    this.#launches.dispatches.forEach((dispatch, i) => {
      const start = performance.now();
      this.device.run([dispatch]);
      report(i, performance.now() - start);
    });
  }

  release(): void {
    this.#launches.release();
    this.#boundGeneration = -1;
    this.#boundBuffers = [];
  }
}

/** Two devices of one kind are told apart by which of them is the current one. */
const wordDevice = (device: Device): string => `${device === current ? "the current" : "another"} ${device.name} device`;

/** @throws {DeviceError} when the values of a leaf lie on another device; @throws {ConfigError} for an argument of a function being traced */
export function locateLeaf(device: Device, value: Tensor): Buffer {
  const { storage } = value;
  if (storage === null)
    throw new ConfigError(`the values of ${wordShape(value.shape)} are not known while a function is traced.`, {
      operation: "compile",
      hint: "Return the tensor, and read it outside of the function.",
    });
  checkAlive("run", value);
  if (storage.device !== device)
    throw new DeviceError(
      `a tensor of ${wordShape(value.shape)} lies on ${wordDevice(storage.device as Device)}, the others on ${wordDevice(device)}.`,
      {
        operation: "run",
        hint: "Move it with x.to(device).",
      },
    );
  return storage.buffer as Buffer;
}

/** @throws {DeviceError} when something else was given, such as the name of a device */
export function checkDevice(operation: string, device: unknown): void {
  if (typeof (device as Partial<Device> | null | undefined)?.allocate === "function") return;
  throw new DeviceError(`needs a device, got ${wordArgument(device)}.`, {
    operation,
    got: device,
    hint: "Make one with devices.wasm() or devices.reference().",
  });
}

let current: Device | null = null;
let makeDefault: () => Device = () => {
  throw new DeviceError("no device was chosen.", { operation: "device", hint: "Call useDevice(…) first." });
};

/** The device on which tensors are made and programs run. */
export function currentDevice(): Device {
  current ??= makeDefault();
  return current;
}

/** Makes `device` the one on which tensors are made and programs run; returns the one before, if any. */
export function useDevice(device: Device): Device | null {
  checkDevice("useDevice", device);
  const before = current;
  current = device;
  return before;
}

/** The devices lie above this layer and hand in here which is opened when nobody has chosen one. */
export const setDefaultDevice = (make: () => Device): void => {
  makeDefault = make;
};

/** The device that holds a leaf among these nodes, else the current one. */
const deviceOf = (nodes: readonly Tensor[]): Device =>
  (nodes.find(({ storage }) => storage !== null)?.storage?.device as Device | undefined) ?? currentDevice();

/** Makes the schedule that computes `tensors`; for looking at, see explain.ts. */
export function plan(tensors: readonly Tensor[], device?: Device, options: ScheduleOptions = {}): Schedule {
  checkOptions("plan", options, { donors: Map });
  requireTensorList("plan", "tensors", tensors);
  if (device !== undefined) checkDevice("plan", device);
  return schedule(tensors, device ?? deviceOf(topologicalOrder(tensors, isLeaf)), options);
}

/** Computes `tensors`, and what is computed together with them, and keeps their values. Those that have values already are left alone. */
export function realize(tensors: readonly Tensor[]): void {
  requireTensorList("realize", "tensors", tensors);
  const wanted = [...new Set(tensors)].filter((tensor) => {
    checkAlive("run", tensor);
    return tensor.storage === null;
  });
  if (wanted.length === 0) return;
  let order = topologicalOrder(wanted, isLeaf);
  const device = deviceOf(order);
  const isHere = ({ storage }: Tensor): boolean => storage?.device === device && !storage.disposed;
  const companions = companionsOf(wanted, order, isLeaf, isHere);
  if (companions.length > 0) order = topologicalOrder([...wanted, ...companions], isLeaf);
  wanted.push(...companions);
  const planned = planFor(wanted, order, device);
  const program = new Program(planned.schedule);
  const results = new Map<Tensor, Storage>();
  program.schedule.roots.forEach((root) => results.set(root, newStorage(device, root.dtype, root.size)));
  try {
    program.run((value) => {
      const storage = results.get(value);
      return storage ? (storage.buffer as Buffer) : locateLeaf(device, planned.leafOf(value));
    });
  } catch (error) {
    for (const storage of results.values()) disposeStorage(storage);
    throw error;
  } finally {
    program.release();
  }
  wanted.forEach((tensor, i) => {
    tensor.storage = results.get(program.schedule.roots[i]!)!;
  });
}
setRealize(realize);

/** Values of `tensor` in row-major order; floats of 16 bits as bit patterns. */
export function downloadSync(tensor: Tensor): TypedArray {
  realize([tensor]);
  const device = tensor.storage!.device as Device;
  if (!device.downloadSync)
    throw new DeviceError(`${device.name} can only be read asynchronously.`, {
      operation: "dataSync",
      hint: "Use await x.data(), or await onHost(() => …) for a function that reads values.",
    });
  return device.downloadSync({ buffer: tensor.storage!.buffer as Buffer, offset: 0 }, tensor.dtype, tensor.size);
}

/** Values of `tensor` as `downloadSync` gives them, on devices that cannot wait, too. */
export async function download(tensor: Tensor): Promise<TypedArray> {
  realize([tensor]);
  return (tensor.storage!.device as Device).download(
    { buffer: tensor.storage!.buffer as Buffer, offset: 0 },
    tensor.dtype,
    tensor.size,
  );
}
