// Exponentials of what is not above 0 have code of their own: where it is used, and that it is used nowhere else.
import { expect, test } from "vitest";
import { plan, useDevice } from "../../src/compile/program.ts";
import type { LoopProgram } from "../../src/devices/loop-program.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { vectorInstructions } from "../../src/devices/wasm/limits.ts";
import { less, where } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { tensor } from "../../src/tensor/create.ts";
import { amax, softmax } from "../../src/tensor/statistics.ts";
import "../../src/tensor/methods.ts";

const device = createWasm({ threads: 1 });
useDevice(device);
const { NaN: nan, POSITIVE_INFINITY: inf } = Number;

/** Whether the exponential of the only launch is the short one, which shifts 2ⁿ into place once. */
function isShort(y: Tensor): boolean {
  const { steps } = plan([y], device);
  expect(steps).toHaveLength(1);
  const shifts = vectorInstructions(steps[0]!.code as LoopProgram, true).filter(({ op }) => op === "i32x4.shl");
  return shifts.length === 1;
}

test("a softmax has the short one, and what is written like it", () => {
  const x = tensor([Array.from({ length: 32 }, (_, i) => i), Array.from({ length: 32 }, (_, i) => -i)]);
  expect(isShort(softmax(x))).toBe(true);
  expect(isShort(softmax(x.mul(3).add(1)))).toBe(true);
  expect(isShort(x.sub(amax(x, -1, true)).exp())).toBe(true);
});

test("what may be above 0 has the whole one, and is right", () => {
  const x = tensor([[1, 2, 60, 3]]);
  const m = amax(x, -1, true);
  for (const [arg, value] of [
    [x.mul(2).sub(m), [-58, -56, 60, -54]],
    [x.sub(amax(x.mul(0.5), -1, true)), [-29, -28, 30, -27]],
    [x.sub(where(less(tensor(-inf), m), tensor(-40), m)), [41, 42, 100, 43]],
    [x.sub(where(less(tensor(70), m), m, tensor(0))), [1, 2, 60, 3]],
    [m.sub(x), [59, 58, 0, 57]],
  ] as const) {
    const y = arg.exp();
    expect(isShort(y)).toBe(false);
    const got = y.dataSync();
    for (const [i, exact] of value.entries())
      expect(got[i]! / Math.fround(Math.exp(exact)), `e^${exact}`).toSatisfy(
        (ratio: number) => Math.abs(ratio - 1) < 1e-6 || (Number.isNaN(ratio) && got[i] === inf),
      );
  }
});

test("terms far below the maximum are 0, and rows without one are as before", () => {
  const rows = [
    [0, -20, -80, -87, -87.5, -88, -110, -inf],
    [-inf, -inf, -inf, -inf, -inf, -inf, -inf, -inf],
    [nan, 100, 200, 3, 4, 5, 6, 7],
    [inf, 1, 2, 3, 4, 5, 6, 7],
    [3e38, -3e38, 0, 0, 0, 0, 0, 0],
  ];
  const got = softmax(tensor(rows)).toArray() as number[][];
  const sum = rows[0]!.reduce((total, value) => total + Math.exp(value), 0);
  for (const [i, value] of rows[0]!.entries()) {
    const exact = Math.exp(value) / sum;
    expect(Math.abs(got[0]![i]! - exact), `${value}`).toBeLessThanOrEqual(exact * 1e-6 + 2 ** -126);
  }
  expect(got[0]!.slice(5)).toEqual([0, 0, 0]);
  expect(got[1]).toEqual(Array(8).fill(0));
  expect(got[2]).toEqual(Array(8).fill(nan));
  expect(got[3]).toEqual(Array(8).fill(nan));
  expect(got[4]).toEqual([1, 0, 0, 0, 0, 0, 0, 0]);
});
