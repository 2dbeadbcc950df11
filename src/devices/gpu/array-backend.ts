/** Modes `cpu` and `webasm`: GPU.js without a GPU. Handles are Float32Arrays, every call is done when it returns. */
import * as functions from "../../../kernels/gpu/math.ts";
import {
  type Backend,
  checkMode,
  type GpuJs,
  type GpuKernel,
  type GpuMode,
  type Handle,
  kernelKey,
  kernelSettings,
} from "./backend.ts";

/** Each kernel of mode webasm reserves memory of its own. */
const mostKernels = { cpu: 4096, webasm: 256 };

export function createArrayBackend({ GPU }: GpuJs, mode: GpuMode & ("cpu" | "webasm")): Backend {
  const gpu = new GPU({ mode });
  const kernels = new Map<string, GpuKernel>();
  let [compilations, handles] = [0, 0];
  const made = (raw: Float32Array): Handle => {
    handles++;
    return { count: raw.length, references: 1, raw };
  };

  /** The kernel used longest ago makes room. */
  const kernelFor = (pass: Parameters<Backend["run"]>[0], args: readonly (Handle | number)[]): GpuKernel => {
    const key = kernelKey(pass, args);
    let kernel = kernels.get(key);
    if (kernel) kernels.delete(key);
    else {
      kernel = gpu.createKernel(pass.source, kernelSettings(pass, functions));
      compilations++;
    }
    kernels.set(key, kernel);
    if (kernels.size > mostKernels[mode]) {
      const [oldest, unused] = kernels.entries().next().value as [string, GpuKernel];
      kernels.delete(oldest);
      unused.destroy();
    }
    return kernel;
  };

  const backend: Backend = {
    mode,
    inputs: 16,
    limit: 2 ** 24,
    visible: true,
    upload: (values) => made(values.slice()),
    run(pass, args) {
      const kernel = kernelFor(pass, args);
      const raw = kernel(...args.map((arg) => (typeof arg === "number" ? arg : arg.raw))) as Float32Array;
      checkMode(kernel, mode);
      return made(raw);
    },
    readSync: (handle) => handle.raw as Float32Array,
    read: async (handle) => handle.raw as Float32Array,
    free(handle) {
      handles--;
      handle.raw = null;
    },
    get statistics() {
      return { kernels: kernels.size, compilations, handles };
    },
    async destroy() {
      kernels.clear();
      await gpu.destroy();
    },
  };
  return backend;
}
