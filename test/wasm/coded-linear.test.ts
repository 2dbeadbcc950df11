/** Products of a few rows with codes, read as they lie, and with float16 that may be ±∞ or NaN. */
import { afterAll, describe, expect, test } from "vitest";
import { realize, upload, useDevice } from "../../src/compile/program.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { fromFloat16Bits, toFloat16Bits } from "../../src/graph/dtype.ts";
import { linear } from "../../src/nn/linear.ts";
import { QuantisedLinear } from "../../src/nn/quantised-linear.ts";
import { quantiseWeight } from "../../src/nn/quantiser.ts";
import { randomValues } from "../arbitrary/draw.ts";
import { valuesOf } from "../arbitrary/values.ts";

const devices = [{ threads: 1 }, { threads: 3 }, { threads: 2, relaxedSimd: false }].map((options) => createWasm(options));
afterAll(() => {
  for (const device of devices) device[Symbol.dispose]();
});

const floats = (count: number, seed: number) => Float32Array.from(randomValues([count], [-1, 1], seed));

describe("a layer of codes", () => {
  test.each([
    [{ type: "nf4", blockSize: 64, doubleQuantise: true }, 37, 192],
    [{ type: "fp4", blockSize: 32, doubleQuantise: false }, 1, 96],
    [{ type: "nf4", blockSize: 256, doubleQuantise: false }, 700, 256],
    [{ type: "int8", blockSize: 160, doubleQuantise: false }, 37, 160],
    [{ type: "int8", blockSize: 256, doubleQuantise: false }, 700, 256],
  ] as const)("%o [%i, %i] gives few rows what it gives many, on any number of threads the same bits", (options, out, into) => {
    const weight = quantiseWeight(floats(out * into, 1), [out, into], options);
    for (const rows of [1, 2, 3, 4]) {
      const results = devices.map((device) => {
        useDevice(device);
        const layer = new QuantisedLinear(weight);
        const x = upload(device, floats(rows * into, 2), [1, rows, into], "float32");
        const [y, plain] = [layer.forward(x), linear(x, layer.matrix())];
        realize([y, plain]);
        const want = valuesOf(plain);
        valuesOf(y).forEach((value, i) => expect(Math.abs(value - want[i]!)).toBeLessThan(into * 2 ** -22));
        expect(y.shape).toEqual([1, rows, out]);
        return [...valuesOf(y)];
      });
      expect(results[1]).toEqual(results[0]);
    }
  });
});

test.each([1, 2, 3, 4])("%i rows times float16: subnormal, largest, infinite and no numbers", (rows) => {
  const [out, into] = [11, 45];
  const bits = Uint16Array.from(floats(out * into, 3), toFloat16Bits);
  // by the row of the weight: subnormal numbers, the largest ones, ±∞, NaN; the others stay finite
  bits.set([1, 0x8001, 0x3ff, 0x83ff, 0], 0);
  bits.set([0x7bff, 0xfbff], 1 * into + 3);
  bits[3 * into + 8] = 0x7c00;
  bits[5 * into + 44] = 0xfc00;
  bits[6 * into + 17] = 0x7e00;
  const x = floats(rows * into, 4);
  for (const device of devices) {
    useDevice(device);
    const weight = upload(device, bits, [out, into], "float16");
    const y = linear(upload(device, x, [rows, into], "float32"), weight);
    realize([y]);
    valuesOf(y).forEach((value, i) => {
      const [m, n] = [Math.floor(i / out), i % out];
      let [want, size] = [0, 0];
      for (let k = 0; k < into; k++) {
        const product = x[m * into + k]! * fromFloat16Bits(bits[n * into + k]!);
        want += product;
        size += Math.abs(product);
      }
      if (Number.isFinite(want)) expect(Math.abs(value - want)).toBeLessThanOrEqual(into * 2 ** -23 * size);
      else expect(value).toBe(want);
    });
  }
});
