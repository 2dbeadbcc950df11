/**
 * A run that can go on: parameters, optimiser state and plain data in one safetensors file, the data as JSON in its
 * header. One file is replaced in one step, so a checkpoint is never half old and half new.
 */
import { currentDevice, download, upload } from "../compile/program.ts";
import { ConfigError, FormatError, isRecord, nearestName, requireKind, under, wordArgument } from "../errors.ts";
import type { ByteSource } from "../formats/folder.ts";
import { encodeSafetensors, readSafetensors, type TensorToWrite, writeSafetensors } from "../formats/safetensors.ts";
import type { Tensor } from "../graph/node.ts";
import { dropoutState, loadDropoutState } from "../nn/dropout.ts";
import { TorchGenerator } from "../random/torch-generator.ts";
import { sharedGenerator } from "../tensor/random.ts";

/** Plain data. TypeScript lets no `interface` be this, since others could add to it; a `type` of such values is. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json | undefined };

/** Plain data beside the tensors of a checkpoint: the step, settings, the best loss so far. */
export type CheckpointData = { readonly [key: string]: Json | undefined };

/** What has a state of tensors: a module, an optimiser. */
export interface CheckpointPart {
  stateDict(): ReadonlyMap<string, Tensor>;
  loadStateDict(saved: ReadonlyMap<string, Tensor>): unknown;
}

/** Tensors by name, and plain data beside them. */
export interface Checkpoint {
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly data: CheckpointData;
}

/** Where a checkpoint is: a path, or what holds its bytes. */
export type CheckpointSource = string | Uint8Array | Blob | ByteSource;

const metadataKey = "lorikeet.checkpoint";

/**
 * Writes a run into one file: each part under its name, where the generators of dropout masks and of `random.torchRandn` and its kin
 * stand, and `data`. A file that was there is replaced in one step, and stays if this fails. Schedules are functions of the step, which
 * `data` keeps.
 *
 * @throws {ConfigError} for a name with a point in it, for data that JSON does not have, such as NaN, and when the file cannot be written
 * @example
 * const net = new Linear(3, 2);
 * const optimizer = new AdamW(net.parameters());
 * const file = await encodeCheckpoint({ net, optimizer }, { step: 100 }); // saveCheckpoint(path, …) where there are files
 * (await loadCheckpoint(file, { net, optimizer }))["step"]   // 100
 */
export async function saveCheckpoint(
  path: string,
  parts: Readonly<Record<string, CheckpointPart>>,
  data: CheckpointData = {},
): Promise<void> {
  await under("saveCheckpoint", () => writeCheckpointFile(path, gather("saveCheckpoint", parts, data)));
}

/** What `saveCheckpoint` writes, in memory, for places without a file system. */
export function encodeCheckpoint(
  parts: Readonly<Record<string, CheckpointPart>>,
  data: CheckpointData = {},
): Promise<Uint8Array<ArrayBuffer>> {
  return under("encodeCheckpoint", async () => encodeCheckpointFile(gather("encodeCheckpoint", parts, data)));
}

/**
 * Goes on from what `saveCheckpoint` wrote: the losses that follow are, bit for bit, those of a run that was never stopped, on the same
 * kind of device. Parts of the file that are not asked for are left out: the model alone, to look at it.
 *
 * @param source a path, or the bytes of the file
 * @param parts  loaded in this order; one that does not fit throws and keeps what it has, as do those after it and the generators
 * @returns the data
 * @throws {FormatError} when the file is no such checkpoint, has no such part, or a part lacks something; @throws {ShapeError} when a
 *   value does not fit
 */
