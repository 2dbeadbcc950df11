/** `lorikeet/peft`: adapters. */
import "../devices/choose.ts";
import "../tensor/methods.ts";

export {
  type Adapter,
  activeAdapters,
  adapterNames,
  baseStateDict,
  deleteAdapter,
  detach,
  disabled,
  getAdapter,
  setActive,
  setScale,
  unmerge,
} from "./adapted-model.ts";
export { type LoadOptions, loadAdapter, type SaveOptions, saveAdapter } from "./adapter-file.ts";
export { type AttachOptions, attach } from "./attach.ts";
export { type MergeOptions, merge, mergeAndUnload, mergeDifference } from "./merge.ts";
export type { AdapterConfig, Method, MethodConfig, MethodDefinition } from "./method.ts";
export { dora } from "./methods/dora.ts";
export { type LoraConfig, lora } from "./methods/lora.ts";
export { type MethodName, methods } from "./methods.ts";
export { type TrainableReport, trainableReport } from "./report.ts";
