/**
 * Every device computes what the reference device computes: each primitive in each of its dtypes, on operands behind any view, at
 * sizes around the width of its vectors; composites with their derivatives.
 *
 *   |device(f)(x) − reference(f)(x)| ≤ E, element by element, with E the running error bound of test/arbitrary/rounding.ts
 *
 * @see src/devices/reference for the meaning; each operation's entry in src/graph states its tolerance
 */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { pullback } from "../../src/autograd/grad.ts";
import { download, realize, upload, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { DTypeError } from "../../src/errors.ts";
import { type DType, dtypes, isFloat, toBFloat16Bits, toFloat16Bits } from "../../src/graph/dtype.ts";
import { bitcast, cast } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Draw, Elementwise, Interval, Primitive, Sample } from "../../src/graph/primitive.ts";
import { primitives } from "../../src/graph/primitives.ts";
import { sizeOf } from "../../src/graph/shape.ts";
import { broken, bugs } from "../arbitrary/broken-device.ts";
import { cases } from "../arbitrary/cases.ts";
import { composites } from "../arbitrary/composites.ts";
import { type Variant, variants } from "../arbitrary/devices.ts";
import { draws, randomValues, repeating } from "../arbitrary/draw.ts";
import { elementwiseFunction } from "../arbitrary/graph-move.ts";
import { difference, tolerances } from "../arbitrary/rounding.ts";
import { valuesOf } from "../arbitrary/values.ts";
import { viewOf } from "../arbitrary/views.ts";

const reference = createReference();
const opened: readonly { variant: Variant; device: Device }[] = await Promise.all(
  variants.map(async (variant) => ({ variant, device: await variant.open() })),
);
beforeAll(() => void useDevice(reference));
afterAll(() => {
  for (const { device } of opened) device[Symbol.dispose]();
});

/**
 * The devices of each draw of a property: halves by turns, the odd ones of a kind and the even ones, where there are two draws and more.
 * Once one was wrong it is all of them, so that the shrunk case is tried on the one that was.
 */
function byTurns({ numRuns }: { readonly numRuns: number }): (tried: (among: typeof opened) => Promise<void>) => Promise<void> {
  const kinds = ["reference", "wasm", "gpu"].map((kind) => opened.filter(({ variant }) => variant.name.startsWith(kind)));
  let draw = 0;
  let wasWrong = numRuns < 2;
  return async (tried) => {
    const turn = draw++ % 2;
    try {
      const half = kinds.flatMap((kind) => kind.filter((_, i) => kind.length === 1 || i % 2 === turn));
      await tried(wasWrong ? opened : half);
    } catch (error) {
      wasWrong = true;
      throw error;
    }
  };
}

/** Values of one input, in the form in which `dtype` is uploaded. */
function input(shape: readonly number[], domain: Interval, seed: number, dtype: DType): (device: Device) => Tensor {
  const values = randomValues(shape, domain, seed);
  const array = new dtypes[dtype].array(sizeOf(shape));
  values.forEach((value, i) => {
    array[i] =
      dtype === "float16"
        ? toFloat16Bits(value)
        : dtype === "bfloat16"
          ? toBFloat16Bits(value)
          : dtype === "bool"
            ? value > (domain[0] + domain[1]) / 2
              ? 1
              : 0
            : dtype === "uint8"
              ? Math.round(Math.abs(value))
              : isFloat(dtype)
                ? value
                : Math.round(value);
  });
  return (device) => upload(device, array, shape, dtype);
}

/** Throws where a device gives other results than the reference device. `build` makes the same graph for each. */
async function agree(build: (device: Device) => Tensor[], among: typeof opened): Promise<void> {
  useDevice(reference);
  const expected = build(reference);
  realize(expected);
  const wants = expected.map(valuesOf);
  const bounds = new Map<number, Float64Array[]>();
  for (const { variant, device } of among) {
    useDevice(reference);
    if (!bounds.has(variant.unit)) bounds.set(variant.unit, tolerances(expected, variant));
    useDevice(device);
    const got = build(device);
    realize(got);
    for (const [i, x] of got.entries()) {
      const wrong = difference(await floats(x), wants[i]!, bounds.get(variant.unit)![i]!, x.dtype);
      if (wrong) throw new Error(`${variant.name}: result ${i}, ${x.dtype} [${x.shape}]: ${wrong}`);
      x.storage!.buffer[Symbol.dispose]();
    }
  }
}

/** Values as numbers, also of 16-bit floats, which travel as bits. */
async function floats(x: Tensor): Promise<ArrayLike<number>> {
  const wide = x.dtype === "float16" || x.dtype === "bfloat16" ? cast(x, "float32") : x;
  realize([wide]);
  // with all their digits, where memory can be looked at
  return (wide.storage!.device as Device).downloadSync ? valuesOf(wide) : download(wide);
}

const floatTypes = ["float32", "float16", "bfloat16"] as const satisfies readonly DType[];
const wholeTypes = ["int32", "uint8", "bool"] as const satisfies readonly DType[];
const dtypesOf = (op: Elementwise): readonly DType[] =>
  op.takes === "float" ? floatTypes : op.takes === "integer" ? wholeTypes : [...floatTypes, ...wholeTypes];

