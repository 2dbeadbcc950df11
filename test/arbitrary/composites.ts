/**
 * Functions and layers that are made of primitives, each with cases for the laws: values, derivatives and fusion are
 * tried on every one. A function that one of these modules exports and that is not here, nor in `exempt` with a reason,
 * fails the law that asks for it.
 */
import type { Device } from "../../src/devices/device.ts";
import { add, cast, less } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Draw } from "../../src/graph/primitive.ts";
import { constant, iota } from "../../src/graph/source.ts";
import * as cayleys from "../../src/linalg/cayley.ts";
import * as fourier from "../../src/linalg/fourier.ts";
import * as activation from "../../src/nn/activation.ts";
import * as nnAttention from "../../src/nn/attention.ts";
import * as channelNorms from "../../src/nn/channel-norm.ts";
import * as distanceLoss from "../../src/nn/distance-loss.ts";
import * as linears from "../../src/nn/linear.ts";
import * as loss from "../../src/nn/loss.ts";
import * as norms from "../../src/nn/norm.ts";
import * as recurrent from "../../src/nn/recurrent.ts";
import * as rotaries from "../../src/nn/rotary.ts";
import * as transposedConvolution from "../../src/nn/transposed-convolution.ts";
import * as rotation from "../../src/peft/rotation.ts";
import * as angle from "../../src/tensor/angle.ts";
import * as arrange from "../../src/tensor/arrange.ts";
import * as convolution from "../../src/tensor/convolution.ts";
import * as curve from "../../src/tensor/curve.ts";
import * as einsums from "../../src/tensor/einsum.ts";
import * as indexExpression from "../../src/tensor/index-expression.ts";
import * as math from "../../src/tensor/math.ts";
import * as rearranging from "../../src/tensor/rearrange.ts";
import * as running from "../../src/tensor/running.ts";
import * as statistics from "../../src/tensor/statistics.ts";
import * as windows from "../../src/tensor/window.ts";
import { type Apply, alongAxis, type Composite, fold, labels, one, same, sample, sides, wide } from "./composite.ts";
import { layers, nnComposites } from "./layer-composites.ts";

const angleComposites = {
  atan: one((x) => angle.atan(x!), [-0.6, 0.6], [0.7, 2.3], [2.5, 9]),
  asin: one((x) => angle.asin(x!), [-0.5, 0.5], [0.6, 0.9]),
  acos: one((x) => angle.acos(x!), [-0.9, 0.3], [0.5, 0.9]),
  atan2: same(2, (y, x) => angle.atan2(y!, x!), [0.1, 2], [-2, -0.1]),
  hypot: same(2, (x, y) => angle.hypot(x!, y!), [0.1, 1], [-3, -1.1]),
  sinh: one((x) => angle.sinh(x!), [-0.9, 0.9], [1.1, 4]),
  cosh: one((x) => angle.cosh(x!), [-3, 3]),
  asinh: one((x) => angle.asinh(x!), ...sides),
  acosh: one((x) => angle.acosh(x!), [1.1, 5]),
  atanh: one((x) => angle.atanh(x!), [-0.8, -0.1], [0.1, 0.8]),
} satisfies Record<string, Composite>;

