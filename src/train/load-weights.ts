/** Filling a model from a checkpoint: names and shapes are checked, then weights are kept as floats, halves or codes. */
import { currentDevice, upload } from "../compile/program.ts";
import { newStorage } from "../compile/storage.ts";
import type { Buffer } from "../devices/device.ts";
import { ConfigError, FormatError, nearestName, ShapeError, wordShape } from "../errors.ts";
import { quantisedNames, quantisedPaths, readQuantised } from "../formats/bitsandbytes.ts";
import { mxfp4Paths, takeMxfp4 } from "../formats/mxfp4.ts";
import type { StoredTensor } from "../formats/safetensors.ts";
import type { Checkpoint } from "../formats/sharded.ts";
import { isFloat, type TypedArray, toBFloat16Bits, toFloat16Bits, toFloat32 } from "../graph/dtype.ts";
import type { Storage } from "../graph/node.ts";
import { sameShape, sizeOf } from "../graph/shape.ts";
import { buffer } from "../graph/source.ts";
import { structure } from "../graph/variable.ts";
import type { CheckpointNames } from "../models/checkpoint-name.ts";
import { Experts } from "../models/mixture.ts";
import { Embedding } from "../nn/embedding.ts";
import { normal, ones, zeros } from "../nn/init.ts";
import { Conv1D, Linear } from "../nn/linear.ts";
import { type Module, Parameter } from "../nn/module.ts";
import { dynamicMap, type QuantisedWeight, quantiserOptions, quantiseWeight } from "../nn/quantiser.ts";
import { asMatrix, layersToQuantise, matricesOf, type QuantiseOptions, replaceByCodes } from "../peft/quant/quantise.ts";
import { joinParts } from "./weight-part.ts";

/** How weights can be stored. */
export type SavedDType = "float32" | "float16" | "bfloat16";

/** What may be said of how weights are kept. */
export interface KeepOptions {
  /**
   * How the matrices of linear layers, embeddings and experts lie in memory; everything else is float32, and so is all that is computed. With 16
   * bits they should be frozen: an optimiser's small steps would be rounded away. `"auto"` is as in the file, float32 when absent.
   */
  readonly dtype?: SavedDType | "auto";
  /** Makes linear layers and experts hold codes as they are read, so that memory never holds all of the model's floats; see `quantise`. */
  readonly quantise?: QuantiseOptions;
}

/** Tensors that some checkpoints carry and that are computed anew here. */
const derived = /(^|\.)(rotary_emb\.inv_freq|attn\.(masked_)?bias|position_ids)$/;

/**
 * Fills a model's parameters from a checkpoint. Names and shapes are checked first; nothing is changed when one does not fit.
 *
 * @param draw which paths the checkpoint may lack, or have of other sizes, and how far from 0 their matrices begin
 * @returns paths of what was drawn
 * @throws {FormatError} for a missing or an unknown name; @throws {ShapeError} for another shape
 */
