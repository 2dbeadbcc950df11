/** Draws for the samples that operations state about themselves, and values for their inputs. */
import fc, { type GeneratorValue } from "fast-check";
import { upload } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { type DType, isFloat } from "../../src/graph/dtype.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Draw, Interval } from "../../src/graph/primitive.ts";
import { type Shape, sizeOf } from "../../src/graph/shape.ts";
import { scramble } from "./values.ts";

/** Around the four lanes of a vector, unrolled loops and tiles of products. */
const tails = [1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 23, 31, 32, 33, 50, 64, 65] as const;

/** Takes its numbers from fast-check, so that they shrink. */
class Drawn implements Draw {
  private readonly values: GeneratorValue;
  private readonly large: boolean;

  constructor(values: GeneratorValue, large: boolean) {
    this.values = values;
    this.large = large;
  }

  integer(low: number, high: number): number {
    return this.values(fc.integer, { min: low, max: high });
  }

  shape(maxRank = 3, maxExtent = 5, minRank = 0): number[] {
    const rank = this.integer(minRank, maxRank);
    // one large axis is enough: the last, or another, to be turned by views
    const long = this.large && rank > 0 ? this.integer(0, rank) : rank;
    return Array.from({ length: rank }, (_, axis) => (axis === long ? this.extent(maxExtent) : this.integer(1, maxExtent)));
  }

  extent(small: number): number {
    return this.large ? this.values(fc.constantFrom, ...tails) : this.integer(1, small);
  }

  [fc.toStringMethod](): string {
    return JSON.stringify(this.values.values());
  }
}

/** `large` draws sizes around those of vectors and tiles, otherwise they are small. */
export const draws = ({ large = false } = {}): fc.Arbitrary<Draw> => fc.gen().map((values) => new Drawn(values, large));

/** Draws that begin again with each call, for a graph that is built once for every device. */
export function repeating(draw: Draw): () => Draw {
  const drawn: (number | readonly number[])[] = [];
  return () => {
    let at = 0;
    const next = <T extends number | readonly number[]>(fresh: () => T): T => {
      if (at === drawn.length) drawn.push(fresh());
      return drawn[at++] as T;
    };
    return {
      integer: (low, high) => next(() => draw.integer(low, high)),
      extent: (small) => next(() => draw.extent(small)),
      shape: (...limits) => [...next<readonly number[]>(() => draw.shape(...limits))],
    };
  };
}

/** Spread over `domain`, different for every seed. */
export function randomValues(shape: Shape, [low, high]: Interval, seed: number): Float64Array {
  return Float64Array.from({ length: sizeOf(shape) }, (_, i) => low + (high - low) * (scramble(seed, i) / 2 ** 32));
}

/** A tensor of such values. Integer dtypes get whole numbers of the domain. */
export function randomTensor(device: Device, shape: Shape, domain: Interval, seed: number, dtype: DType = "float64"): Tensor {
  const values = randomValues(shape, domain, seed);
  if (dtype === "float64") return upload(device, values, shape, dtype);
  if (isFloat(dtype)) return upload(device, Float32Array.from(values), shape, "float32");
  return upload(device, Int32Array.from(values, Math.round), shape, "int32");
}
