/** Where the engine of this page computes. */
import { type Candidate, chooseDevice, type Device, devices } from "../src/index.ts";
import type { DeviceWish } from "./protocol.ts";

/** Modes of the gpu device that are a graphics card's. */
const graphics = (["webgpu", "webgl2", "webgl"] as const).map(
  (mode): Candidate => ({ name: "gpu", mode, open: () => devices.gpu({ mode }) }),
);
const processor: Candidate = { name: "wasm", open: () => devices.wasm() };

/** Values of a model below which launching kernels on a graphics card takes longer than computing on the processor. */
const worthGraphics = 30e6;

/** The devices that can be asked for here. */
export const wishes: readonly DeviceWish[] =
  "gpu" in navigator || typeof OffscreenCanvas !== "undefined" ? ["automatic", "wasm", "gpu"] : ["automatic", "wasm"];

/**
 * Opens a device. Graphics cards are tried first: a driver that is wrong gives wrong numbers, not errors.
 *
 * @param values of the model that it is for
 * @throws {DeviceError} when what is wished for cannot run here, saying why
 */
export async function makeDevice(wish: DeviceWish, values: number): Promise<Device> {
  if (wish === "gpu") return chooseDevice({ among: graphics });
  if (wish === "automatic" && values > worthGraphics && "gpu" in navigator)
    return chooseDevice({ among: [processor, ...graphics.slice(0, 1)] });
  return devices.wasm();
}
