/** The tensors of an adapter's file: what each is called, and how those of a plan are found in it, checked and read. */
import { currentDevice, upload } from "../compile/program.ts";
import type { Device } from "../devices/device.ts";
import { FormatError, ShapeError, wordShape } from "../errors.ts";
import { toFileKey } from "../formats/peft-adapter.ts";
import type { StoredTensor } from "../formats/safetensors.ts";
import { type TypedArray, toFloat32 } from "../graph/dtype.ts";
import type { Tensor } from "../graph/node.ts";
import { type Shape, sameShape } from "../graph/shape.ts";
import type { Module, Parameter } from "../nn/module.ts";
import { baseModules } from "./adapted-model.ts";
import type { AnyAdapterConfig, AttachPlan } from "./attach-plan.ts";
import { type AnyMethod, fileOf, type ParameterSpec } from "./method.ts";
import type { AnyConfig } from "./method-config.ts";
import { checkTable } from "./prompt/prompt-method.ts";
import { findWeights, readWeights } from "./vocabulary-weight.ts";

/** In place of a module's path: parameters of the whole adapter. */
export const sharedPath = "base_model";
/** With `bias: "all"` PEFT writes the biases of modules to save twice more, and does not read them. */
const doubledBias = /\.(modules_to_save|original_module)\.(.+\.)?bias$/;

/** What may be wrong where file and config do not say the same. */
const otherFile = "The adapter may be for another base model, or the config is not its own.";

/** The name in the file, which does not tell the adapter's. */
export const fileKeyOf = (path: string, file: string): string => toFileKey(`${path}.${file}`);

/** Where the parameters of a module stand in the file: PEFT wraps a model once less where no layer is changed. */
export const wholePath = ({ prompt }: AnyMethod, path: string): string => (prompt ? `${sharedPath}.${path}` : path);

/** The name of a parameter of a module that is trained as a whole: as in the model where `modulesToSave` means the module. */
export function wholeFile(adapter: AnyAdapterConfig, path: string, key: string): string {
  const listed = (adapter.config["modulesToSave"] ?? []) as readonly string[];
  const { whole } = adapter.method;
  return whole === undefined || listed.some((name) => path.endsWith(name)) ? key : `${whole}.${key}`;
}

/** A layer's path and the name of its bias, which in an adapted layer is one of the layer under the adapter. */
export function biasPlace(path: string, adapted: { has(path: string): boolean }): [path: string, file: string] {
  const layer = path.slice(0, -".bias".length);
  return [layer, adapted.has(layer) ? "base_layer.bias" : "bias"];
}

/** What a file has for an adapter. */
export interface AdapterValues {
  /** Of layers' parameters by path and key; of those that layers share under `sharedPath`. */
  readonly values: ReadonlyMap<string, Readonly<Record<string, TypedArray | Tensor>>>;
  /** Of virtual tokens, by their names in the file. */
  readonly tables: Readonly<Record<string, Float32Array>>;
  /** Of parameters of the model that are trained as they are, by their paths in it. */
  readonly whole: ReadonlyMap<string, Tensor>;
  /** Base weights of vocabulary layers. */
  readonly base: ReadonlyMap<Parameter, Tensor>;
}

/**
 * Everything that a plan wants from a file: found and checked first, then read.
 *
 * @throws {FormatError} when a tensor is missing or unexpected, or tied layers differ; @throws {ShapeError} when one has another shape
 */
export async function readPlanned(
  model: Module,
  plan: AttachPlan,
  stored: ReadonlyMap<string, StoredTensor>,
): Promise<AdapterValues> {
  const wholes = findWholes(plan, stored);
  const found = findValues(plan, stored);
  const tables = findTables(plan, stored);
  const used = new Set([...found.values(), ...wholes.values(), ...tables.values()].map(({ name }) => name));
  for (const { name } of tiedParameters(plan, stored)) used.add(name);
  const adapted = new Set(plan.layers.map(({ path }) => path));
  const weights = findWeights(stored, used, baseModules(model), (path) => adapted.has(path));
  refuseOthers(plan, stored.keys(), new Set([...used, ...weights.keys()]));
  const values = await readValues(found);
  await checkTied(plan, stored, values);
  const rows = await Promise.all([...tables].map(async ([file, each]) => [file, toFloat32(await each.load(), each.dtype)]));
  const whole = await readWholes(model, wholes);
  return { values, tables: Object.fromEntries(rows), whole, base: await readWeights(stored, weights) };
}

