/** Modes `cpu` and `webasm`: GPU.js without a GPU. Handles are Float32Arrays, every call is done when it returns. */
import * as functions from "../../../kernels/gpu/math.ts";
import { type Backend, checkMode, type GpuJs, type GpuMode, type Handle, KernelCache, kernelSettings } from "./backend.ts";

/** Each kernel of mode webasm reserves memory of its own. */
const mostKernels = { cpu: 4096, webasm: 256 };

export function createArrayBackend({ GPU }: GpuJs, mode: GpuMode & ("cpu" | "webasm")): Backend {
  const gpu = new GPU({ mode });
  const kernels = new KernelCache(mostKernels[mode], (pass) => gpu.createKernel(pass.source, kernelSettings(pass, functions)));
  let handles = 0;
  const made = (raw: Float32Array): Handle => {
    handles++;
    return { count: raw.length, references: 1, raw };
  };

  const backend: Backend = {
    mode,
    inputs: 16,
    limit: 2 ** 24,
    visible: true,
    upload: (values) => made(values.slice()),
    run(pass, args) {
      const kernel = kernels.get(pass, args);
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
      return { kernels: kernels.size, compilations: kernels.compilations, handles };
    },
    async destroy() {
      kernels.clear();
      await gpu.destroy();
    },
  };
  return backend;
}
