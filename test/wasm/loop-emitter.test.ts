import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { createReference } from "../../src/devices/reference/device.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { type DType, fromBFloat16Bits, fromFloat16Bits } from "../../src/graph/dtype.ts";
import { type LoopCase, loopCases } from "./loop-arbitrary.ts";
import { runCase } from "./loop-devices.ts";

const numRuns = Number(process.env["LOOP_RUNS"] ?? 150);
const reference = createReference({ fuse: true });
const devices = {
  "one thread": createWasm({ threads: 1 }),
  "without fused multiply-add": createWasm({ threads: 1, relaxedSimd: false }),
  "memory of its own": createWasm({ shared: false }),
};
afterAll(() => {
  for (const device of Object.values(devices)) device[Symbol.dispose]();
});

const value = (dtype: DType, bits: number): number =>
  dtype === "float16" ? fromFloat16Bits(bits) : dtype === "bfloat16" ? fromBFloat16Bits(bits) : bits;

function agree(device: (typeof devices)["one thread"], sample: LoopCase): void {
  const expected = runCase(reference, sample);
  const got = runCase(device, sample);
  sample.buffers.forEach(({ dtype, length, output, tolerance }, i) => {
    if (!output) return;
    for (let at = 0; at < length; at++) {
      const [x, y] = [value(dtype, got[i]![at]!), value(dtype, expected[i]![at]!)];
      if (!(Math.abs(x - y) <= tolerance)) throw new Error(`buffer ${i} (${dtype}) at ${at}: ${x}, expected ${y} ± ${tolerance}`);
    }
  });
}

describe.each(Object.entries(devices))("a loop program on wasm, %s", (_, device) => {
  test("computes what the reference computes and writes nothing else", () => {
    fc.assert(
      fc.property(loopCases, (sample) => agree(device, sample)),
      { numRuns },
    );
  });
});

test("float64 is refused with the way out", () => {
  const device = devices["one thread"];
  const buffer = device.allocate(8);
  expect(() => device.upload(new Float64Array(1), "float64", { buffer, offset: 0 })).toThrow(
    /float64 runs on the reference device only/,
  );
});