/** The tables of virtual tokens, by their names in the file: found and checked, not read yet. */
function findTables({ method, config }: AttachPlan, stored: ReadonlyMap<string, StoredTensor>): Map<string, StoredTensor> {
  const found = new Map<string, StoredTensor>();
  for (const [file, shape] of Object.entries<Shape>(method.prompt?.tables(config) ?? {})) {
    const tensor = stored.get(file);
    if (!tensor)
      throw new FormatError(`${file} is not in the file.`, { operation: "loadAdapter", expected: file, hint: otherFile });
    checkTable(file, tensor.shape, shape);
    found.set(file, tensor);
  }
  return found;
}

/** A parameter and where the file must have it. */
interface Wanted {
  readonly path: string;
  readonly key: string;
  readonly file: string;
  readonly spec: ParameterSpec;
  /** That of the layer. */
  readonly config: AnyConfig;
}

/** Parameters of the model that are trained as they are, by their paths in it: found and checked, not read yet. */
function findWholes(plan: AttachPlan, stored: ReadonlyMap<string, StoredTensor>) {
  const { saved, biases, layers } = plan;
  const adapted = new Set(layers.map(({ path }) => path));
  const places = [
    ...[...saved].flatMap(([path, module]) =>
      [...module.namedParameters()].map(([name, { shape }]) => ({
        path,
        file: wholeFile(plan, path, name),
        whole: `${path}.${name}`,
        shape,
      })),
    ),
    ...[...biases].map(([whole, { shape }]) => {
      const [path, file] = biasPlace(whole, adapted);
      return { path, file, whole, shape };
    }),
  ];
  const found = new Map<string, StoredTensor>();
  for (const { path, file, whole, shape } of places) {
    const name = fileKeyOf(wholePath(plan.method, path), file);
    const tensor = stored.get(name);
    if (!tensor)
      throw new FormatError(`${whole} is not in the file, but the config says that it is trained.`, {
        operation: "loadAdapter",
        expected: name,
        hint: otherFile,
      });
    if (!sameShape(tensor.shape, shape))
      throw new ShapeError(`${whole} is ${wordShape(tensor.shape)} in the file, ${wordShape(shape)} in the model.`, {
        operation: "loadAdapter",
        expected: shape,
        got: tensor.shape,
        hint: "The adapter was made for another base model.",
      });
    found.set(whole, tensor);
  }
  return found;
}

async function readWholes(model: Module, found: ReadonlyMap<string, StoredTensor>): Promise<Map<string, Tensor>> {
  const device = model.parameters()[0]?.stored.storage?.device as Device;
  const values = new Map<string, Tensor>();
  for (const [path, tensor] of found)
    values.set(path, upload(device, toFloat32(await tensor.load(), tensor.dtype), tensor.shape, "float32"));
  return values;
}

/** Finds and checks the parameters. */
function findValues(plan: AttachPlan, stored: ReadonlyMap<string, StoredTensor>): Map<Wanted, StoredTensor> {
  const operation = "loadAdapter";
  const wanted = plan.layers.flatMap(({ path, method, specs, config, tied }): Wanted[] =>
    tied !== undefined
      ? []
      : Object.entries(specs).flatMap(([key, spec]) =>
          spec.derived ? [] : [{ path, key, file: fileOf(method.files, key), spec, config }],
        ),
  );
  const { shared } = plan.method;
  if (shared && (shared.saved?.(plan.config) ?? true))
    for (const [key, spec] of Object.entries(plan.shared))
      wanted.push({ path: sharedPath, key, file: fileOf(shared.files, key), spec, config: plan.config });
  const found = new Map<Wanted, StoredTensor>();
  for (const each of wanted) {
    const name = fileKeyOf(each.path, each.file);
    // releases of PEFT differ in whether some names end in ".weight"
    const tensor = stored.get(name) ?? stored.get(name.endsWith(".weight") ? name.slice(0, -".weight".length) : `${name}.weight`);
    if (!tensor)
      throw new FormatError(`${each.file} of ${each.path} is not in the file, but the config says that this layer is adapted.`, {
        operation,
        expected: name,
        hint: otherFile,
      });
    const { shape, orShape = shape } = each.spec;
    if (!sameShape(tensor.shape, shape) && !sameShape(tensor.shape, orShape)) throw wrongShape(each, tensor.shape, plan.method);
    found.set(each, tensor);
  }
  return found;
}

