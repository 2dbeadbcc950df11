/** What a device is: bytes and programs, no tensors. The compiler above sees only this. */
import type { DType, TypedArray } from "../graph/dtype.ts";
import type { CallGeometry, KernelOperation } from "../graph/primitive.ts";
import type { Geometry, LoopProgram } from "./loop-program.ts";

/** The devices there are: see `devices`. */
export type DeviceName = "reference" | "wasm" | "gpu";

/** Memory on a device. Freed by `using`, by `dispose`, or with its arena. */
export interface Buffer extends Disposable {
  readonly bytes: number;
}

/** A kernel that is not a loop program: `name` picks it, `variant` is everything its code depends on besides sizes. */
export interface KernelCall {
  readonly name: string;
  readonly operands: readonly DType[];
  readonly results: readonly DType[];
  /** Meaning on plain arrays; a device runs it where it has no kernel of its own. */
  readonly host?: KernelOperation["host"];
}

/** Where one binding of a dispatch lies: `offset` bytes into a buffer. */
export interface Binding {
  readonly buffer: Buffer;
  readonly offset: number;
}

/** Code made ready by a device. Opaque to everybody else. */
export interface Executable {
  readonly name: string;
}

/** One launch: code, sizes, and where its data lies. */
export interface Dispatch {
  readonly executable: Executable;
  readonly label: string;
}

/** How much a device wants fused into one loop program. */
export interface FusionPolicy {
  /** Elementwise chains, views and casts join their readers. */
  readonly elementwise: boolean;
  /** Several passes over one row (softmax, norms) become one program. */
  readonly rows: boolean;
}

/** A place where programs run. Knows no shapes of tensors, gradients or layers. */
export interface Device extends Disposable {
  readonly name: DeviceName;
  /** One line for people: which mode was picked, and why. */
  readonly about: string;
  readonly fusion: FusionPolicy;
  /** Tuned kernels this device has for fused operations; the others are composed from primitives. */
  readonly kernels: ReadonlySet<string>;
  /** Dtypes of the right side of a matrix product that its kernel widens as it reads them; others are widened before, in memory. */
  readonly widens?: ReadonlySet<DType>;
  /** Bytes that its memory can have at most, where that is known. */
  readonly mostBytes?: number;
  /** How deep a second product may be that the matrix product adds in the same pass; absent where it adds none. */
  readonly updateDepth?: number;
  /** How a dtype lies in memory here: the reference device keeps every float as float64. */
  storageBytes(dtype: DType): number;
  allocate(bytes: number): Buffer;
  upload(values: TypedArray, dtype: DType, to: Binding): void;
  /** `count` elements; floats of 16 bits come as bit patterns. */
  download(from: Binding, dtype: DType, count: number): Promise<TypedArray>;
  /** Absent where the platform can only wait asynchronously. */
  downloadSync?(from: Binding, dtype: DType, count: number): TypedArray;
  /** Moves bytes from one place to another, in the order of the queue. */
  copy(from: Binding, to: Binding, bytes: number): void;
  /** Same key, same executable: the device caches. */
  compile(program: LoopProgram): Executable;
  compileCall(call: KernelCall): Executable;
  /**
   * Fixes sizes and addresses; the result may be run many times. `bindings` follow the program's slots or the call's operands and results;
   * `lastUsed` are the numbers of those that nothing reads after it.
   */
  bind(
    executable: Executable,
    geometry: Geometry | CallGeometry,
    bindings: readonly Binding[],
    label: string,
    lastUsed?: readonly number[],
  ): Dispatch;
  /** Gives back what `bind` took. */
  release(dispatch: Dispatch): void;
  /** Enqueue in order; never reads back. */
  run(queue: readonly Dispatch[]): void;
  /** For tests and reports. */
  readonly statistics: DeviceStatistics;
}

/** Counts of what is on a device: buffers with their bytes now and at the peak, and kernels compiled. */
export interface DeviceStatistics {
  readonly buffers: number;
  readonly bytesInUse: number;
  readonly peakBytes: number;
  readonly kernels: number;
}