const mathComposites = {
  fmod: same(2, (x, y) => math.fmod(x!, y!), [-0.9, -0.1], [1.1, 2]),
  nanToNum: one((x) => math.nanToNum(x!)),
  maximum: same(2, (x, y) => math.maximum(x!, y!), [-2, -0.1], [0.1, 2]),
  minimum: same(2, (x, y) => math.minimum(x!, y!), [-2, -0.1], [0.1, 2]),
  sign: one((x) => math.sign(x!), ...sides),
  abs: one((x) => math.abs(x!), ...sides),
  square: one((x) => math.square(x!)),
  reciprocal: one((x) => math.reciprocal(x!), ...sides),
  rsqrt: one((x) => math.rsqrt(x!), [0.3, 3]),
  cos: one((x) => math.cos(x!), [-6, 6]),
  tan: one((x) => math.tan(x!), [-1, 1]),
  expm1: one((x) => math.expm1(x!)),
  log1p: one((x) => math.log1p(x!), [-0.4, 0.9], [1.1, 3]),
  relu: one((x) => math.relu(x!), ...sides),
  sigmoid: one((x) => math.sigmoid(x!), [-4, 4]),
  silu: one((x) => math.silu(x!), [-4, 4]),
  quickGelu: one((x) => math.quickGelu(x!)),
  gelu: one((x) => math.gelu(x!)),
  geluTanh: one((x) => math.geluTanh(x!)),
  softplus: one((x) => math.softplus(x!), ...sides),
  leakyRelu: one((x) => math.leakyRelu(x!, 0.1), ...sides),
  elu: one((x) => math.elu(x!, 0.7), ...sides),
  hardswish: one((x) => math.hardswish(x!), [-2.9, 2.9], [3.1, 5]),
  mish: one((x) => math.mish(x!)),
  clamp: one((x) => math.clamp(x!, { min: -1, max: 1 }), [-0.9, 0.9], [1.1, 2]),
  round: one((x) => math.round(x!), [0.6, 1.4]),
  ceil: one((x) => math.ceil(x!), [0.1, 0.9]),
  trunc: one((x) => math.trunc(x!), [-0.9, -0.1]),
  maskedFill: one((x) => math.maskedFill(x!, less(iota(x!.shape), constant(3, [], "int32")), 0.5)),
  tril: (draw) => [-1, 0, 1].map((diagonal) => sample([draw.shape(3, 5, 2)], (x) => math.tril(x!, diagonal))),
  triu: (draw) => [sample([[...draw.shape(1), 3, 4]], (x) => math.triu(x!, 1))],
  lerp: same(3, (x, y, w) => math.lerp(x!, y!, w!)),
  powScalar: (draw) =>
    [2, 3, 7, -1, -2, -4, 0.5, -0.5, -1.5, 1.7].map((n) => sample([draw.shape(2)], (x) => math.powScalar(x!, n), [0.4, 2])),
  sub: same(2, (x, y) => math.sub(x!, y!)),
  div: same(2, (x, y) => math.div(x!, y!), wide, [0.4, 2]),
} satisfies Record<string, Composite>;

const statisticsComposites = {
  sum: fold(statistics.sum),
  mean: fold(statistics.mean),
  prod: fold(statistics.prod, [0.4, 2]),
  amax: fold(statistics.amax),
  amin: fold(statistics.amin),
  max: alongAxis((x, axis) => statistics.max(x, axis).values),
  min: alongAxis((x, axis) => statistics.min(x, axis).values),
  variance: (draw) => {
    const shape = [...draw.shape(2), draw.integer(2, 5)];
    return [0, 1].map((correction) => sample([shape], (x) => statistics.variance(x!, { axes: [-1], correction })));
  },
  std: (draw) => [sample([[...draw.shape(2), draw.integer(3, 5)]], (x) => statistics.std(x!, { axes: [-1], correction: 0 }))],
  norm: (draw) => {
    const shape = draw.shape(3, 4, 1);
    return [0.5, 1, 2, 3, Number.POSITIVE_INFINITY].map((p) =>
      sample([shape], (x) => statistics.norm(x!, { p, axes: [0] }), [0.3, 2]),
    );
  },
  logSumExp: fold(statistics.logSumExp),
  softmax: alongAxis(statistics.softmax),
  logSoftmax: alongAxis(statistics.logSoftmax),
  cumsum: alongAxis(statistics.cumsum),
  unitVectors: (draw) => [sample([draw.shape(3, 3, 1)], (x) => statistics.unitVectors("unitVectors", x!, -1, 1e-12), [0.3, 2])],
  logSumOfRows: (draw) => [sample([draw.shape(3, 4, 1)], (x) => statistics.logSumOfRows(x!))],
  cosineSimilarity: (draw) => {
    const shape = [...draw.shape(2), draw.integer(1, 4)];
    return [sample([shape, shape], (x, y) => statistics.cosineSimilarity(x!, y!), [0.3, 2])];
  },
} satisfies Record<string, Composite>;

const runningComposites = {
  cumprod: alongAxis(running.cumprod),
  cummax: alongAxis((x, axis) => running.cummax(x, axis).values),
  cummin: alongAxis((x, axis) => running.cummin(x, axis).values),
  logCumSumExp: alongAxis(running.logCumSumExp),
  diff: alongAxis(running.diff),
  quantile: alongAxis((x, axis) => running.quantile(x, 0.3, axis)),
  median: alongAxis((x, axis) => running.median(x, axis).values),
  medianOfAll: one((x) => running.medianOfAll(x!)),
} satisfies Record<string, Composite>;

