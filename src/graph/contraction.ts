/** Contraction: the batched matrix product. Transposition is a view of its operands. */
import { DTypeError, ShapeError, wordShape } from "../errors.ts";
import { isFloat, promote, type TypedArray } from "./dtype.ts";
import { cast, mul } from "./elementwise.ts";
import { expand, reshape, transpose } from "./movement.ts";
import { Tensor } from "./node.ts";
import type { CallGeometry, Draw, KernelOperation, Operand, Sample } from "./primitive.ts";
import { reduceSum } from "./reduction.ts";
import { broadcastShapes, sizeOf } from "./shape.ts";

/** See {@link matmul}. */
export const matmulOp: KernelOperation = {
  kind: "kernel",
  name: "matmul",
  formula: "Σₖ a[m, k] · b[k, n]",
  // The compiler adds operands: a last one by itself is where the sum starts, and a second pair is a product that is added.
  overwrites: (operands) => (operands % 2 === 1 ? operands - 1 : undefined),
  host: matmulHost,
  vjp: (g, _y, a, b) => [matmul(g, transpose(b!)), matmul(transpose(a!), g)],
  samples: (draw: Draw): Sample[] => {
    const [m, k, n] = [draw.extent(6), draw.extent(6), draw.extent(6)];
    const batch = draw.shape(2, 3, 0);
    const domain: readonly [number, number] = [-2, 2];
    return [
      {
        inputs: [
          { shape: [...batch, m, k], domain },
          { shape: [k, n], domain },
        ],
        apply: (a, b) => matmul(a!, b!),
      },
      {
        inputs: [
          { shape: [...batch, m, k], domain },
          { shape: [...batch, n, k], domain },
        ],
        apply: (a, b) => matmul(a!, transpose(b!)),
      },
      {
        inputs: [
          { shape: [k, m], domain },
          { shape: [...batch, k, n], domain },
        ],
        apply: (a, b) => matmul(transpose(a!), b!),
      },
    ];
  },
  tolerance: 1e-5,
};

/** C = start + Σ over pairs A · B. Operands: A, B, perhaps a second pair, perhaps the start. */
function matmulHost(operands: readonly TypedArray[], results: readonly TypedArray[], geometry: CallGeometry): void {
  const C = results[0]!;
  const c = geometry.results[0]!;
  const rank = c.shape.length;
  const [M, N] = [c.shape[rank - 2]!, c.shape[rank - 1]!];
  const batches = sizeOf(c.shape.slice(0, -2));
  const pairs = operands.length >> 1;
  for (let batch = 0; batch < batches; batch++) {
    const start = (operand: Operand): number => {
      let rest = batch;
      let address = operand.offset;
      for (let axis = rank - 3; axis >= 0; axis--) {
        address += (rest % c.shape[axis]!) * operand.strides[axis]!;
        rest = Math.floor(rest / c.shape[axis]!);
      }
      return address;
    };
    const c0 = start(c);
    const starts = geometry.operands.map(start);
    for (let m = 0; m < M; m++)
      for (let n = 0; n < N; n++) {
        const at = (operand: number): number => {
          const { strides } = geometry.operands[operand]!;
          return operands[operand]![starts[operand]! + m * strides[rank - 2]! + n * strides[rank - 1]!]!;
        };
        let sum = operands.length % 2 === 1 ? at(operands.length - 1) : 0;
        for (let pair = 0; pair < pairs; pair++) {
          const [A, B] = [operands[2 * pair]!, operands[2 * pair + 1]!];
          const [a, b] = [geometry.operands[2 * pair]!, geometry.operands[2 * pair + 1]!];
          const [K, ak, bk] = [a.shape[rank - 1]!, a.strides[rank - 1]!, b.strides[rank - 2]!];
          let [i, j] = [starts[2 * pair]! + m * a.strides[rank - 2]!, starts[2 * pair + 1]! + n * b.strides[rank - 1]!];
          for (let k = 0; k < K; k++, i += ak, j += bk) sum += A[i]! * B[j]!;
        }
        C[c0 + m * c.strides[rank - 2]! + n * c.strides[rank - 1]!] = sum;
      }
  }
}

/** From here on the dot product of two vectors is a sum of products, which keeps its digits. */
const longDot = 4096;

/**
 * Matrix product over the last two axes: [..., M, K] · [..., K, N] → [..., M, N]; leading axes broadcast.
 * A vector counts as a row on the left, as a column on the right, and its axis is dropped from the result.
 *
 * @throws {ShapeError} when the inner sizes differ; @throws {DTypeError} for integers
 */
export function matmul(a: Tensor, b: Tensor): Tensor {
  if (a.rank === 0 || b.rank === 0)
    throw new ShapeError(`needs at least one axis on both sides: ${wordShape(a.shape)} · ${wordShape(b.shape)}.`, {
      operation: "matmul",
    });
  if (a.rank === 1) {
    const y = matmul(reshape(a, [1, a.size]), b);
    return reshape(y, [...y.shape.slice(0, -2), ...y.shape.slice(b.rank === 1 ? y.rank : -1)]);
  }
  if (b.rank === 1) {
    const y = matmul(a, reshape(b, [b.size, 1]));
    return reshape(y, y.shape.slice(0, -1));
  }
  const [K, K2] = [a.shape[a.rank - 1]!, b.shape[b.rank - 2]!];
  if (K !== K2)
    throw new ShapeError(`inner sizes differ: ${wordShape(a.shape)} · ${wordShape(b.shape)} (${K} ≠ ${K2}).`, {
      operation: "matmul",
      expected: K,
      got: K2,
    });
  const dtype = promote(a.dtype, b.dtype);
  if (!isFloat(dtype))
    throw new DTypeError(`multiplies floating-point matrices, got ${a.dtype} · ${b.dtype}.`, {
      operation: "matmul",
      got: [a.dtype, b.dtype],
      hint: 'Use x.cast("float32").',
    });
  const wide = dtype === "float16" || dtype === "bfloat16" ? "float32" : dtype;
  const [M, N] = [a.shape[a.rank - 2]!, b.shape[b.rank - 1]!];
  // one matrix on the right serves the whole batch: its rows are one long matrix on the left
  if (b.rank === 2 && a.rank > 2)
    return reshape(matmul(reshape(a, [sizeOf(a.shape.slice(0, -1)), K]), b), [...a.shape.slice(0, -1), N]);
  const batch = broadcastShapes("matmul", a.shape.slice(0, -2), b.shape.slice(0, -2));
  const left = expand(cast(a, wide), [...batch, M, K]);
  const right = expand(cast(b, wide), [...batch, K, N]);
  // a product adds along K in one chain for each lane, a sum in a tree of them
  if (M === 1 && N === 1 && K >= longDot) return reduceSum(mul(left, transpose(right)), [left.rank - 1]);
  return new Tensor(matmulOp, [left, right], [...batch, M, N], wide);
}

/** The entries of this family, by name. */
export const contractions = { matmul: matmulOp } as const;