export function loadCheckpoint(
  source: CheckpointSource,
  parts: Readonly<Record<string, CheckpointPart>>,
): Promise<CheckpointData> {
  const operation = "loadCheckpoint";
  return under(operation, async () => {
    checkParts(operation, parts);
    const { tensors, data } = await readCheckpointFile(source);
    const names = data["parts"];
    const torch = tensors.get("random.torch");
    if (!Array.isArray(names) || !torch)
      throw new FormatError("this checkpoint is not one of saveCheckpoint.", {
        operation,
        hint: "What a Trainer saved, it loads itself.",
      });
    for (const name of Object.keys(parts))
      if (!names.includes(name)) {
        const near = nearestName(name, names);
        throw new FormatError(`the checkpoint has no "${name}".`, {
          operation,
          expected: names,
          got: name,
          hint: near === undefined ? `It has ${names.join(", ")}.` : `Did you mean "${near}"?`,
        });
      }
    const generator = new TorchGenerator(0);
    generator.state = (await download(torch)) as Int32Array;
    for (const [name, part] of Object.entries(parts)) part.loadStateDict(tensorsUnder(tensors, `${name}.`));
    loadDropoutState(tensorsUnder(tensors, "random.dropout."));
    sharedGenerator().state = generator.state;
    return (data["data"] ?? {}) as CheckpointData;
  });
}

function checkParts(operation: string, parts: Readonly<Record<string, CheckpointPart>>): void {
  requireKind(operation, "an object", { parts });
  for (const [name, part] of Object.entries(parts)) {
    if (name === "" || name.includes(".") || name === "random")
      throw new ConfigError(`"${name}" is not a name for a part.`, {
        operation,
        got: name,
        hint: 'Neither with a point, nor "random".',
      });
    requireKind(operation, "a function", {
      [`${name}.stateDict`]: part?.stateDict,
      [`${name}.loadStateDict`]: part?.loadStateDict,
    });
  }
}

function gather(operation: string, parts: Readonly<Record<string, CheckpointPart>>, data: CheckpointData): Checkpoint {
  checkParts(operation, parts);
  requireKind(operation, "an object", { data });
  requireJson(operation, "data", data);
  const tensors = new Map<string, Tensor>();
  for (const [name, part] of Object.entries(parts)) for (const [key, x] of part.stateDict()) tensors.set(`${name}.${key}`, x);
  for (const [key, x] of dropoutState()) tensors.set(`random.dropout.${key}`, x);
  const { state } = sharedGenerator();
  tensors.set("random.torch", upload(currentDevice(), state, [state.length], "int32"));
  return { tensors, data: { parts: Object.keys(parts), data } };
}

/** What JSON would make something else of, NaN into null, is refused. */
function requireJson(operation: string, path: string, value: unknown): void {
  const isPlain = value === null || value === undefined || /^(string|boolean)$/.test(typeof value) || Number.isFinite(value);
  if (isPlain) return;
  if (!Array.isArray(value) && !(isRecord(value) && Object.getPrototypeOf(value) === Object.prototype))
    throw new ConfigError(`\`${path}\` (= ${wordArgument(value)}) is nothing that JSON has.`, { operation, got: value });
  for (const [key, each] of Object.entries(value)) requireJson(operation, `${path}.${key}`, each);
}

/** The tensors whose names begin with `prefix`, under what follows. */
export const tensorsUnder = (tensors: ReadonlyMap<string, Tensor>, prefix: string): Map<string, Tensor> =>
  new Map([...tensors].flatMap(([name, x]) => (name.startsWith(prefix) ? [[name.slice(prefix.length), x]] : [])));

/** Writes by way of a temporary file; on failure an older checkpoint stays. */
export async function writeCheckpointFile(path: string, checkpoint: Checkpoint): Promise<void> {
  await writeSafetensors(path, ...(await contentOf(checkpoint)));
}

/** The same file in memory. */
export async function encodeCheckpointFile(checkpoint: Checkpoint): Promise<Uint8Array<ArrayBuffer>> {
  return encodeSafetensors(...(await contentOf(checkpoint)));
}

async function contentOf({ tensors, data }: Checkpoint) {
  const values = new Map<string, TensorToWrite>();
  for (const [name, tensor] of tensors)
    values.set(name, { dtype: tensor.dtype, shape: tensor.shape, data: await download(tensor) });
  return [values, { format: "pt", [metadataKey]: JSON.stringify(data) }] as const;
}

/** @throws {FormatError} when it is not one that `writeCheckpointFile` made */
export async function readCheckpointFile(source: CheckpointSource): Promise<Checkpoint> {
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
