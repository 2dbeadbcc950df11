/**
 * Mode `webgpu`: kernels are built asynchronously, so jobs wait in a queue while one is; otherwise they are submitted at once.
 * Results are wrapped by ourselves: GPU.js gives them as promises only, and keeps each kernel's last one alive.
 */
import * as functions from "../../../kernels/gpu/math.ts";
import { DeviceError } from "../../errors.ts";
import { type Backend, type GpuJs, type GpuKernel, type Handle, KernelCache, kernelSettings } from "./backend.ts";
import type { BufferResult, WebGpuKernel } from "./gpujs-internals.ts";
import type { Pass } from "./plan.ts";

const mostKernels = 2048;
// numbers of GPUBufferUsage and GPUMapMode, which are globals only where there is WebGPU
const usage = { mapRead: 1, copySource: 4, copyTarget: 8, storage: 128 };
const mapRead = 1;

/** @throws {DeviceError} saying what is missing here */
export async function createWebGpuBackend({ GPU, WebGPUContext, WebGPUBufferResult }: GpuJs): Promise<Backend> {
  const refuse = (why: string) => new DeviceError(`mode webgpu cannot run: ${why}.`, { operation: "gpu", got: "webgpu" });
  if (!WebGPUContext.isSupported) throw refuse("there is no navigator.gpu");
  const context = await WebGPUContext.acquire().catch((error: unknown) => {
    throw refuse(String(error instanceof Error ? error.message : error));
  });
  const { device } = context;
  const gpu = new GPU({ mode: "webgpu" });
  const kernels = new KernelCache(mostKernels, (pass) => {
    const made = gpu.createKernel(pass.source, kernelSettings(pass, functions)) as GpuKernel & { kernel: WebGpuKernel };
    const { wgsl, count } = pass;
    if (wgsl)
      made.kernel.assembleWGSL = function () {
        // elements that one workgroup is taken to cover: as many workgroups as the shader needs, or a few more
        this.workgroupSize = [Math.max(1, Math.floor(count / wgsl.workgroups)), 1, 1];
        return wgsl.code;
      };
    return made;
  });
  let handles = 0;
  /** Resolves when nothing waits any more; `null` while nothing does. */
  let tail: Promise<void> | null = null;
  /** What went wrong in the queue: everything after it would be wrong as well. */
  let failure: unknown = null;

  const checkAlive = (): void => {
    if (context.isLost)
      throw new DeviceError("the WebGPU device was lost.", {
        operation: "gpu",
        hint: "Values on it are gone: open the device anew and go on from the last checkpoint.",
      });
    if (failure) throw failure;
  };

  /** Runs a job after all that wait; at once when nothing does. */
  const schedule = (job: () => Promise<unknown> | undefined): void => {
    if (tail === null) {
      const waiting = job();
      if (waiting) follow(waiting);
    } else follow(tail.then(() => (failure ? undefined : job())));
  };
  const follow = (waiting: Promise<unknown>): void => {
    const own: Promise<void> = waiting.then(
      () => {
        if (tail === own) tail = null;
      },
      (error: unknown) => {
        failure ??= error;
        if (tail === own) tail = null;
      },
    );
    tail = own;
  };

  const wrapped = (buffer: GPUBuffer, count: number): BufferResult =>
    new WebGPUBufferResult({ buffer, output: [count], componentCount: 1, context, kernel: null });

  const launch = (kernel: WebGpuKernel, args: readonly (Handle | number)[], handle: Handle): void => {
    checkAlive();
    const raws = args.map((arg) => (typeof arg === "number" ? arg : arg.raw));
    const result = kernel._runInternal(kernel._snapshotArguments(raws));
    const buffer = kernel.outputBuffer!;
    handle.raw = wrapped(buffer, handle.count);
    void result.then((own) => own.delete());
    // the kernel would keep its last result
    if (--buffer._refs === 0) buffer.destroy();
    kernel.outputBuffer = null;
    kernel.bindGroupDirty = true;
  };

  const run = (pass: Pass, args: readonly (Handle | number)[]): Handle => {
    checkAlive();
    const handle: Handle = { count: pass.count, references: 1, raw: null };
    const kernel = (kernels.get(pass, args) as GpuKernel & { kernel: WebGpuKernel }).kernel;
    handles++;
    schedule(() => {
      if (kernel.built) {
        launch(kernel, args, handle);
        return undefined;
      }
      const raws = args.map((arg) => (typeof arg === "number" ? arg : arg.raw));
      return kernel.build(...raws).then(() => launch(kernel, args, handle));
    });
    return handle;
  };

  const backend: Backend = {
    mode: "webgpu",
    inputs: device.limits.maxStorageBuffersPerShaderStage - 1,
    limit: 2 ** 24,
    visible: false,
    upload(values) {
      checkAlive();
      const buffer = device.createBuffer({ size: values.byteLength, usage: usage.storage | usage.copyTarget | usage.copySource });
      device.queue.writeBuffer(buffer, 0, values as Float32Array<ArrayBuffer>);
      handles++;
      return { count: values.length, references: 1, raw: wrapped(buffer, values.length) };
    },
    run,
    async read(handle) {
      handle.references++; // may be dropped meanwhile
      try {
        while (tail) await tail;
        checkAlive();
        const size = handle.count * 4;
        const staging = device.createBuffer({ size, usage: usage.mapRead | usage.copyTarget });
        const encoder = device.createCommandEncoder();
        encoder.copyBufferToBuffer((handle.raw as BufferResult).buffer, 0, staging, 0, size);
        device.queue.submit([encoder.finish()]);
        try {
          await staging.mapAsync(mapRead);
        } catch (error) {
          checkAlive();
          throw error;
        }
        const values = new Float32Array(staging.getMappedRange().slice(0));
        staging.destroy();
        return values;
      } finally {
        if (--handle.references === 0) backend.free(handle);
      }
    },
    free(handle) {
      handles--;
      schedule(() => {
        (handle.raw as BufferResult | null)?.delete();
        handle.raw = null;
        return undefined;
      });
    },
    get statistics() {
      return { kernels: kernels.size, compilations: kernels.compilations, handles };
    },
    async destroy() {
      while (tail) await tail;
      kernels.clear();
      await gpu.destroy();
    },
  };
  return backend;
}
