/** Big products on the wasm device, as people call them: by themselves, with a low-rank update, in derivatives, on any number of threads. */
import { afterAll, describe, expect, test } from "vitest";
import { createWasm, type Device, grad, random, type Tensor, tensor, useDevice } from "../../src/index.ts";

const plain = createWasm({ threads: 1 });
const devices = [1, 2].map((threads) => createWasm({ threads, strassen: true }));
afterAll(() => {
  for (const device of [plain, ...devices]) device[Symbol.dispose]();
});

interface Sizes {
  readonly tokens: number;
  readonly inputs: number;
  readonly outputs: number;
}

/** x · Wᵀ + h · Bᵀ, W as it is or seen through a transposed view, and derivatives by x and W of a sum of it. */
function results(device: Device, { tokens, inputs, outputs }: Sizes, bad?: number): Float32Array[] {
  useDevice(device);
  const drawn = (shape: readonly number[], seed: number) => random.normal(random.key(seed), shape);
  const x = drawn([tokens, inputs], 1);
  const w = drawn([outputs, inputs], 2);
  const [a, b] = [drawn([4, inputs], 3), drawn([outputs, 4], 4)];
  const weights = drawn([tokens, outputs], 5);
  // one value of one row
  const spoiled =
    bad === undefined
      ? x
      : x.add(
          tensor(Float32Array.from({ length: tokens * inputs }, (_, i) => (i === 300 * inputs + 3 ? bad : 0))).reshape([
            tokens,
            inputs,
          ]),
        );
  const forward = (x: Tensor, w: Tensor) => x.matmul(w.transpose()).add(x.matmul(a.transpose()).matmul(b.transpose()));
  const loss = (x: Tensor, w: Tensor) => forward(x, w).mul(weights).sum();
  const values = [forward(spoiled, w), ...(bad === undefined ? grad(loss)(x, w) : [])];
  return values.map((value) => value.dataSync() as Float32Array);
}

/** Rounding of sums of so many normal values, and what one level of Strassen's recursion adds to it. */
const tolerance = 2e-4;

describe.each<Sizes>([
  { tokens: 512, inputs: 512, outputs: 640 },
  { tokens: 514, inputs: 520, outputs: 528 },
  { tokens: 513, inputs: 516, outputs: 520 },
])("$tokens tokens, $inputs → $outputs", (sizes) => {
  test("the product and its derivatives are those without the recursion, to rounding", () => {
    const want = results(plain, sizes);
    const all = devices.map((device) => results(device, sizes));
    for (const got of all)
      got.forEach((values, i) => {
        const error = values.reduce((most, value, j) => Math.max(most, Math.abs(value - want[i]![j]!)), 0);
        expect(error).toBeLessThan(tolerance);
      });
    const bits = all.map((device) => Buffer.concat(device.map(({ buffer }) => new Uint8Array(buffer as ArrayBuffer))));
    expect(Buffer.compare(bits[0]!, bits[1]!), "threads do not change a bit").toBe(0);
  });

  test("an infinite or undefined input spoils its row, and nothing else", () => {
    for (const bad of [Number.POSITIVE_INFINITY, Number.NaN])
      for (const device of [plain, ...devices])
        results(device, sizes, bad)[0]!.forEach((value, i) => {
          if (Number.isFinite(value) === (Math.floor(i / sizes.outputs) === 300)) expect([i, value]).toEqual([i, bad]);
        });
  });
});