/** An elementwise entry on operands of one dtype, each through a view of its own. */
function elementwiseCase(name: string, op: Elementwise, dtype: DType, draw: Draw, seed: number): (device: Device) => Tensor[] {
  const shape = draw.shape(3, 4);
  const operands = op.domain.map((domain, i) => {
    const own = op.arity > 1 && draw.integer(0, 2) === 0 ? shape.slice(draw.integer(0, shape.length)) : shape;
    const { shape: lying, view } = viewOf(draw, own);
    // whole numbers from a wider range, so that there are some
    const range: Interval = isFloat(dtype) ? domain : [domain[0] * 3, domain[1] * 3];
    const values = input(lying, name.startsWith("shift") && i === 1 ? domain : range, seed + i, dtype);
    return (device: Device) => view(values(device));
  });
  return (device) => {
    const xs = operands.map((operand) => operand(device));
    if (name === "cast") return (Object.keys(dtypes) as DType[]).filter((to) => to !== "float64").map((to) => cast(xs[0]!, to));
    if (name === "bitcast") return [bitcast(xs[0]!, dtype === "int32" ? "float32" : "int32")];
    return [elementwiseFunction(name)(...xs)];
  };
}

/** A sample with its inputs in `dtype`, each through a view. */
function sampleCase({ inputs, apply }: Sample, dtype: DType, draw: Draw, seed: number): (device: Device) => Tensor[] {
  const operands = inputs.map(({ shape, domain }, i) => {
    const { shape: lying, view } = viewOf(draw, shape);
    const values = input(lying, isFloat(dtype) ? domain : [-4, 4], seed + i, dtype);
    return (device: Device) => view(values(device));
  });
  return (device) => [apply(...operands.map((operand) => operand(device)))];
}

/** Runs `body`, unless the operation refuses the dtype when it is called. */
async function unlessRefused(build: (device: Device) => Tensor[], among: typeof opened): Promise<void> {
  useDevice(reference);
  try {
    build(reference);
  } catch (error) {
    if (error instanceof DTypeError) return;
    throw error;
  }
  await agree(build, among);
}

describe("primitives", () => {
  const entries = (Object.entries(primitives) as [string, Primitive][]).filter(
    ([, op]) => op.kind === "elementwise" || op.samples,
  );
  test.each(entries)("%s", async (name, op) => {
    const count = cases(14);
    const onTurn = byTurns(count);
    const drawn = (draw: Draw, seed: number): ((device: Device) => Tensor[]) => {
      if (op.kind === "elementwise") {
        const types = dtypesOf(op);
        return elementwiseCase(name, op, types[seed % types.length]!, draw, seed);
      }
      const samples = op.samples!(draw);
      const types: readonly DType[] = ["float32", "float32", "float32", ...floatTypes, ...wholeTypes];
      return sampleCase(samples[seed % samples.length]!, types[(seed >> 4) % types.length]!, draw, seed);
    };
    await fc.assert(
      fc.asyncProperty(draws({ large: true }), fc.nat(1e6), (draw, seed) =>
        onTurn((among) => unlessRefused(drawn(draw, seed), among)),
      ),
      count,
    );
  });
});

/** A composite on float32 inputs and, where it gives floats, its derivatives by all of them. */
function compositeCase(name: string, draw: Draw, seed: number): (device: Device) => Tensor[] {
  const again = repeating(draw);
  return (device) => {
    const samples = composites(device)[name]!(again());
    const { inputs, apply } = samples[seed % samples.length]!;
    const xs = inputs.map(({ shape, domain }, i) => input(shape, domain, seed + i, "float32")(device));
    const y = apply(...xs);
    if (!isFloat(y.dtype)) return [y];
    const g = input(y.shape, [-1, 1], seed + 100, "float32")(device);
    return [y, ...pullback([y], [cast(g, y.dtype)], xs).filter((gradient) => gradient !== null)];
  };
}

describe("composites and their derivatives", () => {
  test.each(Object.keys(composites(reference)))("%s", async (name) => {
    const count = cases(2);
    const onTurn = byTurns(count);
    await fc.assert(
      fc.asyncProperty(draws({ large: true }), fc.nat(1e6), (draw, seed) =>
        onTurn((among) => agree(compositeCase(name, draw, seed), among)),
      ),
      count,
    );
  });
});

describe("mutants are caught", () => {
  test.each(Object.entries(bugs))("%s", async (_, bug) => {
    const device = broken(createReference({ fuse: true }), bug);
    const wrong = [{ variant: { name: "mutant", open: () => device, unit: 2 ** -24 }, device }];
    const names = ["softmax", "exp", "matmul"] as const;
    const { failed } = await fc.check(
      fc.asyncProperty(draws({ large: true }), fc.nat(1e6), async (draw, seed) => {
        const name = names[seed % names.length]!;
        await agree(
          name === "softmax"
            ? compositeCase(name, draw, seed)
            : name === "exp"
              ? elementwiseCase(name, primitives[name], "float32", draw, seed)
              : sampleCase(primitives[name].samples!(draw)[seed % 3]!, "float32", draw, seed),
          wrong,
        );
      }),
      { numRuns: 60, endOnFailure: true },
    );
    expect(failed).toBe(true);
  });
});
