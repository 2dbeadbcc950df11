/**
 * Threads over one memory. A kernel is an exported WebAssembly function (task, args, thread) → (): the pool calls it for
 * task = 0 … tasks − 1, each on whichever thread is free, with the same address of arguments.
 *
 * How a job runs: the calling thread writes the job into the control block, opens the gate and wakes sleepers; every thread, the
 * calling one included, takes task numbers from a shared counter (`taking`); when they are used up the caller closes the gate and waits for
 * the workers inside to leave. A worker that comes late finds the gate closed and goes back to waiting, so nobody ever waits for a
 * thread that has not begun. Idle workers spin for a while and then sleep. A worker that dies inside of a job would leave the caller
 * waiting for ever; the caller finds that out, and the pool runs nothing any more.
 */
import { ConfigError, DeviceError } from "../../errors.ts";
import { nodeModule } from "./features.ts";
import type { DeviceMemory } from "./memory.ts";
import { control, insideBit, moduleHeaderWords, taking } from "./worker.ts";
import { startWorker, tellOfFewerThreads, type WorkerThread } from "./worker-thread.ts";

/** An exported function: does one task with the arguments at an address, as one of the threads. */
export type Kernel = (task: number, args: number, thread: number) => void;
/** Names a kernel of a pool; from `add`. */
export type KernelId = number;

const gateOpen = -0x80000000;
/** How often the caller looks for the last worker before it sleeps, where it may. */
const callerSpins = 5_000;
/** After so many sleeps, of a millisecond at most, the caller asks whether the workers it waits for are still alive. */
const sleepsBetweenLooks = 50;

/** How many threads compute. */
export interface PoolOptions {
  /** Threads that compute, the calling one included; see `defaultThreads`. */
  readonly threads?: number;
}

/** Threads that run the tasks of kernels; the calling thread is one of them. */
export class Pool {
  /** Threads that compute, the calling one included. */
  readonly threads: number;
  private readonly memory: DeviceMemory;
  private readonly words: Int32Array;
  private readonly kernels: Kernel[] = [];
  private readonly names: string[] = [];
  /** Address of the word that will hold the next module's address. */
  private lastModule: number = 4 * control.firstModule;
  private readonly published: number[] = [];
  private workers: WorkerThread[] | undefined;
  private disposed = false;
  /** Why no job can run any more. */
  private broken: DeviceError | undefined;

  /** Starts no thread yet: workers start with the first job that has two tasks. A memory has one pool. */
  constructor(memory: DeviceMemory, options: PoolOptions = {}) {
    const threads = options.threads ?? defaultThreads();
    if (!Number.isInteger(threads) || threads < 1)
      throw new ConfigError(`\`threads\` (= ${threads}) must be a positive integer.`, { operation: "wasm", got: threads });
    this.threads = memory.shared ? threads : 1;
    this.memory = memory;
    this.words = memory.i32(0, 256);
  }

  /** Workers that have started, the calling thread not counted. */
  get workersReady(): number {
    return this.threads === 1 ? 0 : Atomics.load(this.words, control.ready);
  }

