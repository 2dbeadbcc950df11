/**
 * A run that can go on: parameters, optimiser state and plain data in one safetensors file, the data as JSON in its
 * header. One file is replaced in one step, so a checkpoint is never half old and half new.
 */
import { currentDevice, download, upload } from "../compile/program.ts";
import { FormatError } from "../errors.ts";
import type { ByteSource } from "../formats/folder.ts";
import { encodeSafetensors, readSafetensors, type TensorToWrite, writeSafetensors } from "../formats/safetensors.ts";
import type { Tensor } from "../graph/node.ts";

/** Plain data. TypeScript lets no `interface` be this, since others could add to it; a `type` of such values is. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json | undefined };

/** Tensors by name, and plain data beside them. */
export interface Checkpoint {
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly data: { readonly [key: string]: Json | undefined };
}

/** Where a checkpoint is: a path, or what holds its bytes. */
export type CheckpointSource = string | Uint8Array | Blob | ByteSource;

const metadataKey = "lorikeet.checkpoint";

/** Writes by way of a temporary file; on failure an older checkpoint stays. */
export async function saveCheckpoint(path: string, checkpoint: Checkpoint): Promise<void> {
  await writeSafetensors(path, ...(await contentOf(checkpoint)));
}

/** The same file in memory, for places without a file system. */
export async function encodeCheckpoint(checkpoint: Checkpoint): Promise<Uint8Array<ArrayBuffer>> {
  return encodeSafetensors(...(await contentOf(checkpoint)));
}

async function contentOf({ tensors, data }: Checkpoint) {
  const values = new Map<string, TensorToWrite>();
  for (const [name, tensor] of tensors)
    values.set(name, { dtype: tensor.dtype, shape: tensor.shape, data: await download(tensor) });
  return [values, { format: "pt", [metadataKey]: JSON.stringify(data) }] as const;
}

/**
 * @param source a path, or the bytes of such a file
 * @throws {FormatError} when it is not one that `saveCheckpoint` made
 */
export async function loadCheckpoint(source: CheckpointSource): Promise<Checkpoint> {
  const file = await readSafetensors(source, "checkpoint");
  const path = file.source;
  const text = file.metadata.get(metadataKey);
  if (text === undefined)
    throw new FormatError(`"${path}" is a safetensors file, but no checkpoint of a training run.`, {
      operation: "loadCheckpoint",
      got: path,
    });
  let data: Checkpoint["data"];
  try {
    data = JSON.parse(text);
  } catch {
    throw new FormatError(`the data of the checkpoint "${path}" is not JSON.`, { operation: "loadCheckpoint", got: path });
  }
  const tensors = new Map<string, Tensor>();
  for (const [name, stored] of file.tensors)
    tensors.set(name, upload(currentDevice(), await stored.load(), stored.shape, stored.dtype));
  return { tensors, data };
}