export async function loadWeights(
  model: Module,
  checkpoint: Checkpoint,
  options: KeepOptions = {},
  { isNew, std }: { readonly isNew: (path: string) => boolean; readonly std: (path: string) => number } = {
    isNew: () => false,
    std: () => 0,
  },
): Promise<readonly string[]> {
  const operation = "loadModel";
  const names: Partial<CheckpointNames> = model as Module & Partial<CheckpointNames>;
  const own = new Map(model.namedParameters());
  const aliases = model.sharedPaths();
  const { source } = checkpoint;
  const stored = new Map<string, StoredTensor>(); // by path in the model
  for (const name of checkpoint.tensors.keys()) {
    const path = names.pathOf ? names.pathOf(name) : name;
    if (path !== null && !derived.test(path)) stored.set(path, checkpoint.get(name));
  }
  joinParts(stored, own, names, source);
  const kept = keepingOf(model, options);
  const codes = await readCodes(model, stored, source);
  for (const path of codes.keys()) own.delete(`${path}.weight`);
  const experts = await readExperts(model, stored, source);
  for (const path of experts.keys()) own.delete(path);
  const fresh = [...own].filter(([path, { shape }]) => isNew(path) && !sameShape(stored.get(path)?.shape ?? [], shape));
  for (const [path] of fresh) own.delete(path);
  for (const [path, parameter] of own) {
    const found = stored.get(path);
    if (!found)
      throw new FormatError(`${source} lacks "${names.nameOf?.(path) ?? path}".`, {
        operation,
        expected: path,
        ...hint(path, checkpoint.tensors.keys()),
      });
    if (!sameShape(found.shape, parameter.shape))
      throw new ShapeError(`"${path}" is ${wordShape(found.shape)} in ${source}, ${wordShape(parameter.shape)} by config.json.`, {
        operation,
        expected: parameter.shape,
        got: found.shape,
      });
    if (!isFloat(found.dtype))
      throw new FormatError(`"${path}" holds ${found.storedDType} values in ${source}.`, {
        operation,
        got: found.storedDType,
        hint: "Of quantised checkpoints those of bitsandbytes are known.",
      });
  }
  for (const [path, tensor] of stored)
    if (!own.has(path) && !aliases.has(path) && !isNew(path) && !(await addsNothing(path, tensor, own)))
      throw new FormatError(`"${path}" of ${source} is not a parameter of this model.`, {
        operation,
        got: path,
        ...hint(path, own.keys()),
      });
  await refuseUntied(model, stored, source);
  for (const [path, weight] of codes) replaceByCodes(model, path, weight);
  for (const { layer, parameter, weight } of experts.values()) replaceByCodes(model, layer, weight, parameter);
  for (const [path, parameter] of fresh) {
    const values = path.endsWith(".bias") ? zeros : parameter.shape.length < 2 ? ones : normal({ std: std(path) });
    parameter.replace(upload(currentDevice(), values(parameter.shape), parameter.shape, "float32"));
  }
  for (const [path, parameter] of own) {
    const found = stored.get(path) as StoredTensor;
    const layer = kept.codes.get(parameter);
    if (layer !== undefined) {
      const { values, shape } = asMatrix(model.getModule(layer), toFloat32(await found.load(), found.dtype), found.shape);
      replaceByCodes(model, layer, quantiseWeight(values, shape, kept.quantiser), parameter);
      continue;
    }
    const dtype = kept.matrices.has(parameter) ? kept.dtypeOf(found) : "float32";
    await fill(parameter, found, dtype);
  }
  structure.value = structure.stored + 1; // dtypes may have changed
  return fresh.map(([path]) => path);
}

/** Which parameters are kept in another form than float32. @throws {ConfigError} for options that do not exist */
function keepingOf(model: Module, { dtype = "float32", quantise }: KeepOptions) {
  const operation = "loadModel";
  if (dtype !== "auto" && !Object.hasOwn(narrowing, dtype))
    throw new ConfigError(`\`dtype\` (= ${JSON.stringify(dtype)}) must be float32, float16, bfloat16 or auto.`, {
      operation,
      got: dtype,
    });
  const matrices = [...model.namedModules()].flatMap(([, module]) => {
    if (module instanceof Experts) return matricesOf(module);
    return module instanceof Linear || module instanceof Conv1D || module instanceof Embedding ? [module.weight] : [];
  });
  return {
    matrices: new Set(matrices),
    dtypeOf: (found: StoredTensor): SavedDType =>
      dtype === "auto" ? (found.dtype === "float64" ? "float32" : (found.dtype as SavedDType)) : dtype,
    /** By the parameter, the path of its layer. */
    codes: new Map(
      quantise
        ? layersToQuantise(model, quantise.skip).flatMap(([path, layer]) =>
            matricesOf(layer).map((matrix) => [matrix, path] as const),
          )
        : [],
    ),
    quantiser: quantiserOptions(operation, quantise ?? {}),
  };
}

/** The weights that a checkpoint holds as codes, by path of their layer; their tensors are taken out of `stored`. */
async function readCodes(
  model: Module,
  stored: Map<string, StoredTensor>,
  source: string,
): Promise<ReadonlyMap<string, QuantisedWeight>> {
  const operation = "loadModel";
  const found = new Map<string, QuantisedWeight>();
  const modules = new Map(model.namedModules());
  for (const path of quantisedPaths(stored.keys())) {
    const layer = modules.get(path);
    if (!(layer instanceof Linear || layer instanceof Conv1D))
      throw new FormatError(`"${path}" of ${source} is quantised, but is not a linear layer of this model.`, {
        operation,
        got: path,
        ...hint(path, modules.keys()),
      });
    const weight = await readQuantised(stored, path, { source, dynamic: dynamicMap() });
    const { shape } = layer.weight;
    const expected = layer instanceof Conv1D ? [...shape].reverse() : shape;
    if (!sameShape(weight.shape, expected))
      throw new ShapeError(`"${path}" is ${wordShape(weight.shape)} in ${source}, ${wordShape(expected)} by config.json.`, {
        operation,
        expected,
        got: weight.shape,
      });
    for (const name of quantisedNames(path, stored.keys())) stored.delete(name);
    found.set(path, weight);
  }
  return found;
}

