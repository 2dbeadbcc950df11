/** `lorikeet/formats`: safetensors, sharded checkpoints and PEFT adapter folders, as files. */
import "../devices/choose.ts";
import "../tensor/methods.ts";

export { type FileContent, writeFileAtomically, writeFolderAtomically } from "./atomic-file.ts";
export { type ByteSource, diskFolder, type Folder, filesFolder, type GivenFiles } from "./folder.ts";
export { type GgufFile, type GgufTensor, type GgufValue, openGguf, readGguf } from "./gguf.ts";
export { type GgufModel, ggufModel } from "./gguf-model.ts";
export { encodeGguf, type GgufContent, type GgufEntry, type GgufTensorToWrite, writeGguf } from "./gguf-writer.ts";
export { type HubOptions, type HubProgress, hubFolder, isHubId } from "./hub.ts";
export { type ModelSource, openSource, type SourceOptions } from "./model-source.ts";
export { type AdapterFile, encodeAdapter, listAdapters, readAdapter, writeAdapter } from "./peft-adapter.ts";
export {
  defaultLoraFileConfig,
  formatAdapterConfig,
  type LoraFileConfig,
  loraSchema,
  parseAdapterConfig,
} from "./peft-config.ts";
export {
  encodeSafetensors,
  readSafetensors,
  type SafetensorsFile,
  type StoredTensor,
  type TensorToWrite,
  writeSafetensors,
} from "./safetensors.ts";
export { type Checkpoint, openCheckpoint, openSharded, writeCheckpoint } from "./sharded.ts";
export { type FolderTarget, handleFolder, type MemoryFolder, memoryFolder, type WritableFolder } from "./writable-folder.ts";
