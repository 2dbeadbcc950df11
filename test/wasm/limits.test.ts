// What a kernel is held against: the instructions that are counted, and the table that is printed. Nothing here depends on how fast the machine is.
import { describe, expect, it } from "vitest";
import "../../src/devices/choose.ts";
import { plan, upload, useDevice } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import type { LoopProgram } from "../../src/devices/loop-program.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { instructionTime, Limits, vectorInstructions } from "../../src/devices/wasm/limits.ts";
import { profile, profileTable } from "../../src/devices/wasm/profile.ts";
import "../../src/tensor/methods.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { softmax } from "../../src/tensor/statistics.ts";

const device = createWasm({ threads: 1 });
useDevice(device);
const x = upload(device, new Float32Array(4096).fill(0.5), [64, 64], "float32");
const counted = (f: (x: Tensor) => Tensor, relaxed = false): string[] => {
  const [step] = plan([f(x)], device).steps;
  return vectorInstructions(step!.code as LoopProgram, relaxed).map(({ op }) => op);
};

describe("instructions of a loop program", () => {
  it("are one for each simple operation on elements", () => {
    expect(counted((a) => a.add(a.mul(2)))).toEqual(["f32x4.mul", "f32x4.add"]);
    expect(counted((a) => a.sum(-1))).toEqual(["f32x4.add"]);
  });

  it("are one for a product and the sum that takes it up, where the processor has that", () => {
    expect(counted((a) => a.mul(a).add(a), true)).toEqual(["f32x4.mul"]);
  });

  it("are many for functions, and none for what happens once a row", () => {
    const exponential = counted((a) => a.exp()).length;
    expect(exponential).toBeGreaterThan(8);
    // maximum, difference, exponential, sum, product; one division and one row each. The exponential of what is not above 0 is shorter
    const of = counted((a) => softmax(a));
    expect(of.length).toBeGreaterThan(exponential - 4);
    expect(of.length).toBeLessThan(exponential + 4);
    expect(of.filter((op) => op === "i32x4.shl")).toHaveLength(1);
  });

  it("have times", () => {
    for (const [op, operands] of [
      ["f32x4.div", 2],
      ["i32x4.shl", 2],
      ["f32x4.sqrt", 1],
      ["v128.bitselect", 3],
    ] as const)
      expect(instructionTime({ op, operands }, 2)).toBeGreaterThan(0);
  });
});

it("a launch has a limit of memory and of arithmetic, which grow with it", () => {
  using limits = new Limits(device);
  const bound = (size: number, window?: number) => {
    const a = upload(device, new Float32Array(size * size), [size, size], "float32");
    return limits.of(plan([a.exp()], device).steps[0]!, device, window);
  };
  const [small, large] = [bound(64), bound(512)];
  expect(large.arithmetic / small.arithmetic).toBeCloseTo(64, 6);
  expect(large.memory).toBeGreaterThan(small.memory);
  expect(limits.threads).toBe(1);
  const [smallNow, largeNow] = [bound(64, 0.5), bound(512, 0.5)];
  expect(largeNow.arithmetic).toBeGreaterThan(smallNow.arithmetic);
  expect(largeNow.memory).toBeGreaterThan(smallNow.memory);
});

it("a profile names every kernel with its share, and the table adds up", () => {
  const f = compile((a: Tensor) => softmax(a.matmul(a)));
  f(x).dispose();
  const found = profile(f, [x], device, 2);
  expect(found.rows.map(({ launches }) => launches)).toEqual([1, 1]);
  expect(found.rows.find(({ label }) => label.startsWith("matmul"))).toMatchObject({ flops: 2 * 64 ** 3, bytes: 2 * 4 * 4096 });
  expect(found.rows.reduce((sum, { milliseconds }) => sum + milliseconds, 0)).toBeCloseTo(found.milliseconds, 9);
  const lines = profileTable(found).split("\n");
  expect(lines).toHaveLength(4);
  expect(lines.join("\n")).toMatch(/matmul \[64,64\]·\[64,64\]/);
});
