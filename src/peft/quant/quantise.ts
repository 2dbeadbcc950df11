/** Making a model's linear layers hold their weights as codes, and getting it ready to be trained through them: QLoRA. */
import { downloadSync, realize } from "../../compile/program.ts";
import type { Buffer } from "../../devices/device.ts";
import { ConfigError, checkOptions } from "../../errors.ts";
import { cast } from "../../graph/elementwise.ts";
import type { Storage, Tensor } from "../../graph/node.ts";
import { structure } from "../../graph/variable.ts";
import { CodedMatrices, Experts } from "../../models/mixture.ts";
import { Conv1D, Linear } from "../../nn/linear.ts";
import { type Module, type Parameter, requireModule } from "../../nn/module.ts";
import { QuantisedLinear } from "../../nn/quantised-linear.ts";
import { type QuantisedWeight, type QuantiserOptions, quantiserOptions, quantiseWeight } from "../../nn/quantiser.ts";
import { adaptersOf } from "../adapted-model.ts";

/** How a model is quantised. */
export interface QuantiseOptions extends QuantiserOptions {
  /**
   * Layers that keep their floats: a path, the beginning of one up to a dot, or its end, as transformers' `llm_int8_skip_modules`. When
   * absent it is the layer that gives the model's result, which is `lm_head` in most.
   */
  readonly skip?: readonly string[];
}

