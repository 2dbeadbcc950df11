/** GPU.js behind one small interface: values on the device, kernels that make new ones from them. */
import { DeviceError } from "../../errors.ts";
import { functionSource } from "./function-source.ts";
import type { BufferResult, WebGpuContext } from "./gpujs-internals.ts";
import { type ArrayArgument, countsOf, type Pass } from "./plan.ts";

/** The ways in which GPU.js can run a kernel, the fastest first. */
export const gpuModes = ["webgpu", "webgl2", "webgl", "headlessgl", "webasm", "cpu"] as const;
/** One of them. */
export type GpuMode = (typeof gpuModes)[number];

/** What runs the kernels of a mode for graphics cards. */
export type AdapterKind = "card" | "software";

/** Names of what computes on the processor in place of a card. */
export const softwareNames = /swiftshader|llvmpipe|lavapipe|basic render/i;

/** Floats on the device: never changed once they are written, freed when nobody refers to them any more. */
export interface Handle {
  readonly count: number;
  references: number;
  /** Rows of so many floats lie by fours, in mode webgl: what reads it is compiled for that. */
  columns?: number | undefined;
  /** What has been made of it and is kept, by the name of that; `null` for what was made once and is not. */
  kept?: Map<string, Handle | null>;
  /** GPU.js's own handle; `null` before it is written and once it is freed. */
  raw: unknown;
}

/** A pass at its place in a program: what a backend remembers of the last time that it ran there. */
export interface Site {
  last?: unknown;
}

/** A mode of GPU.js: uploads, runs, reads and frees flat arrays of floats. */
export interface Backend {
  readonly mode: GpuMode;
  /** Arrays that one kernel may read. */
  readonly inputs: number;
  /** Values that one shader of ours may write, beside what counts among the inputs. */
  readonly results?: number;
  /** Floats that one handle may hold. */
  readonly limit: number;
  /** Floats that a kernel can tell apart by an index that it computes. */
  readonly exact: number;
  /** Handles are ordinary arrays. */
  readonly visible: boolean;
  /** The processor computes what a graphics card would: the memory of a workgroup is no faster than any other there. */
  readonly software?: boolean;
  /** Runs passes that write a value in the memory of one that they read (`Pass.inPlace`). */
  readonly writesInPlace?: boolean;
  /** Runs fragment shaders of ours. */
  readonly draws?: boolean;
  upload(values: Float32Array): Handle;
  /** Gives what the pass writes, in order. */
  run(pass: Pass, args: readonly (Handle | number)[], site?: Site): readonly Handle[];
  read(handle: Handle): Promise<Float32Array>;
  readonly readSync?: (handle: Handle) => Float32Array;
  free(handle: Handle): void;
  /** Kernels that are ready, kernels made so far, and handles that live. */
  readonly statistics: { readonly kernels: number; readonly compilations: number; readonly handles: number };
  destroy(): Promise<void>;
}

/** What we use of GPU.js. */
export interface GpuJs {
  readonly GPU: {
    new (settings: { mode: string }): GpuInstance;
    readonly isWebGLSupported: boolean;
    readonly isWebGL2Supported: boolean;
    readonly isHeadlessGLSupported: boolean;
    readonly isSinglePrecisionSupported: boolean;
  };
  readonly WebGPUContext: { readonly isSupported: boolean; acquire(): Promise<WebGpuContext> };
  readonly WebGPUBufferResult: new (settings: Record<string, unknown>) => BufferResult;
  /** An array of so many columns and rows, flat. */
  readonly input: (values: Float32Array, size: readonly [columns: number, rows: number]) => unknown;
}

/** What is used of an instance of GPU.js. */
export interface GpuInstance {
  createKernel(source: string, settings: Record<string, unknown>): GpuKernel;
  destroy(): Promise<void> | void;
  readonly Kernel: {
    /** What GPU.js has asked once, also of a context that is lost by now. */
    readonly features: { readonly maxTextureSize: number };
    readonly testContext?: WebGLRenderingContext | null;
  };
  readonly context?: unknown;
  readonly canvas?: Partial<EventTarget> | null;
}

/** What is used of a kernel of GPU.js. */
export interface GpuKernel {
  (...args: unknown[]): unknown;
  setOutput(output: readonly number[]): void;
  readonly kernel: { readonly constructor: { readonly mode: string }; readonly fallbackReason: unknown };
  destroy(removeCanvasReferences?: boolean): void;
}

/** Settings of GPU.js for a pass. */
export function kernelSettings(pass: Pass, functions: Readonly<Record<string, (...args: number[]) => number>>) {
  return {
    output: [pass.count],
    precision: "single",
    tactic: "precision",
    pipeline: true,
    immutable: true,
    ...(pass.constants && { constants: pass.constants }),
    functions: pass.functions.map((name) => {
      const source = functions[name]!;
      return {
        source: functionSource(source, name),
        settings: { argumentTypes: new Array(source.length).fill("Number"), returnType: "Number" },
      };
    }),
  };
}

