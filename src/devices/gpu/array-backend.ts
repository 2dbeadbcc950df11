/** Modes `cpu` and `webasm`: GPU.js without a GPU. Handles are Float32Arrays, every call is done when it returns. */
import * as functions from "../../../kernels/gpu/math.ts";
import {
  type Backend,
  called,
  checkMode,
  type GpuJs,
  type GpuMode,
  type Handle,
  KernelCache,
  kernelSettings,
} from "./backend.ts";
import { exactIn32Bits } from "./limits.ts";

/** Each kernel of mode webasm reserves memory of its own. */
const mostKernels = { cpu: 4096, webasm: 256 };

/** Opens GPU.js in a mode without a GPU. @throws {Error} whatever GPU.js throws when the mode cannot be had */
export function createArrayBackend({ GPU, input }: GpuJs, mode: GpuMode & ("cpu" | "webasm")): Backend {
  const gpu = new GPU({ mode });
  const kernels = new KernelCache(mostKernels[mode], 4 * mostKernels[mode], (pass) =>
    gpu.createKernel(pass.source, kernelSettings(pass, functions)),
  );
  let handles = 0;
  const made = (raw: Float32Array): Handle => {
    handles++;
    return { count: raw.length, references: 1, raw };
  };

  const backend: Backend = {
    mode,
    inputs: 16,
    // what the largest Float32Array holds, and what WebAssembly's memory of 4 GB does
    limit: mode === "cpu" ? 2 ** 31 : 2 ** 28,
    exact: mode === "cpu" ? Number.MAX_SAFE_INTEGER : exactIn32Bits,
    visible: true,
    upload: (values) => made(values.slice()),
    run(pass, args) {
      const kernel = kernels.get(pass, args);
      const raw = kernel(
        ...called(pass, args, (values, row, rows) => input((values as Float32Array).subarray(0, row * rows), [row, rows])),
      ) as Float32Array;
      checkMode(kernel, mode);
      return [made(raw)];
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