/** What there is less of afterwards. */
export interface QuantiseReport {
  /** Paths of the layers whose weights are codes now. */
  readonly layers: readonly string[];
  /** Bytes of all parameters, before and after. */
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

/**
 * Replaces the linear layers of `model` (GPT-2's Conv1D, too) by ones that hold their weights as codes, with the numbers of
 * bitsandbytes, and makes codes of experts' matrices. The float weights are given back: tensors that shared their memory are disposed of. Weights that two layers share are
 * left as they are, and so are embeddings.
 *
 * @throws {ConfigError} for options that no quantiser has, a model with adapters on it, weights that are not finite, or when there is
 *   no layer to quantise; the model is unchanged then
 * @example
 * quantise(model, { type: "nf4", doubleQuantise: true, blockSize: 64, skip: ["lm_head"] });
 * prepareForKbitTraining(model);
 * attach(model, lora({ r: 8, loraAlpha: 16, targetModules: "all-linear" }));
 */
export function quantise(model: Module, options: QuantiseOptions = {}): QuantiseReport {
  const operation = "quantise";
  checkOptions(operation, options, {
    type: null,
    blockSize: "a whole number from 1",
    doubleQuantise: "true or false",
    skip: "a list of strings",
  });
  const quantiser = quantiserOptions(operation, options);
  if (adaptersOf(model))
    throw new ConfigError("this model has adapters on it.", { operation, hint: "Quantise first, then attach." });
  const layers = layersToQuantise(model, options.skip);
  const bytesBefore = bytesOf(model);
  const made = layers.flatMap(([path, layer]) =>
    matricesOf(layer).map((parameter) => {
      const stored = downloadSync(cast(parameter.stored, "float32")) as Float32Array;
      const { values, shape } = asMatrix(layer, stored, parameter.shape);
      return [path, parameter, quantiseWeight(values, shape, quantiser)] as const;
    }),
  );
  for (const [path, parameter, weight] of made) replaceByCodes(model, path, weight, parameter);
  return { layers: layers.map(([path]) => path), bytesBefore, bytesAfter: bytesOf(model) };
}

/** The parameters that become codes. */
export const matricesOf = (layer: FloatLayer): readonly Parameter[] =>
  layer instanceof Experts
    ? layer.matrices().flatMap(([, matrix]) => (matrix instanceof CodedMatrices ? [] : [matrix]))
    : [layer.weight];

/**
 * Puts a layer of codes in the place of a linear layer, or codes in the place of experts' matrices. The memory of the floats is given back.
 *
 * @param of of which parameter, for experts
 */
export function replaceByCodes(model: Module, path: string, weight: QuantisedWeight, of?: Parameter): void {
  const layer = model.getModule(path) as FloatLayer;
  if (layer instanceof Experts) {
    const name = layer.gate_up_proj === of ? "gate_up_proj" : "down_proj";
    layer[name] = new CodedMatrices(weight, (of as Parameter).shape[0] as number, layer.isTransposed);
    structure.value = structure.stored + 1;
    (of as Parameter).stored.dispose();
    return;
  }
  const quantised = new QuantisedLinear(weight, layer.bias);
  quantised.training = layer.training;
  model.replaceModule(path, quantised);
  layer.weight.stored.dispose();
}

type FloatLayer = Linear | Conv1D | Experts;

/** The weight of a layer as [out, in], that of experts as [experts · out, in]; values are given as the layer keeps them. */
export function asMatrix(
  layer: Module,
  values: Float32Array,
  weight: readonly number[],
): { readonly values: Float32Array; readonly shape: readonly [out: number, into: number] } {
  const [last, columns] = weight.slice(-2) as [number, number];
  const isTurned = layer instanceof Conv1D || (layer instanceof Experts && layer.isTransposed);
  if (!isTurned) return { values, shape: [values.length / columns, columns] };
  const turned = new Float32Array(values.length);
  for (let first = 0, i = 0; first < values.length; first += last * columns)
    for (let row = 0; row < last; row++)
      for (let column = 0; column < columns; column++) turned[first + column * last + row] = values[i++]!;
  return { values: turned, shape: [values.length / last, last] };
}

/** The layers that are meant, by path. @throws {ConfigError} when `skip` names nothing or everything */
export function layersToQuantise(model: Module, skip: readonly string[] | undefined): (readonly [string, FloatLayer])[] {
  const operation = "quantise";
  requireModule(operation, model);
  const all = [...model.namedModules()].filter(
    (entry): entry is [string, FloatLayer] =>
      entry[1] instanceof Linear ||
      entry[1] instanceof Conv1D ||
      (entry[1] instanceof Experts && matricesOf(entry[1]).length > 0),
  );
  const skipped = skip ?? outputPaths(model);
  const matches = (path: string, item: string) => path.endsWith(item) || path.startsWith(`${item}.`);
  for (const item of skip ?? [])
    if (![...model.namedModules()].some(([path]) => matches(path, item)))
      throw new ConfigError(`no module's path begins or ends with "${item}" of \`skip\`.`, { operation, got: item });
  const shared = sharedParameters(model);
  const isShared = (layer: FloatLayer) => matricesOf(layer).some((parameter) => shared.has(parameter));
  const found = all.filter(([path, layer]) => !isShared(layer) && !skipped.some((item) => matches(path, item)));
  if (found.length === 0)
    throw new ConfigError("there is no linear layer to quantise.", {
      operation,
      got: all.map(([path]) => path),
      hint: "Look at `skip`; layers that share their weight with another stay as they are.",
    });
  return found;
}

/** The layer that gives the result is the one that holds the last parameter, and the output layer, as in transformers. */
function outputPaths(model: Module): string[] {
  const last = [...model.namedModules()].filter(([, module]) => [...module.ownParameters()].length > 0).at(-1);
  return ["lm_head", ...(last ? [last[0]] : [])];
}

/** Parameters that more than one module holds. */
function sharedParameters(model: Module): Set<Parameter> {
  const [seen, shared] = [new Set<Parameter>(), new Set<Parameter>()];
  for (const [, module] of model.namedModules())
    for (const [, parameter] of module.ownParameters()) (seen.has(parameter) ? shared : seen).add(parameter);
  return shared;
}

const bytesOf = (model: Module): number =>
  model.parameters().reduce((sum, { stored }) => sum + ((stored.storage as Storage).buffer as Buffer).bytes, 0);

/**
 * Freezes a model and widens what is left of 16-bit parameters (norms, embeddings, the output layer) to float32, as PEFT's
 * `prepare_model_for_kbit_training`; layers of codes stay. Attaching an adapter freezes, too: what this adds is the widening, and it
 * serves training without an adapter. Where memory is short, run blocks with `checkpoint`.
 */
export function prepareForKbitTraining(model: Module): void {
  requireModule("prepareForKbitTraining", model);
  model.freeze();
  const narrow = model.parameters().filter(({ dtype }) => dtype === "float16" || dtype === "bfloat16");
  const wide = narrow.map(({ stored }) => cast(stored, "float32"));
  realize(wide);
  narrow.forEach((parameter, i) => parameter.replace(wide[i] as Tensor));
  // programs that were traced before read other dtypes
  structure.value = structure.stored + 1;
}