/** What a kernel is called with. `shaped` makes a value one of rows, for kernels that read it so. */
export const called = (
  { args: wanted }: Pass,
  args: readonly (Handle | number)[],
  shaped: (raw: unknown, row: number, rows: number) => unknown,
): unknown[] =>
  args.map((arg, i) => {
    if (typeof arg === "number") return arg;
    const { row } = wanted[i] as ArrayArgument;
    return row === undefined ? arg.raw : shaped(arg.raw, row, Math.floor(arg.count / row));
  });

/** Drops what was added first, where there are more than so many. */
export function forgetFirst(names: Set<string> | Map<string, unknown>, most: number): void {
  if (names.size > most) names.delete(names.keys().next().value as string);
}

/**
 * Kernels by what they are made of; the one used longest ago makes room. A step that needs more than are kept would find none of them:
 * one that had to go and is asked for again shows that there are too few, and more are kept from then on. Names are remembered of as many
 * as may ever be kept: one that comes back after more others than that would not have been kept either.
 */
export class KernelCache {
  readonly #kernels = new Map<string, GpuKernel>();
  #most: number;
  readonly #mostOfAll: number;
  readonly #gone = new Set<string>();
  readonly #make: (pass: Pass) => GpuKernel;
  /** A number for each different kernel, lengths of what it reads aside: its text is too long to be compared at every call. */
  readonly #texts = new Map<string, number>();
  readonly #numbers = new WeakMap<Pass, number>();
  #nextNumber = 0;
  compilations = 0;

  constructor(most: number, mostOfAll: number, make: (pass: Pass) => GpuKernel) {
    this.#most = most;
    this.#mostOfAll = mostOfAll;
    this.#make = make;
  }

  get size(): number {
    return this.#kernels.size;
  }

  get(pass: Pass, args: readonly (Handle | number)[]): GpuKernel {
    return this.find(pass, args)[1];
  }

  /** The kernel of a key that `find` gave, if it still is here. */
  again(key: string): GpuKernel | undefined {
    const kernel = this.#kernels.get(key);
    if (!kernel) return undefined;
    this.#kernels.delete(key);
    this.#kernels.set(key, kernel);
    return kernel;
  }

  /** The kernel of a pass, made where there is none, and the key under which it is kept. */
  find(pass: Pass, args: readonly (Handle | number)[]): [key: string, kernel: GpuKernel] {
    const key = this.#key(pass, args);
    let kernel = this.again(key);
    if (!kernel) {
      kernel = this.#make(pass);
      this.compilations++;
      if (this.#gone.delete(key)) this.#most = Math.min(this.#mostOfAll, Math.ceil(1.5 * this.#most));
      this.#kernels.set(key, kernel);
    }
    if (this.#kernels.size > this.#most) {
      const [oldest, unused] = this.#kernels.entries().next().value as [string, GpuKernel];
      this.#kernels.delete(oldest);
      this.#gone.add(oldest);
      forgetFirst(this.#gone, this.#mostOfAll);
      unused.destroy();
    }
    return [key, kernel];
  }

  clear(): void {
    this.#kernels.clear();
    this.#gone.clear();
    this.#texts.clear();
  }

  /** Names and texts that are remembered, of kernels that live and of others. */
  get remembered(): number {
    return this.#gone.size + this.#texts.size;
  }

  /** Identity of a kernel: its source, its sizes, and the lengths of what it reads, which GL kernels are compiled for. */
  #key(pass: Pass, args: readonly (Handle | number)[]): string {
    let number = this.#numbers.get(pass);
    if (number === undefined) {
      const text = `${pass.size ?? countsOf(pass)}|${JSON.stringify(pass.constants)}|${pass.wgsl?.code ?? pass.glsl ?? pass.source}`;
      // a text that is forgotten and comes back has another number, and is compiled once more
      number = this.#texts.get(text) ?? this.#nextNumber++;
      this.#texts.delete(text);
      this.#texts.set(text, number);
      forgetFirst(this.#texts, 2 * this.#mostOfAll);
      this.#numbers.set(pass, number);
    }
    let key = String(number);
    for (const arg of args) key += typeof arg === "number" ? ",n" : `,${arg.count}${arg.columns ? `/${arg.columns}` : ""}`;
    return key;
  }
}

/** @throws {DeviceError} when GPU.js took another way than the one that was chosen, which it does without a word */
export function checkMode({ kernel }: GpuKernel, mode: GpuMode): void {
  const ran = kernel.constructor.mode;
  const wanted = mode === "webgl" || mode === "webgl2" || mode === "headlessgl" ? "gpu" : mode;
  if (ran === wanted && !kernel.fallbackReason) return;
  throw new DeviceError(
    `a kernel ran in mode ${ran} instead of ${mode}${kernel.fallbackReason ? `: ${kernel.fallbackReason}` : ""}.`,
    {
      operation: "gpu",
      expected: mode,
      got: ran,
      hint: "Choose another mode.",
    },
  );
}
