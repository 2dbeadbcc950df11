import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { grad } from "../../src/autograd/grad.ts";
import { downloadSync, plan, realize, upload, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { type AttentionOptions, attention, attentionBackwardOp, attentionOp } from "../../src/graph/attention.ts";
import { mul } from "../../src/graph/elementwise.ts";
import { reshape, slice } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Operand } from "../../src/graph/primitive.ts";
import { sum } from "../../src/tensor/statistics.ts";

const reference = createReference();
/** All but the last must agree to the bit. */
const wasm = [
  createWasm({ threads: 1, shared: false }),
  createWasm({ threads: 2 }),
  createWasm({ threads: 3 }),
  createWasm({ threads: 2, relaxedSimd: false }),
];
afterAll(() => {
  for (const device of [reference, ...wasm]) device[Symbol.dispose]();
});

interface Case {
  readonly B: number;
  readonly Tq: number;
  readonly Tk: number;
  readonly G: number;
  readonly share: number;
  readonly D: number;
  readonly E: number;
  readonly causal: boolean;
  readonly window: number;
  readonly scale?: number;
  readonly layout: "tokens" | "heads" | "gaps" | "backwards" | "repeated";
}

/** How a [B, T, heads, size] operand lies in its buffer. */
function place(layout: Case["layout"], [B, T, N, size]: readonly [number, number, number, number]): Operand & { length: number } {
  const shape = [B, T, N, size];
  if (layout === "heads") return { shape, strides: [T * N * size, size, T * size, 1], offset: 0, length: B * T * N * size };
  if (layout === "gaps") {
    const row = N * (size + 3) + 5;
    return { shape, strides: [T * row + 1, row, size + 3, 1], offset: 2, length: 2 + B * (T * row + 1) };
  }
  const dense = { shape, strides: [T * N * size, N * size, size, 1], offset: 0, length: B * T * N * size };
  if (layout === "tokens") return dense;
  if (layout === "repeated") return { ...dense, strides: [0, N * size, size, 1] };
  return { ...dense, strides: [T * N * size, -N * size, size, 1], offset: (T - 1) * N * size };
}

/** Indices of an operand's elements in its buffer, in row-major order. */
function walk({ shape, strides, offset }: Operand): number[] {
  return shape.reduce<number[]>(
    (at, extent, axis) => at.flatMap((start) => Array.from({ length: extent }, (_, i) => start + i * strides[axis]!)),
    [offset],
  );
}

const guard = 64;

/** Runs a kernel with NaN around its operands; throws when it writes beside its results. */
function runCall(
  device: Device,
  name: string,
  operands: readonly { readonly operand: Operand & { length: number }; readonly values: Float32Array }[],
  shapes: readonly (readonly number[])[],
  attributes: Record<string, number>,
): Float32Array[] {
  const put = (values: Float32Array) => {
    const padded = new Float32Array(values.length + 2 * guard).fill(Number.NaN);
    padded.set(values, guard);
    const buffer = device.allocate(4 * padded.length);
    device.upload(padded, "float32", { buffer, offset: 0 });
    return { buffer, offset: 4 * guard };
  };
  const inputs = operands.map(({ operand, values }) => {
    const all = new Float32Array(operand.length).fill(Number.NaN);
    for (const [i, at] of walk(operand).entries()) all[at] = values[i]!;
    return put(all);
  });
  const sizes = shapes.map((shape) => shape.reduce((product, extent) => product * extent, 1));
  const outputs = sizes.map((size) => put(new Float32Array(size).fill(12345.5)));
  const executable = device.compileCall({
    name,
    operands: operands.map(() => "float32"),
    results: shapes.map(() => "float32"),
  });
  const results = shapes.map((shape) => {
    const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((product, extent) => product * extent, 1));
    return { shape, strides, offset: 0 };
  });
  const geometry = { operands: operands.map(({ operand }) => operand), results, attributes };
  const dispatch = device.bind(executable, geometry, [...inputs, ...outputs], name);
  // twice: what the first run leaves in scratch must not matter
  device.run([dispatch, dispatch]);
  device.release(dispatch);
  const values = outputs.map(({ buffer }, i) => {
    const all = device.downloadSync!({ buffer, offset: 0 }, "float32", sizes[i]! + 2 * guard) as Float32Array;
    const outside = [...all.subarray(0, guard), ...all.subarray(guard + sizes[i]!)];
    if (!outside.every(Number.isNaN)) throw new Error(`${name} wrote beside result ${i}`);
    return all.slice(guard, guard + sizes[i]!);
  });
  for (const { buffer } of [...inputs, ...outputs]) buffer[Symbol.dispose]();
  return values;
}

