/** A right call of everything that the package exports, which the law about wrong ones spoils. */
import { currentDevice } from "../../src/compile/program.ts";
import { createGpu } from "../../src/devices/gpu/index.ts";
import * as formats from "../../src/formats/index.ts";
import * as core from "../../src/index.ts";
import * as linalg from "../../src/linalg/index.ts";
import * as models from "../../src/models/index.ts";
import * as nn from "../../src/nn/index.ts";
import * as optim from "../../src/optim/index.ts";
import * as peft from "../../src/peft/index.ts";
import * as text from "../../src/text/index.ts";
import * as train from "../../src/train/index.ts";
import { all, callsOfModels, matching, matrix, type RightCall } from "./right-calls-of-models.ts";

/** All functions and classes that a program can import, by the entry point or the group that holds them. */
export const exported: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  core,
  random: core.random,
  devices: core.devices,
  gpu: { createGpu },
  linalg,
  nn,
  init: nn.init,
  optim,
  models,
  formats,
  text,
  peft,
  kind: peft.kind,
  train,
};

type Arguments = readonly unknown[];

const { tensor, ones, random } = core;
const { nf4 } = nn;
const whole = (...values: number[]) => tensor(values, { dtype: "int32" });
const images = () => ones([1, 2, 4, 4]);
const heads = () => ones([1, 2, 2, 4]);
const key = () => random.key(1);
const variables = () => [new core.Variable(ones([2]))];
const gradients = () => new Map([["x", ones([2])]]);
const sum = (x: core.Tensor) => core.sum(x);
const float32 = () => new Float32Array(8).map((_, i) => i - 3);
const rope = { ropeType: "default", ropeTheta: 10000 };

