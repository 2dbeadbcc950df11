/** Leaving out most of a change before changes are added up, so that fewer of them meet. */
import { currentDevice, upload } from "../../compile/program.ts";
import { mul } from "../../graph/elementwise.ts";
import { argsort } from "../../graph/indexing.ts";
import { reshape, sliceAxis } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { type Shape, sizeOf } from "../../graph/shape.ts";
import { constant, number } from "../../graph/source.ts";
import type { TorchGenerator } from "../../random/torch-generator.ts";
import { scatter } from "../../tensor/pick.ts";

/** Gives 1 for every value that is kept, 0 for the others; `density` is the share that is kept on average. */
export type RandomMask = (shape: Shape, density: number) => Tensor;

/** Each value is kept or not on its own, as `torch.bernoulli` draws them after `torch.manual_seed`. */
export const maskFrom =
  (random: TorchGenerator): RandomMask =>
  (shape, density) => {
    const p = Math.fround(density);
    const kept = random.uniform(sizeOf(shape)).map((value) => Number(value < p));
    return upload(currentDevice(), kept, shape, "float32");
  };

/** The ⌊density · n⌋ of the n values that are largest by size; zeros instead of the others. */
export function keepLargest(x: Tensor, density: number): Tensor {
  const kept = Math.trunc(density * x.size);
  if (density >= 1) return x;
  if (kept === 0) return constant(0, x.shape, x.dtype);
  const flat = reshape(x, [x.size]);
  const largest = sliceAxis(argsort(mul(flat, flat), true), 0, 0, kept);
  const mask = scatter(constant(0, flat.shape, x.dtype), largest, constant(1, [kept], x.dtype), 0);
  return reshape(mul(flat, mask), x.shape);
}

/** DARE: values that a mask keeps, divided by the density, so that the sum stays the same on average. */
export const keepRandom = (x: Tensor, density: number, mask: RandomMask): Tensor =>
  density >= 1 ? x : mul(mul(x, mask(x.shape, density)), number(x, 1 / density));
