/** Discrete Fourier transforms as products with tables of cosines and sines: for short axes, and differentiable as they are. */
import { ShapeError, wordShape } from "../errors.ts";
import { matmul } from "../graph/contraction.ts";
import { requireFloat } from "../graph/dtype.ts";
import { cast, mod, mul, neg, sin, sub } from "../graph/elementwise.ts";
import { reshape } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { constant, iota, number } from "../graph/source.ts";
import { cos } from "../tensor/math.ts";

/** 2π·(k·f mod n)/n for k < n and each of the frequencies [count], which are int32: [n, count]. */
export function angles(n: number, frequencies: Tensor): Tensor {
  const turns = mod(mul(reshape(iota([n]), [n, 1]), reshape(frequencies, [1, frequencies.size])), constant(n, [], "int32"));
  return mul(cast(turns, "float32"), constant((2 * Math.PI) / n));
}

/**
 * Fourier transform of real values along the last axis [..., n]: the frequencies 0 … n/2, [..., ⌊n/2⌋ + 1].
 *
 * @throws {ShapeError} for a number
 */
export function rfft(x: Tensor): { readonly real: Tensor; readonly imaginary: Tensor } {
  requireTensors("rfft", { x });
  requireFloat("rfft", x.dtype);
  const n = x.shape.at(-1);
  if (n === undefined) throw new ShapeError("needs an axis to transform.", { operation: "rfft", got: x.shape });
  const waves = cast(angles(n, iota([(n >> 1) + 1])), x.dtype);
  const rows = reshape(x, [x.size / n, n]);
  const shape = [...x.shape.slice(0, -1), (n >> 1) + 1];
  return { real: reshape(matmul(rows, cos(waves)), shape), imaginary: reshape(neg(matmul(rows, sin(waves))), shape) };
}

/**
 * Real part of the inverse two-dimensional Fourier transform of a real matrix [m, n].
 *
 * @throws {ShapeError} when `x` is not one matrix
 */
export function ifft2Real(x: Tensor): Tensor {
  requireTensors("ifft2Real", { x });
  requireFloat("ifft2Real", x.dtype);
  if (x.rank !== 2)
    throw new ShapeError(`needs one matrix, got ${wordShape(x.shape)}.`, { operation: "ifft2Real", got: x.shape });
  const [m, n] = x.shape as [number, number];
  const [down, across] = [cast(angles(m, iota([m])), x.dtype), cast(angles(n, iota([n])), x.dtype)];
  // cos(a + b) = cos a · cos b − sin a · sin b; both tables are symmetric
  const sum = sub(matmul(matmul(cos(down), x), cos(across)), matmul(matmul(sin(down), x), sin(across)));
  return mul(sum, number(x, 1 / (m * n)));
}