const two = (draw: Draw): number[] => [...draw.shape(1), draw.integer(2, 4), draw.integer(2, 4)];

const arrangeComposites = {
  unbind: (draw) => [sample([[2, draw.integer(1, 4), 3]], (x) => arrange.unbind(x!, 1)[0]!)],
  meshgrid: (draw) =>
    (["ij", "xy"] as const).map((indexing) =>
      sample([[draw.integer(1, 3)], [2]], (x, y) => arrange.meshgrid([x!, y!], { indexing })[1]!),
    ),
  concatenate: (draw) => {
    const [first, second, rest] = [draw.integer(1, 3), draw.integer(1, 3), draw.integer(1, 3)];
    return [
      sample(
        [
          [first, rest],
          [second, rest],
        ],
        (x, y) => arrange.concatenate([x!, y!, x!], 0),
      ),
    ];
  },
  cat: (draw) => [
    sample(
      [
        [draw.integer(1, 3), 2],
        [draw.integer(1, 3), 2],
      ],
      (x, y) => arrange.cat([x!, y!]),
    ),
  ],
  stack: same(2, (x, y) => arrange.stack([x!, y!], -1)),
  split: alongAxis((x, axis) => arrange.split(x, 2, axis).at(-1)!),
  chunk: alongAxis((x, axis) => arrange.chunk(x, 2, axis)[0]!),
  squeeze: (draw) => [sample([[1, ...draw.shape(2), 1]], (x) => arrange.squeeze(x!))],
  unsqueeze: one((x) => arrange.unsqueeze(x!, -1)),
  flatten: (draw) => [sample([two(draw)], (x) => arrange.flatten(x!, -2))],
  unflatten: (draw) => [sample([[draw.integer(1, 3), 6]], (x) => arrange.unflatten(x!, 1, [2, -1]))],
  flip: (draw) => [undefined, 0].map((axes) => sample([draw.shape(3, 4, 1)], (x) => arrange.flip(x!, axes))),
  roll: (draw) => {
    const [shape, by] = [draw.shape(3, 4, 1), draw.integer(-3, 3)];
    return [undefined, 0].map((axes) => sample([shape], (x) => arrange.roll(x!, by, axes)));
  },
  rot90: (draw) => {
    const [shape, times] = [draw.shape(3, 4, 2), draw.integer(-3, 3)];
    return [sample([shape], (x) => arrange.rot90(x!, times, [-1, 0]))];
  },
  repeat: (draw) => {
    const shape = draw.shape(2);
    const repeats = [2, ...shape.map(() => draw.integer(1, 3))];
    return [sample([shape], (x) => arrange.repeat(x!, repeats))];
  },
  repeatInterleave: alongAxis((x, axis) => arrange.repeatInterleave(x, 2, axis)),
  broadcastTo: one((x) => arrange.broadcastTo(x!, [2, ...x!.shape])),
  moveAxis: alongAxis((x, axis) => arrange.moveAxis(x, axis, 0)),
  swapAxes: alongAxis((x, axis) => arrange.swapAxes(x, axis, -1)),
  padding: (draw) => {
    const shape = two(draw);
    return (["constant", "reflect", "replicate", "circular"] as const).map((mode) =>
      sample([shape], (x) =>
        arrange.padding(
          x!,
          [
            [1, 0],
            [1, 1],
          ],
          { mode, ...(mode === "constant" ? { value: 0.5 } : {}) },
        ),
      ),
    );
  },
  diagonal: (draw) => [-1, 0, 1].map((offset) => sample([two(draw)], (x) => arrange.diagonal(x!, offset, -2, -1))),
  diagEmbed: (draw) => [-1, 0, 1].map((offset) => sample([draw.shape(3, 4, 1)], (x) => arrange.diagEmbed(x!, offset))),
  outer: (draw) => [sample([[draw.integer(1, 4)], [draw.integer(1, 4)]], (x, y) => arrange.outer(x!, y!))],
  kron: (draw) => [sample([two(draw).slice(-2), two(draw).slice(-2)], (x, y) => arrange.kron(x!, y!))],
  gather: (draw) => {
    const [n, m] = [draw.integer(1, 4), draw.integer(1, 5)];
    return [sample([[3, n]], (x) => arrange.gather(x!, labels([3, m], n), 1))];
  },
  scatterAdd: (draw) => {
    const [n, m] = [draw.integer(1, 4), draw.integer(1, 5)];
    return [
      sample(
        [
          [3, n],
          [3, m],
        ],
        (x, y) => arrange.scatterAdd(x!, labels([3, m], n), y!, 1),
      ),
    ];
  },
  scatterReduce: (draw) => {
    const [n, m] = [draw.integer(1, 4), draw.integer(1, 5)];
    return (["mean", "prod", "amax", "amin"] as const).map((fold) =>
      sample(
        [
          [3, n],
          [3, m],
        ],
        (x, y) => arrange.scatterReduce(x!, labels([3, m], n), y!, 1, fold, fold !== "amin"),
      ),
    );
  },
  scatter: (draw) => {
    const [n, m] = [draw.integer(1, 4), draw.integer(1, 5)];
    return [
      sample(
        [
          [3, n],
          [3, m],
        ],
        (x, y) => arrange.scatter(x!, labels([3, m], n), y!, 1),
      ),
    ];
  },
  indexSelect: alongAxis((x, axis) => arrange.indexSelect(x, labels([4], x.shape[axis]!), axis)),
  indexAdd: (draw) => {
    const [n, m] = [draw.integer(1, 4), draw.integer(1, 5)];
    return [
      sample(
        [
          [2, n],
          [2, m],
        ],
        (x, y) => arrange.indexAdd(x!, labels([m], n), y!, 1),
      ),
    ];
  },
  sort: alongAxis((x, axis) => arrange.sort(x, axis).values),
  topk: alongAxis((x, axis) => arrange.topk(x, 1, axis).values),
} satisfies Record<string, Composite>;

