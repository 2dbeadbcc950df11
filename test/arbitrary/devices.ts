/** The devices that the laws compare with `reference`, in every mode that runs different code. */
import type { Device } from "../../src/devices/device.ts";
import type { GpuMode } from "../../src/devices/gpu/backend.ts";
import { createGpu } from "../../src/devices/gpu/create.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";

export interface Variant {
  readonly name: string;
  open(): Device | Promise<Device>;
  /** Rounding unit of what the device calls float32. */
  readonly unit: number;
}

const float32 = 2 ** -24;

const inNode = [
  { name: "reference, fused", open: () => createReference({ fuse: true }), unit: 2 ** -53 },
  { name: "wasm, 1 thread", open: () => createWasm({ threads: 1 }), unit: float32 },
  { name: "wasm, 2 threads", open: () => createWasm({ threads: 2 }), unit: float32 },
  { name: "wasm without relaxed SIMD", open: () => createWasm({ threads: 1, relaxedSimd: false }), unit: float32 },
  { name: "wasm without shared memory", open: () => createWasm({ shared: false }), unit: float32 },
  { name: "gpu, cpu", open: () => createGpu({ mode: "cpu" }), unit: float32 },
  { name: "gpu, webasm", open: () => createGpu({ mode: "webasm" }), unit: float32 },
] as const satisfies readonly Variant[];

/** The mode as it is opened here. */
export const inMode = (mode: GpuMode): Variant => ({
  name: `gpu, ${mode}`,
  open: () => createGpu({ mode }),
  unit: float32,
});
/** VITE_GPU_MODES (a list with commas) names others, such as headlessgl in Node. */
export const modes = (import.meta as { env?: Record<string, string> }).env?.["VITE_GPU_MODES"]?.split(",") as
  | GpuMode[]
  | undefined;
const inBrowser = (modes ?? (["webgl2", "webgpu"] as const)).map(inMode);

/** What kernels would be on a graphics card; the browser's own adapters are software. */
export const onCard = (mode: GpuMode): Variant => ({
  name: `gpu, ${mode} as on a card`,
  open: () => createGpu({ mode, adapter: "card" }),
  unit: float32,
});

const isNode = typeof window === "undefined";

/** The gpu device as it is opened here. */
export const gpuVariants: readonly Variant[] = isNode
  ? (modes?.map(inMode) ?? inNode.filter(({ name }) => name.startsWith("gpu")))
  : inBrowser;

/** All devices; webgpu has kernels of its own for software and for cards. */
export const variants: readonly Variant[] = isNode ? (modes?.map(inMode) ?? inNode) : [...inBrowser, onCard("webgpu")];
