/**
 * Launches of mode `webgpu`. GPU.js makes a buffer for each result, which the browser fills with zeros, writes uniforms, makes a bind group
 * and submits at each of them; a small kernel takes less time than that. Here several launches are submitted as one, buffers that nobody
 * holds any more are used again, and uniforms and bind groups are kept for launches that are like an earlier one, as those of the
 * second step of a training run are.
 */
import type { BufferResult, WebGpuKernel } from "./gpujs-internals.ts";
import { Spare } from "./spare.ts";

// numbers of GPUBufferUsage
const usage = { copySource: 4, copyTarget: 8, uniform: 64, storage: 128 };

/** Launches that are submitted together: the device begins while the next ones are recorded. */
const mostPending = 16;
/** Buffers that are kept for whoever needs one of their size next. */
const mostSpare = { bytes: 256 * 2 ** 20, things: 4096 };
/** Launches of a kernel, by uniforms and by buffers, that are remembered. */
const mostKnown = 64;

interface Known {
  /** By their values. */
  readonly uniforms: Map<string, GPUBuffer>;
  /** By uniforms and arrays. */
  readonly groups: Map<string, GPUBindGroup>;
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
  readonly #known = new WeakMap<WebGpuKernel, Known>();
  readonly #numbers = new WeakMap<GPUBuffer, number>();
  #buffers = 0;
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
    this.#doomed.push(...(this.#known.get(kernel)?.uniforms.values() ?? []));
    this.#known.delete(kernel);
    this.#buryIfIdle();
  }

  #numberOf(buffer: GPUBuffer): number {
    let number = this.#numbers.get(buffer);
    if (number === undefined) this.#numbers.set(buffer, (number = this.#buffers++));
    return number;
  }

  /** The uniforms of a launch. */
  #uniforms({ paramsMirror, paramsU32 }: WebGpuKernel, { uniforms, groups }: Known): GPUBuffer {
    const key = paramsU32.join();
    let buffer = uniforms.get(key);
    if (buffer) return buffer;
    if (uniforms.size === mostKnown) {
      this.#doomed.push(...uniforms.values());
      uniforms.clear();
      groups.clear();
    }
    buffer = this.#device.createBuffer({ size: paramsMirror.byteLength, usage: usage.uniform | usage.copyTarget });
    this.#device.queue.writeBuffer(buffer, 0, paramsMirror);
    uniforms.set(key, buffer);
    return buffer;
  }

  #group(kernel: WebGpuKernel, known: Known, buffers: readonly GPUBuffer[]): GPUBindGroup {
    const key = buffers.map((buffer) => this.#numberOf(buffer)).join();
    let group = known.groups.get(key);
    if (group) return group;
    if (known.groups.size === mostKnown) known.groups.clear();
    group = this.#device.createBindGroup({
      layout: kernel.bindGroupLayout,
      entries: buffers.map((buffer, binding) => ({ binding, resource: { buffer } })),
    });
    known.groups.set(key, group);
    return group;
  }

  /** Runs a kernel with what GPU.js would be called with; gives the buffers that it writes, of so many floats. */
  run(kernel: WebGpuKernel, args: readonly unknown[], counts: readonly number[]): readonly GPUBuffer[] {
    const { paramsLayout, paramsU32, paramsI32, paramsF32 } = kernel;
    const count = kernel.output[0]!;
    const threads = [count, 1, 1];
    const { groups, dispatchWidth } = kernel._computeDispatch(threads);
    paramsU32.set([...threads, dispatchWidth]);
    const arrays = paramsLayout.arrayArgs.map(({ index, dimsOffset }) => {
      const { buffer, output } = args[index] as BufferResult;
      const [x, y = 1] = output as [number, number?];
      paramsU32.set([x, y, 1, x * y], dimsOffset / 4);
      return buffer;
    });
    for (const { index, offset, type } of paramsLayout.scalarArgs)
      (type === "Integer" ? paramsI32 : paramsF32)[offset / 4] = args[index] as number;
    let known = this.#known.get(kernel);
    if (!known) this.#known.set(kernel, (known = { uniforms: new Map(), groups: new Map() }));
    const results = counts.map((floats) => this.#spare.take(4 * floats) ?? this.#newBuffer(4 * floats));
    const group = this.#group(kernel, known, [this.#uniforms(kernel, known), ...arrays, ...results]);
    this.#encoder ??= this.#device.createCommandEncoder();
    this.#pass ??= this.#encoder.beginComputePass();
    this.#pass.setPipeline(kernel.computePipeline);
    this.#pass.setBindGroup(0, group);
    this.#pass.dispatchWorkgroups(...groups);
    if (++this.#pending >= mostPending) this.#flush();
    else if (!this.#willFlush) {
      this.#willFlush = true;
      queueMicrotask(() => {
        this.#willFlush = false;
        this.#flush();
      });
    }
    return results;
  }

  /** Copies what a buffer holds once all that was run has run. */
  copy(from: GPUBuffer, to: GPUBuffer, size: number): void {
    this.#endPass();
    this.#encoder ??= this.#device.createCommandEncoder();
    this.#encoder.copyBufferToBuffer(from, 0, to, 0, size);
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
