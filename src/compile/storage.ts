/**
 * Memory of tensors on their devices: made, handed on, moved, and given back when nobody holds it any more.
 *
 * The collector's news of dropped tensors (finalisers) come between two turns of the event loop only. A loop that never waits would fill
 * the memory meanwhile, so what lies on a device is listed here, too, and looked through while tensors are made, where the platform allows.
 */
import type { Buffer, Device } from "../devices/device.ts";
import type { DType } from "../graph/dtype.ts";
import type { Storage } from "../graph/node.ts";
import { forgetKept } from "./turn.ts";

/** What holds memory: nobody but a storage holds this, so that the memory is free when it is gone. It goes from a storage to its heir. */
class Hold {
  readonly ballast: ArrayBuffer | undefined = undefined;
  readonly memory: Memory;
  /** Private, as it closes a circle that who looks at a storage need not see. */
  #storage: Storage;

  constructor(storage: Storage) {
    this.#storage = storage;
    this.memory = new Memory(storage.buffer as Buffer);
    const bytes = bytesOf(storage);
    if (bytes >= ballastFrom) this.ballast = ballastOf(bytes);
    collected.register(this, this.memory);
  }

  get storage(): Storage {
    return this.#storage;
  }

  goTo(heir: Storage): void {
    this.#storage = heir;
  }
}

/** Memory, and where it is listed; what holds it is known weakly only. */
class Memory {
  readonly buffer: Buffer;
  hold: WeakRef<Hold> | null = null;
  list: Set<Memory> | null = null;

  constructor(buffer: Buffer) {
    this.buffer = buffer;
  }

  giveBack(): void {
    this.list?.delete(this);
    this.buffer[Symbol.dispose]();
  }
}

/** Gives back what no storage holds any more. */
const collected = new FinalizationRegistry<Memory>((memory) => memory.giveBack());

/** From so many bytes on a storage has ballast of its own; smaller ones weigh together. */
const ballastFrom = 1 << 16;

/**
 * As many bytes as a storage has on its device, which nobody touches. The collector runs when objects of JavaScript grow many, and sees
 * nothing of a device: without this, a loop over tensors that are not disposed of keeps gigabytes before it is asked for a single one
 * back. A buffer that can be resized has pages of its own, which take addresses but no memory; others come from a heap that clears them.
 */
function ballastOf(bytes: number): ArrayBuffer | undefined {
  if (!("resizable" in ArrayBuffer.prototype)) return undefined;
  const Resizable = ArrayBuffer as new (bytes: number, options: { maxByteLength: number }) => ArrayBuffer;
  try {
    return new Resizable(bytes, { maxByteLength: bytes });
  } catch {
    return undefined; // more than an ArrayBuffer may have
  }
}

const bytesIn = (device: Device, dtype: DType, size: number): number => Math.max(size, 1) * device.storageBytes(dtype);
const bytesOf = ({ device, dtype, size }: Storage): number => bytesIn(device as Device, dtype, size);

/** What lies on a device. */
class List {
  readonly #listed = new Set<Memory>();
  /** So many may be listed, and bytes be added, before it is looked through. */
  #most = { count: 64, bytes: leastBytes };
  #added = 0;
  /** Of what was added, what has no ballast of its own. */
  #light = 0;

  add(hold: Hold): void {
    const bytes = bytesOf(hold.storage);
    this.#added += bytes;
    if (!hold.ballast) this.#light += bytes;
    const { memory } = hold;
    memory.hold = new WeakRef(hold);
    memory.list = this.#listed;
    this.#listed.add(memory);
  }

  /** Gives back what is gone, when enough has come for that to be worth while. */
  lookNowAndThen(): void {
    if (this.#listed.size > this.#most.count || this.#added > this.#most.bytes) this.look();
  }

  /** Gives back what is gone; what somebody holds. */
  look(): Storage[] {
    const held: Storage[] = [];
    for (const memory of this.#listed) {
      const storage = memory.hold?.deref()?.storage;
      if (storage === undefined) memory.giveBack();
      else if (storage.buffer === memory.buffer && !storage.disposed) held.push(storage);
      else this.#listed.delete(memory);
    }
    // what was listed or looked at is kept until the end of the turn, or until here
    if (this.#added > leastBytes) forgetKept?.();
    if (this.#light > leastBytes) {
      // dropped at once, but its weight makes the collector run
      ballastOf(this.#light);
      this.#light = 0;
    }
    const bytes = held.reduce((sum, storage) => sum + bytesOf(storage), 0);
    this.#most = { count: 64 + 2 * held.length, bytes: Math.max(leastBytes, bytes / 2) };
    this.#added = 0;
    return held;
  }
}

/** As many bytes as V8 lets come before it collects. */
const leastBytes = 64e6;

const lists = new WeakMap<Device, List>();

/** From now on all new storages of a device can be listed. */
export function listStorages(device: Device): void {
  if (!lists.has(device)) lists.set(device, new List());
}

/** The storages of a listed device that somebody holds. */
export const storagesOn = (device: Device): Storage[] => lists.get(device)?.look() ?? [];

/**
 * Memory on a device; what nobody holds is given back first where there is no room without.
 *
 * @throws {DeviceError} when the device has no room
 */
export function allocate(device: Device, bytes: number): Buffer {
  try {
    return device.allocate(bytes);
  } catch (error) {
    const list = lists.get(device);
    if (!list) throw error;
    forgetKept?.();
    // far more than V8 lets come without collecting first
    for (let i = 0; i < 4; i++) ballastOf(2 ** 31);
    list.look();
    return device.allocate(bytes);
  }
}

/** Fresh memory for `size` elements, freed when disposed or when nothing refers to the storage. */
export function newStorage(device: Device, dtype: DType, size: number): Storage {
  // listed is what must be moved to be read, and what may be given back within a turn
  if (!device.downloadSync || forgetKept) listStorages(device);
  const list = lists.get(device);
  list?.lookNowAndThen();
  const storage = programStorage(device, dtype, size);
  list?.add(storage.hold as Hold);
  return storage;
}

/** Memory that belongs to a program, which does not leave its device. */
export function programStorage(device: Device, dtype: DType, size: number): Storage {
  const storage: Storage = { device, buffer: allocate(device, bytesIn(device, dtype, size)), dtype, size, disposed: false };
  storage.hold = new Hold(storage);
  return storage;
}

/** The same memory under a new handle; whoever holds the old one finds it disposed. */
export function handOver(storage: Storage): Storage {
  const next = { ...storage };
  (next.hold as Hold).goTo(next);
  storage.disposed = true;
  storage.hold = undefined;
  return next;
}

/** Puts other memory, which has the values already, under a storage, and gives the memory of before back. */
export function moveStorage(storage: Storage, device: Device, memory: Buffer): void {
  const before = storage.buffer;
  Object.assign(storage, { device, buffer: memory });
  storage.hold = new Hold(storage);
  lists.get(device)?.add(storage.hold as Hold);
  before[Symbol.dispose]();
}
