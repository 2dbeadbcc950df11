/**
 * Launches of mode `webgpu`. GPU.js makes a buffer for each result, which the browser fills with zeros, writes uniforms, makes a bind group
 * and submits at each of them; a small kernel takes less time than that. Here several launches are submitted as one, buffers that nobody
 * holds any more are used again, and a launch is kept for when its place in a program comes again with the same buffers: from the second
 * step of a training run on all of them do, since spare buffers are taken in a fixed order and parameters are written in place.
 */
import { forgetFirst } from "./backend.ts";
import type { BufferResult, WebGpuKernel } from "./gpujs-internals.ts";
import { Spare } from "./spare.ts";

// numbers of GPUBufferUsage
const usage = { copySource: 4, copyTarget: 8, uniform: 64, storage: 128 };

/** Launches that are submitted together: the device begins while the next ones are recorded. */
const mostPending = 64;
/** Buffers that are kept for whoever needs one of their size next. */
const mostSpare = { bytes: 256 * 2 ** 20, things: 4096 };
/** Uniforms of a kernel that are remembered. */
const mostUniforms = 64;

/** A kernel with all that it reads and writes. */
interface Launch {
  readonly pipeline: GPUComputePipeline;
  readonly group: GPUBindGroup;
  readonly workgroups: readonly [number, number, number];
}

/** Passes that wait to be submitted together. */
export class Launches {
  readonly #device: GPUDevice;
  #encoder: GPUCommandEncoder | null = null;
  #pass: GPUComputePassEncoder | null = null;
  #pending = 0;
  #willFlush = false;
  readonly #spare = new Spare<GPUBuffer>(mostSpare, (buffer) => this.#doomed.push(buffer));
  /** Buffers to destroy, which what is recorded may still use. */
  #doomed: GPUBuffer[] = [];
  #pipeline: GPUComputePipeline | null = null;
  /** Uniforms of kernels, by their values. */
  readonly #known = new WeakMap<WebGpuKernel, Map<string, GPUBuffer>>();
  #isOver = false;

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** A buffer that holds these values. */
  upload(values: Float32Array): GPUBuffer {
    const { byteLength } = values;
    const spare = this.#spare.take(byteLength);
    // what is recorded and not submitted yet may read it
    if (spare) this.#flush();
    const buffer = spare ?? this.#newBuffer(byteLength);
    this.#device.queue.writeBuffer(buffer, 0, values as Float32Array<ArrayBuffer>);
    return buffer;
  }

