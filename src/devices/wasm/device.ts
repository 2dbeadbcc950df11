/** The wasm device: loop programs and tuned kernels as WebAssembly SIMD code, on all cores. */
import { updateDepth } from "../../../kernels/wasm/matmul.ts";
import { checkOptions, DeviceError, DTypeError } from "../../errors.ts";
import { bytesPerElement, type DType, dtypes, type TypedArray } from "../../graph/dtype.ts";
import type { CallGeometry } from "../../graph/primitive.ts";
import type { Binding, Buffer, Device, Dispatch, Executable, KernelCall } from "../device.ts";
import type { Geometry, LoopProgram } from "../loop-program.ts";
import { type BindCall, bindHost, type CallContext, callEntries, type Step } from "./calls.ts";
import { features } from "./features.ts";
import { estimateCost, layoutArguments, partition, scratchBytes, writeArguments } from "./loop-arguments.ts";
import { inBandsOf, rowBlocksOf } from "./loop-bands.ts";
import { type EmitOptions, emitLoop, type PlannedLoop, plannedLoop } from "./loop-emitter.ts";
import { emitGroup, type Group, groupOf } from "./loop-groups.ts";
import { vectorsOf, wholeRowsOf } from "./loop-plan.ts";
import { DeviceMemory } from "./memory.ts";
import { Pool } from "./pool.ts";

/** How the `wasm` device runs. */
export interface WasmOptions {
  /** Threads that compute, this one included; by default LORIKEET_THREADS, else one a core. */
  readonly threads?: number;
  /** `false` computes without fused multiply-add where the engine has it. */
  readonly relaxedSimd?: boolean;
  /** `false` keeps the memory to this thread, as where workers cannot share it. */
  readonly shared?: boolean;
  /** Largest size of the memory, at most (and by default) 4 GiB. */
  readonly maximumBytes?: number;
}

interface WasmBuffer extends Buffer {
  readonly address: number;
}

interface LoopExecutable extends Executable {
  readonly program: LoopProgram;
  readonly planned: PlannedLoop;
  /** By what it was emitted for: a program's own key is long, and all of it is read to find it. */
  readonly kernels: Map<string, number>;
}

interface CallExecutable extends Executable {
  readonly call: KernelCall;
  /** `null` where the host's meaning runs. */
  readonly bind: BindCall | null;
}

/** Nanoseconds of a fold of columns, on one thread, from which on its rows are worth two launches. */
const rowBlocksAbove = 30_000;

/** A step whose args block lies in wasm memory. */
interface Placed {
  readonly kernel: number;
  readonly tasks: number;
  readonly args: number;
  readonly before: (() => void) | null;
}

interface Launch extends Dispatch {
  readonly steps: readonly Placed[];
  readonly host: (() => void) | null;
  /** Address of what one step leaves for another, 0 where nothing is. */
  readonly between: number;
}

/**
 * @throws {DeviceError} where the engine has no SIMD
 * @example
 * using device = createWasm({ threads: 2 });
 * device.about   // "wasm: 2 threads, relaxed SIMD, shared memory"
 */
export function createWasm(options: WasmOptions = {}): Device {
  checkOptions("wasm", options, {
    threads: "a whole number from 1",
    relaxedSimd: "true or false",
    shared: "true or false",
    maximumBytes: "a number above 0, or Infinity",
  });
  if (!features().simd)
    throw new DeviceError("this engine has no 128-bit WebAssembly SIMD.", { operation: "wasm", hint: 'Use device "reference".' });
  return new WasmDevice(options);
}

class WasmDevice implements Device {
  readonly name = "wasm";
  readonly about: string;
  readonly fusion = { elementwise: true, rows: true };
  readonly kernels: ReadonlySet<string> = new Set(Object.keys(callEntries));
  readonly widens: ReadonlySet<DType> = new Set(["float16", "bfloat16"] as const);
  readonly updateDepth = updateDepth;
  private readonly memory: DeviceMemory;
  private readonly pool: Pool;
  private readonly relaxedSimd: boolean;
  private readonly loops = new Map<string, LoopExecutable>();
  private readonly calls = new Map<string, CallExecutable>();
  private readonly modules = new Map<string, Readonly<Record<string, number>>>();
  private readonly context: CallContext;
  /** Scratch of all threads; kernels run one after the other, so one is enough for all. */
  private scratch = { address: 0, bytes: 0 };
  /** By args block: where in it the address of the scratch stands. */
  private readonly scratchUsers = new Map<number, number>();