const random = (length: number, seed: number): Float32Array =>
  Float32Array.from({ length }, (_, i) => 2 * Math.sin(12.9898 * (i + 1) * (1 + seed / 7) + (i % 13)));

function check(drawn: Case): void {
  const { B, Tq, Tk, G, share, D, E, causal, window, scale = 1 / Math.sqrt(D), layout } = drawn;
  const H = G * share;
  const attributes = { causal: Number(causal), window, scale };
  const dims = { q: [B, Tq, H, D], k: [B, Tk, G, D], v: [B, Tk, G, E], g: [B, Tq, H, E] } as const;
  const placed = Object.values(dims).map((shape, seed) => {
    const operand = place(layout, shape);
    const whole = random(operand.length, seed);
    return { operand, values: Float32Array.from(walk(operand), (at) => whole[at]!) };
  });
  const [q, k, v, g] = placed as [(typeof placed)[0], (typeof placed)[0], (typeof placed)[0], (typeof placed)[0]];

  // the composition in float64
  const [tq, tk, tv, tg] = placed.map(({ operand, values }) => upload(reference, values, operand.shape, "float32")) as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ];
  const [ty, tl] = attentionOp.compose([tq, tk, tv], attributes) as [Tensor, Tensor];
  const gradients = attentionBackwardOp.compose([tq, tk, tv, ty, tl, tg], attributes);
  realize([ty, tl, ...gradients]);
  const expected = [ty, tl, ...gradients].map((tensor) => Float32Array.from(downloadSync(tensor)));

  const logSumShape = [B, H, Tq];
  const results = wasm.map((device) => {
    const [y, logSum] = runCall(device, "attention", [q, k, v], [dims.g, logSumShape], attributes) as [
      Float32Array,
      Float32Array,
    ];
    const dense = (values: Float32Array, shape: readonly [number, number, number, number]) => ({
      operand: place("tokens", shape),
      values,
    });
    const sums = { operand: { shape: logSumShape, strides: [H * Tq, Tq, 1], offset: 0, length: logSum.length }, values: logSum };
    const back = runCall(device, "attentionBackward", [q, k, v, dense(y, dims.g), sums, g], [dims.q, dims.k, dims.v], attributes);
    return [y, logSum, ...back];
  });

  // every value is at most 2; errors of scores, of a sum of Tk weights, and of the products
  const [size, unit] = [2, 2 ** -24];
  const error = 8 * unit * (1 + Math.abs(scale) * size * size * D + Math.sqrt(D + E + Tk));
  const slope = 2 * size * size * E * Math.abs(scale) * size;
  const rows = Tq * share;
  const allowed = [error * size, error, error * slope, error * slope * rows, error * size * rows];
  for (const [setup, result] of results.entries())
    result.forEach((values, part) => {
      values.forEach((value, i) => {
        const want = expected[part]![i]!;
        if (!(Math.abs(value - want) <= allowed[part]! + 4 * unit * Math.abs(want)))
          throw new Error(`device ${setup}, result ${part}, element ${i}: ${value}, expected ${want}`);
      });
    });
  for (const result of results.slice(1, 3))
    result.forEach((values, part) => {
      if (Buffer.compare(Buffer.from(values.buffer), Buffer.from(results[0]![part]!.buffer)) !== 0)
        throw new Error(`result ${part} depends on the number of threads`);
    });
}

