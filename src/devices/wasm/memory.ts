/** The one memory of the wasm device: reserved at its largest size, grown on demand, handed out by a free list. */
import { ConfigError, DeviceError } from "../../errors.ts";
import { features } from "./features.ts";

const pageBytes = 65536;
/** Addresses below belong to the thread pool's control block (`worker.ts`); 0 is never a buffer. */
const reservedBytes = 1024;
/** Buffers begin at multiples of this, a cache line, so that two threads never write to one line. */
const alignment = 64;
/** Bytes after each buffer that belong to nobody else: vector loads may run past the end. */
export const slackBytes = 64;

/** How much memory is reserved, and for whom. */
export interface MemoryOptions {
  /** Whether workers can share it; by default where the platform can. */
  readonly shared?: boolean;
  /** Largest size; at most (and by default) 4 GiB. */
  readonly maximumBytes?: number;
}

/** Counts of what lies in the memory. */
export interface MemoryStatistics {
  /** Buffers allocated and not yet freed. */
  readonly buffers: number;
  /** Bytes asked for by them. */
  readonly bytesInUse: number;
  readonly peakBytes: number;
  /** Bytes of the device's own needs: kernel code, scratch, argument blocks. */
  readonly internalBytes: number;
  /** Present size of the memory. */
  readonly memoryBytes: number;
}

interface Block {
  start: number;
  size: number;
}

/**
 * Bytes by address. Views hold until the next `allocate`: growing detaches them where memory is not shared.
 *
 * @example
 * const memory = new DeviceMemory();
 * const address = memory.allocate(4 * 1000);
 * memory.f32(address, 1000).fill(1);
 * memory.free(address);
 */
export class DeviceMemory {
  readonly shared: boolean;
  readonly memory: WebAssembly.Memory;
  readonly maximumPages: number;
  /** Gaps by address; neighbours are always merged. */
  private readonly gaps: Block[] = [];
  private readonly allocated = new Map<number, { size: number; bytes: number; internal: boolean }>();
  private end: number;
  private bytesInUse = 0;
  private peakBytes = 0;
  private internalBytes = 0;
  private buffers = 0;

  constructor(options: MemoryOptions = {}) {
    const { maximumBytes = 2 ** 32 } = options;
    if (!(maximumBytes > 0))
      throw new ConfigError(`\`maximumBytes\` (= ${maximumBytes}) must be a positive number.`, {
        operation: "wasm",
        got: maximumBytes,
      });
    this.shared = options.shared ?? features().threads;
    this.maximumPages = Math.min(65536, Math.max(1, Math.ceil(maximumBytes / pageBytes)));
    this.memory = new WebAssembly.Memory({ initial: 1, maximum: this.maximumPages, shared: this.shared });
    this.end = pageBytes;
    this.gaps.push({ start: reservedBytes, size: this.end - reservedBytes });
  }

  /** What it can grow to. */
  get maximumBytes(): number {
    return this.maximumPages * pageBytes;
  }

  /**
   * The address of `bytes` new bytes, a multiple of 64, their contents arbitrary.
   *
   * @param kind "internal" for what the device itself needs; it is counted apart
   * @throws {DeviceError} when the memory is exhausted
   */
  allocate(bytes: number, kind: "data" | "internal" = "data"): number {
    const size = Math.ceil((bytes + slackBytes) / alignment) * alignment;
    const index = this.bestGap(size) ?? this.grow(size, bytes);
    const gap = this.gaps[index] as Block;
    const { start } = gap;
    if (gap.size === size) this.gaps.splice(index, 1);
    else {
      gap.start += size;
      gap.size -= size;
    }
    const internal = kind === "internal";
    this.allocated.set(start, { size, bytes, internal });
    if (internal) this.internalBytes += bytes;
    else {
      this.buffers++;
      this.bytesInUse += bytes;
      this.peakBytes = Math.max(this.peakBytes, this.bytesInUse);
    }
    return start;
  }