const convolved = (
  axes: number,
  apply: (x: Tensor, w: Tensor, b: Tensor, stride: number, groups: number) => Tensor,
): Composite => {
  return (draw) => {
    const [stride, groups, size] = [draw.integer(1, 2), draw.integer(1, 2), draw.integer(3, 4)];
    const spatial = Array.from({ length: axes }, () => size);
    const kernel = Array.from({ length: axes }, () => 2);
    return [sample([[1, 2, ...spatial], [2, 2 / groups, ...kernel], [2]], (x, w, b) => apply(x!, w!, b!, stride, groups))];
  };
};
const pooled = (axes: number, apply: Apply): Composite => {
  return (draw) => [sample([[2, ...Array.from({ length: axes }, () => draw.integer(3, 5))]], apply)];
};

const convolutionComposites = {
  conv1d: convolved(1, (x, w, b, stride, groups) => convolution.conv1d(x, w, b, { stride, groups, padding: 1 })),
  conv2d: convolved(2, (x, w, b, stride, groups) => convolution.conv2d(x, w, b, { stride, groups })),
  conv3d: convolved(3, (x, w, b, stride, groups) => convolution.conv3d(x, w, b, { stride, groups })),
  maxPool1d: pooled(1, (x) => convolution.maxPool1d(x!, { kernelSize: 2, stride: 1 })),
  maxPool2d: pooled(2, (x) => convolution.maxPool2d(x!, { kernelSize: 2 })),
  avgPool1d: pooled(1, (x) => convolution.avgPool1d(x!, { kernelSize: 3, padding: 1 })),
  avgPool2d: pooled(2, (x) => convolution.avgPool2d(x!, { kernelSize: 2 })),
  unfold: (draw) => [
    sample([[1, 2, draw.integer(1, 4), draw.integer(1, 4)]], (x) =>
      windows.unfold(x!, { kernelSize: 2, stride: [1, 2], padding: 1 }),
    ),
  ],
  fold: (draw) => {
    const [C, w] = [draw.integer(1, 2), draw.integer(2, 4)];
    return [sample([[1, 4 * C, 3 * (w - 1)]], (x) => windows.fold(x!, { outputSize: [4, w], kernelSize: 2 }))];
  },
  adaptiveAvgPool1d: pooled(1, (x) => windows.adaptiveAvgPool1d(x!, 3)),
  adaptiveAvgPool2d: pooled(2, (x) => windows.adaptiveAvgPool2d(x!, [1, 2])),
  adaptiveMaxPool1d: pooled(1, (x) => windows.adaptiveMaxPool1d(x!, 3)),
  adaptiveMaxPool2d: pooled(2, (x) => windows.adaptiveMaxPool2d(x!, [1, 2])),
  interpolate: (draw) => {
    const shape = [1, draw.integer(1, 2), draw.integer(1, 4), draw.integer(1, 4)];
    return [{ size: 3 }, { scaleFactor: 1.5, mode: "linear" } as const].map((options) =>
      sample([shape], (x) => windows.interpolate(x!, options)),
    );
  },
  pixelShuffle: (draw) => [sample([[4 * draw.integer(1, 2), draw.integer(1, 3), 2]], (x) => windows.pixelShuffle(x!, 2))],
  pixelUnshuffle: (draw) => [sample([[draw.integer(1, 2), 4, 2]], (x) => windows.pixelUnshuffle(x!, 2))],
} satisfies Record<string, Composite>;

