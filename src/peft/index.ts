/** `lorikeet/peft`: adapters. */
import "../devices/choose.ts";
import "../tensor/methods.ts";

export { configSchema, key, targetKeys } from "../formats/peft-config.ts";
export type { TorchGenerator } from "../random/torch-generator.ts";
export {
  type Adapter,
  activeAdapters,
  adapterNames,
  deleteAdapter,
  detach,
  getAdapter,
  renameAdapter,
  setActive,
  setScale,
  unmerge,
} from "./adapted-model.ts";
export { type LoadOptions, loadAdapter, type SaveOptions, saveAdapter } from "./adapter-file.ts";
export { type AttachOptions, attach } from "./attach.ts";
export { baseStateDict } from "./base-weight.ts";
export { calibrateCorda } from "./calibration/corda.ts";
export { calibrateEva } from "./calibration/eva.ts";
export { calibrateLoraGa } from "./calibration/lora-ga.ts";
export type { CalibratedModel, CalibrationBatch } from "./calibration/record.ts";
export { type CheckMethodOptions, checkMethod } from "./check-method.ts";
export { type CombinationName, type CombinationType, combinations } from "./compose/combination.ts";
export { type CombineOptions, combineAdapters } from "./compose/combine-adapters.ts";
export { composeCartridges } from "./compose/compose-cartridges.ts";
export { type ConvertOptions, convertToLora } from "./compose/convert-to-lora.ts";
export * as kind from "./config-kind.ts";
export { disabled } from "./disabled.ts";
export { encodeGgufAdapter, type GgufAdapterOptions, saveGgufAdapter } from "./gguf-adapter.ts";
export { type HotSwapOptions, hotSwap, prepareHotSwap } from "./hot-swap.ts";
export type { InitialiserName } from "./initialiser.ts";
export { type AdapterComparison, type ComparedModule, compareAdapters, type SpaceAngles } from "./inspect/compare-adapters.ts";
export {
  type AdapterInspection,
  type ChangeSpectrum,
  type InspectedModule,
  type InspectOptions,
  inspectAdapter,
} from "./inspect/inspect-adapter.ts";
export { LoraFA, type LoraFAOptions, type LoraPlusOptions, loraPlusGroups, riemannian } from "./lora-optimizer.ts";
export { type MergeOptions, merge, mergeAndUnload, mergeDifference, mergeRefusal, switchMerged } from "./merge.ts";
export type { MergedLayer, MergeReport } from "./merge-report.ts";
export {
  type AdapterConfig,
  type AnyMethod,
  type Base,
  type Calibration,
  defineMethod,
  type LayerMethod,
  type Method,
  type MethodDefinition,
  type ParameterSpec,
  type SampledLayer,
  type SharedParameters,
  type Start,
  type Use,
} from "./method.ts";
export type { MethodConfig } from "./method-config.ts";
export { type MethodName, methods, registerMethod } from "./method-registry.ts";
export * from "./methods.ts";
export { withAdapters } from "./mixed-batch.ts";
export { adapterPenalty } from "./penalty.ts";
export { type ExampleTokenizer, type ExampleTokens, exampleTokens, type WrittenExample } from "./prompt/example-tokens.ts";
export { readSourceTasks, type SourceTasks } from "./prompt/source-task.ts";
export {
  initializeKvPrefixFromText,
  initializeKvPrefixFromTokens,
  type KvPrefixOptions,
  type PrefixTokenizer,
} from "./prompt/text-start.ts";
export { prepareForKbitTraining, type QuantiseOptions, type QuantiseReport, quantise } from "./quant/quantise.ts";
export { type ReplaceLoftqOptions, replaceLoraWeightsLoftq } from "./quant/replace-loftq.ts";
export { type TrainableReport, trainableReport } from "./report.ts";
export { type ArrowOptions, loadArrow } from "./router/arrow.ts";
export { saveArrow } from "./router/arrow-file.ts";
export {
  createXlora,
  loadXlora,
  saveXlora,
  type XloraLoadOptions,
  type XloraOptions,
  xloraScalings,
} from "./router/xlora.ts";
export type { XloraConfig } from "./router/xlora-place.ts";
export { product, type Scale } from "./scale.ts";
export { beginSchedules, type MethodSchedule, type RunningSchedule, type Schedules } from "./schedule.ts";
export { withTasks } from "./task.ts";
export { linearChange, times, type WeightChange } from "./weight-change.ts";
