/** `lorikeet/nn`: modules, layers, losses and first values. */
import "../devices/choose.ts";
import "../tensor/methods.ts";

export { type ActivationName, activation, activations, glu, logSigmoid, PReLU, selu } from "./activation.ts";
export {
  type AttendOptions,
  attend,
  causalMask,
  type ScaledDotProductAttentionOptions,
  scaledDotProductAttention,
} from "./attention.ts";
export {
  BatchNorm,
  type BatchNormOptions,
  batchNorm,
  type ChannelNormOptions,
  GroupNorm,
  groupNorm,
  InstanceNorm,
} from "./channel-norm.ts";
export { Conv1d, Conv2d, Conv3d, Convolution, type ConvolutionLayerOptions } from "./convolution.ts";
export { type DeltaRuleResult, gatedDeltaRule } from "./delta-rule.ts";
export { cosineEmbeddingLoss, marginRankingLoss, tripletMarginLoss } from "./distance-loss.ts";
export { Dropout, Dropout2d, dropout, dropoutState, loadDropoutState, seedDropout } from "./dropout.ts";
export { Embedding, type EmbeddingOptions, embedding } from "./embedding.ts";
export { functionalCall } from "./functional-call.ts";
export type { Initializer } from "./init.ts";
export * as init from "./init.ts";
export { Conv1D, Linear, type LinearOptions, linear } from "./linear.ts";
export {
  binaryCrossEntropy,
  binaryCrossEntropyWithLogits,
  type CrossEntropyOptions,
  contrastiveLoss,
  crossEntropy,
  huberLoss,
  klDivergence,
  l1Loss,
  mseLoss,
  negativeLogLikelihood,
  type Reduction,
  smoothL1Loss,
} from "./loss.ts";
export { GatedMLP, type GatedMLPOptions, swiglu } from "./mlp.ts";
export { Buffer, group, type Layer, Module, Parameter } from "./module.ts";
export { LayerNorm, layerNorm, RMSNorm, rmsNorm } from "./norm.ts";
export { QuantisedLinear } from "./quantised-linear.ts";
export {
  dequantiseAffine,
  dequantiseBlockwise,
  dequantiseInt8,
  dequantiseScales,
  dynamicMap,
  fp4,
  nf4,
  packNibbles,
  type QuantisedType,
  type QuantisedWeight,
  type QuantiserOptions,
  quantiseAffine,
  quantiseBlockwise,
  quantiseInt8,
  quantiseScales,
  quantiseWeight,
  unpackNibbles,
} from "./quantiser.ts";
export { GRU, LSTM, type RecurrentOptions, type RecurrentResult, RNN } from "./recurrent.ts";
export { type RelativeBucketOptions, relativeBuckets } from "./relative-position.ts";
export { type RopeParameters, type RopeType, Rotary, type RotaryTables, rotaryAngles, rotate } from "./rotary.ts";
export { Sequential, type Step } from "./sequential.ts";
export {
  ConvTranspose1d,
  ConvTranspose2d,
  convTranspose1d,
  convTranspose2d,
  type TransposedConvolutionLayerOptions,
  type TransposedConvolutionOptions,
} from "./transposed-convolution.ts";