  constructor(options: WasmOptions) {
    const { shared, maximumBytes, threads } = options;
    this.memory = new DeviceMemory({
      ...(shared === false ? { shared } : {}),
      ...(maximumBytes === undefined ? {} : { maximumBytes }),
    });
    this.pool = new Pool(this.memory, threads === undefined ? {} : { threads });
    this.relaxedSimd = features().relaxedSimd && options.relaxedSimd !== false;
    this.context = {
      memory: this.memory,
      threads: this.pool.threads,
      relaxedSimd: this.relaxedSimd,
      module: (key, bytes) => this.module(key, bytes),
    };
    const { threads: count } = this.pool;
    this.about = [
      `wasm: ${count} ${count === 1 ? "thread" : "threads"}`,
      this.relaxedSimd ? "relaxed SIMD" : "SIMD",
      this.memory.shared ? "shared memory" : "memory of its own",
    ].join(", ");
  }

  get mostBytes(): number {
    return this.memory.maximumBytes;
  }

  storageBytes(dtype: DType): number {
    return bytesPerElement(dtype);
  }

  allocate(bytes: number): WasmBuffer {
    const { memory } = this;
    const address = memory.allocate(bytes);
    let freed = false;
    return {
      bytes,
      address,
      [Symbol.dispose]() {
        if (freed) return;
        freed = true;
        memory.free(address);
      },
    };
  }

  upload(values: TypedArray, dtype: DType, to: Binding): void {
    this.view(to, dtype, values.length).set(values);
  }

  downloadSync(from: Binding, dtype: DType, count: number): TypedArray {
    const values = new dtypes[dtype].array(count);
    values.set(this.view(from, dtype, count));
    return values;
  }

  async download(from: Binding, dtype: DType, count: number): Promise<TypedArray> {
    return this.downloadSync(from, dtype, count);
  }

  copy(from: Binding, to: Binding, bytes: number): void {
    const source = (from.buffer as WasmBuffer).address + from.offset;
    new Uint8Array(this.memory.buffer).copyWithin((to.buffer as WasmBuffer).address + to.offset, source, source + bytes);
  }

  compile(program: LoopProgram): LoopExecutable {
    let executable = this.loops.get(program.key);
    if (!executable) {
      // no code yet: most launches take one of the forms that `bind` finds for their sizes
      executable = { name: program.shape, program, planned: plannedLoop(program), kernels: new Map() };
      this.loops.set(program.key, executable);
    }
    return executable;
  }

  compileCall(call: KernelCall): Executable {
    const key = `${call.name}:${call.operands}>${call.results}`;
    let executable = this.calls.get(key);
    if (!executable) {
      const bind = callEntries[call.name]?.(call, this.context) ?? null;
      if (!bind && !call.host)
        throw new DTypeError(`has no kernel for ${call.operands.join(", ")} on wasm.`, {
          operation: call.name,
          got: call.operands,
        });
      executable = { name: call.name, call, bind };
      this.calls.set(key, executable);
    }
    return executable;
  }

  bind(executable: Executable, geometry: Geometry | CallGeometry, bindings: readonly Binding[], label: string): Launch {
    const addresses = bindings.map(({ buffer, offset }) => (buffer as WasmBuffer).address + offset);
    if ("program" in executable)
      return { executable, label, host: null, ...this.bindLoop(executable as LoopExecutable, geometry as Geometry, addresses) };
    const { call, bind } = executable as CallExecutable;
    const steps = bind?.(geometry as CallGeometry, addresses) ?? null;
    if (steps) return { executable, label, host: null, between: 0, steps: steps.map((step) => this.place(step)) };
    return { executable, label, steps: [], between: 0, host: bindHost(call, geometry as CallGeometry, addresses, this.memory) };
  }

  release(dispatch: Dispatch): void {
    const { steps, between } = dispatch as Launch;
    for (const { args } of steps) {
      this.memory.free(args);
      this.scratchUsers.delete(args);
    }
    if (between) this.memory.free(between);
  }

  run(queue: readonly Dispatch[]): void {
    const { pool } = this;
    for (const dispatch of queue) {
      const { steps, host } = dispatch as Launch;
      if (host) host();
      else
        for (const { kernel, tasks, args, before } of steps) {
          before?.();
          pool.run(kernel, tasks, args);
        }
    }
  }

