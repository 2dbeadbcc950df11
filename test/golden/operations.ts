/** How each operation of the golden cases is written with lorikeet; what is not here is not implemented. */
import { matmul } from "../../src/graph/contraction.ts";
import { expand, permute, reshape, transpose } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { cayley } from "../../src/linalg/cayley.ts";
import * as fourier from "../../src/linalg/fourier.ts";
import { qr } from "../../src/linalg/qr.ts";
import * as solving from "../../src/linalg/solve.ts";
import { svdvals } from "../../src/linalg/svd.ts";
import { attend } from "../../src/nn/attention.ts";
import { batchNorm, groupNorm } from "../../src/nn/channel-norm.ts";
import { embedding } from "../../src/nn/embedding.ts";
import { linear } from "../../src/nn/linear.ts";
import * as loss from "../../src/nn/loss.ts";
import { layerNorm, rmsNorm } from "../../src/nn/norm.ts";
import { Rotary, rotate } from "../../src/nn/rotary.ts";
import * as arrange from "../../src/tensor/arrange.ts";
import * as convolution from "../../src/tensor/convolution.ts";
import { einsum } from "../../src/tensor/einsum.ts";
import { at } from "../../src/tensor/index-expression.ts";
import * as math from "../../src/tensor/math.ts";
import * as statistics from "../../src/tensor/statistics.ts";

type Args = Readonly<Record<string, unknown>>;
type Inputs = Readonly<Record<string, Tensor>>;
export type Operation = (inputs: Inputs, args: Args) => Tensor | readonly Tensor[];

const unary =
  (f: (x: Tensor) => Tensor): Operation =>
  ({ x }) =>
    f(x!);
const binary =
  (f: (x: Tensor, y: Tensor) => Tensor): Operation =>
  ({ x, y }) =>
    f(x!, y!);
const dim = (args: Args) => args["dim"] as number;
const folded =
  (f: (x: Tensor, axes: statistics.Axes, keepDims: boolean) => Tensor): Operation =>
  ({ x }, args) =>
    f(x!, args["dim"] as statistics.Axes, args["keepdim"] === true);
const spread =
  (f: (x: Tensor, options: statistics.VarianceOptions) => Tensor): Operation =>
  ({ x }, args) =>
    f(x!, { axes: args["dim"] as statistics.Axes, correction: args["correction"] as number, keepDims: args["keepdim"] === true });
const listed = (inputs: Inputs) => Object.keys(inputs).map((_, i) => inputs[`x${i}`]!);
const reduction = (args: Args) => ({ reduction: args["reduction"] as loss.Reduction });
const convolved =
  (f: typeof convolution.conv1d): Operation =>
  ({ x, weight, bias }, args) =>
    f(x!, weight!, bias, args as convolution.ConvolutionOptions);
const pooled =
  (f: typeof convolution.maxPool2d): Operation =>
  ({ x }, args) =>
    f(x!, {
      kernelSize: args["kernel_size"] as number,
      stride: args["stride"] as number,
      padding: args["padding"] as number,
    });
/** [B, H, T, D] ↔ [B, T, H, D]. */
const heads = (x: Tensor) => permute(x, [0, 2, 1, 3]);

const comparisons: Record<string, (x: Tensor, y: Tensor) => Tensor> = {
  lt: math.less,
  le: math.lessEqual,
  gt: math.greater,
  ge: math.greaterEqual,
  eq: math.equal,
  ne: math.notEqual,
};

