/** Runs loop programs on a device between guard zones. */
import type { Device } from "../../src/devices/device.ts";
import type { TypedArray } from "../../src/graph/dtype.ts";
import { contents, type LoopCase } from "./loop-arbitrary.ts";

const guardElements = 32;

/** Contents of all output buffers after a run; throws when a byte beside them has changed. */
export function runCase(device: Device, { program, geometry, buffers, seed }: LoopCase): (TypedArray | null)[] {
  const placed = buffers.map(({ dtype, length }, i) => {
    const buffer = device.allocate(device.storageBytes(dtype) * (length + 2 * guardElements));
    const values = contents(dtype, length + 2 * guardElements, seed + i);
    device.upload(values, dtype, { buffer, offset: 0 });
    return { buffer, values, offset: guardElements * device.storageBytes(dtype) };
  });
  const dispatch = device.bind(device.compile(program), geometry, placed, "test");
  device.run([dispatch]);
  device.release(dispatch);
  return buffers.map(({ dtype, length, output }, i) => {
    const { buffer, values } = placed[i]!;
    const after = device.downloadSync!({ buffer, offset: 0 }, dtype, length + 2 * guardElements);
    buffer[Symbol.dispose]();
    const changed = (from: number, to: number) => {
      for (let at = from; at < to; at++)
        if (after[at] !== values[at])
          throw new Error(`buffer ${i} (${dtype}): element ${at - guardElements} of ${length} was overwritten`);
    };
    changed(0, guardElements);
    changed(guardElements + length, length + 2 * guardElements);
    if (!output) changed(0, after.length);
    return output ? after.slice(guardElements, guardElements + length) : null;
  });
}
