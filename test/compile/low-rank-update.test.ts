import { afterAll, expect, test } from "vitest";
import { downloadSync, realize, upload, useDevice } from "../../src/compile/program.ts";
import { schedule } from "../../src/compile/schedule.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { add, cast } from "../../src/graph/elementwise.ts";
import { reshape, transpose } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";

const wasm = createWasm({ threads: 2 });
const reference = createReference();
afterAll(() => wasm[Symbol.dispose]());

const numbers = (shape: readonly number[], seed: number): Float32Array =>
  Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i * 12.9898 + seed));
const labels = (...roots: Tensor[]): string[] => schedule(roots, wasm).steps.map(({ label }) => label);

/** The same formula on both devices: its launches on wasm, and the largest difference. */
function compare(shapes: readonly (readonly number[])[], formula: (...x: Tensor[]) => Tensor | Tensor[]) {
  const [own, plain] = [wasm, reference].map((device) => {
    useDevice(device);
    const roots = [formula(...shapes.map((shape, i) => upload(device, numbers(shape, i), shape, "float32")))].flat();
    const launches = device === wasm ? labels(...roots) : [];
    realize(roots);
    return { launches, values: roots.flatMap((root) => [...downloadSync(root)]) };
  }) as [{ launches: string[]; values: number[] }, { values: number[] }];
  const error = Math.max(...own.values.map((value, i) => Math.abs(value - plain.values[i]!)));
  return { launches: own.launches, error };
}

const lora = [
  [2, 6, 40],
  [30, 40],
  [3, 40],
  [30, 3],
] as const;

test("a low-rank update is added in the launch of the product that it changes", () => {
  const { launches, error } = compare(lora, (x, W, A, B) =>
    add(matmul(x!, transpose(W!)), matmul(matmul(x!, transpose(A!)), transpose(B!))),
  );
  expect(launches).toEqual(["matmul [12,40]·[40,3]", "matmul [12,40]·[40,30] + [12,3]·[3,30]"]);
  expect(error).toBeLessThan(1e-4);
});

test("several of them, one after the other, and a residual", () => {
  const { launches, error } = compare([...lora, ...lora, [12, 30]], (x, W, A, B, z, V, C, D, residual) => {
    const adapted = (x: Tensor, W: Tensor, A: Tensor, B: Tensor) =>
      reshape(add(matmul(x, transpose(W)), matmul(matmul(x, transpose(A)), transpose(B))), [12, 30]);
    return add(add(residual!, adapted(x!, W!, A!, B!)), adapted(z!, V!, C!, D!));
  });
  expect(launches.filter((label) => label.includes("]·[40,30] + [12,3]·[3,30] + start"))).toHaveLength(2);
  expect(launches).toHaveLength(4);
  expect(error).toBeLessThan(1e-4);
});

test("a product that somebody else reads, too, stays one of its own", () => {
  const { launches, error } = compare(lora, (x, W, A, B) => {
    const low = matmul(matmul(x!, transpose(A!)), transpose(B!));
    return [low, add(matmul(x!, transpose(W!)), low)];
  });
  expect(launches).toHaveLength(3);
  expect(error).toBeLessThan(1e-4);
});

test("two deep products stay two launches", () => {
  const { launches, error } = compare(
    [
      [8, 70],
      [70, 9],
      [8, 80],
      [80, 9],
    ],
    (a, b, c, d) => add(matmul(a!, b!), matmul(c!, d!)),
  );
  expect(launches).toHaveLength(2);
  expect(error).toBeLessThan(1e-4);
});

test("a row, a transposed left side and a weight in 16 bits give the same values", () => {
  const shapes = [
    [1, 40],
    [40, 9],
    [1, 4],
    [4, 9],
  ];
  expect(compare(shapes, (a, b, c, d) => add(matmul(a!, b!), matmul(c!, d!))).error).toBeLessThan(1e-5);
  const turned = [
    [40, 8],
    [40, 9],
    [4, 8],
    [4, 9],
  ];
  expect(compare(turned, (a, b, c, d) => add(matmul(transpose(a!), b!), matmul(transpose(c!), d!))).error).toBeLessThan(1e-5);
  const halves = [
    [8, 40],
    [40, 9],
    [8, 4],
    [4, 9],
  ];
  const { launches, error } = compare(halves, (a, b, c, d) =>
    add(matmul(a!, cast(cast(b!, "bfloat16"), "float32")), matmul(c!, d!)),
  );
  expect(launches.some((label) => label.includes(" + "))).toBe(true);
  expect(error).toBeLessThan(1e-5);
});