const curveComposites = {
  histc: (draw) => [
    sample([[draw.integer(1, 6)]], (w) =>
      curve.histc(cast(labels(w!.shape, 5), w!.dtype), { bins: 3, range: [0, 3], weights: w! }),
    ),
  ],
  bincount: (draw) => [sample([draw.shape(2)], (w) => curve.bincount(labels(w!.shape, 4), 5, w!))],
  interp: (draw) => {
    const n = draw.integer(1, 4);
    // between the points, where the lines have no kinks
    const at = (x: Tensor) => add(cast(labels(x.shape, 6), x.dtype), x);
    return [sample([draw.shape(2), [n]], (x, y) => curve.interp(at(x!), cast(iota([n]), x!.dtype), y!), [0.1, 0.9])];
  },
  vander: (draw) =>
    [true, false].map((increasing) => sample([draw.shape(2, 3, 1)], (x) => curve.vander(x!, { columns: 3, increasing }))),
  trapezoid: (draw) => {
    const shape = draw.shape(3, 4, 1);
    return [
      sample([shape, shape], (y, x) => curve.trapezoid(y!, { x: x! })),
      sample([shape], (y) => curve.trapezoid(y!, { axis: 0 })),
    ];
  },
  cdist: (draw) => {
    const n = draw.integer(1, 3);
    return [
      sample(
        [
          [2, n],
          [draw.integer(1, 3), n],
        ],
        (x, y) => curve.cdist(x!, y!),
      ),
    ];
  },
} satisfies Record<string, Composite>;

const patternComposites = {
  einsum: (draw) => {
    const [b, i, j, k] = [draw.integer(1, 2), draw.integer(1, 3), draw.integer(1, 3), draw.integer(1, 3)];
    return [
      sample(
        [
          [b, i, j],
          [b, j, k],
        ],
        (x, y) => einsums.einsum("bij,bjk->bki", x!, y!),
      ),
      sample([[i, j], [j], [i, k]], (x, y, z) => einsums.einsum("ij,j,ik->k", x!, y!, z!)),
      sample([[i, i]], (x) => einsums.einsum("ii->i", x!)),
      sample(
        [
          [b, i],
          [j, k],
        ],
        (x, y) => einsums.einsum("bi,jk->ikbj", x!, y!),
      ),
    ];
  },
  rearrange: (draw) => {
    const [b, t, h, d] = [draw.integer(1, 2), draw.integer(1, 3), draw.integer(1, 3), draw.integer(1, 3)];
    return [sample([[b, t, h * d]], (x) => rearranging.rearrange(x!, "b t (h d) -> (b h) d t", { h }))];
  },
  reduce: (draw) => {
    const [b, t] = [draw.integer(1, 3), draw.integer(1, 3)];
    return (["sum", "mean", "max"] as const).map((how) =>
      sample([[b, 2 * t, 3]], (x) => rearranging.reduce(x!, "b (t s) c -> b t", how, { s: 2 })),
    );
  },
  repeatPattern: (draw) => [sample([[draw.integer(1, 3), 2]], (x) => rearranging.repeatPattern(x!, "a b -> b (a r)", { r: 3 }))],
  at: (draw) => [sample([[draw.integer(2, 4), 5]], (x) => indexExpression.at(x!, -1, { start: 4, step: -2 }))],
} satisfies Record<string, Composite>;

