/** Runs loop programs on a device between guard zones. */
import type { Device } from "../../src/devices/device.ts";
import { type DType, dtypes, type TypedArray, toBFloat16Bits, toFloat16Bits } from "../../src/graph/dtype.ts";
import type { LoopCase } from "./loop-arbitrary.ts";

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

/** Small random contents: floats that every float dtype holds exactly, so that loading them rounds nothing. */
function contents(dtype: DType, length: number, seed: number): TypedArray {
  let state = seed | 1;
  const next = (n: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return (state >>> 8) % n;
  };
  const values = new dtypes[dtype].array(length);
  for (let i = 0; i < length; i++) {
    const float = (next(65) - 32) / 8;
    values[i] =
      dtype === "float32"
        ? float
        : dtype === "float16"
          ? toFloat16Bits(float)
          : dtype === "bfloat16"
            ? toBFloat16Bits(float)
            : dtype === "int32"
              ? next(200) - 100
              : dtype === "uint8"
                ? next(256)
                : next(2);
  }
  return values;
}
