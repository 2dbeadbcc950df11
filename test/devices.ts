/** The devices that tests run over: what is written once is tried on each. */
import { afterAll, beforeAll, describe } from "vitest";
import { useDevice } from "../src/compile/program.ts";
import type { Device, DeviceName } from "../src/devices/device.ts";
import { createGpu } from "../src/devices/gpu/create.ts";
import { createReference } from "../src/devices/reference/device.ts";
import { createWasm } from "../src/devices/wasm/device.ts";

export interface TestDevice {
  readonly name: DeviceName;
  open(): Device | Promise<Device>;
}

/** LORIKEET_TEST_DEVICES=reference (or a list with commas) leaves the others out; gpu runs only where it is named, being slow without one. */
const wanted = (process.env["LORIKEET_TEST_DEVICES"] ?? "reference,wasm").split(",");

export const devices: readonly TestDevice[] = (
  [
    { name: "reference", open: () => createReference() },
    { name: "wasm", open: () => createWasm({ threads: 2 }) },
    { name: "gpu", open: () => createGpu({ mode: "cpu" }) },
  ] satisfies TestDevice[]
).filter(({ name }) => wanted.includes(name));

/** A block of tests for every device, with that device as the current one. */
export function onEveryDevice(body: (name: DeviceName) => void): void {
  describe.each(devices)("$name", ({ name, open }) => {
    let device: Device;
    beforeAll(async () => {
      device = await open();
      useDevice(device);
    });
    afterAll(() => device[Symbol.dispose]());
    body(name);
  });
}
