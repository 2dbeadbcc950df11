/** Whoever misspells an option is told so, by every public function that takes an object of them. */
import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { expect, test } from "vitest";
import * as formats from "../../src/formats/index.ts";
import * as core from "../../src/index.ts";
import * as linalg from "../../src/linalg/index.ts";
import * as models from "../../src/models/index.ts";
import * as nn from "../../src/nn/index.ts";
import * as optim from "../../src/optim/index.ts";
import * as peft from "../../src/peft/index.ts";
import * as text from "../../src/text/index.ts";
import * as train from "../../src/train/index.ts";

const root = resolve(import.meta.dirname, "../../src");
const entries = { ...core, ...core.random, ...formats, ...linalg, ...models, ...nn, ...optim, ...peft, ...text, ...train };

/** An option of each function, and the place of the options among its arguments. What else it is given does not matter: options are read first. */
const functions: Readonly<Record<string, readonly [option: string, place: number]>> = {
  ...Object.fromEntries(
    Object.keys(models)
      .filter((name) => /For[A-Z]|LMHead/.test(name))
      .map((name) => [name, ["init", 1] as const]),
  ),
  centralDifference: ["step", 3],
  gradientError: ["step", 4],
  plan: ["donors", 2],
  compile: ["mostPrograms", 1],
  defaultDevice: ["threads", 0],
  createWasm: ["threads", 0],
  createReference: ["fuse", 0],
  probeDevices: ["among", 0],
  chooseDevice: ["onProbe", 0],
  BatchSampler: ["epochs", 1],
  ones: ["dtype", 1],
  hubFolder: ["revision", 1],
  readAdapter: ["subfolder", 2],
  openCheckpoint: ["name", 1],
  writeCheckpoint: ["metadata", 2],
  attention: ["isCausal", 3],
  Variable: ["requiresGrad", 1],
  qr: ["positive", 1],
  solveTriangular: ["upper", 2],
  svdLowrank: ["random", 2],
  createModel: ["init", 1],
  attend: ["keyMask", 3],
  scaledDotProductAttention: ["isCausal", 3],
  groupNorm: ["eps", 4],
  gatedDeltaRule: ["chunk", 5],
  batchNorm: ["eps", 4],
  searchSorted: ["right", 2],
  vmap: ["outAxis", 1],
  histc: ["bins", 1],
  nanToNum: ["nan", 1],
  isClose: ["rtol", 2],
  allClose: ["rtol", 2],
  meshgrid: ["indexing", 1],
  trapezoid: ["dx", 1],
  vander: ["columns", 1],
  unfold: ["stride", 1],
  fold: ["outputSize", 1],
  interpolate: ["mode", 1],
  PlateauSchedule: ["patience", 0],
  WeightAverage: ["decay", 1],
  BatchNorm: ["momentum", 1],
  InstanceNorm: ["affine", 1],
  GroupNorm: ["affine", 2],
  RNN: ["nonlinearity", 2],
  GRU: ["numLayers", 2],
  LSTM: ["bidirectional", 2],
  PReLU: ["init", 1],
  ConvTranspose1d: ["outputPadding", 3],
  ConvTranspose2d: ["stride", 3],
  convTranspose1d: ["outputPadding", 3],
  convTranspose2d: ["stride", 3],
  binaryCrossEntropy: ["reduction", 2],
  cosineEmbeddingLoss: ["margin", 3],
  marginRankingLoss: ["margin", 3],
  tripletMarginLoss: ["swap", 3],
  Conv1d: ["stride", 3],
  Conv2d: ["padding", 3],
  Conv3d: ["initBias", 3],
  embedding: ["paddingIdx", 2],
  Embedding: ["paddingIdx", 2],
  Linear: ["initBias", 2],
  Conv1D: ["init", 2],
  contrastiveLoss: ["scale", 2],
  crossEntropy: ["ignoreIndex", 2],
  negativeLogLikelihood: ["ignoreIndex", 2],
  mseLoss: ["reduction", 2],
  l1Loss: ["reduction", 2],
  huberLoss: ["delta", 2],
  smoothL1Loss: ["beta", 2],
  binaryCrossEntropyWithLogits: ["posWeight", 2],
  klDivergence: ["logTarget", 2],
  GatedMLP: ["activation", 2],
  rmsNorm: ["unitOffset", 2],
  layerNorm: ["eps", 3],
  RMSNorm: ["unitOffset", 1],
  LayerNorm: ["bias", 1],
  dynamicMap: ["signed", 0],
  relativeBuckets: ["maxDistance", 2],
  Rotary: ["pairs", 2],
  clipGradNorm: ["normType", 2],
  loadAdapter: ["trainable", 2],
  saveAdapter: ["baseModel", 2],
  encodeGgufAdapter: ["dtype", 1],
  saveGgufAdapter: ["dtype", 2],
  attach: ["trainable", 2],
  setScale: ["where", 2],
  prepareHotSwap: ["rank", 1],
  hotSwap: ["name", 2],
  loraPlusGroups: ["ratio", 1],
  riemannian: ["reg", 2],
  merge: ["maxError", 2],
  switchMerged: ["maxError", 2],
  checkMethod: ["cases", 1],
  mergeAndUnload: ["maxError", 2],
  adapterPenalty: ["optional", 1],
  combineAdapters: ["svdRank", 1],
  convertToLora: ["energy", 1],
  inspectAdapter: ["energy", 1],
  loadArrow: ["routerTemperature", 2],
  saveArrow: ["baseModel", 2],
  createXlora: ["seed", 3],
  loadXlora: ["trainable", 2],
  saveXlora: ["baseModel", 2],
  readSourceTasks: ["subfolder", 1],
  initializeKvPrefixFromText: ["useChatTemplate", 3],
  initializeKvPrefixFromTokens: ["name", 2],
  replaceLoraWeightsLoftq: ["keep", 2],
  quantise: ["blockSize", 1],
  tensor: ["shape", 1],
  fromTypedArray: ["dtype", 2],
  full: ["dtype", 2],
  zeros: ["dtype", 1],
  fullLike: ["dtype", 2],
  zerosLike: ["dtype", 1],
  onesLike: ["dtype", 1],
  arange: ["dtype", 3],
  linspace: ["dtype", 3],
  eye: ["dtype", 2],
  print: ["precision", 1],
  torchUniform: ["high", 1],
  torchRandn: ["dtype", 1],
  torchRandperm: ["dtype", 1],
  uniform: ["high", 2],
  normal: ["mean", 2],
  variance: ["correction", 1],
  std: ["correction", 1],
  norm: ["axes", 1],
  cosineSimilarity: ["epsilon", 2],
  clamp: ["max", 1],
  pad: ["mode", 2],
  conv1d: ["stride", 3],
  conv2d: ["stride", 3],
  conv3d: ["stride", 3],
  trainTokenizer: ["minimumCount", 1],
  chatDataset: ["window", 2],
  textDataset: ["heldOut", 2],
  textsFromJsonl: ["name", 1],
  loadTokenizer: ["config", 1],
  embed: ["batchSize", 2],
  PairModel: ["pooling", 1],
  pairDataset: ["maxLength", 2],
  evaluate: ["batchSize", 2],
  compareMethods: ["evaluationTokens", 3],
  finetune: ["learningRate", 2],
  finetuning: ["warmupSteps", 2],
  generate: ["temperature", 2],
  complete: ["temperature", 2],
  generateBatch: ["temperature", 2],
  completeBatch: ["temperature", 2],
  generateText: ["temperature", 2],
  completeText: ["temperature", 2],
  loadModel: ["dtype", 1],
  saveModel: ["dtype", 3],
  Trainer: ["learningRate", 2],
  tensorDataset: ["heldOut", 1],
  constantSchedule: ["warmupSteps", 0],
  linearSchedule: ["warmupSteps", 0],
  cosineSchedule: ["warmupSteps", 0],
  cosineWithRestartsSchedule: ["warmupSteps", 0],
  polynomialSchedule: ["warmupSteps", 0],
  inverseSqrtSchedule: ["warmupSteps", 0],
  warmupStableDecaySchedule: ["warmupSteps", 0],
  stepSchedule: ["stepSize", 0],
  multiStepSchedule: ["milestones", 0],
  exponentialSchedule: ["gamma", 0],
  cosineAnnealingSchedule: ["halfPeriod", 0],
  cosineAnnealingWarmRestartsSchedule: ["first", 0],
  oneCycleSchedule: ["divFactor", 0],
  Adafactor: ["weightDecay", 1],
  TransformersAdafactor: ["weightDecay", 1],
  Adagrad: ["weightDecay", 1],
  RMSprop: ["weightDecay", 1],
  Adadelta: ["weightDecay", 1],
  Adamax: ["weightDecay", 1],
  NAdam: ["weightDecay", 1],
  RAdam: ["weightDecay", 1],
  Adam: ["weightDecay", 1],
  AdamW: ["weightDecay", 1],
  Lion: ["weightDecay", 1],
  SGD: ["weightDecay", 1],
};

