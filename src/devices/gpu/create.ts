/** Choosing a mode of GPU.js and opening the gpu device in it. */
import { ConfigError, checkOptions, DeviceError, LorikeetError, wordImport } from "../../errors.ts";
import { createArrayBackend } from "./array-backend.ts";
import { type AdapterKind, type Backend, type GpuJs, type GpuMode, gpuModes } from "./backend.ts";
import { provideWebGpu } from "./dawn.ts";
import { GpuDevice } from "./device.ts";
import { createGlBackend } from "./gl-backend.ts";
import { createWebGpuBackend } from "./webgpu-backend.ts";

/** How the `gpu` device runs. */
export interface GpuOptions {
  /** How GPU.js runs the kernels; the first that works when absent. */
  readonly mode?: GpuMode;
  /** In modes `webgpu` and `webgl2`, what kernels are chosen for: a card, or a processor that plays one. As the adapter says when absent. */
  readonly adapter?: AdapterKind;
}

/** @throws {DeviceError} when gpu.js, which is an optional dependency, is not installed */
async function loadGpuJs(): Promise<GpuJs> {
  try {
    const module = (await import("gpu.js")) as unknown as Partial<GpuJs> & { default?: Partial<GpuJs> };
    // the browser's build exports one class with everything on it
    const { GPU, WebGPUContext, WebGPUBufferResult, input } = module.GPU ? module : module.default!;
    return { GPU, WebGPUContext, WebGPUBufferResult, input } as GpuJs;
  } catch (error) {
    throw new DeviceError(`cannot load gpu.js: ${wordImport(error)}.`, {
      operation: "gpu",
      // not --omit=optional, which takes the native parts of Vite and TypeScript out of a project
      hint: "Install it: npm install gpu.js@2.24.1 --ignore-scripts",
    });
  }
}

async function openMode(library: GpuJs, mode: GpuMode, adapter: AdapterKind | undefined): Promise<Backend> {
  switch (mode) {
    case "cpu":
    case "webasm":
      return createArrayBackend(library, mode);
    case "webgpu":
      await provideWebGpu();
      return createWebGpuBackend(library, adapter);
    default:
      return createGlBackend(library, mode, adapter);
  }
}

/**
 * Opens the gpu device.
 *
 * @throws {ConfigError} for a mode that there is not; @throws {DeviceError} when the mode, or every mode, cannot run here: says why
 * @example
 * const device = await createGpu({ mode: "webasm" });
 * useDevice(device);
 */
export async function createGpu(options: GpuOptions = {}): Promise<GpuDevice> {
  checkOptions("gpu", options, { mode: null, adapter: ["card", "software"] });
  const { mode, adapter } = options;
  if (mode !== undefined && !gpuModes.includes(mode))
    throw new ConfigError(`there is no mode ${JSON.stringify(mode)}.`, {
      operation: "gpu",
      expected: gpuModes,
      got: mode,
      hint: `There are ${gpuModes.join(", ")}.`,
    });
  const library = await loadGpuJs();
  const refused: string[] = [];
  for (const each of mode === undefined ? gpuModes : [mode])
    try {
      const backend = await openMode(library, each, adapter);
      return new GpuDevice(backend, `gpu: GPU.js, mode ${each}${refused.length ? ` (${refused.join("; ")})` : ""}`);
    } catch (error) {
      if (mode !== undefined) throw error;
      refused.push(error instanceof LorikeetError ? error.problem : `${each}: ${String(error)}`);
    }
  throw new DeviceError(`no mode of GPU.js runs here: ${refused.join("; ")}`, { operation: "gpu" });
}
