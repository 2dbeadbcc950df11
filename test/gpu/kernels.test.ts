/** The kernels of kernels/gpu as ordinary functions, on ordinary arrays: against the meaning of what each replaces. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import * as attention from "../../kernels/gpu/attention.ts";
import * as dequantise from "../../kernels/gpu/dequantise.ts";
import * as indexing from "../../kernels/gpu/indexing.ts";
import { scatterAdd, scatterAddInteger, segmentStart, segmentSum, segmentSumInteger, take } from "../../kernels/gpu/indexing.ts";
import * as math from "../../kernels/gpu/math.ts";
import * as matmul from "../../kernels/gpu/matmul.ts";
import { multiplyPacked, pack, unpack, unpackAdd } from "../../kernels/gpu/matmul.ts";
import * as norms from "../../kernels/gpu/norms.ts";
import * as optimiser from "../../kernels/gpu/optimiser.ts";
import * as rows from "../../kernels/gpu/rows.ts";
import * as sorting from "../../kernels/gpu/sorting.ts";
import { order, rank, rankInteger, scanStep, scanStepInteger } from "../../kernels/gpu/sorting.ts";
import { functionSource } from "../../src/devices/gpu/function-source.ts";
import { kernel as pass } from "../../src/devices/gpu/plan.ts";
import { scalarFunctions } from "../../src/devices/reference/render.ts";
import { argsortOp } from "../../src/graph/indexing.ts";
import type { CallGeometry } from "../../src/graph/primitive.ts";

/** Runs a kernel for every thread. */
function launch(
  // biome-ignore lint/suspicious/noExplicitAny: every kernel names its own sizes
  kernel: (this: any, ...args: any[]) => number,
  constants: Record<string, number>,
  count: number,
  ...args: readonly (ArrayLike<number> | ArrayLike<ArrayLike<number>> | number)[]
): number[] {
  return Array.from({ length: count }, (_, x) => kernel.call({ thread: { x }, constants }, ...args));
}

const limbs = (values: readonly number[]): number[] => values.flatMap((value) => [value & 65535, value >>> 16]);
const whole = (floats: readonly number[]): number[] =>
  Array.from({ length: floats.length / 2 }, (_, i) => (floats[2 * i + 1]! << 16) | floats[2 * i]!);

const int32 = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
const ties = fc.oneof(fc.integer({ min: -2, max: 2 }), fc.constant(Number.NaN), fc.constant(Number.NEGATIVE_INFINITY));

describe("functions of generated kernels", () => {
  const close = (got: number, want: number, relative: number) =>
    Object.is(got, want) || got === want || Math.abs(got - want) <= relative * Math.abs(want);
  const values = fc.oneof(fc.float({ noNaN: true, min: -20, max: 20 }), fc.float(), fc.constantFrom(0, 1, -1, 1e-30, 1e30));

  test.each([
    ["tanh", math.hyperbolicTangent, Math.tanh],
    ["erf", math.errorFunction, scalarFunctions.erf],
  ] as const)("%s", (_, f, meaning) => {
    fc.assert(fc.property(values, (x) => close(f(x), meaning(x), 4e-7)));
    expect(f(Number.NaN)).toBeNaN();
  });

  test("sine", () => {
    const angles = fc.float({ noNaN: true, min: -1000, max: 1000 });
    fc.assert(fc.property(angles, (x) => Math.abs(math.sine(x) - Math.sin(x)) <= 1e-9));
    // near a zero, where a wrong π would show
    expect(math.sine(Math.fround(Math.PI))).toBeCloseTo(Math.sin(Math.fround(Math.PI)), 12);
  });

  test("power", () => {
    const exponents = fc.oneof(fc.integer({ min: -5, max: 5 }), fc.float({ noNaN: true, min: -3, max: 3 }));
    fc.assert(fc.property(values, exponents, (x, y) => close(math.power(x, y), x ** y, 1e-12)));
  });

  test("remainder", () => {
    const part = fc.float({ noNaN: true, min: -100, max: 100, noDefaultInfinity: true });
    fc.assert(
      fc.property(part, part, (x, y) => {
        fc.pre(Math.abs(y) > 0.01);
        const r = math.remainder(x, y);
        // on the circle of remainders, where 0 and y are one point
        const d = Math.abs(r - scalarFunctions.mod(x, y));
        return Math.min(d, Math.abs(d - Math.abs(y))) < 1e-5 && Math.abs(r) <= Math.abs(y) && r * y >= 0;
      }),
    );
  });

  test("rounding to 16 bits", () => {
    const floats = fc.oneof(
      fc.float(),
      fc.float({ min: -70000, max: 70000 }),
      fc.float({ min: Math.fround(-1e-4), max: Math.fround(1e-4) }),
    );
    fc.assert(
      fc.property(floats, (x) => {
        if (Number.isNaN(x)) expect(math.roundFloat16(x)).toBeNaN();
        else expect(math.roundFloat16(x)).toBeCloseTo(scalarFunctions.roundFloat16(x), 12);
        // its subnormal numbers are those of float32, which GPUs flush to 0
        if (Math.abs(x) > 2 ** -126 && Math.abs(x) < 3.38e38)
          expect(math.roundBFloat16(x) + 0).toBe(scalarFunctions.roundBFloat16(x) + 0);
      }),
      { numRuns: 500 },
    );
  });

  test("bits of a float", () => {
    fc.assert(
      fc.property(fc.float(), (x) => {
        fc.pre(x === 0 || Math.abs(x) >= 2 ** -126);
        const bits = (math.floatBits(x, 1) << 16) | math.floatBits(x, 0);
        expect(bits).toBe(Number.isNaN(x) ? 0x7fc00000 : scalarFunctions.floatBits(x + 0));
        expect(math.bitsFloat(math.floatBits(x, 1), math.floatBits(x, 0))).toBe(x + 0);
      }),
      { numRuns: 500 },
    );
  });
});