/** The matrices of experts that a checkpoint holds in four bits, by path; their tensors are taken out of `stored`. */
async function readExperts(model: Module, stored: Map<string, StoredTensor>, source: string) {
  const found = new Map<string, { layer: string; parameter: Parameter; weight: QuantisedWeight }>();
  const modules = new Map(model.namedModules());
  for (const path of mxfp4Paths(stored.keys())) {
    const [layer, name] = [path.slice(0, path.lastIndexOf(".")), path.slice(path.lastIndexOf(".") + 1)];
    const module = modules.get(layer);
    const parameter = module instanceof Experts ? new Map(module.matrices()).get(name as "down_proj") : undefined;
    if (!(module instanceof Experts && parameter instanceof Parameter))
      throw new FormatError(`"${path}" of ${source} is in four bits, but is no matrix of experts of this model.`, {
        operation: "loadModel",
        got: path,
      });
    const [E, a, b] = parameter.shape as [number, number, number];
    const shape = module.isTransposed ? ([E, b, a] as const) : ([E, a, b] as const);
    found.set(path, { layer, parameter, weight: await takeMxfp4(stored, path, shape, source) });
  }
  return found;
}

/** Values that are in memory at once besides the model: 16 MB of float32. */
const partSize = 2 ** 22;

/** Writes a tensor into the memory of a parameter, part by part; memory that does not suit it is given back before. */
async function fill(parameter: Parameter, stored: StoredTensor, dtype: SavedDType): Promise<void> {
  const { shape, size } = parameter;
  const device = currentDevice();
  const bytes = size * device.storageBytes(dtype);
  const { storage } = parameter.stored;
  if (storage?.device !== device || parameter.dtype !== dtype || (storage.buffer as Buffer).bytes < bytes) {
    parameter.stored.dispose();
    parameter.replace(buffer(shape, dtype, newStorage(device, dtype, size)));
  }
  const to = (parameter.stored.storage as Storage).buffer as Buffer;
  for (let from = 0; from < size; from += partSize) {
    const part = await stored.load(from, Math.min(from + partSize, size));
    const values = dtype === stored.dtype ? part : narrowing[dtype](toFloat32(part, stored.dtype));
    device.upload(values, dtype, { buffer: to, offset: from * device.storageBytes(dtype) });
  }
}

/** A bias of zeros on a layer that has none, as AutoGPTQ wrote them. */
async function addsNothing(path: string, tensor: StoredTensor, own: ReadonlyMap<string, Parameter>): Promise<boolean> {
  if (!path.endsWith(".bias") || !own.has(path.replace(/bias$/, "weight"))) return false;
  return toFloat32(await tensor.load(), tensor.dtype).every((value) => value === 0);
}

/** A checkpoint that holds a second name of a shared weight holds the same values under it. */
async function refuseUntied(model: Module, stored: ReadonlyMap<string, StoredTensor>, source: string): Promise<void> {
  const first = new Map([...model.namedParameters()].map(([path, parameter]) => [parameter, path]));
  for (const [at, module] of model.namedModules())
    for (const [name, parameter] of module.ownParameters()) {
      const path = at === "" ? name : `${at}.${name}`;
      const [shared, own] = [stored.get(first.get(parameter) as string), stored.get(path)];
      if (!shared || !own || shared === own) continue;
      if (!(await sameValues(shared, own)))
        throw new FormatError(`"${path}" of ${source} is not "${first.get(parameter)}", which config.json says it shares.`, {
          operation: "loadModel",
          got: path,
          hint: "Set `tie_word_embeddings` in config.json to false.",
        });
    }
}

async function sameValues(a: StoredTensor, b: StoredTensor): Promise<boolean> {
  const size = sizeOf(a.shape);
  if (size !== sizeOf(b.shape)) return false;
  for (let from = 0; from < size; from += partSize) {
    const to = Math.min(from + partSize, size);
    const [x, y] = [toFloat32(await a.load(from, to), a.dtype), toFloat32(await b.load(from, to), b.dtype)];
    if (x.some((value, i) => value !== y[i])) return false;
  }
  return true;
}

/** Float32 values as they are stored. */
export const narrowing: Readonly<Record<SavedDType, (values: TypedArray) => TypedArray>> = {
  float32: (values) => values,
  float16: (values) => Uint16Array.from(values, toFloat16Bits),
  bfloat16: (values) => Uint16Array.from(values, toBFloat16Bits),
};

function hint(name: string, names: Iterable<string>): { hint?: string } {
  const near = nearestName(name, names);
  return near ? { hint: `The nearest is "${near}".` } : {};
}
