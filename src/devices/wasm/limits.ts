/**
 * What this processor can do at most with 128-bit vectors, measured: arithmetic that never leaves the registers, and plain streaming
 * through memory. A kernel's time is held against the larger of the two that it cannot do without (the roofline).
 *
 * @see Williams, Waterman, Patterson, Roofline: An Insightful Visual Performance Model, CACM 2009
 */
import type { Step } from "../../compile/schedule.ts";
import { sizeOf } from "../../graph/shape.ts";
import type { Device } from "../device.ts";
import type { Geometry, LoopProgram, Register } from "../loop-program.ts";
import { type Expression, FunctionBuilder, load, ModuleBuilder } from "./assembler.ts";
import { features } from "./features.ts";
import { LaneMath, type Vector } from "./lanes.ts";
import { applied } from "./loop-values.ts";
import { DeviceMemory } from "./memory.ts";
import type { SimpleOp } from "./opcodes.ts";
import { Pool } from "./pool.ts";

/** So many windows at least: of one alone a busy machine may have taken any part for others. */
const leastWindows = 8;

/** Milliseconds of the best of many short windows: on a shared machine a short window is often undisturbed. */
export function bestTime(run: () => void, { window = 1, milliseconds = 250, warmUp = 50 } = {}): number {
  const start = performance.now();
  // V8's optimising compiler takes over meanwhile
  do run();
  while (performance.now() - start < warmUp);
  let once = performance.now();
  run();
  once = performance.now() - once;
  const inner = Math.max(1, Math.round(window / once));
  let fastest = Number.POSITIVE_INFINITY;
  const end = performance.now() + milliseconds;
  for (let windows = 0; windows < leastWindows || performance.now() < end; windows++) {
    const from = performance.now();
    for (let i = 0; i < inner; i++) run();
    fastest = Math.min(fastest, (performance.now() - from) / inner);
  }
  return fastest;
}

/** What `bestTime` is told for the best of many windows of so many milliseconds. */
export const inWindows = (
  window: number,
): { readonly window: number; readonly milliseconds: number; readonly warmUp: number } => ({
  window,
  milliseconds: Math.max(20, 8 * window),
  warmUp: 8,
});

/** An arithmetic vector instruction with the kinds of its operands. */
export interface VectorInstruction {
  readonly op: SimpleOp;
  readonly operands: number;
}

/**
 * Nanoseconds of one vector instruction of one thread, when many independent ones follow each other in registers: twelve chains of it.
 * Engines turn some instructions into several of the processor's, and divisions take longer than products, so each kind is measured.
 */
export function instructionTime({ op, operands }: VectorInstruction, milliseconds = 30): number {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
  const module = new ModuleBuilder({ shared: false });
  const f = module.function("chains", ["i32"]);
  writeChains(f, f.params[0], { op, operands }, 0);
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module.bytes()), { env: { memory } });
  const rounds = 1000;
  const run = exports["chains"] as (n: number) => void;
  return (bestTime(() => run(rounds), { window: 0.2, milliseconds, warmUp: 20 }) * 1e6) / (rounds * instructionsARound);
}

/** How many of an instruction a round of `writeChains` has. */
const instructionsARound = 48;

/** Writes `rounds` of four times twelve independent chains of an instruction, and what they come to at an address. */
function writeChains(f: FunctionBuilder, rounds: Expression, { op, operands }: VectorInstruction, address: Expression): void {
  const x = f.constant("f32", 1.0000001);
  const y = f.constant("f32", 1e-9);
  const chains = Array.from({ length: 12 }, () => f.local("v128", x));
  const isShift = /\.sh[lr]/.test(op);
  const value = (chain: (typeof chains)[number]): Expression => {
    if (operands === 3) return op.includes("madd") ? [op, x, y, chain] : [op, chain, x, y];
    return operands === 2 ? [op, chain, isShift ? 3 : x] : [op, chain];
  };
  f.repeat(rounds, () => {
    for (let unrolled = 0; unrolled < 4; unrolled++) for (const chain of chains) f.set(chain, value(chain));
  });
  // consumed, or V8 drops the loop
  for (const [i, chain] of chains.entries()) f.store("v128.store", address, chain, 16 * i);
}

