/**
 * LoRA adapters in GGUF files, as llama.cpp, Ollama and LM Studio put them on a model of their own: for each weight a pair of factors
 * beside its name, and one α for all, of which the reader makes W + α/r·B·A.
 *
 * @see https://github.com/ggml-org/llama.cpp/blob/master/convert_lora_to_gguf.py
 */
import { download } from "../compile/program.ts";
import { ConfigError, checkOptions, refusalOf, under, wordJson } from "../errors.ts";
import { writeFileAtomically } from "../formats/atomic-file.ts";
import { type GgufPlaces, ggufPlaces } from "../formats/gguf-model.ts";
import { encodeGguf, type GgufEntry, type GgufTensorToWrite } from "../formats/gguf-writer.ts";
import { defaultAdapterName } from "../formats/peft-adapter.ts";
import { toFloat16Bits, toFloat32 } from "../graph/dtype.ts";
import type { CheckpointNames } from "../models/checkpoint-name.ts";
import type { Module } from "../nn/module.ts";
import { type Adapter, getAdapter } from "./adapted-model.ts";
import type { AdapterLayer, LayerAdapter } from "./adapter-layer.ts";
import { alora } from "./methods/alora.ts";
import { type LoraConfig, lora, scalingOf } from "./methods/lora.ts";
import { toPlainLora } from "./plain-lora.ts";

/** Which adapter is written, and how. */
export interface GgufAdapterOptions {
  /** `"default"` when absent. */
  readonly name?: string;
  /** Of the factors; `"float32"` when absent. */
  readonly dtype?: "float32" | "float16";
}

/**
 * Writes a LoRA adapter for llama.cpp (`llama-cli -m model.gguf --lora adapter.gguf`), beside a GGUF file of its base model as it was
 * before the adapter. Ranks and scales that differ from layer to layer, rsLoRA, and starts that have changed the weights (PiSSA, OLoRA, …) are
 * written so that the same comes out; the words from which on an aLoRA acts are in the file.
 *
 * @throws {ConfigError} for a model that GGUF has no names for, an adapter that is more than LoRA's two factors (`convertToLora` makes
 *   those of most other methods), a layer that such files have no place for, and a path that cannot be written
 */
export async function saveGgufAdapter(model: Module, path: string, options: GgufAdapterOptions = {}): Promise<void> {
  await under("saveGgufAdapter", async () => writeFileAtomically(path, await encodeGgufAdapter(model, options)));
}

/** What `saveGgufAdapter` writes, in memory, for places without a file system. */
export async function encodeGgufAdapter(model: Module, options: GgufAdapterOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
  const operation = "encodeGgufAdapter";
  const { name = defaultAdapterName, dtype = "float32" } = checkOptions(operation, options, {
    name: "a string",
    dtype: ["float32", "float16"],
  });
  const adapter = getAdapter(model, name, operation);
  const { places, placeOf } = placesOf(model, adapter, operation);
  const plain = adapter.taken.size > 0 ? under(operation, () => toPlainLora(adapter)) : undefined;
  const { loraAlpha, aloraInvocationTokens } = adapter.config as LoraConfig;
  // an α of 0 is none at all to llama.cpp
  const alpha = loraAlpha || 1;
  const metadata = new Map<string, GgufEntry>([
    ["general.architecture", places.architecture],
    ["general.type", "adapter"],
    ["general.file_type", { uint32: dtype === "float32" ? 0 : 1 }],
    ["adapter.type", "lora"],
    ["adapter.lora.alpha", { float32: alpha }],
  ]);
  if (adapter.method === alora) metadata.set("adapter.alora.invocation_tokens", { uint32: aloraInvocationTokens ?? [] });
  const tensors = new Map<string, GgufTensorToWrite>();
  for (const [path, layer] of adapter.layers) {
    const own = layer.adapters.get(name) as LayerAdapter;
    const place = placeOf.get(path) as string;
    const factor = async (key: "A" | "B"): Promise<Matrix> => {
      const now = own.parameters[key]!.stored;
      const value = plain?.value(path, key, now) ?? now;
      const [rows, columns] = value.shape as [number, number];
      return { rows, columns, values: toFloat32(await download(value), value.dtype) };
    };
    const [A, B] = [await factor("A"), await factor("B")];
    // llama.cpp multiplies by α/r, with the r of these very factors
    const share = (scalingOf(own) * A.rows) / alpha;
    const heads = headsOf(model, places, path);
    const scaled = share === 1 ? B : { ...B, values: B.values.map((value) => value * share) };
    const put = (side: "a" | "b", { rows, columns, values }: Matrix) =>
      tensors.set(`${place}.lora_${side}`, {
        dtype,
        shape: [rows, columns],
        data: dtype === "float32" ? values : Uint16Array.from(values, toFloat16Bits),
      });
    // of an embedding, rows of A are looked up
    put("a", own.method === lora.layers.embedding ? turned(A) : A);
    put("b", heads === undefined ? scaled : paired(scaled, heads));
  }
  return encodeGguf({ metadata, tensors });
}

