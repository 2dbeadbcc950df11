/**
 * `lorikeet`: tensors, automatic differentiation and compilation. Layers, optimisers, models, adapters, files, text and
 * training are entries of their own: `lorikeet/nn`, `/optim`, `/models`, `/peft`, `/formats`, `/text`, `/train`.
 */
import "./devices/choose.ts";
import "./tensor/methods.ts";

export { checkpoint, withVjp } from "./autograd/custom.ts";
export { centralDifference, gradientError } from "./autograd/finite-difference.ts";
export { backward } from "./autograd/grad.ts";
export { explainSchedule } from "./compile/explain.ts";
export { currentDevice, plan, realize, useDevice } from "./compile/program.ts";
export { type CompiledFunction, type CompileOptions, compile, type TensorTree } from "./compile/trace.ts";
export { type ChooseDeviceOptions, chooseDevice, defaultDevice, devices, probeDevices } from "./devices/choose.ts";
export type { Device, DeviceName, DeviceStatistics } from "./devices/device.ts";
export { onHost } from "./devices/host.ts";
export type { Candidate, Probe } from "./devices/probe.ts";
export { createReference } from "./devices/reference/device.ts";
export { createWasm, type WasmOptions } from "./devices/wasm/device.ts";
export {
  ConfigError,
  DeviceError,
  DisposedError,
  DTypeError,
  type ErrorFields,
  FormatError,
  LorikeetError,
  ShapeError,
} from "./errors.ts";
export { type AttentionOptions, attention } from "./graph/attention.ts";
export type { DType, TypedArray } from "./graph/dtype.ts";
export { Tensor } from "./graph/node.ts";
export type { Shape } from "./graph/shape.ts";
export { assignAll, Variable } from "./graph/variable.ts";
export {
  arange,
  type CreateOptions,
  eye,
  fromTypedArray,
  full,
  fullLike,
  linspace,
  ones,
  onesLike,
  type TensorData,
  type TensorLike,
  tensor,
  trilIndices,
  triuIndices,
  zeros,
  zerosLike,
} from "./tensor/create.ts";
export { grad, hessian, hvp, jacobian, jvp, perSampleGradients, valueAndGrad, vjp, vmap } from "./tensor/derivative.ts";
export * from "./tensor/functions.ts";
export * as random from "./tensor/random.ts";
export { type Shaped, shaped } from "./tensor/shaped.ts";
