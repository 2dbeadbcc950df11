/**
 * A function of a row, done for all rows at once, gives what it gives row by row:
 *
 *   vmap(f)(X)[n] = f(X[n]), and the same for the derivative of either side
 *
 * over every primitive and composite, with all inputs going from row to row, or only some of them.
 */
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { grad } from "../../src/autograd/grad.ts";
import { perSampleGradients } from "../../src/autograd/jvp.ts";
import { vmap } from "../../src/autograd/vmap.ts";
import { plan, realize, useDevice } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { isFloat } from "../../src/graph/dtype.ts";
import { bitcast, cast, mul } from "../../src/graph/elementwise.ts";
import { reshape, sliceAxis } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Draw, Primitive, Sample } from "../../src/graph/primitive.ts";
import { primitives } from "../../src/graph/primitives.ts";
import { random } from "../../src/index.ts";
import { stack } from "../../src/tensor/arrange.ts";
import { tensor } from "../../src/tensor/create.ts";
import { at } from "../../src/tensor/index-expression.ts";
import { sum } from "../../src/tensor/statistics.ts";
import { cases } from "../arbitrary/cases.ts";
import { composites } from "../arbitrary/composites.ts";
import { draws, randomTensor } from "../arbitrary/draw.ts";
import { elementwiseFunction } from "../arbitrary/graph-move.ts";
import { valuesOf } from "../arbitrary/values.ts";
import { onEveryDevice } from "../devices.ts";

const device = createReference();
beforeAll(() => void useDevice(device));

function expectSame(name: string, got: Tensor, expected: Tensor): void {
  expect([name, got.shape, got.dtype]).toEqual([name, expected.shape, expected.dtype]);
  realize([got, expected]);
  const [a, b] = [valuesOf(got), valuesOf(expected)];
  for (let i = 0; i < b.length; i++)
    if (!(Object.is(a[i], b[i]) || Math.abs(a[i]! - b[i]!) <= 1e-9 * (1 + Math.abs(b[i]!))))
      throw new Error(`${name}: element ${i} is ${a[i]} for all rows at once, ${b[i]} row by row`);
}

/** `mapped` tells which of the inputs go from row to row; the others are the same for all. */
function rowsAgree({ inputs, apply }: Sample, N: number, mapped: readonly boolean[], seed: number): void {
  const all = inputs.map(({ shape, domain }, i) => randomTensor(device, mapped[i] ? [N, ...shape] : shape, domain, seed + i));
  const rows = all.filter((_, i) => mapped[i]);
  const joined = (row: readonly Tensor[]): Tensor => {
    const rest = [...row];
    return apply(...all.map((x, i) => (mapped[i] ? rest.shift()! : x)));
  };
  const at = (n: number, xs: readonly Tensor[]) => xs.map((x) => reshape(sliceAxis(x, 0, n, n + 1), x.shape.slice(1)));
  const together = (...xs: Tensor[]) => vmap((...row) => joined(row))(...xs);
  const oneByOne = (...xs: Tensor[]) => stack(Array.from({ length: N }, (_, n) => joined(at(n, xs))));
  const [y, expected] = [together(...rows), oneByOne(...rows)];
  expectSame("value", y, expected);
  if (!isFloat(y.dtype)) return;
  const w = randomTensor(device, y.shape, [-1, 1], seed + 50);
  const gradients = (f: (...xs: Tensor[]) => Tensor) => grad((...xs) => sum(mul(cast(f(...xs), "float64"), w)))(...rows);
  const separate = gradients(oneByOne);
  gradients(together).forEach((g, i) => expectSame(`gradient ${i}`, g, separate[i]!));
}

function check(samplesOf: (draw: Draw) => Sample[], runs: number): void {
  fc.assert(
    fc.property(
      draws(),
      fc.integer({ min: 1, max: 3 }),
      fc.array(fc.boolean(), { minLength: 8, maxLength: 8 }),
      fc.nat(1e6),
      (draw, N, some, seed) => {
        const samples = samplesOf(draw);
        const sample = samples[seed % samples.length]!;
        if (sample.inputs.length === 0) return;
        const mapped = sample.inputs.map((_, i) => some[i % 8]!);
        if (!mapped.includes(true)) mapped[seed % mapped.length] = true;
        rowsAgree(sample, N, mapped, seed);
      },
    ),
    cases(runs),
  );
}

describe("primitives", () => {
  const all = (Object.entries(primitives) as [string, Primitive][]).filter(([, op]) => op.kind === "elementwise" || op.samples);
  test.each(all)("%s", (name, op) => {
    check((draw) => {
      if (op.kind !== "elementwise") return op.samples!(draw);
      const shape = draw.shape(2, 4);
      const inputs = op.domain.map((domain) => ({ shape: shape.slice(draw.integer(0, shape.length)), domain }));
      // what takes a dtype is given one; operations of integers get them
      const f =
        name === "cast" || name === "bitcast" ? (x: Tensor) => bitcast(cast(x, "float32"), "int32") : elementwiseFunction(name);
      const prepared = (x: Tensor) => (op.takes === "integer" ? cast(x, "int32") : x);
      return [{ inputs, apply: (...xs) => f(...(xs.map(prepared) as [Tensor])) }];
    }, 8);
  });
});

test.each(Object.entries(composites(device)))("composites and layers: %s", (_name, samplesOf) => check(samplesOf, 3));

test("an index outside its own table is an error, not an element of the next row's", () => {
  const tables = tensor([
    [1, 2],
    [3, 4],
  ]);
  const index = tensor([[2], [0]], { dtype: "int32" });
  const picked = vmap((table, i) => at(table, i))(tables, index);
  expect(() => realize([picked])).toThrow("take: index -1 is outside a table of 4 rows.");
});

onEveryDevice(() => {
  test("per-sample gradients of 64 samples take as many kernels as those of two", () => {
    const kernels = (N: number) => {
      const draw = (shape: number[], seed: number) => random.normal(random.key(seed), shape);
      const loss = ([W, V]: Tensor[], x: Tensor, y: Tensor) => sum(V!.matmul(W!.matmul(x).gelu()).sub(y).square());
      return plan(perSampleGradients(loss, [draw([16, 8], 1), draw([4, 16], 2)], [draw([N, 8], 3), draw([N, 4], 4)])).steps
        .length;
    };
    expect(kernels(64)).toBe(kernels(2));
  });

  test("vmap of vmap is every pair", () => {
    const [x, y] = [tensor([1, 2, 3]), tensor([10, 20])];
    const table = vmap((a) => vmap((b) => mul(a, b))(y))(x);
    expect(table.toArray()).toEqual([
      [10, 20],
      [20, 40],
      [30, 60],
    ]);
  });
});
