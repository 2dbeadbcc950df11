/**
 * Mode `webgpu`: GPU.js writes the shaders, launching them is our own (webgpu-launches.ts). GPU.js waits for the verdict on a kernel before
 * it runs it for the first time; here the kernel runs, and its verdict is asked for when values are read.
 */
import * as functions from "../../../kernels/gpu/math.ts";
import { DeviceError } from "../../errors.ts";
import {
  type AdapterKind,
  type Backend,
  called,
  type GpuJs,
  type GpuKernel,
  type Handle,
  KernelCache,
  kernelSettings,
  softwareNames,
} from "./backend.ts";
import type { BufferResult, WebGpuContext, WebGpuKernel } from "./gpujs-internals.ts";
import { exactIn32Bits } from "./limits.ts";
import { countsOf, type Pass } from "./plan.ts";
import { Launches } from "./webgpu-launches.ts";

/** Kernels that are kept. */
const kernelsKept = { most: 4096, mostOfAll: 4096 };
// numbers of GPUBufferUsage, GPUShaderStage and GPUMapMode, which are globals only where there is WebGPU
const usage = { mapRead: 1, copyTarget: 8 };
const computeStage = 4;
const mapRead = 1;

const isSoftware = (info: GPUAdapterInfo | undefined): boolean =>
  info !== undefined &&
  ((info as { isFallbackAdapter?: boolean }).isFallbackAdapter === true ||
    [info.vendor, info.architecture, info.device, info.description].some((name) => softwareNames.test(name)));

/** GPU.js asks for large buffers where there are any, but not for kernels that read many arrays. */
async function acquire({ WebGPUContext }: GpuJs): Promise<WebGpuContext> {
  const { gpu } = navigator as Navigator & { gpu: GPU };
  const requestAdapter = gpu.requestAdapter;
  gpu.requestAdapter = async (options) => {
    const adapter = await requestAdapter.call(gpu, { powerPreference: "high-performance", ...options });
    const requestDevice = adapter?.requestDevice;
    if (adapter && requestDevice)
      adapter.requestDevice = (wanted) => {
        const { maxStorageBuffersPerShaderStage } = adapter.limits;
        return requestDevice.call(adapter, {
          ...wanted,
          requiredLimits: { ...wanted?.requiredLimits, maxStorageBuffersPerShaderStage },
        });
      };
    return adapter;
  };
  try {
    return await WebGPUContext.acquire();
  } finally {
    gpu.requestAdapter = requestAdapter;
  }
}

/** Whether the device computes what it was told: it may be lost, or have said that something was wrong. */
class Health {
  readonly #context: WebGpuContext;
  #lost = false;
  /** What went wrong: everything after it would be wrong as well. */
  #failure: DeviceError | null = null;
  /** Verdicts on kernels that are not known yet. */
  readonly #unproven = new Set<Promise<void>>();
  readonly #onError = ({ error }: GPUUncapturedErrorEvent): void => this.#fail(`WebGPU says: ${error.message}`);

