/**
 * Random graphs. A recipe is plain numbers, so that fast-check can shrink it: whatever the numbers are, they mean a graph of
 * valid operations. Operations come from the registry of primitives, shapes and views at random.
 */
import fc from "fast-check";
import { realize, upload, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import type { DType } from "../../src/graph/dtype.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Shape } from "../../src/graph/shape.ts";
import { type Move, moveOf, rangeOf } from "./graph-move.ts";
import { leafValues } from "./values.ts";

export interface Recipe {
  readonly leaves: readonly { readonly shape: readonly number[]; readonly kind: "float" | "int32" | "bool" }[];
  /** What to do, on which of the values so far, and numbers that fix the details. */
  readonly steps: readonly (readonly number[])[];
  /** Values that are asked for together at the end, counted from the last. */
  readonly roots: readonly number[];
  /** Values that are computed as soon as they are made, so that the rest reads them from memory. */
  readonly early: readonly number[];
}

/** One value twice: as it is built for the device under test, and computed step by step on the reference device. */
export interface Value {
  readonly tensor: Tensor;
  readonly expected: Tensor;
}

export interface GraphOptions {
  /** Sizes of axes; small ones, and some around the width of a vector. */
  readonly extents?: readonly number[];
  readonly maxSteps?: number;
  readonly maxRank?: number;
}

const small = [1, 2, 3, 4, 5] as const;

export function recipes({ extents = small, maxSteps = 12, maxRank = 4 }: GraphOptions = {}): fc.Arbitrary<Recipe> {
  const number = fc.nat(0xffff);
  return fc.record({
    leaves: fc.array(
      fc.record({
        shape: fc.array(fc.constantFrom(...extents), { minLength: 0, maxLength: maxRank }),
        kind: fc.constantFrom("float" as const, "float" as const, "float" as const, "int32" as const, "bool" as const),
      }),
      { minLength: 1, maxLength: 4 },
    ),
    steps: fc.array(fc.array(number, { minLength: 9, maxLength: 9 }), { minLength: 1, maxLength: maxSteps }),
    roots: fc.array(fc.nat(20), { minLength: 1, maxLength: 4 }),
    early: fc.array(fc.nat(20), { minLength: 0, maxLength: 2 }),
  });
}

/** Elements of one tensor at most, so that repeated expansion stays cheap. */
const maximumSize = 3000;

export class GraphBuilder {
  readonly values: Value[] = [];
  private readonly device: Device;
  private readonly reference: Device;

  constructor(device: Device, reference: Device) {
    this.device = device;
    this.reference = reference;
  }

  leaf(shape: Shape, kind: "float" | "int32" | "bool", floats: DType = "float32"): Value {
    const { values, dtype } = leafValues(shape, kind, this.values.length, floats);
    const value = {
      tensor: upload(this.device, values, shape, dtype),
      expected: upload(this.reference, values, shape, dtype),
    };
    this.values.push(value);
    return value;
  }

  /** Adds a value, computed on the reference device; gives `null` where the result is too large or not finite. */
  grow({ inputs, apply }: Move): Value | null {
    const expected = apply(...inputs.map((x) => x.expected));
    if (expected.size > maximumSize) return null;
    realize([expected]);
    const [low, high] = rangeOf(expected);
    if (!Number.isFinite(low) || !Number.isFinite(high) || Math.max(-low, high) > 1e6) return null;
    const value = { tensor: apply(...inputs.map((x) => x.tensor)), expected };
    this.values.push(value);
    return value;
  }

  /** One of the values; the latest more often, so that graphs get deep. */
  pick(n: number): Value {
    const count = this.values.length;
    const reach = n % 4 ? Math.min(3, count) : count;
    return this.values[count - 1 - ((n >> 2) % reach)]!;
  }
}

export interface Grown {
  /** Everything that was made, leaves first. */
  readonly values: readonly Value[];
  /** What is asked for. */
  readonly roots: readonly Value[];
}

/** Builds the graph of a recipe for `device`, beside the same values computed one operation at a time on `reference`. */
export function growGraph(recipe: Recipe, device: Device, reference: Device): Grown {
  const builder = new GraphBuilder(device, reference);
  useDevice(reference);
  for (const { shape, kind } of recipe.leaves) builder.leaf(shape, kind);
  recipe.steps.forEach((step, i) => {
    const move = moveOf(builder, step);
    const value = move && builder.grow(move);
    if (value && recipe.early.includes(i)) {
      useDevice(device);
      realize([value.tensor]);
      useDevice(reference);
    }
  });
  useDevice(device);
  const { values } = builder;
  return { values, roots: recipe.roots.map((back) => values[values.length - 1 - (back % values.length)]!) };
}