describe("texts of kernels", () => {
  const modules = { ...attention, ...dequantise, ...indexing, ...math, ...matmul, ...norms, ...optimiser, ...rows, ...sorting };
  const all = Object.entries(modules).filter((entry): entry is [string, () => number] => typeof entry[1] === "function");

  test("nothing is compared with itself or taken from itself to find NaN, which a compiler of shaders may drop", () => {
    for (const [name, kernel] of all) expect(`${name}: ${kernel}`).not.toMatch(/\b(\w+) (!==|===) \1\b/);
    for (const kernel of [math.power, math.bitsFloat, math.floatBits]) expect(`${kernel}`).not.toMatch(/(?<![.\w])(\w+) - \1\b/);
  });

  // sizes at which the last threads are close to 2²⁴, which is as many as there may be
  const square = { H: 3, share: 1, Tq: 1021, low: -1e6, high: 1e6 };
  const heads = (name: string) => ({ [`${name}Offset`]: 0, [`${name}Batch`]: 1e7, [`${name}Time`]: 3, [`${name}Head`]: 1 });
  const sizes = {
    ...square,
    D: 3,
    size: 3,
    ...heads("q"),
    ...heads("k"),
    ...heads("x"),
    ...heads("g"),
    ...heads("y"),
    ...heads("v"),
  };
  const cases = [
    ["attentionScores", attention.attentionScores, { ...sizes, Tk: 3 }, 2],
    ["attentionByQueries", attention.attentionByQueries, { ...sizes, Tk: 1 }, 2],
    ["attentionByKeys", attention.attentionByKeys, { ...sizes, Tq: 1, Tk: 1021, G: 3 }, 2],
    ["attentionDeltas", attention.attentionDeltas, sizes, 2],
    ["attentionSlopes", attention.attentionSlopes, { ...sizes, Tk: 3 }, 4],
    ["rowWeights", attention.rowWeights, { width: 3 }, 2],
    ["logSums", attention.logSums, { width: 3, size: 1, pieces: 3 }, 1],
    ["pack", matmul.pack, { rows: 7, height: 7, width: 12, texels: 3, offset: 0, batch: 84, row: 12, column: 1 }, 1],
    ["multiplyPacked", matmul.multiplyPacked, { rows: 7, deep: 1, wide: 3 }, 2],
    ["unpack", matmul.unpack, { width: 11, texels: 3 }, 1],
    ["segmentSum", indexing.segmentSum, { count: 3, width: 7 }, 4],
    ["dequantise8", dequantise.dequantise8, { block: 48 }, 3],
    ...(
      [
        [rows.rowExponentials, 2],
        [rows.shares, 2],
        [rows.softmax, 3],
        [rows.logSoftmax, 3],
        [rows.softmaxDerivative, 3],
        [rows.logSoftmaxDerivative, 3],
        [rows.crossEntropyDerivative, 6],
        [rows.crossEntropyDerivativeOf, 5],
        [norms.rmsNorm, 3],
        [norms.layerNorm, 5],
        [optimiser.adamMeanTurned, 3],
        [optimiser.adamSquareTurned, 3],
      ] as const
    ).map(([kernel, arrays]) => [kernel.name, kernel, { rows: 7, width: 3, reciprocal: Math.fround(1 / 3) }, arrays] as const),
  ] as const;

  test.each(cases)("%s has no call of quotient when GPU.js gets it", (_, source) => {
    const { source: text } = pass(source as () => number, {}, [], 1);
    expect(text).not.toContain("quotient(");
    expect(text).toMatch(
      /let (\w+) = Math\.floor\([^;]+;\s*if \(\1 \* (\S+) > (\S+)\)\s*\1 = \1 - 1;\s*if \(\1 \* \2 \+ \2 <= \3\)\s*\1 = \1 \+ 1;/,
    );
  });

  test.each(cases)("%s reads the same elements where quotients are wrong in their last bits", (_, kernel, constants, arrays) => {
    /** The elements that a thread reads, where each quotient is so many times too large. */
    const readsOf = (x: number, factor: number): string => {
      const reads: string[] = [];
      const array = (name: number) =>
        new Proxy([] as number[], {
          get(_target, key) {
            reads.push(`${name}:${String(key)}`);
            return Object.assign(new Number(1), [1, 1, 1, 1]); // a number, and a texel
          },
        });
      const text = functionSource(kernel as () => number).replace(
        /Math\.floor\(([^()]+|\([^()]*\)) ([/*]) (this[^()]+)\)/g,
        `Math.floor((($1) $2 ($3)) * ${factor})`,
      );
      const wrong = (x: number, n: number, estimate: number): number => math.quotient(x, n, estimate * factor);
      const run = new Function("quotient", `return ${text}`)(wrong) as typeof kernel;
      (run as (...all: unknown[]) => unknown).call(
        { thread: { x }, constants },
        ...Array.from({ length: arrays }, (_, i) => array(i)),
        1,
      );
      return reads.join(" ");
    };
    for (let at = 2 ** 23; at < 2 ** 24; at += 1_000_003)
      for (let x = at; x < at + 40; x++)
        for (const factor of [1 - 2 ** -23, 1 + 2 ** -23]) expect(readsOf(x, factor)).toBe(readsOf(x, 1));
  });
});

describe("rows by number", () => {
  const rows = fc.record({
    rows: fc.integer({ min: 1, max: 5 }),
    width: fc.integer({ min: 1, max: 4 }),
    picks: fc.array(fc.nat(), { minLength: 1, maxLength: 6 }),
    values: fc.array(int32, { minLength: 24, maxLength: 24 }),
  });

  const tableOf = (values: readonly number[], width: number) =>
    Array.from({ length: Math.floor(values.length / width) }, (_, row) => values.slice(row * width, (row + 1) * width));

  test("take", () => {
    fc.assert(
      fc.property(rows, ({ rows, width, picks, values }) => {
        const index = picks.map((pick) => pick % rows);
        const got = launch(take, { rows, width }, index.length * width, tableOf(values, width), limbs(index), Number.NaN);
        expect(got).toEqual(index.flatMap((row) => values.slice(row * width, (row + 1) * width)));
      }),
    );
    expect(launch(take, { rows: 2, width: 1 }, 2, tableOf([1, 2], 1), limbs([2, -1]), Number.NaN)).toEqual([
      Number.NaN,
      Number.NaN,
    ]);
  });

  test("scatterAdd", () => {
    fc.assert(
      fc.property(rows, ({ rows, width, picks, values }) => {
        const index = picks.map((pick) => pick % rows);
        const updates = values.slice(0, index.length * width);
        const sums = new Array<number>(rows * width).fill(0);
        index.forEach((row, n) => {
          for (let c = 0; c < width; c++) sums[row * width + c]! += updates[n * width + c]!;
        });
        const constants = { count: index.length, width };
        expect(launch(scatterAdd, constants, rows * width, limbs(index), updates)).toEqual(sums);
        const exact = whole(launch(scatterAddInteger, constants, 2 * rows * width, limbs(index), limbs(updates)));
        expect(exact).toEqual(sums.map((sum) => sum | 0));

        // the same from sorted indices
        const order = limbs(index.map((_, n) => n).sort((a, b) => index[a]! - index[b]!));
        const starts = launch(segmentStart, { count: index.length, steps: 4 }, rows, limbs(index), order);
        expect(launch(segmentSum, constants, rows * width, limbs(index), order, starts, updates)).toEqual(sums);
        const again = launch(segmentSumInteger, constants, 2 * rows * width, limbs(index), order, starts, limbs(updates));
        expect(whole(again)).toEqual(exact);
      }),
    );
  });
});

describe("along the last axis", () => {
  test("running sums by doubling steps", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 9 }), fc.array(int32, { minLength: 18, maxLength: 18 }), (width, drawn) => {
        const values = drawn.slice(0, 2 * width);
        let floats = values;
        let wholes = limbs(values);
        for (let step = 1; step < width || step === 1; step *= 2) {
          floats = launch(scanStep, { width, step }, floats.length, floats);
          wholes = launch(scanStepInteger, { width, step }, wholes.length, wholes);
        }
        const sums = values.map((_, i) => values.slice(i - (i % width), i + 1).reduce((a, b) => a + b));
        expect(floats).toEqual(sums);
        expect(whole(wholes)).toEqual(sums.map((sum) => sum | 0));
      }),
    );
  });

  const sorted = (x: readonly number[], width: number, descending: boolean): number[] => {
    const out = new Int32Array(x.length);
    const operand = { shape: [x.length / width, width], strides: [width, 1], offset: 0 };
    const geometry: CallGeometry = { operands: [operand], results: [operand], attributes: { descending: descending ? 1 : 0 } };
    argsortOp.host([Float64Array.from(x)], [out], geometry);
    return [...out];
  };

  test.each([
    ["floats", rank, ties, (values: number[]) => values],
    ["whole numbers", rankInteger, fc.oneof(fc.integer({ min: -2, max: 2 }), int32), limbs],
  ] as const)("the order of sorting of %s", (_, kernel, values, lying) => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 6 }),
        fc.array(values, { minLength: 12, maxLength: 12 }),
        fc.boolean(),
        (width, drawn, down) => {
          const x = drawn.slice(0, 2 * width);
          const ranks = launch(kernel, { width, descending: down ? 1 : 0 }, x.length, lying(x));
          expect(whole(launch(order, { width }, 2 * x.length, ranks))).toEqual(sorted(x, width, down));
        },
      ),
    );
  });
});

test("the matrix product by texels: pack, multiply, unpack", () => {
  const side = fc.integer({ min: 1, max: 9 });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2 }), side, side, side, fc.boolean(), (batches, M, N, K, turned) => {
      const numbers = (count: number, seed: number) => Array.from({ length: count }, (_, i) => ((i * 7 + seed) % 13) - 6);
      const [A, B, start] = [numbers(batches * M * K, 1), numbers(batches * K * N, 2), numbers(batches * M * N, 3)];
      const a = { offset: 0, batch: M * K, row: K, column: 1 };
      const b = { offset: 0, batch: K * N, row: turned ? 1 : N, column: turned ? K : 1 };
      const c = { offset: 0, batch: M * N, row: N, column: 1 };
      const [deep, wide] = [Math.ceil(K / 4), Math.ceil(N / 4)];
      const texels = (f: unknown, constants: Record<string, number>, count: number, ...args: unknown[]) =>
        launch(f as typeof unpack, constants, count, ...(args as number[][])) as unknown as number[];
      const left = texels(pack, { rows: M, height: M, width: K, texels: deep, ...a }, batches * M * deep, A);
      const right = texels(pack, { rows: 4 * deep, height: K, width: N, texels: wide, ...b }, batches * 4 * deep * wide, B);
      const product = texels(multiplyPacked, { rows: M, deep, wide }, batches * M * wide, left, right);
      const want = start.map((_, i) => {
        const [batch, m, n] = [Math.floor(i / (M * N)), Math.floor(i / N) % M, i % N];
        let sum = 0;
        for (let k = 0; k < K; k++) sum += A[batch * M * K + m * K + k]! * B[batch * K * N + k * b.row + n * b.column]!;
        return sum;
      });
      expect(launch(unpack, { width: N, texels: wide }, want.length, product)).toEqual(want);
      const added = launch(unpackAdd, { width: N, texels: wide, rows: M, ...c }, want.length, product, start);
      expect(added).toEqual(want.map((sum, i) => sum + start[i]!));
    }),
  );
});