/** Matrices whose symmetric part is positive; skew-symmetric ones; blocks turned by one matrix or by one each. */
const rotationComposites = {
  inverseByHalves: (draw) => {
    const [n, b] = [draw.integer(1, 2), draw.integer(1, 4)];
    return [sample([[n, b, b]], (x) => cayleys.inverseByHalves(add(x!, cayleys.identity(b))), [-0.2, 0.2])];
  },
  skew: (draw) => {
    const b = draw.integer(2, 4);
    return [sample([[draw.integer(1, 3), (b * (b - 1)) / 2]], (x) => rotation.skew(x!, b))];
  },
  cayley: (draw) => {
    const b = draw.integer(2, 4);
    return [sample([[draw.integer(1, 2), (b * (b - 1)) / 2]], (x) => cayleys.cayley(rotation.skew(x!, b)))];
  },
  neumann: (draw) => {
    const b = draw.integer(2, 4);
    return [1, 2, 4, 5].map((terms) =>
      sample([[draw.integer(1, 2), (b * (b - 1)) / 2]], (x) => rotation.neumann(rotation.skew(x!, b), terms), [-0.5, 0.5]),
    );
  },
  turnBlocks: (draw) => {
    const [n, b] = [draw.integer(1, 3), draw.integer(1, 3)];
    return [n, 1].map((count) =>
      sample(
        [
          [draw.integer(1, 3), n * b],
          [count, b, b],
        ],
        (x, R) => rotation.turnBlocks(x!, R!),
      ),
    );
  },
} satisfies Record<string, Composite>;

const fourierComposites = {
  rfft: (draw) => {
    const shape = [draw.integer(1, 3), draw.integer(1, 7)];
    return [sample([shape], (x) => fourier.rfft(x!).real), sample([shape], (x) => fourier.rfft(x!).imaginary)];
  },
  ifft2Real: (draw) => [sample([[draw.integer(1, 4), draw.integer(1, 5)]], (x) => fourier.ifft2Real(x!))],
} satisfies Record<string, Composite>;

/** All composites by name, for graphs that run on `device`. */
export const composites = (device: Device): Record<string, Composite> => ({
  ...mathComposites,
  ...statisticsComposites,
  ...runningComposites,
  ...angleComposites,
  ...arrangeComposites,
  ...convolutionComposites,
  ...curveComposites,
  ...patternComposites,
  ...rotationComposites,
  ...fourierComposites,
  ...nnComposites(device),
  ...Object.fromEntries(
    Object.entries(activation.activations).map(([name, f]) => [
      `activation ${name}`,
      one((x) => (f as (x: Tensor) => Tensor)(x!), [-1.9, -0.2], [0.2, 1.9]),
    ]),
  ),
  ...layers(device),
});

/** Modules whose exported functions have to be composites. */
export const modules = {
  angle,
  math,
  statistics,
  running,
  arrange,
  convolution,
  windows,
  curve,
  einsums,
  rearranging,
  indexExpression,
  loss,
  norms,
  linears,
  rotaries,
  rotation,
  cayleys,
  fourier,
  nnAttention,
  activation,
  channelNorms,
  distanceLoss,
  recurrent,
  transposedConvolution,
};

const boolean = "gives true or false, no derivative";
const whole = "gives whole numbers, no derivative";
const primitive = "a primitive, tried as such";
/** Exported functions that are no composites, and why. */
export const exempt: Readonly<Record<string, string>> = {
  perAxis: "numbers for each axis",
  outputSizes: "numbers for each axis",
  offsetsOf: "numbers for each axis",
  window: "tried by every kernel",
  activation: "finds a function",
  reduceLoss: "tried by every loss",
  lessEqual: boolean,
  greater: boolean,
  greaterEqual: boolean,
  notEqual: boolean,
  logicalNot: boolean,
  logicalAnd: boolean,
  logicalOr: boolean,
  logicalXor: boolean,
  isNan: boolean,
  isNaN: boolean,
  isFinite: boolean,
  isInfinite: boolean,
  isClose: boolean,
  real: "makes a function",
  any: boolean,
  all: boolean,
  triangle: boolean,
  causalMask: boolean,
  argmax: whole,
  argmin: whole,
  searchSorted: whole,
  oneHot: whole,
  positionsAlong: whole,
  asInteger: whole,
  toFloat: "leaves floats alone, and others have no derivative",
  scalarLike: "makes a constant",
  identity: "makes a constant",
  angles: "makes a constant",
  transpose: primitive,
  rotaryAngles: "numbers, not tensors",
  checkRopeType: "a check",
};