  /** @throws {DeviceError} when nothing is allocated there */
  free(address: number): void {
    const block = this.allocated.get(address);
    if (block === undefined)
      throw new DeviceError(`nothing is allocated at address ${address}.`, { operation: "free", got: address });
    this.allocated.delete(address);
    if (block.internal) this.internalBytes -= block.bytes;
    else {
      this.buffers--;
      this.bytesInUse -= block.bytes;
    }
    this.addGap(address, block.size);
  }

  statistics(): MemoryStatistics {
    const { buffers, bytesInUse, peakBytes, internalBytes, end } = this;
    return { buffers, bytesInUse, peakBytes, internalBytes, memoryBytes: end };
  }

  /** Makes the present use the peak. */
  resetPeak(): void {
    this.peakBytes = this.bytesInUse;
  }

  get buffer(): ArrayBuffer {
    // typed as unshared, since TypeScript would otherwise carry ArrayBufferLike into every caller
    return this.memory.buffer as ArrayBuffer;
  }

  f32(address: number, length: number): Float32Array<ArrayBuffer> {
    return new Float32Array(this.buffer, address, length);
  }

  i32(address: number, length: number): Int32Array<ArrayBuffer> {
    return new Int32Array(this.buffer, address, length);
  }

  u16(address: number, length: number): Uint16Array<ArrayBuffer> {
    return new Uint16Array(this.buffer, address, length);
  }

  u8(address: number, length: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.buffer, address, length);
  }

  /** Index of the smallest gap that holds `size`; of equals the first, which keeps buffers low. */
  private bestGap(size: number): number | undefined {
    let best: number | undefined;
    let bestSize = Number.POSITIVE_INFINITY;
    for (let i = 0; i < this.gaps.length; i++) {
      const gap = this.gaps[i] as Block;
      if (gap.size < size || gap.size >= bestSize) continue;
      best = i;
      bestSize = gap.size;
      if (bestSize === size) break;
    }
    return best;
  }

  /** Grows until the last gap holds `size`; gives its index. */
  private grow(size: number, bytes: number): number {
    const last = this.gaps.at(-1);
    const atEnd = last !== undefined && last.start + last.size === this.end ? last.size : 0;
    const needed = Math.ceil((size - atEnd) / pageBytes);
    const present = this.end / pageBytes;
    // by halves, since growing is costly where memory is not shared; pages nobody touches take no physical memory
    const generous = Math.min(Math.max(needed, present >> 1, 16), this.maximumPages - present);
    for (const pages of new Set([generous, needed])) {
      if (pages < needed || !this.growBy(pages)) continue;
      this.addGap(this.end, pages * pageBytes);
      this.end += pages * pageBytes;
      return this.gaps.length - 1;
    }
    const largest = this.gaps.reduce((most, gap) => Math.max(most, gap.size), 0);
    const words = (count: number) => `${count.toLocaleString("en")} bytes`;
    throw new DeviceError(
      `${words(bytes)} do not fit: ${words(this.bytesInUse + this.internalBytes)} of ${words(this.maximumPages * pageBytes)} are in use, the largest gap has ${words(largest)}.`,
      {
        operation: "allocate",
        expected: this.maximumPages * pageBytes,
        got: bytes,
        hint: "Dispose of tensors that are no longer needed, in a browser await x.data() in long loops, which gives back what was dropped, or use a smaller batch.",
      },
    );
  }

  private growBy(pages: number): boolean {
    try {
      this.memory.grow(pages);
      return true;
    } catch {
      return false;
    }
  }

  /** Puts a gap into the list, merged with its neighbours. */
  private addGap(start: number, size: number): void {
    const { gaps } = this;
    let low = 0;
    let high = gaps.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((gaps[middle] as Block).start < start) low = middle + 1;
      else high = middle;
    }
    const before = gaps[low - 1];
    const after = gaps[low];
    const joinsAfter = after !== undefined && start + size === after.start;
    if (before !== undefined && before.start + before.size === start) {
      before.size += size;
      if (!joinsAfter) return;
      before.size += after.size;
      gaps.splice(low, 1);
    } else if (joinsAfter) {
      after.start = start;
      after.size += size;
    } else gaps.splice(low, 0, { start, size });
  }
}