  #newBuffer(size: number): GPUBuffer {
    return this.#device.createBuffer({ size, usage: usage.storage | usage.copyTarget | usage.copySource });
  }

  /** Takes a buffer that nobody holds any more. */
  giveBack(buffer: GPUBuffer): void {
    if (this.#isOver) this.#doomed.push(buffer);
    else this.#spare.give(buffer.size, buffer, buffer.size);
    this.#buryIfIdle();
  }

  /** Frees what is remembered of a kernel that goes. */
  forget(kernel: WebGpuKernel): void {
    this.#doomed.push(...(this.#known.get(kernel)?.values() ?? []));
    this.#known.delete(kernel);
    this.#buryIfIdle();
  }

  /** The uniforms of a launch: its threads, and the sizes and numbers that it is called with. */
  #uniforms(kernel: WebGpuKernel, args: readonly unknown[], threads: readonly number[]): GPUBuffer {
    const { paramsLayout, paramsMirror, paramsU32, paramsI32, paramsF32 } = kernel;
    paramsU32.set(threads);
    for (const { index, dimsOffset } of paramsLayout.arrayArgs) {
      const [x, y = 1] = (args[index] as BufferResult).output as [number, number?];
      paramsU32.set([x, y, 1, x * y], dimsOffset / 4);
    }
    for (const { index, offset, type } of paramsLayout.scalarArgs)
      (type === "Integer" ? paramsI32 : paramsF32)[offset / 4] = args[index] as number;
    let known = this.#known.get(kernel);
    if (!known) this.#known.set(kernel, (known = new Map()));
    const key = paramsU32.join();
    let buffer = known.get(key);
    if (buffer) return buffer;
    buffer = this.#device.createBuffer({ size: paramsMirror.byteLength, usage: usage.uniform | usage.copyTarget });
    this.#device.queue.writeBuffer(buffer, 0, paramsMirror);
    // not destroyed: a launch that is kept may still read it
    forgetFirst(known, mostUniforms - 1);
    known.set(key, buffer);
    return buffer;
  }

  /** A launch of a kernel with what GPU.js would be called with, and buffers for what it writes. */
  prepare(kernel: WebGpuKernel, args: readonly unknown[], results: readonly GPUBuffer[]): Launch {
    const threads = [kernel.output[0]!, 1, 1];
    const { groups, dispatchWidth } = kernel._computeDispatch(threads);
    const arrays = kernel.paramsLayout.arrayArgs.map(({ index }) => (args[index] as BufferResult).buffer);
    const buffers = [this.#uniforms(kernel, args, [...threads, dispatchWidth]), ...arrays];
    const entry = (buffer: GPUBuffer, binding: number) => ({ binding, resource: { buffer } });
    const entries = [
      ...buffers.map(entry),
      // what is written over an array has no binding of its own
      ...results.flatMap((buffer, i) => (arrays.includes(buffer) ? [] : [entry(buffer, buffers.length + i)])),
    ];
    const group = this.#device.createBindGroup({ layout: kernel.bindGroupLayout, entries });
    return { pipeline: kernel.computePipeline, group, workgroups: groups };
  }

  /** A buffer of so many floats, with anything in it. */
  take(floats: number): GPUBuffer {
    return this.#spare.take(4 * floats) ?? this.#newBuffer(4 * floats);
  }

  /** Records a launch. */
  run({ pipeline, group, workgroups }: Launch): void {
    this.#encoder ??= this.#device.createCommandEncoder();
    if (!this.#pass) {
      this.#pass = this.#encoder.beginComputePass();
      this.#pipeline = null;
    }
    if (this.#pipeline !== pipeline) this.#pass.setPipeline((this.#pipeline = pipeline));
    this.#pass.setBindGroup(0, group);
    this.#pass.dispatchWorkgroups(...workgroups);
    if (++this.#pending >= mostPending) this.#flush();
    else this.#flushLater();
  }

  /** A program that awaits between small operations submits them together, too: not at the end of its turn, but when it waits for something. */
  #flushLater(): void {
    if (this.#willFlush) return;
    this.#willFlush = true;
    setTimeout(() => {
      this.#willFlush = false;
      this.#flush();
    }, 0);
  }

  /** A copy of a buffer, after all that was run. */
  duplicate(from: GPUBuffer): GPUBuffer {
    const copy = this.take(from.size / 4);
    this.#copy(from, copy, from.size);
    this.#flushLater();
    return copy;
  }

  #copy(from: GPUBuffer, to: GPUBuffer, size: number): void {
    this.#endPass();
    this.#encoder ??= this.#device.createCommandEncoder();
    this.#encoder.copyBufferToBuffer(from, 0, to, 0, size);
  }

  /** Copies what a buffer holds once all that was run has run. */
  copy(from: GPUBuffer, to: GPUBuffer, size: number): void {
    this.#copy(from, to, size);
    this.#flush();
  }

  #endPass(): void {
    this.#pass?.end();
    this.#pass = null;
  }

  /** Submits what is recorded. */
  #flush(): void {
    this.#endPass();
    if (this.#encoder) this.#device.queue.submit([this.#encoder.finish()]);
    this.#encoder = null;
    this.#pending = 0;
    this.#bury();
  }

  #bury(): void {
    for (const buffer of this.#doomed) buffer.destroy();
    this.#doomed = [];
  }

  #buryIfIdle(): void {
    if (!this.#pending) this.#bury();
  }

  /** Submits what is left, and keeps nothing more. */
  destroy(): void {
    this.#isOver = true;
    this.#spare.clear();
    this.#flush();
  }
}
