/** The device for people who choose none: the fastest that runs here. Imported for its effect by the entry points. */
import { setDefaultDevice } from "../compile/program.ts";
import { ConfigError } from "../errors.ts";
import type { Device, DeviceName } from "./device.ts";
import { createReference } from "./reference/device.ts";
import { createWasm, type WasmOptions } from "./wasm/device.ts";

/** Told once when the fast device cannot run. */
type Tell = (message: string) => void;

/**
 * The wasm device, or the reference device with a message where WebAssembly SIMD is missing.
 *
 * @param tell gets the message; a warning on the console when absent
 */
export function chooseDevice(options: WasmOptions = {}, tell: Tell = (message) => console.warn(message)): Device {
  try {
    return createWasm(options);
  } catch (error) {
    // a wrong setting is to be mended, not to be computed around
    if (error instanceof ConfigError) throw error;
    tell(`lorikeet: computing on the slow reference device: ${error instanceof Error ? error.message : String(error)}`);
    return createReference();
  }
}

/** The devices by name. `gpu` comes with its own entry. */
export const devices = {
  wasm: (options: WasmOptions = {}) => createWasm(options),
  reference: () => createReference(),
} satisfies Partial<Record<DeviceName, (options?: WasmOptions) => Device>>;

setDefaultDevice(() => chooseDevice());
