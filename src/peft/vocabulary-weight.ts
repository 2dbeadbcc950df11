/**
 * Whole weights of the input embedding and the output layer in adapter files. PEFT puts them beside an adapter of these layers, because
 * words may have been added to the vocabulary, and they take the place of the model's where the file is loaded.
 */
import { download, upload } from "../compile/program.ts";
import type { Device } from "../devices/device.ts";
import { ConfigError, ShapeError, wordShape } from "../errors.ts";
import { hasFileSystem } from "../formats/hub-settings.ts";
import { nodeModule } from "../formats/node-module.ts";
import { toFileKey } from "../formats/peft-adapter.ts";
import type { StoredTensor } from "../formats/safetensors.ts";
import { toFloat32 } from "../graph/dtype.ts";
import { cast } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { sameShape } from "../graph/shape.ts";
import type { Module, Parameter } from "../nn/module.ts";
import { type Adapter, adaptersOf, baseModules } from "./adapted-model.ts";
import type { AnyConfig } from "./method-config.ts";
import { fullMatch } from "./python-regex.ts";
import { embeddingNames, inputEmbedding, outputLayer } from "./tied-weight.ts";

/** Paths of the two layers that belong to the vocabulary. */
function vocabularyLayers(modules: ReadonlyMap<string, Module>): string[] {
  return [inputEmbedding(modules)?.path, outputLayer(modules)].filter((path) => path !== undefined);
}

/** When whole weights of the vocabulary's layers go into the file: `"auto"` when they are targets or the vocabulary has grown. */
export type SaveEmbeddingLayers = boolean | "auto";

/**
 * The weights that go into the file, by their names there.
 *
 * @param baseModel name or folder of the base model; in a folder its config tells how large the vocabulary was
 */
export async function vocabularyWeights(
  model: Module,
  { method, config }: Pick<Adapter, "method" | "config">,
  option: SaveEmbeddingLayers,
  baseModel: unknown,
): Promise<Map<string, Parameter>> {
  if (option !== "auto" && typeof option !== "boolean")
    throw new ConfigError(`\`saveEmbeddingLayers\` (= ${JSON.stringify(option)}) must be true, false or "auto".`, {
      operation: "saveAdapter",
      got: option,
    });
  const modules = baseModules(model);
  const targeted = isTargeted(config, modules);
  const rowsOnly = method.peftType === "TRAINABLE_TOKENS" || (config["trainableTokenIndices"] ?? null) !== null;
  const found = new Map<string, Parameter>();
  if (option === "auto" ? !(targeted && !rowsOnly) && !(await hasGrown(model, baseModel)) : !option) return found;
  const adapted = adaptersOf(model);
  for (const path of vocabularyLayers(modules)) {
    const isAdapted = adapted?.layers.has(path);
    // what is trained as a whole is in the file anyway
    if (adapted?.saved.has(path) || (targeted && !isAdapted)) continue;
    const inside = rowsOnly && method.peftType !== "TRAINABLE_TOKENS" ? ".token_adapter.base_layer" : ".base_layer";
    for (const [name, parameter] of (modules.get(path) as Module).ownParameters())
      found.set(toFileKey(`${path}${isAdapted ? inside : ""}.${name}`), parameter);
  }
  return found;
}

/** PEFT's rule, which knows the two layers by name. */
function isTargeted({ targetModules }: AnyConfig, modules: ReadonlyMap<string, Module>): boolean {
  if (Array.isArray(targetModules)) return embeddingNames.some((name) => targetModules.includes(name));
  if (typeof targetModules !== "string") return false;
  const means = fullMatch(targetModules, "saveAdapter", "targetModules");
  return [...modules.keys()].some((path) => embeddingNames.includes(path.slice(path.lastIndexOf(".") + 1)) && means(path));
}

/** Whether the vocabulary has another size than in the base model's folder. */
async function hasGrown(model: Module, baseModel: unknown): Promise<boolean> {
  const now = (model as { readonly config?: { readonly vocabSize?: unknown } }).config?.vocabSize;
  if (typeof baseModel !== "string" || typeof now !== "number" || !hasFileSystem()) return false;
  const file = nodeModule("path", "saveAdapter").join(baseModel, "config.json");
  const text = await nodeModule("fs/promises", "saveAdapter")
    .readFile(file, "utf8")
    .catch(() => undefined); // a name on the Hub: nothing is known of it
  const before = text === undefined ? undefined : (JSON.parse(text) as { readonly vocab_size?: unknown }).vocab_size;
  return typeof before === "number" && before !== now;
}

/** The model's parameter that a name in the file means, when it is a whole weight and not the adapter's. */
function meaning(name: string, modules: ReadonlyMap<string, Module>, adapted: (path: string) => boolean): Parameter | undefined {
  const plain = name.replace(/^base_model\.model\./, "");
  const path = plain.replace(/(\.token_adapter)?\.base_layer\.(weight|bias)$/, ".$2");
  const layer = path.slice(0, path.lastIndexOf("."));
  const known = vocabularyLayers(modules).includes(layer) || (path !== plain && adapted(layer));
  const own = known ? (modules.get(layer) as Module).ownParameters() : [];
  return [...own].find(([leaf]) => `${layer}.${leaf}` === path)?.[1];
}

/** Whole weights in a file, by their names there. @param used names that are the adapter's */
export function findWeights(
  stored: ReadonlyMap<string, StoredTensor>,
  used: ReadonlySet<string>,
  modules: ReadonlyMap<string, Module>,
  adapted: (path: string) => boolean,
): Map<string, Parameter> {
  const found = new Map<string, Parameter>();
  for (const [name, tensor] of stored) {
    const own = used.has(name) ? undefined : meaning(name, modules, adapted);
    if (!own) continue;
    if (!sameShape(tensor.shape, own.shape))
      throw new ShapeError(`${name} is ${wordShape(tensor.shape)} in the file, ${wordShape(own.shape)} in the model.`, {
        operation: "loadAdapter",
        expected: own.shape,
        got: tensor.shape,
        hint: "The adapter was made for a model with another vocabulary.",
      });
    found.set(name, own);
  }
  return found;
}

/** Those of the weights that differ from the model's. */
export async function readWeights(
  stored: ReadonlyMap<string, StoredTensor>,
  found: ReadonlyMap<string, Parameter>,
): Promise<Map<Parameter, Tensor>> {
  const changed = new Map<Parameter, Tensor>();
  for (const [name, parameter] of found) {
    const tensor = stored.get(name) as StoredTensor;
    const own = parameter.stored;
    const [theirs, ours] = [toFloat32(await tensor.load(), tensor.dtype), toFloat32(await download(own), own.dtype)];
    if (theirs.every((value, i) => value === ours[i])) continue;
    changed.set(parameter, cast(upload(own.storage?.device as Device, theirs, own.shape, "float32"), own.dtype));
  }
  return changed;
}
