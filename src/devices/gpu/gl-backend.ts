/** Modes `webgl2`, `webgl` and `headlessgl`: handles are textures, calls return at once, reading waits for what it reads. */
import * as functions from "../../../kernels/gpu/math.ts";
import { DeviceError } from "../../errors.ts";
import {
  type Backend,
  checkMode,
  type GpuJs,
  type GpuKernel,
  type GpuMode,
  type Handle,
  KernelCache,
  kernelSettings,
} from "./backend.ts";

type GlMode = GpuMode & ("webgl2" | "webgl" | "headlessgl");

interface GlTexture {
  delete(): void;
  toArray(): Float32Array;
}

/** Every kernel keeps its last result until it runs again, so their number is bounded. */
const mostKernels = 512;

/** @throws {DeviceError} saying what is missing here */
export function createGlBackend({ GPU }: GpuJs, mode: GlMode): Backend {
  const supported = { webgl2: GPU.isWebGL2Supported, webgl: GPU.isWebGLSupported, headlessgl: GPU.isHeadlessGLSupported };
  if (!supported[mode])
    throw new DeviceError(
      `mode ${mode} cannot run: ${mode === "headlessgl" ? "package gl or an X display" : "WebGL"} is missing.`,
      {
        operation: "gpu",
        got: mode,
      },
    );
  if (!GPU.isSinglePrecisionSupported)
    throw new DeviceError(`mode ${mode} cannot run: this GPU writes no 32-bit floats.`, { operation: "gpu", got: mode });
  const gpu = new GPU({ mode });
  let lost = false;
  gpu.canvas?.addEventListener?.("webglcontextlost", () => {
    lost = true;
  });
  const checkAlive = (): void => {
    if (lost || (gpu.context as WebGLRenderingContext | null)?.isContextLost?.())
      throw new DeviceError("the WebGL context was lost.", {
        operation: "gpu",
        hint: "Values on it are gone: open the device anew and go on from the last checkpoint.",
      });
  };
  let handles = 0;
  const made = (raw: unknown, count: number): Handle => {
    handles++;
    return { count, references: 1, raw };
  };
  const kernels = new KernelCache(mostKernels, (pass) => gpu.createKernel(pass.source, kernelSettings(pass, functions)));
  let uploader: GpuKernel | null = null;

  const backend: Backend = {
    mode,
    // texture units that every device has, less the one that is written
    inputs: mode === "webgl2" ? 15 : 7,
    limit: 2 ** 24,
    visible: false,
    upload(values) {
      checkAlive();
      // one kernel for all lengths: compiling one takes longer than most uploads
      uploader ??= gpu.createKernel("function (a) { return a[this.thread.x]; }", {
        output: [values.length],
        precision: "single",
        tactic: "precision",
        pipeline: true,
        immutable: true,
        dynamicOutput: true,
        dynamicArguments: true,
      });
      uploader.setOutput([values.length]);
      return made(uploader(values), values.length);
    },
    run(pass, args) {
      checkAlive();
      const kernel = kernels.get(pass, args);
      const raw = kernel(...args.map((arg) => (typeof arg === "number" ? arg : arg.raw)));
      checkMode(kernel, mode);
      return made(raw, pass.count);
    },
    readSync(handle) {
      checkAlive();
      return (handle.raw as GlTexture).toArray();
    },
    read: async (handle) => backend.readSync!(handle),
    free(handle) {
      handles--;
      if (!lost) (handle.raw as GlTexture).delete();
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
