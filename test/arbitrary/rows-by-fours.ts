/**
 * Rows and elements that a shader may take four at once: lengths around multiples of four, seen through every kind of view that makes four
 * neighbours lie side by side or not, in every dtype, with NaN and infinities, on the variants of the gpu device that may.
 */
import { afterAll, describe, expect, test } from "vitest";
import { download, realize, upload, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { type DType, dtypes } from "../../src/graph/dtype.ts";
import { add, and, cast, equal, exp, less, mul, or, where } from "../../src/graph/elementwise.ts";
import { expand, flip, pad, slice, sliceAxis, transpose } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { reduceMax, reduceProduct, reduceSum } from "../../src/graph/reduction.ts";
import { constant, iota } from "../../src/graph/source.ts";
import { softmax } from "../../src/tensor/statistics.ts";
import type { Variant } from "./devices.ts";
import { randomValues } from "./draw.ts";

const rows = 36;
const widths = [5, 18, 67, 260];

interface View {
  /** What lies in memory for rows of that width. */
  readonly lying: (width: number) => [number, number];
  readonly see: (x: Tensor, width: number) => Tensor;
}

const views: Readonly<Record<string, View>> = {
  "as they lie": { lying: (width) => [rows, width], see: (x) => x },
  turned: { lying: (width) => [width, rows], see: (x) => transpose(x) },
  "cut out of longer ones, at a four": { lying: (width) => [rows, width + 8], see: (x, width) => sliceAxis(x, 1, 4, 4 + width) },
  "cut out of longer ones": { lying: (width) => [rows, width + 3], see: (x, width) => sliceAxis(x, 1, 1, 1 + width) },
  "every second": {
    lying: (width) => [rows, 2 * width],
    see: (x, width) => slice(x, [0, 0], [rows, 2 * width], [1, 2]),
  },
  "from the end": { lying: (width) => [rows, width], see: (x) => flip(x, 1) },
  "padded by fours": {
    lying: (width) => [rows, Math.max(1, width - 4)],
    see: (x, width) => pad(x, [0, width - x.shape[1]!], [0, 0]),
  },
  "padded on both sides": {
    lying: (width) => [rows, width - 3],
    see: (x) => pad(x, [0, 1], [0, 2]),
  },
  "one for all": { lying: (width) => [1, width], see: (x, width) => expand(x, [rows, width]) },
  "one element for each": { lying: () => [rows, 1], see: (x, width) => expand(x, [rows, width]) },
};

/** Values for memory; among floats a NaN and both infinities, each in a row of its own. */
function valuesOf(
  [height, width]: readonly [number, number],
  dtype: DType,
  special: boolean,
): InstanceType<(typeof dtypes)[DType]["array"]> {
  const drawn = randomValues([height * width], [-4, 4], width);
  const array = new dtypes[dtype].array(height * width);
  drawn.forEach((value, i) => {
    array[i] =
      dtype === "float32"
        ? value
        : dtype === "int32"
          ? Math.round(value * 50_000)
          : dtype === "bool"
            ? Number(value > 0)
            : Math.round(Math.abs(value));
  });
  if (special && height > 3)
    [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY].forEach((value, n) => {
      array[(n + 1) * width + ((7 * n + 2) % width)] = value;
    });
  return array;
}

/**
 * What is made of rows `x`, among which `odd` has NaN and infinities, of whole numbers `k` and `small`, and of bits `c`, all seen in the same
 * way. Software adapters lose NaN in exp.
 */
const made: Readonly<Record<string, (seen: Record<"x" | "odd" | "k" | "c" | "small", Tensor>) => Tensor>> = {
  softmax: ({ x }) => softmax(x),
  "largest and sum": ({ odd }) => add(reduceMax(odd, [1]), reduceSum(mul(odd, odd), [1])),
  product: ({ odd }) => reduceProduct(add(mul(mul(odd, odd), constant(0.01)), constant(1)), [1]),
  "softmax of what is not masked": ({ x, c }) => softmax(where(c, x, constant(Number.NEGATIVE_INFINITY, [], "float32"))),
  "sums by whole numbers": ({ odd, k }) =>
    reduceSum(where(less(k, constant(7, [], "int32")), odd, constant(0, [], "float32")), [1]),
  "equal whole numbers": ({ k, c, small }) =>
    reduceSum(cast(or(and(equal(k, flip(k, 1)), c), less(small, constant(2, [], "uint8"))), "float32"), [1]),
  "one element of each row": ({ odd: x, small }) => {
    // from −1, which there is not, to 3
    const picks = add(cast(sliceAxis(small, 1, 0, 1), "int32"), constant(-1, [], "int32"));
    const index = iota([x.shape[1]!]);
    return reduceSum(where(equal(index, picks), x, constant(0, [], "float32")), [1]);
  },
  elements: ({ x, k, c }) => where(c, exp(mul(x, x)), cast(k, "float32")),
};

const reference = createReference();

export function rowsByFoursOn(variants: readonly Variant[]): void {
  describe.each(variants)("$name", ({ open }) => {
    const opened = Promise.resolve(open());
    afterAll(async () => (await opened)[Symbol.dispose]());

    test.each(Object.entries(views))("rows %s", async (_, { lying, see }) => {
      const device = await opened;
      for (const width of widths) {
        const build = (on: Device): Tensor[] => {
          useDevice(on);
          const at = lying(width);
          const view = (dtype: DType, special = false) => see(upload(on, valuesOf(at, dtype, special), at, dtype), width);
          const seen = {
            x: view("float32"),
            odd: view("float32", true),
            k: view("int32"),
            c: view("bool"),
            small: view("uint8"),
          };
          return Object.values(made).map((f) => f(seen));
        };
        const wanted = build(reference);
        realize(wanted);
        const got = build(device);
        for (const y of got) realize([y]);
        for (const [n, name] of Object.keys(made).entries()) {
          const [values, want] = [await download(got[n]!), Array.from(await download(wanted[n]!))];
          const wrong = want.findIndex((value, i) => {
            const near = Math.abs(values[i]! - value) <= 1e-4 * Math.max(1, Math.abs(value));
            return !(near || Object.is(values[i], value) || values[i] === value);
          });
          expect(wrong, `${name}, ${width}: ${values[wrong]} for ${want[wrong]}`).toBe(-1);
        }
      }
    });
  });
}