/** What those are given that look at something else first. */
const x = core.tensor([1, 2]);
const same = (y: core.Tensor): core.Tensor => y;
const given: Readonly<Record<string, readonly unknown[]>> = {
  gradientError: [same, [x], [x], x],
  plan: [[x], core.currentDevice()],
  fullLike: [x, 1],
  cosineSimilarity: [x, x],
  searchSorted: [x, x],
  vmap: [same],
  ...Object.fromEntries(["histc", "trapezoid", "vander", "unfold", "fold", "interpolate", "nanToNum"].map((name) => [name, [x]])),
  isClose: [x, x],
  allClose: [x, x],
  meshgrid: [[]],
  pad: [x, [[0, 0]]],
  fromTypedArray: [new Float32Array(1), [1]],
  completeText: [{ model: null, tokenizer: {} }, [1]],
  generateText: [{ model: null, tokenizer: {} }, [1]],
  ...Object.fromEntries(["conv1d", "conv2d", "conv3d"].map((name) => [name, [x, x, null]])),
  ...Object.fromEntries(["print", "variance", "std", "norm", "clamp", "zerosLike", "onesLike"].map((name) => [name, [x]])),
};

/** Take an object that is no set of options, hand theirs on to a function above, or are called for each token of a text with the checked ones. */
const others = new Set<string>([
  "devices",
  "loraSchema",
  "writeAdapter",
  "encodeAdapter",
  "openSource",
  "matmul",
  "take",
  "scatterAdd",
  "KeyValueCache",
  "rotate",
  "dequantiseBlockwise",
  "dequantiseInt8",
  "dequantiseAffine",
  "quantiseWeight",
  "Convolution",
  "Optimizer",
  "LoraFA",
  "processLogits",
  "sampleToken",
  ...Object.keys(peft.methods),
]);

