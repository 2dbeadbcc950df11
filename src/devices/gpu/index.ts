/**
 * The entry `lorikeet/gpu`: the device on GPU.js, an optional dependency that is loaded when a device is opened.
 *
 * @example
 * useDevice(await createGpu());
 */
export { type GpuMode, gpuModes } from "./backend.ts";
export { createGpu, type GpuOptions } from "./create.ts";
export { GpuDevice, type GpuStatistics } from "./device.ts";
