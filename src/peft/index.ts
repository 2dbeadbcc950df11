/** `lorikeet/peft`: adapters. */
export { type LoadOptions, loadAdapter, type SaveOptions, saveAdapter } from "./adapter-file.ts";
export {
  type Adapter,
  type AttachOptions,
  activeAdapters,
  adapterNames,
  attach,
  baseStateDict,
  deleteAdapter,
  detach,
  disabled,
  getAdapter,
  setActive,
  setScale,
  type TrainableReport,
  trainableReport,
  unmerge,
} from "./attach.ts";
export { type MergeOptions, merge, mergeAndUnload, mergeDifference } from "./merge.ts";
export type { AdapterConfig, Method, MethodConfig, MethodDefinition } from "./method.ts";
export { type LoraConfig, lora } from "./methods/lora.ts";
export { type MethodName, methods } from "./methods.ts";