/** Why the adapter cannot be in a GGUF file, or `null` where it can. */
export const ggufRefusal = (model: Module, name = defaultAdapterName): ConfigError | null =>
  refusalOf(() => placesOf(model, getAdapter(model, name, "encodeGgufAdapter"), "encodeGgufAdapter"));

interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly values: Float32Array;
}

interface Sizes {
  readonly modelType?: string;
  readonly numAttentionHeads?: number;
  readonly numKeyValueHeads?: number;
  readonly tieWordEmbeddings?: boolean;
}
const sizesOf = (model: Module): Sizes => (model as { readonly config?: Sizes }).config ?? {};

/** What files of the model call its weights, and what the adapter's layers are called in them, by path. */
interface AdapterPlaces {
  readonly places: GgufPlaces;
  readonly placeOf: ReadonlyMap<string, string>;
}

/** @throws {ConfigError} where the model, the adapter or a layer of it has no place in such files */
function placesOf(model: Module, adapter: Adapter, operation: string): AdapterPlaces {
  const { modelType } = sizesOf(model);
  const places = modelType === undefined ? undefined : ggufPlaces(modelType);
  if (!places)
    throw new ConfigError(`a model of the type ${wordJson(modelType ?? null)} has no names in GGUF files.`, {
      operation,
      got: modelType,
      hint: "Save it with saveAdapter.",
    });
  refuseMore(adapter, operation);
  const own = (layer: AdapterLayer) => layer.adapters.get(adapter.name) as LayerAdapter;
  const named = [...adapter.layers].map(
    ([path, layer]) => [path, placeOfLayer(model, places, path, own(layer), operation)] as const,
  );
  return { places, placeOf: new Map(named) };
}

/** @throws {ConfigError} for what is more than two factors for each layer */
function refuseMore({ name, method, config, saved, biases }: Adapter, operation: string): void {
  const refuse = (what: string, hint?: string): never => {
    throw new ConfigError(`the adapter "${name}" ${what}, which GGUF files of adapters have no place for.`, {
      operation,
      got: name,
      ...(hint ? { hint } : {}),
    });
  };
  if (method !== lora && method !== alora) refuse(`is ${method.peftType} and not plain LoRA`, "Make it one with convertToLora.");
  if ((config as LoraConfig).loraBias) refuse("has biases (`loraBias`)");
  if (biases.size > 0) refuse(`trains biases (\`bias\` "${(config as LoraConfig).bias}")`);
  if (saved.size > 0) refuse(`has modules of its own (${[...saved.keys()].join(", ")})`);
}

/** The file's name of a layer's weight. */
function placeOfLayer(model: Module, places: GgufPlaces, path: string, own: LayerAdapter, operation: string): string {
  const { linear, embedding } = lora.layers;
  const isPlain = (own.method === linear || own.method === embedding || own.method === alora.layers.linear) && !own.tied;
  const names = model as Module & Partial<CheckpointNames>;
  const place = isPlain ? places.nameOf(names.nameOf?.(`${path}.weight`) ?? `${path}.weight`) : undefined;
  const isShared = place === "output.weight" && sizesOf(model).tieWordEmbeddings === true;
  if (place === undefined || isShared)
    throw new ConfigError(`${path} has no weight of its own in GGUF files of ${places.architecture} models.`, {
      operation,
      got: path,
      hint: "Take it out with `excludeModules`.",
    });
  return place;
}

/** How many heads the rows of a layer are, where the file has them in another order. */
function headsOf(model: Module, places: GgufPlaces, path: string): number | undefined {
  if (!places.arePaired(`${path}.weight`)) return undefined;
  const { numAttentionHeads, numKeyValueHeads } = sizesOf(model);
  return path.endsWith("q_proj") ? numAttentionHeads : (numKeyValueHeads ?? numAttentionHeads);
}

/** Row 2i + s of a head was row s·D/2 + i; see formats/gguf-change.ts for the way back. */
function paired({ rows, columns, values }: Matrix, heads: number): Matrix {
  const head = rows / heads;
  const moved = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    const within = row % head;
    const from = row - within + (within % 2) * (head / 2) + Math.floor(within / 2);
    moved.set(values.subarray(from * columns, (from + 1) * columns), row * columns);
  }
  return { rows, columns, values: moved };
}

function turned({ rows, columns, values }: Matrix): Matrix {
  return { rows: columns, columns: rows, values: values.map((_, i) => values[(i % rows) * columns + Math.floor(i / rows)]!) };
}