  constructor(context: WebGpuContext) {
    const { device } = (this.#context = context);
    device.addEventListener?.("uncapturederror", this.#onError as EventListener);
    void device.lost.then(() => {
      this.#lost = true;
    });
  }

  #fail(problem: string): void {
    this.#failure ??= new DeviceError(problem, { operation: "gpu", hint: "Open the device anew, or choose another mode." });
  }

  /** @throws {DeviceError} where values would be lost or wrong */
  check(): void {
    if (this.#lost || this.#context.isLost)
      throw new DeviceError("the WebGPU device was lost.", {
        operation: "gpu",
        hint: "Values on it are gone: open the device anew and go on from the last checkpoint.",
      });
    if (this.#failure) throw this.#failure;
  }

  /** Takes the verdict on a kernel when it comes. */
  prove(asked: Promise<GPUError | null>, code: string): void {
    const verdict = asked
      .then(
        (error) => {
          if (error) this.#fail(`WebGPU refuses a kernel: ${error.message}\n${code}`);
        },
        () => {}, // the device was lost
      )
      .finally(() => this.#unproven.delete(verdict));
    this.#unproven.add(verdict);
  }

  /** When the verdicts on all kernels so far are known. */
  async verdicts(): Promise<void> {
    await Promise.all(this.#unproven);
  }

  /** After something failed that a lost device fails: waits until that is told, on a busy machine seconds later. */
  async waitForLoss(): Promise<void> {
    let patience: ReturnType<typeof setTimeout> | undefined;
    const waited = new Promise((resolve) => {
      patience = setTimeout(resolve, 10_000);
    });
    await Promise.race([this.#context.device.lost, waited]);
    clearTimeout(patience); // or Node would stay for it
  }

  stop(): void {
    this.#context.device.removeEventListener?.("uncapturederror", this.#onError as EventListener);
  }
}

/** What GPU.js does after it has written the shader, without waiting. */
function build(kernel: WebGpuKernel, pass: Pass, context: WebGpuContext, health: Health): void {
  const { device } = context;
  const entry = (binding: number, type: GPUBufferBindingType) => ({ binding, visibility: computeStage, buffer: { type } });
  const { arrayArgs, byteLength } = kernel.paramsLayout;
  const { inPlace = [] } = pass;
  device.pushErrorScope("validation");
  const layout = device.createBindGroupLayout({
    entries: [
      entry(0, "uniform"),
      ...arrayArgs.map(({ index }, i) => entry(1 + i, inPlace.includes(index) ? "storage" : "read-only-storage")),
      ...countsOf(pass).flatMap((_, i) => (inPlace[i] === undefined ? [entry(1 + arrayArgs.length + i, "storage")] : [])),
    ],
  });
  const module = device.createShaderModule({ code: kernel.compiledSource });
  kernel.computePipeline = device.createComputePipeline({
    layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
    compute: { module, entryPoint: "main" },
  });
  health.prove(device.popErrorScope(), kernel.compiledSource);
  kernel.context = context;
  kernel._device = device;
  kernel.bindGroupLayout = layout;
  kernel.paramsMirror = new ArrayBuffer(byteLength);
  kernel.paramsU32 = new Uint32Array(kernel.paramsMirror);
  kernel.paramsI32 = new Int32Array(kernel.paramsMirror);
  kernel.paramsF32 = new Float32Array(kernel.paramsMirror);
  kernel.built = true;
}

/** The values of a handle, once everything before is computed and every kernel's verdict is known. */
async function download(handle: Handle, { device }: WebGpuContext, launches: Launches, health: Health): Promise<Float32Array> {
  health.check();
  const size = handle.count * 4;
  const staging = device.createBuffer({ size, usage: usage.mapRead | usage.copyTarget });
  launches.copy(bufferOf(handle), staging, size);
  const verdicts = health.verdicts();
  try {
    await staging.mapAsync(mapRead);
  } catch (error) {
    await health.waitForLoss();
    health.check();
    throw error;
  }
  await verdicts;
  health.check();
  const values = new Float32Array(staging.getMappedRange().slice(0));
  staging.destroy();
  return values;
}

/** The same buffer, indexed by row and column. */
const shaped = (raw: unknown, row: number, rows: number): unknown =>
  Object.assign(Object.create(raw as BufferResult), { type: "WebGPUBuffer", output: [row, rows] });

type OurKernel = GpuKernel & { readonly kernel: WebGpuKernel };

const bufferOf = ({ raw }: Handle): GPUBuffer => (raw as BufferResult).buffer;

/** What ran last at a site. */
interface Launched {
  readonly key: string;
  readonly made: GpuKernel;
  /** Of all that it reads and writes; numbers have none. */
  readonly buffers: readonly (GPUBuffer | null)[];
  readonly launch: ReturnType<Launches["prepare"]>;
}

/** @throws {DeviceError} saying what is missing here */
export async function createWebGpuBackend(library: GpuJs, adapter?: AdapterKind, kept = kernelsKept): Promise<Backend> {
  const { GPU, WebGPUContext, WebGPUBufferResult } = library;
  const refuse = (why: string) => new DeviceError(`mode webgpu cannot run: ${why}.`, { operation: "gpu", got: "webgpu" });
  if (!WebGPUContext.isSupported) throw refuse("there is no navigator.gpu");
  const context = await acquire(library).catch((error: unknown) => {
    throw refuse(String(error instanceof Error ? error.message : error));
  });
  const { device } = context;
  const gpu = new GPU({ mode: "webgpu" });
  const health = new Health(context);
  const launches = new Launches(device);
  const kernels = new KernelCache(kept.most, kept.mostOfAll, (pass) => {
    const made = gpu.createKernel(pass.source, kernelSettings(pass, functions)) as OurKernel;
    const { wgsl, count } = pass;
    if (wgsl)
      made.kernel.assembleWGSL = function () {
        // elements that one workgroup is taken to cover: as many workgroups as the shader needs, or a few more
        this.workgroupSize = [Math.max(1, Math.floor(count / wgsl.workgroups)), 1, 1];
        return wgsl.code;
      };
    made.kernel._buildAsync = function () {
      build(this, pass, context, health);
      return Promise.resolve();
    };
    const destroy = made.destroy;
    made.destroy = () => {
      launches.forget(made.kernel);
      destroy();
    };
    return made;
  });
  let handles = 0;
  const handleOf = (buffer: GPUBuffer, count: number): Handle => {
    handles++;
    const raw = new WebGPUBufferResult({ buffer, output: [count], componentCount: 1, context, kernel: null });
    return { count, references: 1, raw };
  };
  const duplicate = (handle: Handle): Handle => handleOf(launches.duplicate(bufferOf(handle)), handle.count);
  const launched = (
    pass: Pass,
    args: readonly (Handle | number)[],
    results: readonly Handle[],
    buffers: Launched["buffers"],
  ): Launched => {
    const [key, made] = kernels.find(pass, args);
    const { kernel } = made as OurKernel;
    const raws = called(pass, args, shaped);
    if (!kernel.built) void kernel.build(...raws);
    return { key, made, buffers, launch: launches.prepare(kernel, raws, results.map(bufferOf)) };
  };

  const backend: Backend = {
    mode: "webgpu",
    writesInPlace: true,
    inputs: device.limits.maxStorageBuffersPerShaderStage - 1,
    limit: Math.floor(Math.min(device.limits.maxBufferSize, device.limits.maxStorageBufferBindingSize) / 4),
    exact: exactIn32Bits,
    visible: false,
    software: adapter ? adapter === "software" : isSoftware(device.adapterInfo ?? context.adapter?.info),
    upload(values) {
      health.check();
      return handleOf(launches.upload(values), values.length);
    },
    run(pass, args, site = {}) {
      health.check();
      const { inPlace } = pass;
      // others that refer to the value want it as it is
      const given = inPlace
        ? args.map((arg, i) => (typeof arg !== "number" && arg.references > 1 && inPlace.includes(i) ? duplicate(arg) : arg))
        : args;
      const results = countsOf(pass).map((count, i) => {
        const at = inPlace?.[i];
        if (at === undefined) return handleOf(launches.take(count), count);
        const arg = given[at] as Handle;
        if (arg === args[at]) arg.references++;
        return arg;
      });
      const buffers = [...given, ...results].map((one) => (typeof one === "number" ? null : bufferOf(one)));
      const last = site.last as Launched | undefined;
      const again = last && kernels.again(last.key) === last.made && buffers.every((buffer, i) => buffer === last.buffers[i]);
      launches.run(again ? last.launch : (site.last = launched(pass, given, results, buffers)).launch);
      return results;
    },
    async read(handle) {
      handle.references++; // may be dropped meanwhile
      try {
        return await download(handle, context, launches, health);
      } finally {
        if (--handle.references === 0) backend.free(handle);
      }
    },
    free(handle) {
      handles--;
      launches.giveBack(bufferOf(handle));
      handle.raw = null;
    },
    get statistics() {
      return { kernels: kernels.size, compilations: kernels.compilations, handles };
    },
    async destroy() {
      await health.verdicts();
      health.stop();
      kernels.clear();
      launches.destroy();
      await gpu.destroy();
    },
  };
  return backend;
}