const takesOptions = (list: string): boolean => /(^|,)\s*(options\b|\{)|Options\b/.test(list);

/** Where the bracket that opens at `begin` is closed. */
function closing(source: string, begin: number): number {
  let depth = 0;
  for (let i = begin; i < source.length; i++) {
    if ("([{".includes(source[i]!)) depth++;
    else if (")]}".includes(source[i]!) && --depth === 0) return i;
  }
  return source.length;
}

/** The parameters of every exported function and class of the sources, by name. */
const parameters = new Map<string, string>();
for (const file of readdirSync(root, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"))) {
  const source = readFileSync(join(root, file), "utf8");
  for (const match of source.matchAll(/^export (?:(?:async )?function\*?|(?:abstract )?class|const) (\w+)/gm)) {
    const [, name] = match;
    const end = source.indexOf("\nexport ", match.index + 1);
    const body = source.slice(match.index, end === -1 ? undefined : end);
    const begin = body.includes("class ") ? body.indexOf("constructor(") : body.search(/\(/);
    if (begin === -1) continue;
    const open = body.indexOf("(", begin);
    const list = body.slice(open + 1, closing(body, open));
    if (Object.hasOwn(entries, name!) && !takesOptions(parameters.get(name!) ?? "")) parameters.set(name!, list);
  }
}

test("all of them are listed", () => {
  const found = [...parameters].filter(([name, list]) => takesOptions(list) && !others.has(name)).map(([name]) => name);
  expect(found.filter((name) => !Object.hasOwn(functions, name))).toEqual([]);
});

test.each(Object.entries(functions))("%s", async (name, [option, place]) => {
  const made = entries[name as keyof typeof entries] as new (...args: unknown[]) => unknown;
  const args: unknown[] = [...(given[name] ?? new Array(place).fill(undefined)), { [`${option}s`]: 1 }];
  // waits for those that are asynchronous
  const call = async () => {
    const result = /^[A-Z]/.test(name) ? new made(...args) : await Reflect.apply(made, undefined, args);
    return name.startsWith("generate") ? (result as AsyncGenerator).next() : result;
  };
  await expect(call()).rejects.toThrow(
    new RegExp(`: \`${option}s\` is not an option\\. (Did you mean \`${option}\`|There are )`),
  );
});
