/** Choosing a device, and the one for people who choose none. Imported for its effect by the entry points. */
import { setDefaultDevice } from "../compile/program.ts";
import { ConfigError, checkOptions, DeviceError } from "../errors.ts";
import type { Device, DeviceName } from "./device.ts";
import type { GpuOptions } from "./gpu/create.ts";
import { type Candidate, type Probe, probe } from "./probe.ts";
import { createReference } from "./reference/device.ts";
import { createWasm, type WasmOptions } from "./wasm/device.ts";

/** Told once when the fast device cannot run. */
type Tell = (message: string) => void;

/**
 * The device of those who choose none: the wasm device, or the reference device with a message where WebAssembly SIMD is missing. It is
 * there at once; `chooseDevice` looks at all others, too.
 *
 * @param tell gets the message; a warning on the console when absent
 */
export function defaultDevice(options: WasmOptions = {}, tell: Tell = (message) => console.warn(message)): Device {
  try {
    return createWasm(options);
  } catch (error) {
    // a wrong setting is to be mended, not to be computed around
    if (error instanceof ConfigError) throw error;
    tell(`lorikeet: computing on the slow reference device: ${error instanceof Error ? error.message : String(error)}`);
    return createReference();
  }
}

/** The devices by name. The code of `gpu` is loaded when it is opened, and gpu.js, which is an optional dependency, with it. */
export const devices = {
  wasm: (options: WasmOptions = {}) => createWasm(options),
  reference: () => createReference(),
  gpu: async (options: GpuOptions = {}): Promise<Device> => (await import("./gpu/create.ts")).createGpu(options),
} satisfies Record<DeviceName, (options?: never) => Device | Promise<Device>>;

/** Every way of computing that there is, the gpu device in each of its modes. */
const candidates: readonly Candidate[] = [
  ...(["webgpu", "webgl2", "webgl", "headlessgl"] as const).map(
    (mode): Candidate => ({ name: "gpu", mode, open: () => devices.gpu({ mode }) }),
  ),
  { name: "wasm", open: () => devices.wasm() },
  ...(["webasm", "cpu"] as const).map((mode): Candidate => ({ name: "gpu", mode, open: () => devices.gpu({ mode }) })),
  { name: "reference", open: () => devices.reference() },
];

/** What `chooseDevice` may choose from, and who is told what it finds. */
export interface ChooseDeviceOptions {
  /** What may be chosen; everything when absent. */
  readonly among?: readonly Candidate[];
  /** Gets the report of each as it comes. */
  readonly onProbe?: (report: Probe) => void;
  /** Milliseconds after which one that has not answered counts as failed; 30,000 when absent. */
  readonly patience?: number;
}

/**
 * Tries every device and every mode of the gpu device with a small forward and gradient pass, and times it.
 * One that is wrong, fails or hangs is reported with the reason.
 */
export async function probeDevices(options: ChooseDeviceOptions = {}): Promise<Probe[]> {
  checkOptions("probeDevices", options, { among: null, onProbe: "a function", patience: "a number" });
  const reports: Probe[] = [];
  for (const candidate of options.among ?? candidates) {
    const { report, device } = await probe(candidate, options.patience);
    device?.[Symbol.dispose]();
    options.onProbe?.(report);
    reports.push(report);
  }
  return reports;
}

/**
 * Opens the fastest device that computes what it should: each candidate runs a small forward and gradient pass that is compared with
 * the reference device. One that is wrong, fails or hangs is skipped, and `onProbe` gets the reason.
 *
 * @throws {DeviceError} when none is right, with the reason of each
 * @example
 * useDevice(await chooseDevice({ onProbe: ({ name, mode, reason }) => reason && console.warn(name, mode, reason) }));
 */
export async function chooseDevice(options: ChooseDeviceOptions = {}): Promise<Device> {
  checkOptions("chooseDevice", options, { among: null, onProbe: "a function", patience: "a number" });
  let best: { device: Device; milliseconds: number } | null = null;
  const reasons: string[] = [];
  for (const candidate of options.among ?? candidates) {
    const { report, device } = await probe(candidate, options.patience);
    options.onProbe?.(report);
    if (!device) reasons.push(`${[report.name, report.mode].filter(Boolean).join(" ")}: ${report.reason}`);
    else if (best && best.milliseconds <= report.milliseconds!) device[Symbol.dispose]();
    else {
      best?.device[Symbol.dispose]();
      best = { device, milliseconds: report.milliseconds! };
    }
  }
  if (!best) throw new DeviceError(`none computes as it should: ${reasons.join("; ")}.`, { operation: "chooseDevice" });
  return best.device;
}

setDefaultDevice(() => defaultDevice());