/** GFLOP/s of one thread in products of matrices whose operands never leave the registers. */
export function simdPeak(fused: boolean): number {
  if (fused) return 8 / instructionTime({ op: "f32x4.relaxed_madd", operands: 3 }, 150);
  return 8 / (instructionTime({ op: "f32x4.mul", operands: 2 }, 75) + instructionTime(yardstick, 75));
}

/** What tells how fast the processor is at the moment. */
const yardstick: VectorInstruction = { op: "f32x4.add", operands: 2 };

/** Tasks for each thread: one that is slower than the others takes fewer. */
const chainTasks = 8;

/**
 * Reads and writes memory as fast as vectors can, on as many threads as a device has. The same bytes again and again: from the cache where
 * they fit, so that a launch which is the only one to touch its values in a long step cannot come near.
 */
export class Streams implements Disposable {
  private readonly memory = new DeviceMemory();
  private readonly pool: Pool;
  private readonly kernel: number;
  private readonly chains: number;
  private readonly args: number;
  private readonly measured = new Map<string, number>();
  private block = { address: 0, bytes: 0 };

  constructor(threads: number) {
    this.pool = new Pool(this.memory, { threads });
    const module = new ModuleBuilder({ shared: this.memory.shared, maximumPages: this.memory.maximumPages });
    const f = module.function("stream", ["i32", "i32", "i32"]);
    const [task, args] = f.params;
    const word = (index: number) => load("i32.load", args, 4 * index);
    /** In units of 64 bytes, of one task: what is read and written, what is only read, what is only written. */
    const [copied, read, written] = [word(2), word(3), word(4)];
    /** How often the same is read and written elsewhere. */
    const rounds = word(5);
    const start = (base: Expression, units: Expression, own: Expression): Expression => [
      "i32.add",
      base,
      ["i32.mul", task, ["i32.shl", ["i32.add", units, own], 6]],
    ];
    const source = f.local("i32", start(word(0), copied, read));
    const from = f.local("i32");
    const to = f.local("i32", start(word(1), ["i32.mul", copied, rounds], written));
    const sums = Array.from({ length: 4 }, () => f.local("v128"));
    const vector = (i: number) => load("v128.load", from, 16 * i);
    f.repeat(rounds, () => {
      f.set(from, source);
      f.repeat(copied, () => {
        for (let i = 0; i < 4; i++) f.store("v128.store", to, vector(i), 16 * i);
        f.increment(from, 64).increment(to, 64);
      });
    });
    f.repeat(read, () => {
      for (const [i, sum] of sums.entries()) f.set(sum, ["v128.xor", sum, vector(i)]);
      f.increment(from, 64);
    });
    f.repeat(written, () => {
      for (const [i, sum] of sums.entries()) f.store("v128.store", to, sum, 16 * i);
      f.increment(to, 64);
    });
    // consumed, or V8 drops the loop that only reads
    for (const [i, sum] of sums.entries()) f.store("v128.store", args, sum, 64 + 16 * i);
    const registers = module.function("chains", ["i32", "i32", "i32"]);
    const own: Expression = ["i32.add", registers.params[1], ["i32.shl", registers.params[0], 8]];
    writeChains(registers, load("i32.load", registers.params[1]), yardstick, ["i32.add", own, 256]);
    this.args = this.memory.allocate(256 * (1 + chainTasks * threads));
    const kernels = this.pool.add(module.bytes());
    [this.kernel, this.chains] = [kernels["stream"] as number, kernels["chains"] as number];
  }