export const operations: Readonly<Record<string, Operation>> = {
  add: binary(math.add),
  sub: binary(math.sub),
  mul: binary(math.mul),
  div: binary(math.div),
  pow: binary(math.pow),
  pow_scalar: ({ x }, args) => math.powScalar(x!, args["exponent"] as number),
  maximum: binary(math.maximum),
  minimum: binary(math.minimum),
  neg: unary(math.neg),
  abs: unary(math.abs),
  exp: unary(math.exp),
  expm1: unary(math.expm1),
  log: unary(math.log),
  log1p: unary(math.log1p),
  sqrt: unary(math.sqrt),
  rsqrt: unary(math.rsqrt),
  square: unary(math.square),
  reciprocal: unary(math.reciprocal),
  sin: unary(math.sin),
  cos: unary(math.cos),
  tanh: unary(math.tanh),
  sigmoid: unary(math.sigmoid),
  erf: unary(math.erf),
  relu: unary(math.relu),
  silu: unary(math.silu),
  gelu_exact: unary(math.gelu),
  gelu_tanh: unary(math.geluTanh),
  quick_gelu: unary(math.quickGelu),
  softplus: unary(math.softplus),
  leaky_relu: ({ x }, args) => math.leakyRelu(x!, args["negative_slope"] as number),
  elu: unary(math.elu),
  hardswish: unary(math.hardswish),
  mish: unary(math.mish),
  sign: unary(math.sign),
  floor: unary(math.floor),
  round: unary(math.round),
  clamp: ({ x }, args) => math.clamp(x!, args as { min?: number; max?: number }),
  where: ({ cond, x, y }) => math.where(cond!, x!, y!),
  masked_fill: ({ x, mask }, args) => math.maskedFill(x!, mask!, args["value"] as number),
  tril: ({ x }, args) => math.tril(x!, args["diagonal"] as number),
  triu: ({ x }, args) => math.triu(x!, args["diagonal"] as number),
  compare: ({ x, y }, args) => (args["outputs"] as string[]).map((name) => comparisons[name]!(x!, y!)),

  matmul: binary(matmul),
  linear: ({ x, weight, bias }) => linear(x!, weight!, bias ?? null),
  gpt2_conv1d: ({ x, weight, bias }) => linear(x!, transpose(weight!), bias!),
  outer: binary(arrange.outer),
  einsum: ({ x, y }, args) => einsum(args["equation"] as string, x!, y!),
  kron: binary(arrange.kron),

  sum: folded(statistics.sum),
  mean: folded(statistics.mean),
  prod: folded(statistics.prod),
  max: folded(statistics.amax),
  min: folded(statistics.amin),
  argmax: ({ x }, args) => statistics.argmax(x!, dim(args)),
  argmin: ({ x }, args) => statistics.argmin(x!, dim(args)),
  var: spread(statistics.variance),
  std: spread(statistics.std),
  norm: ({ x }, args) => statistics.norm(x!, { p: args["p"] as number, axes: dim(args), keepDims: args["keepdim"] === true }),
  logsumexp: folded(statistics.logSumExp),
  softmax: ({ x }, args) => statistics.softmax(x!, dim(args)),
  log_softmax: ({ x }, args) => statistics.logSoftmax(x!, dim(args)),
  cumsum: ({ x }, args) => statistics.cumsum(x!, dim(args)),
  cosine_similarity: ({ x, y }, args) => statistics.cosineSimilarity(x!, y!, { axis: dim(args), epsilon: args["eps"] as number }),

  gather: ({ x, index }, args) => arrange.gather(x!, index!, dim(args)),
  scatter: ({ x, src, index }, args) => arrange.scatter(x!, index!, src!, dim(args)),
  scatter_add: ({ x, src, index }, args) => arrange.scatterAdd(x!, index!, src!, dim(args)),
  index_select: ({ x, index }, args) => arrange.indexSelect(x!, index!, dim(args)),
  index_add: ({ x, src, index }, args) => arrange.indexAdd(x!, index!, src!, dim(args)),
  cat: (inputs, args) => arrange.cat(listed(inputs), dim(args)),
  stack: (inputs, args) => arrange.stack(listed(inputs), dim(args)),
  split: ({ x }, args) => arrange.split(x!, args["sizes"] as number[], dim(args)),
  chunk: ({ x }, args) => arrange.chunk(x!, args["chunks"] as number, dim(args)),
  slice: ({ x }, args) =>
    at(x!, ...(args["slices"] as [number | null, number | null, number][]).map(([start, stop, step]) => ({ start, stop, step }))),
  select: ({ x }, args) => at(x!, ...new Array<string>(dim(args)).fill(":"), args["index"] as number),
  flip: ({ x }, args) => arrange.flip(x!, args["dims"] as number[]),
  roll: ({ x }, args) => arrange.roll(x!, args["shifts"] as number[], args["dims"] as number[]),
  repeat: ({ x }, args) => arrange.repeat(x!, args["repeats"] as number[]),
  repeat_interleave: ({ x }, args) => arrange.repeatInterleave(x!, args["repeats"] as number, dim(args)),
  pad: ({ x }, args) => {
    const flat = args["pad"] as number[];
    const pairs = Array.from({ length: flat.length / 2 }, (_, i): [number, number] => [flat[2 * i]!, flat[2 * i + 1]!]);
    const options = { mode: args["mode"] as arrange.PaddingMode, value: (args["value"] as number | null) ?? 0 };
    return arrange.padding(x!, pairs.reverse(), options);
  },
  permute: ({ x }, args) => permute(x!, args["dims"] as number[]),
  transpose: ({ x }, args) => transpose(x!, args["dim0"] as number, args["dim1"] as number),
  reshape: ({ x }, args) => reshape(permute(x!, args["pre_permute"] as number[]), args["shape"] as number[]),
  expand: ({ x }, args) => expand(x!, args["size"] as number[]),
  squeeze_unsqueeze: ({ x }, args) =>
    arrange.unsqueeze(arrange.squeeze(x!, args["squeeze"] as number), args["unsqueeze"] as number),
  sort: ({ x }, args) => {
    const { values, indices } = arrange.sort(x!, dim(args), args["descending"] as boolean);
    return [values, indices];
  },
  topk: ({ x }, args) => {
    const { values, indices } = arrange.topk(x!, args["k"] as number, dim(args), args["largest"] as boolean);
    return [values, indices];
  },
  one_hot: ({ ids }, args) => arrange.oneHot(ids!, args["num_classes"] as number),
  diagonal: ({ x }, args) => arrange.diagonal(x!, args["offset"] as number, args["dim0"] as number, args["dim1"] as number),
  diag_embed: ({ x }) => arrange.diagEmbed(x!),

  inverse: unary(solving.inverse),
  solve: binary(solving.solve),
  cayley: ({ x }) => cayley(math.mul(math.sub(x!, transpose(x!)), math.scalarLike(x!, 0.5))),
  svdvals: unary(svdvals),
  qr: ({ x }) => {
    const { Q, R } = qr(x!, { positive: true });
    return [Q, R];
  },
  rfft: ({ x }) => {
    const { real, imaginary } = fourier.rfft(x!);
    return [real, imaginary];
  },
  ifft2_real: unary(fourier.ifft2Real),

  conv1d: convolved(convolution.conv1d),
  conv2d: convolved(convolution.conv2d),
  conv3d: convolved(convolution.conv3d),
  max_pool2d: pooled(convolution.maxPool2d),
  avg_pool2d: pooled(convolution.avgPool2d),

  cross_entropy: ({ x, target, weight }, args) =>
    loss.crossEntropy(x!, target!, {
      ...reduction(args),
      ignoreIndex: args["ignore_index"] as number,
      labelSmoothing: args["label_smoothing"] as number,
      ...(weight && { weight }),
    }),
  nll_loss: ({ x, target }, args) =>
    loss.negativeLogLikelihood(x!, target!, { ...reduction(args), ignoreIndex: args["ignore_index"] as number }),
  mse_loss: ({ x, y }, args) => loss.mseLoss(x!, y!, reduction(args)),
  l1_loss: ({ x, y }, args) => loss.l1Loss(x!, y!, reduction(args)),
  smooth_l1_loss: ({ x, y }, args) => loss.smoothL1Loss(x!, y!, reduction(args)),
  huber_loss: ({ x, y }, args) => loss.huberLoss(x!, y!, reduction(args)),
  bce_with_logits: ({ x, y }, args) => loss.binaryCrossEntropyWithLogits(x!, y!, reduction(args)),
  kl_div: ({ x, y }, args) => loss.klDivergence(x!, y!, reduction(args)),

  layer_norm: ({ x, weight, bias }, args) => {
    // normalising over the last n axes is normalising over one that they are merged into
    const kept = x!.rank - (args["normalized_dims"] as number);
    const flat = (t: Tensor | undefined) => (t ? reshape(t, [t.size]) : null);
    const y = layerNorm(arrange.flatten(x!, kept), flat(weight), flat(bias), { eps: args["eps"] as number });
    return reshape(y, x!.shape);
  },
  rms_norm: ({ x, weight }, args) => rmsNorm(x!, weight ?? null, { eps: args["eps"] as number }),
  rms_norm_plus_one: ({ x, weight }, args) => rmsNorm(x!, weight!, { eps: args["eps"] as number, unitOffset: true }),
  group_norm: ({ x, weight, bias }, args) =>
    groupNorm(x!, args["num_groups"] as number, weight!, bias!, { eps: args["eps"] as number }),
  batch_norm: ({ x, running_mean, running_var, weight, bias }, args) =>
    batchNorm(x!, args["training"] ? null : { mean: running_mean!, variance: running_var! }, weight!, bias!, {
      eps: args["eps"] as number,
    }),
  embedding: ({ weight, ids }, args) =>
    embedding(weight!, ids!, "padding_idx" in args ? { paddingIdx: args["padding_idx"] as number } : {}),
  sdpa: ({ q, k, v, mask, bias }, args) => {
    const scale = args["scale"] as number | null;
    const seen = mask ? math.cast(mask, "bool") : bias;
    const options = { isCausal: args["causal"] === true, ...(scale !== null && { scale }), ...(seen && { mask: seen }) };
    return heads(attend(heads(q!), heads(k!), heads(v!), options));
  },
  rope: ({ x, positions }, args) => {
    const pairs = args["style"] === "interleaved" ? "interleaved" : "halves";
    const rotary = new Rotary(x!.shape[3]!, { ropeType: "default", ropeTheta: args["base"] as number }, { pairs });
    const rows = expand(positions!, [x!.shape[0]!, positions!.size]);
    return heads(rotate(heads(x!), rotary.at(rows, 4096)));
  },
};
