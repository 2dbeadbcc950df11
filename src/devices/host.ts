/**
 * Work that looks at values while it runs (factorisations, merging with a report, quantising, printing), on a device that gives
 * values to those who wait only, as WebGPU does. docs/decisions/0011 has what else was thought of.
 */
import { currentDevice, useDevice } from "../compile/program.ts";
import { listStorages, moveStorage, storagesOn } from "../compile/storage.ts";
import { requireKind } from "../errors.ts";
import type { Storage } from "../graph/node.ts";
import { defaultDevice } from "./choose.ts";
import type { Buffer, Device } from "./device.ts";

/** Values that are on their way at the same time. */
const atOnce = 16;

/** Reads everything first: what fails on the way changes nothing. */
async function move(storages: readonly Storage[], to: Device): Promise<void> {
  const made: Buffer[] = [];
  try {
    for (let start = 0; start < storages.length; start += atOnce) {
      const part = storages.slice(start, start + atOnce);
      const values = await Promise.all(
        part.map(({ device, buffer, dtype, size }) =>
          (device as Device).download({ buffer: buffer as Buffer, offset: 0 }, dtype, size),
        ),
      );
      part.forEach(({ dtype, size }, i) => {
        const buffer = to.allocate(Math.max(size, 1) * to.storageBytes(dtype));
        made.push(buffer);
        to.upload(values[i]!, dtype, { buffer, offset: 0 });
      });
    }
  } catch (error) {
    for (const buffer of made) buffer[Symbol.dispose]();
    throw error;
  }
  storages.forEach((storage, i) => {
    // given back while others were read
    if (storage.disposed) made[i]![Symbol.dispose]();
    else moveStorage(storage, to, made[i]!);
  });
}

/**
 * Does `work` where values can be read at once. Where the current device can do that, the work is just done. Otherwise, as in mode
 * `webgpu` of the gpu device, all tensors of the current device move to the processor for the time of the work, and they and
 * the new ones back to the device afterwards. Nothing else may compute on the device meanwhile.
 *
 * @param work such as merging with a report, `quantise`, starting values from a weight's singular values, `svd`, `print`
 * @returns what `work` gives
 * @throws {DeviceError} when the device was lost; whatever `work` throws, with the tensors back on the device
 * @example
 * attach(model, lora({ r: 4 }));
 * await onHost(() => merge(model, undefined, { report: true }));
 */
export async function onHost<T>(work: () => T | Promise<T>): Promise<T> {
  requireKind("onHost", "a function", { work });
  const device = currentDevice();
  if (device.downloadSync) return work();
  const host = defaultDevice();
  listStorages(host);
  try {
    await move(storagesOn(device), host);
    useDevice(host);
    try {
      return await work();
    } finally {
      useDevice(device);
      await move(storagesOn(host), device);
    }
  } finally {
    host[Symbol.dispose]();
  }
}