  /**
   * Compiles a module and gives its kernels by their names. Every exported function must be a kernel.
   * Workers compile it when they are first told to run one of them.
   */
  add(module: Uint8Array<ArrayBuffer>): Record<string, KernelId> {
    const { memory } = this.memory;
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module), { env: { memory } });
    const first = this.kernels.length;
    const ids: Record<string, KernelId> = {};
    for (const [name, kernel] of Object.entries(exports)) {
      ids[name] = this.kernels.push(kernel as Kernel) - 1;
      this.names.push(name);
    }
    if (this.threads > 1) this.publish(module, first, this.kernels.length - first);
    return ids;
  }

  /**
   * Runs one job to its end.
   *
   * @throws {DeviceError} when a kernel trapped, on whichever thread; when a worker died in this job or in one before
   */
  run(kernel: KernelId, tasks: number, args: number): void {
    if (this.broken) throw this.broken;
    const call = this.kernels[kernel] as Kernel;
    if (tasks <= 1 || this.threads === 1) {
      try {
        for (let task = 0; task < tasks; task++) call(task, args, 0);
      } catch (error) {
        throw this.trapped(kernel, error);
      }
      return;
    }
    this.workers ??= this.start();
    this.runShared(call, kernel, tasks, args);
  }

  /** Resolves when all workers have started; the pool works without waiting for it. */
  async ready(): Promise<void> {
    if (this.threads === 1) return;
    this.workers ??= this.start();
    const { workers } = this;
    while (this.workersReady < workers.filter((worker) => !worker.ended()).length && !this.disposed)
      await new Promise((resolve) => setTimeout(resolve, 1));
  }

  /** Stops the workers and frees what was published to them. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    if (this.threads === 1) return;
    Atomics.store(this.words, control.stop, 1);
    Atomics.add(this.words, control.job, 1);
    Atomics.notify(this.words, control.job);
    for (const worker of this.workers ?? []) worker.dispose();
    for (const address of this.published) this.memory.free(address);
  }

  private runShared(call: Kernel, kernel: KernelId, tasks: number, args: number): void {
    const { words } = this;
    words[control.kernel] = kernel;
    words[control.tasks] = tasks;
    words[control.args] = args;
    Atomics.store(words, control.taken, 0);
    Atomics.store(words, control.gate, gateOpen);
    Atomics.add(words, control.job, 1);
    // waking costs a system call, so only when someone sleeps
    if (Atomics.load(words, control.sleeping) > 0) Atomics.notify(words, control.job, tasks - 1);
    let problem: unknown;
    try {
      const isCountable = tasks < taking.countable;
      for (;;) {
        const taken = Atomics.add(words, control.taken, taking.front);
        const task = isCountable ? taken & 0xffff : taken;
        if (task + (isCountable ? taken >>> 16 : 0) >= tasks) break;
        call(task, args, 0);
      }
    } catch (error) {
      problem = error;
      Atomics.store(words, control.taken, taking.none); // workers inside need not go on
    }
    Atomics.and(words, control.gate, ~gateOpen);
    this.waitForWorkers(kernel);
    if (problem !== undefined) throw this.trapped(kernel, problem);
    if (Atomics.load(words, control.failed) !== 0) throw this.trapped(kernel, this.takeMessage());
  }

  /** @throws {DeviceError} when one of them has died inside of the job: it will never leave */
  private waitForWorkers(kernel: KernelId): void {
    for (let spins = 0; ; spins++) {
      const inside = Atomics.load(this.words, control.gate);
      if (inside === 0) return;
      if (spins <= callerSpins || !canWait()) continue;
      // the time limit is only a net: the last worker to leave notifies
      Atomics.wait(this.words, control.gate, inside, 1);
      if (spins % sleepsBetweenLooks === 0) this.lookAfterWorkers(kernel);
    }
  }

  private lookAfterWorkers(kernel: KernelId): void {
    const dead = this.workers!.findIndex((worker, i) => this.isInside(i + 1) && worker.ended());
    if (dead < 0) return;
    // the others may still be in the job, which will end for them; nothing may start beside it
    this.broken = new DeviceError(
      `worker thread ${dead + 1} ended inside of kernel "${this.names[kernel]}": out of memory, stopped, or process.exit() in it.`,
      { operation: "wasm", hint: "Values on the device can still be read; make the device anew to compute." },
    );
    throw this.broken;
  }

  private isInside(thread: number): boolean {
    const { word, bit } = insideBit(thread);
    return (Atomics.load(this.words, word) & bit) !== 0;
  }

  private takeMessage(): string {
    const length = Atomics.load(this.words, control.messageBytes);
    const text = new TextDecoder().decode(this.memory.u8(4 * control.message, length).slice());
    Atomics.store(this.words, control.failed, 0);
    return text;
  }

  private trapped(kernel: KernelId, error: unknown): DeviceError {
    const message = error instanceof Error ? error.message : String(error);
    return new DeviceError(`kernel "${this.names[kernel]}" stopped with "${message}".`, { operation: "wasm", got: message });
  }

  /** Puts the module where workers find it. */
  private publish(module: Uint8Array<ArrayBuffer>, firstKernel: number, kernels: number): void {
    const address = this.memory.allocate(4 * moduleHeaderWords + module.length, "internal");
    this.published.push(address);
    this.memory.i32(address, moduleHeaderWords).set([0, firstKernel, kernels, module.length]);
    this.memory.u8(address + 4 * moduleHeaderWords, module.length).set(module);
    // linked last, so that whoever sees it sees all of it
    Atomics.store(this.memory.i32(this.lastModule, 1), 0, address);
    this.lastModule = address;
  }

  /** Where threads may not be started (permissions, a page's content policy) the calling thread does all the work. */
  private start(): WorkerThread[] {
    const workers: WorkerThread[] = [];
    try {
      for (let thread = 1; thread < this.threads; thread++) workers.push(startWorker(this.memory.memory, thread));
    } catch (error) {
      tellOfFewerThreads(error);
    }
    return workers;
  }
}

/** Threads to use: LORIKEET_THREADS, else one a core. */
export function defaultThreads(): number {
  const { process, navigator } = globalThis as {
    process?: { env?: Record<string, string | undefined> };
    navigator?: { hardwareConcurrency?: number };
  };
  const wanted = process?.env?.["LORIKEET_THREADS"];
  if (wanted !== undefined && wanted !== "") {
    const threads = Number(wanted);
    if (Number.isInteger(threads) && threads > 0) return threads;
    throw new ConfigError(`LORIKEET_THREADS (= ${wanted}) must be a positive integer.`, { operation: "wasm", got: wanted });
  }
  const os = nodeModule<typeof import("node:os")>("node:os");
  return os?.availableParallelism() ?? navigator?.hardwareConcurrency ?? 1;
}

let waitAllowed: boolean | undefined;

/** Whether this thread may sleep: the main thread of a browser page may not. */
function canWait(): boolean {
  if (waitAllowed === undefined) {
    try {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 1, 0);
      waitAllowed = true;
    } catch {
      waitAllowed = false;
    }
  }
  return waitAllowed;
}
