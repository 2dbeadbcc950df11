/** `lorikeet/formats`: safetensors, sharded checkpoints and PEFT adapter folders, as files. */
import "../devices/choose.ts";
import "../tensor/methods.ts";

export { writeFileAtomically, writeFolderAtomically } from "./atomic-file.ts";
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