describe("attention on wasm is its composition, to the same bits for any number of threads, and writes nothing else", () => {
  test("random sizes, masks and strides", () => {
    const few = fc.integer({ min: 1, max: 3 });
    const time = fc.oneof({ weight: 2, arbitrary: fc.integer({ min: 1, max: 12 }) }, fc.integer({ min: 13, max: 70 }));
    const size = fc.integer({ min: 1, max: 19 });
    const mask = fc.oneof(
      fc.constant({ causal: false, window: 0 }),
      fc.constant({ causal: true, window: 0 }),
      fc.record({ causal: fc.boolean(), window: fc.integer({ min: 1, max: 20 }) }),
    );
    const cases = fc.record({
      B: few,
      Tq: time,
      Tk: time,
      G: few,
      share: few,
      D: size,
      E: size,
      mask,
      layout: fc.constantFrom("tokens", "heads", "gaps", "backwards", "repeated"),
    });
    fc.assert(
      fc.property(cases, ({ mask: { causal, window }, ...sizes }) => check({ ...sizes, causal, window })),
      { numRuns: 60 },
    );
  });

  const base: Case = { B: 1, Tq: 1, Tk: 1, G: 1, share: 1, D: 8, E: 8, causal: true, window: 0, layout: "tokens" };
  const cases: [string, Case][] = [
    ["a layer of the benchmark, one batch row", { ...base, Tq: 128, Tk: 128, G: 2, D: 32, E: 32 }],
    ["several blocks of keys", { ...base, Tq: 300, Tk: 300, D: 16, E: 24 }],
    ["several blocks of keys, no mask", { ...base, Tq: 33, Tk: 300, share: 2, causal: false }],
    ["a window over several blocks", { ...base, Tq: 280, Tk: 400, window: 150, layout: "heads" }],
    ["a narrow window over several blocks", { ...base, Tq: 300, Tk: 300, window: 5, share: 2 }],
    ["one query, many keys", { ...base, Tq: 1, Tk: 500, share: 3, layout: "gaps" }],
    ["two queries with a window", { ...base, Tq: 2, Tk: 300, window: 20, D: 7, E: 33 }],
    ["more queries than keys: the first see nothing", { ...base, Tq: 40, Tk: 9, D: 5, E: 3 }],
    ["wide heads", { ...base, Tq: 20, Tk: 30, D: 130, E: 70 }],
    ["a negative scale", { ...base, Tq: 20, Tk: 30, scale: -0.7 }],
    ["a scale of 0: the mean of what is seen", { ...base, Tq: 20, Tk: 30, scale: 0 }],
  ];
  test.each(cases)("%s", (_, drawn) => check(drawn));

  test("large scores neither overflow nor vanish", () => {
    const values = Float32Array.of(100, 0, 0, 100);
    const operand = place("tokens", [1, 2, 1, 2]);
    for (const device of wasm) {
      const [y] = runCall(
        device,
        "attention",
        [0, 1, 2].map(() => ({ operand, values })),
        [operand.shape, [1, 1, 2]],
        {
          causal: 0,
          window: 0,
          scale: 1,
        },
      );
      expect([...y!]).toEqual([...values]);
    }
  });

  test("NaN stays in the rows that see it", () => {
    const k = random(10 * 4, 1);
    k[7 * 4] = Number.NaN;
    const operand = place("tokens", [1, 10, 1, 4]);
    for (const device of wasm) {
      const [y] = runCall(
        device,
        "attention",
        [random(40, 0), k, random(40, 2)].map((values) => ({ operand, values })),
        [operand.shape, [1, 1, 10]],
        { causal: 1, window: 0, scale: 1 },
      );
      y!.forEach((value, i) => {
        expect(Number.isNaN(value), `element ${i}`).toBe(i >= 7 * 4);
      });
    }
  });
});

describe("in a graph", () => {
  /** Gradient of Σ attention² in a packed [B, T, 3·H·D] tensor, as one projection leaves q, k and v. */
  const packedGradient = (device: Device, options: AttentionOptions) => {
    useDevice(device);
    const [B, T, H, D] = [2, 9, 2, 5];
    const packed = upload(device, random(B * T * 3 * H * D, 5), [B, T, 3 * H * D], "float32");
    const loss = (x: Tensor) => {
      const parts = [0, 1, 2].map((i) => reshape(slice(x, [0, 0, i * H * D], [B, T, (i + 1) * H * D], [1, 1, 1]), [B, T, H, D]));
      const y = attention(parts[0]!, parts[1]!, parts[2]!, options);
      return sum(mul(y, y));
    };
    return { loss, packed, gradient: grad(loss)(packed)[0]! };
  };

  test.each([{}, { isCausal: true }, { isCausal: true, window: 3 }])("slices of one projection, %o", (options) => {
    const expected = downloadSync(packedGradient(reference, options).gradient);
    for (const device of wasm) {
      const got = downloadSync(packedGradient(device, options).gradient);
      expected.forEach((value, i) => {
        expect(Math.abs(got[i]! - value)).toBeLessThan(1e-4);
      });
    }
  });

  test("reads the slices in place, by the two kernels", () => {
    const { gradient } = packedGradient(wasm[0]!, {});
    const names = plan([gradient]).steps.map(({ code }) => ("name" in code ? code.name : "loop"));
    expect(names.filter((name) => name !== "loop")).toEqual(["attention", "attentionBackward"]);
    expect(names.indexOf("attention"), "nothing is copied before").toBe(0);
  });

  test("second derivatives run the composition", () => {
    const second = (device: Device) => {
      const { loss, packed } = packedGradient(device, { isCausal: true });
      const slope = (x: Tensor) => {
        const [g] = grad(loss)(x);
        return sum(mul(g!, g!));
      };
      return downloadSync(grad(slope)(packed)[0]!);
    };
    const expected = second(reference);
    const got = second(wasm[1]!);
    const largest = Math.max(...Array.from(expected, Math.abs));
    expected.forEach((value, i) => {
      expect(Math.abs(got[i]! - value)).toBeLessThan(1e-4 * largest);
    });
  });
});
