/**
 * Programs that are nearly those of kernels by hand: a number of a row that is wanted once an element, other axes, broadcasts that look alike in
 * squares, values that are needed elsewhere, targets that are no class, a NaN. Whoever recognises too much computes something else.
 */
import { afterAll, describe, expect, test } from "vitest";
import { download, realize, upload, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { add, equal, exp, less, log, mul, neg, recip, sqrt, sub, where } from "../../src/graph/elementwise.ts";
import { expand, pad, slice, transpose } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { reduceMax, reduceSum } from "../../src/graph/reduction.ts";
import { constant, iota } from "../../src/graph/source.ts";
import type { Variant } from "./devices.ts";
import { randomValues } from "./draw.ts";

interface Sources {
  readonly rows: number;
  readonly width: number;
  /** [rows, width] */
  readonly x: Tensor;
  readonly g: Tensor;
  /** x with a NaN in its first row. */
  readonly withNaN: Tensor;
  /** [rows + 1, width + 1] */
  readonly larger: Tensor;
  /** [rows, 1] */
  readonly perRow: Tensor;
  readonly target: Tensor;
  readonly isKept: Tensor;
  /** [width] */
  readonly perColumn: Tensor;
  /** [] */
  readonly one: Tensor;
}

const number = (value: number): Tensor => constant(value);
const columns = ({ width }: Sources): Tensor => iota([width]);
const alongRow = (y: Tensor, { rows, width }: Sources): Tensor => expand(y, [rows, width]);
const shift = (x: Tensor, axis = 1): Tensor => {
  const most = reduceMax(x, [axis]);
  return where(less(number(Number.NEGATIVE_INFINITY), most), most, number(0));
};
const atLeastOne = (sum: Tensor): Tensor => where(less(sum, number(1)), number(1), sum);
const softmax = (x: Tensor, axis = 1): Tensor => {
  const e = exp(sub(x, shift(x, axis)));
  return mul(e, recip(atLeastOne(reduceSum(e, [axis]))));
};
const squares = (x: Tensor): Tensor => reduceSum(mul(x, x), [1]);
const rootOf = (square: Tensor, share: number, eps: number): Tensor => recip(sqrt(add(mul(square, number(share)), number(eps))));
/** As the loss does it, but for rows of any kind, of targets that may be no class. */
const crossEntropy = (s: Sources, picked = s.x): Tensor => {
  const m = shift(s.x);
  const logSum = add(log(reduceSum(exp(sub(s.x, m)), [1])), m);
  const onTarget = reduceSum(where(equal(columns(s), s.target), picked, number(0)), [1]);
  return where(s.isKept, where(less(s.perRow, number(1.8)), sub(logSum, onTarget), number(7)), number(0));
};
const crossEntropyDerivative = (s: Sources, column: Tensor): Tensor => {
  const e = exp(sub(s.x, shift(s.x)));
  const share = mul(s.perRow, recip(atLeastOne(reduceSum(e, [1]))));
  return add(where(equal(column, s.target), s.perRow, number(0)), mul(e, share));
};
const mean = (m: Tensor, g: Tensor, scale: Tensor): Tensor => add(m, mul(add(mul(g, scale), neg(m)), number(0.3)));
const squareMean = (v: Tensor, g: Tensor, h: Tensor): Tensor => add(mul(v, number(0.9)), mul(mul(g, h), number(0.2)));

const programs: Readonly<Record<string, (s: Sources) => readonly Tensor[]>> = {
  "a scaled sum along the row": (s) => [mul(alongRow(reduceSum(s.x, [1]), s), number(0.5))],
  "a scaled sum along the row, and its sum": (s) => {
    const y = mul(alongRow(reduceSum(s.x, [1]), s), number(0.5));
    return [y, reduceSum(y, [1])];
  },
  "a scaled sum along the column": (s) => [mul(alongRow(reduceSum(s.x, [0]), s), number(0.5))],
  "a shift along the row": (s) => [alongRow(shift(s.x), s), shift(alongRow(reduceMax(s.x, [1]), s))],
  "an inverse root along the row": (s) => [rootOf(alongRow(squares(s.x), s), 0.1, 1e-5)],
  "cross-entropy along the row": (s) => [alongRow(crossEntropy(s), s)],
  "the sum of a sum along the row": (s) => [reduceSum(alongRow(reduceSum(s.x, [1]), s), [1])],
  "the largest of a scaled sum along the row": (s) => [reduceMax(mul(alongRow(reduceSum(s.x, [1]), s), number(0.5)), [1])],
  "a dot of x and its sum": (s) => [reduceSum(mul(s.x, alongRow(reduceSum(s.x, [1]), s)), [1])],
  "softmax of columns": (s) => [softmax(s.x, 0), softmax(transpose(s.x, 0, 1))],
  "softmax of a part": ({ larger, rows, width }) => [
    softmax(slice(larger, [1, 0], [1 + rows, width])),
    softmax(slice(larger, [0, 1], [rows, 1 + width])),
  ],
  "softmax of what is padded": (s) => [softmax(pad(slice(s.x, [0, 1], [s.rows, s.width]), [0, 1], [0, 0]))],
  "softmax of a row again and again": (s) => [add(softmax(alongRow(s.perColumn, s)), s.x)],
  "softmax whose exponentials are needed elsewhere": (s) => {
    const e = exp(sub(s.x, shift(s.x)));
    return [e, softmax(s.x), mul(e, s.g), reduceSum(mul(e, s.g), [1])];
  },
  "exponentials beside the sum of others": (s) => {
    const e = exp(sub(s.x, shift(s.x)));
    return [mul(e, recip(atLeastOne(reduceSum(mul(e, s.g), [1]))))];
  },
  "an inverse root whose ε is outside": (s) => [mul(s.x, recip(add(sqrt(mul(squares(s.x), number(0.1))), number(1e-5))))],
  "inverse roots of whole and of broken numbers": (s) => [rootOf(squares(s.x), 2, 3), rootOf(squares(s.x), 0.5, 0.25)],
  "sums times whole and broken numbers": (s) => [3, 0.3, -7e-20].map((n) => mul(reduceSum(s.x, [1]), number(n))),
  "a deviation of two values": (s) => {
    const m = mul(reduceSum(s.g, [1]), number(1 / s.width));
    return [rootOf(reduceSum(mul(sub(s.x, m), sub(s.g, m)), [1]), 1, 100)];
  },
  "norms by rows and by columns": (s) =>
    [
      [s.perRow, s.perRow],
      [s.perColumn, s.perColumn],
      [s.perColumn, s.perRow],
      [s.one, s.perColumn],
      [s.perRow, s.one],
    ].map(([d, w]) => mul(mul(s.x, d!), w!)),
  "dots with what is the same along an axis": (s) => [
    reduceSum(mul(s.x, s.perColumn), [1]),
    reduceSum(mul(s.x, s.perRow), [1]),
    reduceSum(mul(mul(s.g, s.perRow), s.x), [1]),
    reduceSum(mul(mul(s.g, s.perColumn), sub(s.x, s.perColumn)), [1]),
  ],
  "cross-entropy of targets that are no class": (s) => [crossEntropy(s)],
  "cross-entropy that picks from another value": (s) => [crossEntropy(s, s.g)],
  "the derivative of cross-entropy, of targets that are no class": (s) => [crossEntropyDerivative(s, columns(s))],
  "the derivative of cross-entropy, of rows and of the next column": (s) => [
    crossEntropyDerivative(s, expand(iota([s.rows, 1]), [s.rows, s.width])),
    crossEntropyDerivative(s, add(columns(s), constant(1, [], "int32"))),
  ],
  "means whose scale is none": (s) => [mean(s.x, s.g, s.perRow), mean(s.x, s.g, s.perColumn), mean(s.x, s.g, s.one)],
  "means of what is turned": (s) => {
    if (s.rows !== s.width) return [];
    const [x, g] = [transpose(s.x, 0, 1), mul(transpose(s.g, 0, 1), s.one)];
    return [
      mean(s.x, transpose(s.g, 0, 1), s.one),
      mean(x, s.g, s.one),
      squareMean(s.x, g, mul(s.g, s.one)),
      squareMean(x, g, g),
    ];
  },
  "a largest that is NaN": (s) => [shift(s.withNaN)],
};

const reference = createReference();

function sourcesOn(on: Device, rows: number, width: number): Sources {
  const floats = (shape: number[], low: number, high: number, seed: number) =>
    upload(on, Float32Array.from(randomValues(shape, [low, high], seed)), shape, "float32");
  const values = Float32Array.from(randomValues([rows, width], [-4, 4], 1));
  values[width - 1] = Number.NaN;
  // every third lies before the classes, some after them
  const target = Int32Array.from({ length: rows }, (_, row) => [(7 * row) % width, -1 - row, width + row][row % 3]!);
  return {
    rows,
    width,
    x: floats([rows, width], -4, 4, 1),
    g: floats([rows, width], -1, 1, 2),
    withNaN: upload(on, values, [rows, width], "float32"),
    larger: floats([rows + 1, width + 1], -3, 3, 3),
    perRow: floats([rows, 1], 0.5, 2, 4),
    target: upload(on, target, [rows, 1], "int32"),
    isKept: upload(
      on,
      Uint8Array.from({ length: rows }, (_, row) => Number(row !== 3)),
      [rows, 1],
      "bool",
    ),
    perColumn: floats([width], 0.5, 2, 5),
    one: floats([], 1, 2, 6),
  };
}

/** @param keepsNaN whether shaders keep NaN: SwiftShader's lose it here and there */
export function nearlyByHandOn(variants: readonly Variant[], keepsNaN: boolean): void {
  describe.each(variants)("$name", ({ open }) => {
    const opened = Promise.resolve(open());
    afterAll(async () => (await opened)[Symbol.dispose]());

    test.each(Object.keys(programs).filter((name) => keepsNaN || !name.endsWith("NaN")))("%s", async (name) => {
      const device = await opened;
      for (const [rows, width] of [
        [5, 5],
        [9, 4],
        [1, 7],
        [6, 1],
      ] as const) {
        useDevice(reference);
        const wanted = programs[name]!(sourcesOn(reference, rows, width));
        realize(wanted);
        useDevice(device);
        const got = programs[name]!(sourcesOn(device, rows, width));
        realize(got);
        for (const [n, y] of got.entries()) {
          const [values, want] = [await download(y), Array.from(await download(wanted[n]!))];
          const wrong = want.findIndex((value, i) => !(Math.abs(values[i]! - value) <= 2e-5 * Math.max(1, Math.abs(value))));
          expect(wrong, `${rows} rows of ${width}, value ${n}: ${values[wrong]} for ${want[wrong]}`).toBe(-1);
        }
      }
    });
  });
}
