/** Where the engine of this page computes. */
import { type Device, devices } from "../src/index.ts";
import type { DeviceWish } from "./protocol.ts";

/** The devices that can be asked for here. */
export const wishes: readonly DeviceWish[] = ["automatic", "wasm"];

/** @throws {DeviceError} when the one that is wished for cannot run here */
export async function makeDevice(_wish: DeviceWish): Promise<Device> {
  return devices.wasm();
}