  get statistics() {
    const { buffers, bytesInUse, peakBytes } = this.memory.statistics();
    return { buffers, bytesInUse, peakBytes, kernels: this.loops.size + this.calls.size };
  }

  [Symbol.dispose](): void {
    this.pool.dispose();
    this.loops.clear();
    this.calls.clear();
  }

  private view({ buffer, offset }: Binding, dtype: DType, count: number): TypedArray {
    if (dtype === "float64")
      throw new DTypeError("float64 runs on the reference device only.", {
        operation: "wasm",
        got: dtype,
        hint: 'Use x.cast("float32"), or device "reference".',
      });
    return new dtypes[dtype].array(this.memory.buffer, (buffer as WasmBuffer).address + offset, count);
  }

  private bindLoop(
    executable: LoopExecutable,
    geometry: Geometry,
    addresses: readonly number[],
  ): Pick<Launch, "steps" | "between"> {
    const { program, planned } = executable;
    const { plan } = planned;
    const group = groupOf(program, plan, geometry);
    if (group) return { steps: [this.bindGroup(group, addresses)], between: 0 };
    const cut = rowBlocksOf(program, plan, geometry, this.pool.threads);
    if (!cut || estimateCost(plan, geometry) < rowBlocksAbove)
      return { steps: [this.bindWalk(executable, geometry, addresses)], between: 0 };
    const between = this.memory.allocate(4 * cut.elements, "internal");
    const steps = [...cut.blocks, cut.total].map((part) =>
      this.bindWalk(this.compile(part.program), part.geometry, [...addresses, between]),
    );
    return { steps, between };
  }

  private bindWalk({ program, planned, kernels }: LoopExecutable, geometry: Geometry, addresses: readonly number[]): Placed {
    const { plan, layout } = planned;
    const cut = partition(program, plan, geometry, this.pool.threads);
    const vectors = vectorsOf(program, plan, geometry);
    const inBands = inBandsOf(program, plan, geometry);
    const wholeRows = wholeRowsOf(program, plan, geometry);
    const form = `${vectors}/${inBands}/${wholeRows?.step}${wholeRows?.order}`;
    let kernel = kernels.get(form);
    if (kernel === undefined) {
      const bytes = emitLoop(program, planned, { ...this.target, vectors, inBands, wholeRows });
      kernels.set(form, (kernel = this.pool.add(bytes)["kernel"]!));
    }
    return this.place({
      kernel,
      tasks: cut.tasks,
      args: writeArguments(program, plan, layout, geometry, cut, addresses),
      scratch: { word: layout.scratch / 4, bytes: scratchBytes(program, plan, geometry) },
    });
  }

  private bindGroup(group: Group, addresses: readonly number[]): Placed {
    const { program, plan, geometry, rows, key } = group;
    const kernel = this.module(key, () => emitGroup(group, this.target))["kernel"]!;
    const layout = layoutArguments(program, plan);
    const cut = partition(program, plan, geometry, this.pool.threads, rows);
    return this.place({ kernel, tasks: cut.tasks, args: writeArguments(program, plan, layout, geometry, cut, addresses) });
  }

  /** What code is emitted for. */
  private get target(): EmitOptions {
    const { memory, relaxedSimd } = this;
    return { shared: memory.shared, maximumPages: memory.maximumPages, relaxedSimd };
  }

  /** Puts a step's args block into wasm memory. */
  private place({ kernel, tasks, args, scratch, before }: Step): Placed {
    if (scratch) this.growScratch(scratch.bytes * this.pool.threads);
    const address = this.memory.allocate(4 * args.length, "internal");
    const words = this.memory.i32(address, args.length);
    words.set(args);
    if (scratch) {
      words[scratch.word] = this.scratch.address;
      this.scratchUsers.set(address, scratch.word);
    }
    return { kernel, tasks, args: address, before: before ?? null };
  }

  private growScratch(bytes: number): void {
    if (bytes <= this.scratch.bytes) return;
    if (this.scratch.address) this.memory.free(this.scratch.address);
    const size = Math.ceil(bytes / 65536) * 65536;
    this.scratch = { address: this.memory.allocate(size, "internal"), bytes: size };
    for (const [args, word] of this.scratchUsers) this.memory.i32(args, word + 1)[word] = this.scratch.address;
  }

  private module(key: string, bytes: () => Uint8Array<ArrayBuffer>): Readonly<Record<string, number>> {
    let ids = this.modules.get(key);
    if (!ids) this.modules.set(key, (ids = this.pool.add(bytes())));
    return ids;
  }
}