  /** What `instructionTime` says of an addition, but of all threads together at this moment, in windows of so many milliseconds. */
  additionTime(window: number): number {
    const rounds = 2000;
    this.memory.i32(this.args, 1)[0] = rounds;
    const tasks = chainTasks * this.pool.threads;
    const run = () => this.pool.run(this.chains, tasks, this.args);
    return (bestTime(run, inWindows(window)) * 1e6) / (rounds * instructionsARound * chainTasks);
  }

  /**
   * Milliseconds of reading and writing so many bytes. Measured once for sizes that are within a tenth of each other.
   *
   * @param rounds how often what is read is the same again
   * @param window measures it now, in windows of so many milliseconds
   */
  time(readBytes: number, writtenBytes: number, rounds = 1, window?: number): number {
    if (window !== undefined) return this.measure(readBytes, writtenBytes, rounds, window);
    const total = readBytes + writtenBytes;
    const rounded = (bytes: number) => Math.round(Math.log(Math.max(bytes, 4096)) / Math.log(1.1));
    const key = `${rounded(readBytes)}/${rounded(writtenBytes)}/${rounds}`;
    let rate = this.measured.get(key);
    if (rate === undefined) this.measured.set(key, (rate = total / this.measure(readBytes, writtenBytes, rounds)));
    return total / rate;
  }

  private measure(readBytes: number, writtenBytes: number, rounds: number, window = 0.5): number {
    const { memory, pool } = this;
    const tasks = readBytes + writtenBytes < 65536 ? 1 : pool.threads;
    const units = (bytes: number) => Math.max(0, Math.round(bytes / tasks / 64 / rounds));
    const [read, written] = [units(readBytes), units(writtenBytes)];
    const copied = Math.min(read, written);
    const bytes = 64 * tasks * (read + copied * (rounds - 1) + written) + 64;
    if (this.block.bytes < bytes) {
      if (this.block.address) memory.free(this.block.address);
      this.block = { address: memory.allocate(bytes), bytes };
      memory.u8(this.block.address, bytes).fill(1);
    }
    const { address } = this.block;
    memory.i32(this.args, 6).set([address, address + 64 * tasks * read, copied, read - copied, written - copied, rounds]);
    return bestTime(() => pool.run(this.kernel, tasks, this.args), inWindows(window));
  }

  [Symbol.dispose](): void {
    this.pool.dispose();
  }
}

/** Notes the vector instructions that it is given. */
class VectorCounter extends FunctionBuilder {
  readonly noted: VectorInstruction[] = [];

  override push(value: Expression): this {
    if (Array.isArray(value)) this.note(value[0], value.length - 1);
    return super.push(value);
  }

  override op(op: SimpleOp, ...operands: Expression[]): this {
    this.note(op, operands.length);
    return super.op(op, ...operands);
  }

  private note(op: SimpleOp, operands: number): void {
    if (/^(v128|[fi]\d+x\d+)\./.test(op) && !op.endsWith("splat") && operands > 0) this.noted.push({ op, operands });
  }
}

/**
 * Arithmetic vector instructions that a loop program cannot do without, for four elements of its inner loop: every instruction of it
 * once, a product that is only added to something together with the addition.
 */
export function vectorInstructions(
  { instructions, stores }: Pick<LoopProgram, "instructions" | "stores">,
  relaxed: boolean,
): readonly VectorInstruction[] {
  const f = new VectorCounter(0, []);
  const simd = new LaneMath(f, relaxed);
  const vectors: Vector[] = instructions.map((one) =>
    one.kind === "constant" ? simd.constant(one.value, one.dtype) : { dtype: one.dtype, local: f.local("v128") },
  );
  const uses = new Map<Register, number>();
  const use = (register: Register) => uses.set(register, (uses.get(register) ?? 0) + 1);
  for (const one of instructions)
    for (const arg of one.kind === "apply" ? one.args : one.kind === "reduce" ? [one.arg] : []) use(arg);
  for (const { register } of stores) use(register);
  const isOnlyUse = (register: Register, name: string): boolean => {
    const one = instructions[register];
    return uses.get(register) === 1 && one?.kind === "apply" && one.op.name === name && one.level !== "row";
  };
  for (const one of instructions) {
    if (one.kind === "reduce") {
      f.noted.push({ op: one.op.name === "sum" ? "f32x4.add" : "f32x4.pmax", operands: 2 });
      if (relaxed && isOnlyUse(one.arg, "mul")) f.noted.pop(); // one instruction adds the product
    }
    if (one.kind !== "apply" || one.level === "row") continue;
    const before = f.noted.length;
    const values = one.args.map((arg) => vectors[arg] as Vector);
    applied(simd, instructions, one, values);
    if (relaxed && one.op.name === "add" && one.args.some((arg) => isOnlyUse(arg, "mul"))) f.noted.length = before;
  }
  return f.noted;
}