/** @throws {FormatError} for a name in the file that is none of the adapter's */
function refuseOthers({ biases }: AttachPlan, names: Iterable<string>, used: ReadonlySet<string>): void {
  for (const name of names)
    if (!used.has(name) && !(biases.size > 0 && doubledBias.test(name)))
      throw new FormatError(`"${name}" belongs to no layer that the config adapts.`, {
        operation: "loadAdapter",
        got: name,
        hint: otherFile,
      });
}

/** By path and key. */
async function readValues(found: ReadonlyMap<Wanted, StoredTensor>) {
  const values = new Map<string, Record<string, TypedArray | Tensor>>();
  for (const [{ path, key, spec }, tensor] of found) {
    const data = toFloat32(await tensor.load(), tensor.dtype);
    const value = sameShape(tensor.shape, spec.shape) ? data : upload(currentDevice(), data, tensor.shape, "float32");
    values.set(path, { ...values.get(path), [key]: value });
  }
  return values;
}

/** Parameters of tied layers that the file has a second time. */
function* tiedParameters({ layers }: AttachPlan, stored: ReadonlyMap<string, StoredTensor>) {
  for (const { path, tied, method, specs } of layers)
    for (const [key, spec] of tied === undefined || method.inFile === "absent" ? [] : Object.entries(specs)) {
      const name = fileKeyOf(path, fileOf(method.files, key));
      const tensor = stored.get(name);
      if (tensor) yield { name, tensor, key, spec, path, tied: tied as string, turned: method.inFile === "transposed" };
    }
}

/** @throws {FormatError} when a tied layer has other values in the file than the layer to which it is tied */
async function checkTied(
  plan: AttachPlan,
  stored: ReadonlyMap<string, StoredTensor>,
  values: ReadonlyMap<string, Readonly<Record<string, TypedArray | Tensor>>>,
): Promise<void> {
  for (const { name, tensor, key, spec, path, tied, turned } of tiedParameters(plan, stored)) {
    const own = values.get(tied)?.[key] as Float32Array;
    const again = toFloat32(await tensor.load(), tensor.dtype);
    const [rows, columns] = turned ? (spec.shape as [number, number]) : [1, own.length];
    const isSame =
      again.length === own.length && own.every((value, i) => value === again[(i % columns) * rows + Math.floor(i / columns)]);
    if (!isSame)
      throw new FormatError(`${path} is tied to ${tied} by the config, but has other values in the file.`, {
        operation: "loadAdapter",
        got: name,
        hint: "Make one adapter of the two, or set `ensure_weight_tying` to false in adapter_config.json.",
      });
  }
}

function wrongShape({ path, file, config, spec }: Wanted, got: readonly number[], { patterns }: AnyMethod): ShapeError {
  const expected = spec.shape;
  const leaf = file.replace(/\.weight$/, "");
  const axis = expected.findIndex((size, i) => size !== got[i]);
  // the option that this axis has its size from: the rank, which patterns may set for each layer
  const option = Object.values(patterns ?? {}).find(
    (key) => got.length === expected.length && config[key as string] === expected[axis],
  ) as string | undefined;
  return new ShapeError(
    `${leaf} of ${path} is ${wordShape(got)} in the file, ${wordShape(expected)} in the config${option === undefined ? "." : ` (${option} = ${expected[axis]}).`}`,
    {
      operation: "loadAdapter",
      expected,
      got,
      hint:
        option === undefined
          ? "The adapter was made for another base model."
          : `The file was made with ${option} = ${got[axis]}.`,
    },
  );
}