/** Those that other arguments make right than one, two or three matrices. */
const given: Readonly<Record<string, RightCall>> = {
  ...all(matching(core, /Error$/), () => ["is wrong.", { operation: "x" }]),
  // of tensors
  ...all(["tensor"], () => [
    [
      [1, 2],
      [3, 4],
    ],
  ]),
  ...all(["bitwiseAnd", "bitwiseOr", "bitwiseXor", "shiftLeft", "shiftRight"], () => [whole(1, 2), whole(1, 1)]),
  ...all(["zeros", "ones"], () => [[2, 2], { dtype: "float32" }]),
  ...all(["randn", "eye"], () => [2, 2]),
  at: () => [matrix(), 0],
  arange: () => [0, 4, 1, { dtype: "float32" }],
  assignAll: () => [[[...variables(), ones([2])]]],
  attention: () => [heads(), heads(), heads(), { isCausal: true, scale: 1, window: 2 }],
  backward: () => [sum(variables()[0]!.value)],
  broadcastTo: () => [matrix(), [3, 2, 2]],
  cast: () => [matrix(), "int32"],
  centralDifference: () => [sum, [matrix()], [matrix()], { step: 1e-3 }],
  clamp: () => [matrix(), { min: 0, max: 1 }],
  ...all(["cat", "concatenate", "stack"], () => [[matrix(), matrix()], 0]),
  ...all(["checkpoint", "compile", "grad", "valueAndGrad"], () => [sum]),
  vmap: () => [sum, { inAxes: [0], outAxis: 0 }],
  chunk: () => [matrix(), 2, 0],
  shaped: () => [ones([2, 3]), [2, 3]],
  unbind: () => [matrix(), 0],
  meshgrid: () => [[ones([2]), ones([3])], { indexing: "xy" }],
  nanToNum: () => [matrix(), { nan: 0, posInf: 1, negInf: -1 }],
  ...all(["isClose", "allClose"], () => [matrix(), matrix(), { rtol: 0, atol: 1, equalNan: true }]),
  conv1d: () => [ones([1, 2, 4]), ones([2, 2, 1]), ones([2]), { stride: 1, padding: 0, dilation: 1, groups: 1 }],
  conv2d: () => [images(), ones([2, 2, 1, 1]), ones([2]), { stride: 1, padding: [1, 0] }],
  conv3d: () => [ones([1, 2, 2, 2, 2]), ones([2, 2, 1, 1, 1]), null, {}],
  cosineSimilarity: () => [matrix(), matrix(), { axis: 0, epsilon: 1e-6 }],
  ...all(["cumsum", "cumprod", "cummax", "cummin", "logCumSumExp", "diff"], () => [matrix(), 0]),
  quantile: () => [matrix(), 0.5, 0],
  median: () => [matrix(), 0],
  searchSorted: () => [matrix(), matrix(), { right: true }],
  scatterReduce: () => [matrix(), whole(0, 1, 1, 0).reshape([2, 2]), matrix(), 0, "prod", false],
  bincount: () => [whole(0, 1), 2, ones([2])],
  histc: () => [matrix(), { bins: 3, range: [0, 1], weights: matrix() }],
  interp: () => [matrix(), ones([2]), ones([2])],
  trapezoid: () => [matrix(), { x: matrix(), dx: 1, axis: 0 }],
  cdist: () => [matrix(), matrix(), 2],
  ...all(["adaptiveAvgPool1d", "adaptiveMaxPool1d"], () => [images(), 3]),
  ...all(["adaptiveAvgPool2d", "adaptiveMaxPool2d"], () => [images(), [2, 3]]),
  unfold: () => [images(), { kernelSize: 2, stride: 1, padding: 0, dilation: 1 }],
  fold: () => [ones([1, 4, 4]), { outputSize: [4, 4], kernelSize: 2, stride: 2, padding: 0, dilation: 1 }],
  interpolate: () => [images(), { size: 3, mode: "linear", alignCorners: true }],
  pixelShuffle: () => [ones([4, 1, 1]), 2],
  pixelUnshuffle: () => [ones([1, 2, 2]), 2],
  einsum: () => ["ik,kj->ij", matrix(), matrix()],
  explainSchedule: () => [core.plan([matrix()])],
  fromTypedArray: () => [float32(), [8], { dtype: "float32" }],
  full: () => [[2], 1, { dtype: "float32" }],
  fullLike: () => [matrix(), 1, { dtype: "float32" }],
  ...all(["zerosLike", "onesLike"], () => [matrix(), { dtype: "int32" }]),
  gather: () => [matrix(), whole(0, 1, 1, 0).reshape([2, 2]), 0],
  gradientError: () => [sum, [matrix()], [matrix()], tensor(1), { step: 1e-3 }],
  ...all(["hessian", "jacobian"], () => [sum, matrix()]),
  hvp: () => [sum, matrix(), matrix()],
  indexAdd: () => [matrix(), whole(0, 1), matrix(), 0],
  indexSelect: () => [matrix(), whole(0), 1],
  jvp: () => [sum, [matrix()], [matrix()]],
  lerp: () => [matrix(), matrix(), tensor(0.5)],
  linspace: () => [0, 1, 3, { dtype: "float32" }],
  ...all(["maxPool1d", "avgPool1d", "maxPool2d", "avgPool2d"], () => [images(), { kernelSize: 2, stride: 1, padding: 0 }]),
  maskedFill: () => [matrix(), [true, false], 0],
  moveAxis: () => [matrix(), 0, 1],
  norm: () => [matrix(), { p: 2, axes: 0, keepDims: true }],
  onHost: () => [() => 1],
  oneHot: () => [whole(0, 1), 2],
  outer: () => [ones([2]), ones([2])],
  pad: () => [matrix(), [[0, 1]], { mode: "constant", value: 1 }],
  perSampleGradients: () => [(ps: core.Tensor[], x: core.Tensor) => x.mul(ps[0]!).sum(), [ones([2])], [matrix()]],
  permute: () => [matrix(), [1, 0]],
  plan: () => [[matrix()], currentDevice(), {}],
  print: () => [matrix(), { precision: 2 }],
  realize: () => [[matrix()]],
  rearrange: () => [matrix(), "a (b c) -> a b c", { b: 2 }],
  reduce: () => [matrix(), "a b -> a", "sum", {}],
  repeat: () => [matrix(), [2, 1]],
  repeatInterleave: () => [matrix(), 2, 0],
  reshape: () => [matrix(), [4]],
  roll: () => [matrix(), 1, 0],
  rot90: () => [matrix(), 1, [0, 1]],
  vander: () => [ones([2]), { columns: 3, increasing: true }],
  ...all(["trilIndices", "triuIndices"], () => [2, 3, 1]),
  scatter: () => [matrix(), whole(0, 1, 1, 0).reshape([2, 2]), matrix(), 0],
  scatterAdd: () => [matrix(), whole(0, 1, 1, 0).reshape([2, 2]), matrix(), 0],
  split: () => [matrix(), [1, 1], 0],
  swapAxes: () => [matrix(), 0, 1],
  take: () => [matrix(), whole(0, 1)],
  topk: () => [matrix(), 1, 0, true],
  unflatten: () => [matrix(), 1, [2, 1]],
  unsqueeze: () => [matrix(), 0],
  useDevice: () => [currentDevice()],
  Variable: () => [matrix(), { requiresGrad: true }],
  ...all(["variance", "std"], () => [matrix(), { axes: 0, keepDims: true, correction: 0 }]),
  vjp: () => [sum, matrix()],
  where: () => [[true, false], matrix(), 0],
  withVjp: () => [sum, (g: core.Tensor) => [g]],
  // random numbers, devices
  "random.split": () => [key(), 2],
  ...all(["Generator", "TorchGenerator", "manualSeed", "random.key"], () => [1]),
  bernoulli: () => [key(), 0.5, [2]],
  bits: () => [key(), [2]],
  categorical: () => [key(), matrix()],
  "random.dropout": () => [key(), matrix(), 0.5],
  dropoutMask: () => [key(), [2], 0.5, "float32"],
  foldIn: () => [key(), 1],
  "random.normal": () => [key(), [2], { mean: 0, std: 1 }],
  "random.uniform": () => [key(), [2], { low: 0, high: 1 }],
  permutation: () => [key(), 3],
  randint: () => [key(), [2], 0, 3],
  threefry: () => [key(), whole(1), whole(2)],
  torchRandn: () => [[2], {}],
  torchRandperm: () => [3, {}],
  torchUniform: () => [[2], { low: 0, high: 1 }],
  createGpu: () => [{ mode: "cpu" }],
  "devices.gpu": () => [{ mode: "cpu" }],
  ...all(["createWasm", "defaultDevice", "devices.wasm"], () => [{ threads: 1 }]),
  // linear algebra
  cayley: () => [ones([1, 2, 2])],
  qr: () => [matrix(), { positive: true }],
  svdLowrank: () => [matrix(), 1, { niter: 1, random: new random.TorchGenerator(1) }],
  pinv: () => [matrix(), 1e-3],
  // layers
  ...all(["Conv1D", "GatedMLP"], () => [2, 3, {}]),
  Linear: () => [2, 3, { bias: true, init: nn.init.zeros }],
  ...all(["Conv1d", "Conv2d", "Conv3d"], () => [2, 2, 1, { stride: 1, padding: 0, dilation: 1, groups: 2, bias: true }]),
  ...all(["ConvTranspose1d", "ConvTranspose2d"], () => [
    2,
    2,
    2,
    { stride: 2, padding: 0, outputPadding: 1, dilation: 1, groups: 2, bias: true },
  ]),
  convTranspose1d: () => [ones([1, 2, 4]), ones([2, 2, 2]), ones([2]), { stride: 2, outputPadding: 1, padding: 1 }],
  convTranspose2d: () => [images(), ones([2, 2, 1, 1]), ones([2]), { stride: 1, padding: [1, 0], dilation: 1, groups: 1 }],
  ...all(["Dropout", "Dropout2d"], () => [0.5]),
  BatchNorm: () => [2, { eps: 1e-5, affine: true, momentum: 0.1, trackRunningStats: true }],
  InstanceNorm: () => [2, { eps: 1e-5, affine: true }],
  GroupNorm: () => [2, 4, { eps: 1e-5, affine: true }],
  ...all(["RNN", "GRU", "LSTM"], () => [2, 2, { numLayers: 1, bidirectional: true, bias: true, batchFirst: true, dropout: 0.1 }]),
  Sequential: () => [new nn.Linear(2, 2), (x: core.Tensor) => x],
  PReLU: () => [2, { init: 0.1 }],
  Buffer: () => [matrix()],
  glu: () => [matrix(), 1],
  cosineEmbeddingLoss: () => [matrix(), matrix(), whole(1, -1), { margin: 0.1, reduction: "mean" }],
  marginRankingLoss: () => [matrix(), matrix(), matrix(), { margin: 0.1, reduction: "mean" }],
  tripletMarginLoss: () => [matrix(), matrix(), matrix(), { margin: 0.1, p: 2, swap: true, reduction: "mean" }],
  Embedding: () => [4, 2, { paddingIdx: 1, scale: 2 }],
  LayerNorm: () => [2, { eps: 1e-5, bias: true }],
  RMSNorm: () => [2, { eps: 1e-5, unitOffset: true }],
  Parameter: () => [matrix(), { requiresGrad: true }],
  QuantisedLinear: () => [
    nn.quantiseWeight(new Float32Array(64), [2, 32], { type: "nf4", blockSize: 32, doubleQuantise: false }),
  ],
  Rotary: () => [4, rope, { pairs: "halves" }],
  activation: () => ["gelu"],
  attend: () => [
    heads(),
    heads(),
    heads(),
    { isCausal: true, window: 1, scale: 1, softcap: 2, sinks: ones([heads().shape[2]!]), dropout: (x: core.Tensor) => x },
  ],
  gatedDeltaRule: () => [heads(), heads(), heads(), ones([1, 2, 2]), ones([1, 2, 2]), { state: ones([1, 2, 4, 4]), chunk: 2 }],
  batchNorm: () => [images(), { mean: ones([2]), variance: ones([2]) }, ones([2]), ones([2]), { eps: 1e-5 }],
  groupNorm: () => [images(), 2, ones([2]), ones([2]), { eps: 1e-5 }],
  causalMask: () => [2, 2, 0, 1],
  contrastiveLoss: () => [matrix(), matrix(), { scale: 5 }],
  ...all(["crossEntropy", "negativeLogLikelihood"], () => [matrix(), whole(0, 1), { ignoreIndex: -100, reduction: "mean" }]),
  dequantiseAffine: () => [nn.quantiseAffine(float32(), 4), 4],
  dequantiseBlockwise: () => [nn.quantiseBlockwise(float32(), nf4, 4), nf4, 4],
  dequantiseInt8: () => [nn.quantiseInt8(float32(), 4), 4],
  dequantiseScales: () => [nn.quantiseScales(float32())],
  dropout: () => [matrix(), 0.5],
  dynamicMap: () => [{ signed: true }],
  embedding: () => [matrix(), whole(0, 1), { paddingIdx: 0 }],
  functionalCall: () => [new nn.Linear(2, 2), {}, matrix()],
  group: () => [{ layer: new nn.Linear(2, 2) }],
  layerNorm: () => [matrix(), ones([2]), ones([2]), { eps: 1e-5 }],
  linear: () => [matrix(), matrix(), ones([2])],
  loadDropoutState: () => [nn.dropoutState()],
  seedDropout: () => [1],
  packNibbles: () => [Uint8Array.of(1, 2), 0],
  unpackNibbles: () => [Uint8Array.of(18), 2],
  ...all(["quantiseAffine", "quantiseInt8"], () => [float32(), 4]),
  quantiseBlockwise: () => [float32(), nf4, 4],
  quantiseScales: () => [float32()],
  quantiseWeight: () => [new Float32Array(64), [2, 32], { type: "nf4", blockSize: 32, doubleQuantise: true }],
  relativeBuckets: () => [2, 2, { buckets: 8, maxDistance: 16, isCausal: true }],
  rmsNorm: () => [matrix(), ones([2]), { eps: 1e-5, unitOffset: true }],
  rotate: () => [heads(), new nn.Rotary(4, rope as nn.RopeParameters).range(2)],
  rotaryAngles: () => [4, rope, 0],
  scaledDotProductAttention: () => [heads(), heads(), heads(), { isCausal: true, scale: 1 }],
  ...all(
    matching(nn.init, /^(zeros|ones)$/).map((name) => `init.${name}`),
    () => [[2, 2]],
  ),
  fill: () => [1],
  "init.uniform": () => [0, 1, {}],
  "init.normal": () => [{ mean: 0, std: 1 }],
  ...all(["kaimingUniform", "kaimingNormal"], () => [{ a: 1 }]),
  ...all(["xavierUniform", "xavierNormal"], () => [{ gain: 1 }]),
  // optimisers and schedules
  ...all(matching(optim, /^[A-Z]/), () => [variables(), { lr: 0.1, weightDecay: 0 }]),
  WeightAverage: () => [variables(), { decay: 0.5 }],
  clipGradNorm: () => [gradients(), 1, { normType: 2 }],
  clipGradValue: () => [gradients(), 1],
  gradientsOf: () => {
    const [variable] = variables();
    return [sum(variable!.value), [variable]];
  },
  ...all(matching(optim, /Schedule$/), () => [{ totalSteps: 4, warmupSteps: 1 }]),
  ...all(["constantSchedule", "inverseSqrtSchedule"], () => [{ warmupSteps: 1 }]),
  PlateauSchedule: () => [{ factor: 0.5, patience: 1, threshold: 0.1, cooldown: 1, min: 0, largerIsBetter: true }],
  stepSchedule: () => [{ stepSize: 1, gamma: 0.5 }],
  multiStepSchedule: () => [{ milestones: [1], gamma: 0.5 }],
  exponentialSchedule: () => [{ gamma: 0.5 }],
  cosineAnnealingSchedule: () => [{ halfPeriod: 2, min: 0 }],
  cosineAnnealingWarmRestartsSchedule: () => [{ first: 2 }],
  oneCycleSchedule: () => [{ max: 1, totalSteps: 4 }],
  warmupStableDecaySchedule: () => [{ warmupSteps: 1, decaySteps: 1, totalSteps: 4 }],
  ...callsOfModels,
};

/** The arguments that make it work; none given, it takes up to three matrices. */
export async function rightCall(group: string, name: string, works: (args: Arguments) => Promise<unknown>): Promise<RightCall> {
  const found = given[`${group}.${name}`] ?? given[name];
  if (found) return found;
  for (let count = 0; count <= 3; count++) {
    const call = () => Array.from({ length: count }, matrix);
    if (
      await works(call()).then(
        () => true,
        () => false,
      )
    )
      return call;
  }
  throw new Error(`${group}.${name} has no right call.`);
}