/** What bounds a launch from below, in milliseconds. */
export interface Limit {
  readonly arithmetic: number;
  readonly memory: number;
}

/** The processor's limits for the launches of one device. */
export class Limits implements Disposable {
  readonly threads: number;
  /** GFLOP/s of all threads in products of matrices. */
  readonly peak: number;
  /** Nanoseconds of an addition when the peak was measured. */
  private readonly addition: number;
  /** Nanoseconds of instructions while an addition takes one. */
  private readonly times = new Map<string, number>();
  private readonly streams: Streams;
  private readonly relaxed = features().relaxedSimd;

  /** @param device a wasm device; its `about` says on how many threads it computes */
  constructor(device: Device) {
    this.threads = Number(/(\d+) thread/.exec(device.about)?.[1] ?? 1);
    this.peak = simdPeak(this.relaxed) * this.threads;
    this.addition = instructionTime(yardstick, 75);
    this.streams = new Streams(this.threads);
  }

  /** GB/s of copying that many bytes to another place. */
  bandwidth(bytes: number): number {
    return (2 * bytes) / this.streams.time(bytes, bytes) / 1e6;
  }

  /**
   * The limit of a launch at the machine's best.
   *
   * @param window the limit at this moment instead, on all threads: other programs slow the processor down from one minute to the next.
   * What is held against it is measured beside it, `inWindows` of as many milliseconds: the shorter a window, the better its best
   */
  of(step: Step, device: Device, window?: number): Limit {
    const bytes = (value: Step["values"][number]) => value.size * device.storageBytes(value.dtype);
    const outputs = new Set(step.outputs);
    const sum = (values: Iterable<Step["values"][number]>) => [...values].reduce((total, value) => total + bytes(value), 0);
    const read = sum(new Set(step.values.filter((value) => !outputs.has(value))));
    const written = sum(outputs);
    const isTake = step.label.startsWith("take");
    // of a table, only the rows that are taken, but each as often as it is: by then it has left the nearer caches
    const rounds = isTake ? Math.max(1, Math.round(written / read)) : 1;
    const memory = this.streams.time(rounds > 1 ? written : isTake ? Math.min(read, 2 * written) : read, written, rounds, window);
    const pace = window === undefined ? 1 : this.streams.additionTime(window) / this.addition;
    return { arithmetic: this.arithmetic(step) * pace, memory };
  }

  private arithmetic({ code, geometry, flops }: Step): number {
    if (!("instructions" in code)) return flops / this.peak / 1e6;
    const { outer, inner, reduce } = geometry as Geometry;
    const elements = sizeOf(outer) * inner * sizeOf(reduce);
    const additions = vectorInstructions(code, this.relaxed).reduce((sum, one) => sum + this.time(one), 0);
    return (additions * this.addition * elements) / 4 / this.threads / 1e6;
  }

  private time(instruction: VectorInstruction): number {
    const key = `${instruction.op}/${instruction.operands}`;
    let time = this.times.get(key);
    if (time === undefined) this.times.set(key, (time = instructionTime(instruction) / instructionTime(yardstick)));
    return time;
  }

  [Symbol.dispose](): void {
    this.streams[Symbol.dispose]();
  }
}
