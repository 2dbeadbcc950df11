/** Short rows in groups: what the reference computes, whatever lies between the rows, on any number of threads. */
import fc from "fast-check";
import { afterAll, expect, test } from "vitest";
import { createReference } from "../../src/devices/reference/device.ts";
import { groupOf } from "../../src/devices/wasm/loop-groups.ts";
import { planLoop } from "../../src/devices/wasm/loop-plan.ts";
import { compile, createWasm, type DType, flip, type Tensor, tensor, useDevice } from "../../src/index.ts";

const reference = createReference();
const devices = [1, 3].map((threads) => createWasm({ threads }));
afterAll(() => {
  for (const device of devices) device[Symbol.dispose]();
});

/** Eighths, so that no product or sum is rounded. */
const values = (count: number) => Array.from({ length: count }, (_, i) => (((i * 2654435761) >>> 9) % 33) / 8 - 2);

/** [N, H, P, W], [N, 1, P, W], [H, 1, 1] */
type Operands = readonly [Tensor, Tensor, Tensor];
const functions: Record<string, (...x: Operands) => Tensor> = {
  "turned as heads are": (x, table) => x.mul(table).add(flip(x, 2).mul(table)),
  "a factor for each row": (x, table, factor) => x.mul(factor).sub(table),
  "rows backwards": (x, _, factor) => flip(x, [0, 1, 2]).add(factor),
  "steps of another dtype": (x, table) => x.less(table).cast("float32").add(x),
  "one operand": (x) => x.abs().add(0.5),
};

const cases = fc.record({
  name: fc.constantFrom(...Object.keys(functions)),
  N: fc.integer({ min: 1, max: 5 }),
  H: fc.integer({ min: 1, max: 4 }),
  P: fc.integer({ min: 1, max: 4 }),
  vectors: fc.integer({ min: 1, max: 32 }),
  dtype: fc.constantFrom<DType>("float32", "float16", "bfloat16"),
});

test("rows in groups are what they are alone", () => {
  let groups = 0;
  let overTwoAxes = 0;
  const run = fc.property(cases, ({ name, N, H, P, vectors, dtype }) => {
    const shapes = [
      [N, H, P, 4 * vectors],
      [N, 1, P, 4 * vectors],
      [H, 1, 1],
    ];
    const all = [reference, ...devices].map((device) => {
      useDevice(device);
      const inputs = shapes.map((shape) => tensor(values(shape.reduce((a, b) => a * b, 1)), { dtype }).reshape(shape));
      const call = compile(functions[name]!);
      const result = call(...(inputs as unknown as Operands)).toArray();
      for (const { code, geometry } of call.schedule()!.steps) {
        const group = "instructions" in code && groupOf(code, planLoop(code), geometry as Parameters<typeof groupOf>[2]);
        if (group && group.rows > 1) groups++;
        if (group && group.far > 1) overTwoAxes++;
      }
      call.dispose();
      return result;
    });
    for (const result of all) expect(result).toEqual(all[0]);
  });
  // groups over two axes are rare among those that are drawn
  const turned = { name: "turned as heads are", N: 3, dtype: "float32" } as const;
  const examples = [
    [4, 4, 1],
    [2, 2, 2],
    [4, 2, 1],
  ].map(([H = 1, P = 1, vectors = 1]) => ({ ...turned, H, P, vectors }));
  fc.assert(run, { numRuns: 60, examples: examples.map((example) => [example]) });
  expect(groups).toBeGreaterThan(25);
  expect(overTwoAxes).toBeGreaterThan(5);
});
