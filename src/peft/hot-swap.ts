/** Other values in the place of an adapter's: compiled programs go on with them. */
import { upload } from "../compile/program.ts";
import type { Device } from "../devices/device.ts";
import { ConfigError, checkOptions, wordJson } from "../errors.ts";
import { defaultAdapterName } from "../formats/peft-adapter.ts";
import type { TypedArray } from "../graph/dtype.ts";
import { Tensor } from "../graph/node.ts";
import { assignAll, structure } from "../graph/variable.ts";
import { type Module, Parameter } from "../nn/module.ts";
import { TorchGenerator } from "../random/torch-generator.ts";
import { type Adapter, adaptedModel, getAdapter } from "./adapted-model.ts";
import { readFor } from "./adapter-file.ts";
import type { AdapterLayer, LayerAdapter } from "./adapter-layer.ts";
import { startTensor } from "./attach.ts";
import type { PlannedLayer } from "./attach-plan.ts";
import type { ParameterSpec, Start } from "./method.ts";
import type { AnyConfig } from "./method-config.ts";
import { scalingOf } from "./methods/lora.ts";
import { filled, times } from "./weight-change.ts";

const operation = "hotSwap";
const loraType = "LORA";

/** Which adapter gets other values. */
export interface HotSwapOptions {
  /** "default" when absent. */
  readonly name?: string;
}

/**
 * Makes room in a LoRA adapter for all that will come with `hotSwap`: its A and B get `rank` rows and columns, with zeros in the new
 * ones, and its scaling goes into B. Programs are compiled once more after this, and not again.
 *
 * @param options.rank at least that of every layer
 * @throws {ConfigError} for another method, a smaller rank, or convolutions in groups, whose rows belong to groups
 */
export function prepareHotSwap(model: Module, options: HotSwapOptions & { readonly rank: number }): void {
  const { name = defaultAdapterName, rank } = checkOptions("prepareHotSwap", options, {
    name: "a string",
    rank: "a whole number from 1",
  });
  const adapter = getAdapter(model, name, "prepareHotSwap");
  const refuse = (why: string, got: unknown, hint?: string): never => {
    throw new ConfigError(why, { operation: "prepareHotSwap", got, ...(hint === undefined ? {} : { hint }) });
  };
  if (adapter.method.peftType !== loraType)
    refuse(`the adapter "${name}" (${adapter.method.peftType}) has no rank to make room in; only LoRA has.`, name);
  refuseMerged(adapter, "prepareHotSwap");
  const roomy = { r: rank, loraAlpha: rank, useRslora: false, rankPattern: {}, alphaPattern: {} };
  const made = [...adapter.layers].map(([path, layer]) => {
    const own = layer.adapters.get(name) as LayerAdapter;
    const { A, B, bias } = own.parameters;
    if (!A || !B || own.tied) return refuse(`${path} has parameters that are not its own A and B.`, path);
    const have = A.shape[0] as number;
    if (!Number.isInteger(rank) || rank < have) refuse(`\`rank\` (= ${rank}) must be at least the ${have} of ${path}.`, rank);
    if (B.shape[1] !== have) refuse(`${path} is a convolution in groups.`, path, "Take it out with `excludeModules`.");
    const s = scalingOf(own);
    const parameter = (value: Tensor, { requiresGrad }: Parameter) => new Parameter(value, { requiresGrad });
    const parameters = {
      ...own.parameters,
      A: parameter(filled(A.stored, 0, rank), A),
      B: parameter(filled(times(B.stored, s), 1, rank), B),
      ...(bias ? { bias: parameter(times(bias.stored, s), bias) } : {}),
    };
    return { layer, next: { ...own, config: { ...own.config, ...roomy }, parameters } };
  });
  for (const { layer, next } of made) layer.add(name, next);
  adapter.config = { ...adapter.config, ...roomy };
  structure.value = structure.stored + 1;
}

/**
 * Puts the values of the adapter saved in `folder` into the place of those of `name`. Nothing is compiled again: the values go where
 * the old ones were. A LoRA may have another scaling, which goes into B, and smaller ranks, which are filled with zeros (see
 * `prepareHotSwap`); in layers that it does not have, the adapter does nothing from now on. The adapter keeps its config, by which it
 * is saved: its files are the same function in other words.
 *
 * @throws {ConfigError} for another method or settings, more layers, or larger ranks; @throws {FormatError}, {ShapeError} as
 *   `loadAdapter`. Nothing is changed then.
 * @see https://huggingface.co/docs/peft/package_reference/hotswap
 */
export async function hotSwap(model: Module, folder: string, options: HotSwapOptions = {}): Promise<void> {
  const { name = defaultAdapterName } = checkOptions("hotSwap", options, { name: "a string" });
  const adapter = getAdapter(model, name, operation);
  refuseMerged(adapter, operation);
  if (adapter.isPrompt)
    throw new ConfigError(`the adapter "${name}" (${adapter.method.peftType}) has virtual tokens, which are not swapped.`, {
      operation,
      got: name,
      hint: "Load the other one beside it, and call setActive.",
    });
  const { adapters } = adaptedModel(model, operation);
  let free = `${name}-next`; // of what is planned, and never attached
  while (adapters.has(free)) free += "-next";
  const { plan, starts } = await readFor(operation, model, folder, { name: free });
  const refuse = (why: string, got: unknown, hint?: string): never => {
    throw new ConfigError(`${wordJson(folder)} ${why}`, { operation, got, ...(hint === undefined ? {} : { hint }) });
  };
  if (plan.method !== adapter.method)
    refuse(
      `holds an adapter of ${plan.method.peftType}, "${name}" is one of ${adapter.method.peftType}, or of another kind of it.`,
      folder,
    );
  const more = plan.layers.filter(({ path }) => !adapter.layers.has(path)).map(({ path }) => path);
  if (more.length > 0) refuse(`adapts ${more.join(", ")}, which "${name}" does not.`, more, "Load it as another adapter.");
  if ([...plan.saved.keys()].sort().join() !== [...adapter.saved.keys()].sort().join() || (starts.base?.size ?? 0) > 0)
    refuse(`trains other modules as a whole than "${name}".`, [...plan.saved.keys()], "Load it as another adapter.");
  const device = model.parameters()[0]?.stored.storage?.device as Device;
  const pairs: [Parameter, Tensor][] = [];
  const put = (parameters: Readonly<Record<string, Parameter>>, values: Start["values"], shapes: Shapes) => {
    for (const [key, parameter] of Object.entries(parameters)) {
      const { shape, ...spec } = shapes[key] ?? { shape: [] };
      // a parameter of several layers gets its value with the first of them
      if (spec.of === undefined) pairs.push([parameter, startTensor(device, values[key] as TypedArray, { ...spec, shape })]);
    }
  };
  const planned = new Map(plan.layers.map((layer) => [layer.path, layer]));
  const shared = starts.shared();
  for (const [path, layer] of adapter.layers) {
    const own = layer.adapters.get(name) as LayerAdapter;
    if (own.tied) continue;
    const there = planned.get(path);
    if (!there) {
      put(own.parameters, nothing(adapter, layer, own), own.method.parameters(layer.base(), own.config));
      continue;
    }
    const differing = differences(adapter, own, there);
    if (differing) refuse(`has another \`${differing}\` for ${path} than "${name}".`, there.config[differing]);
    const { values } = starts.layer(there, shared);
    if (adapter.method.peftType !== loraType || !own.parameters["A"]) put(own.parameters, values, there.specs);
    else put(own.parameters, scaledValues(path, values, there, own, device), {});
  }
  put(adapter.shared, shared, plan.shared);
  for (const [path, { copies }] of adapter.saved)
    for (const [key, parameter] of copies.get(name) as ReadonlyMap<string, Parameter>)
      pairs.push([parameter, starts.whole?.(`${path}.${key}`) as Tensor]);
  assignAll(pairs);
}

type Shapes = Readonly<Record<string, ParameterSpec>>;

function refuseMerged({ name, layers, saved }: Adapter, by: string): void {
  const merged = [...layers.values(), ...saved.values()].some(({ merged }) => merged?.includes(name));
  if (merged)
    throw new ConfigError(`the adapter "${name}" is merged.`, { operation: by, got: name, hint: "Call unmerge first." });
}

/** The first setting that makes another function of the same values. Those of the start and of training do not, nor what goes into B. */
function differences({ method }: Adapter, own: LayerAdapter, { config, method: of }: PlannedLayer): string | undefined {
  const scales = method.peftType === loraType ? ["r", "loraAlpha", "useRslora"] : [];
  const aside = new Set<string>([...scales, ...Object.keys(method.patterns ?? {}), "bias", "ensureWeightTying"]);
  if (own.method !== of) return "trainableTokenIndices";
  return (method.keys as readonly string[]).find(
    (key) =>
      !aside.has(key) &&
      !/^init|[dD]ropout$/.test(key) &&
      wordJson(own.config[key], Number.POSITIVE_INFINITY) !== wordJson(config[key], Number.POSITIVE_INFINITY),
  );
}

/** LoRA's values in the rank and with the scaling that the adapter has. */
function scaledValues(
  path: string,
  values: Start["values"],
  { config, specs }: PlannedLayer,
  own: LayerAdapter,
  device: Device,
): Record<string, Tensor> {
  const [have, rank] = [config, own.config].map((each: AnyConfig) => each["r"] as number) as [number, number];
  if (have > rank)
    throw new ConfigError(`the rank of ${path} is ${have} in the file, and there is room for ${rank}.`, {
      operation,
      got: have,
      expected: rank,
      hint: `Call prepareHotSwap(model, { rank: ${have} }) before compiling.`,
    });
  const ratio = scalingOf({ config }) / scalingOf(own);
  const shaped = Object.entries(values).map(([key, value]) => {
    const x = value instanceof Tensor ? value : upload(device, value, specs[key]?.shape ?? [], "float32");
    if (key === "A") return [key, filled(x, 0, rank)] as const;
    if (key === "B") {
      if (x.shape[1] !== have && have !== rank)
        throw new ConfigError(`${path} is a convolution in groups, whose rank cannot change.`, { operation, got: path });
      return [key, x.shape[1] === have ? filled(times(x, ratio), 1, rank) : times(x, ratio)] as const;
    }
    return [key, key === "bias" ? times(x, ratio) : x] as const;
  });
  return Object.fromEntries(shaped);
}

/** Values with which the adapter does nothing in a layer. */
function nothing({ method, config }: Adapter, layer: AdapterLayer, own: LayerAdapter): Start["values"] {
  // what all methods call `init…Weights` is at true the start that does nothing, where they have one
  const fresh = Object.fromEntries(Object.keys(config).flatMap((key) => (/^init.*Weights$/.test(key) ? [[key, true]] : [])));
  const found =
    !method.perLayer && method.startsAtZero?.({ ...config, ...fresh })
      ? own.method.initialise(layer.base(), { ...own.config, ...fresh }, new TorchGenerator(0))
      : undefined;
  if (found && !found.weight) return found.values;
  throw new ConfigError(
    `the file has nothing for ${layer.path}, and no values of ${method.peftType} with this config do nothing.`,
    {
      operation,
      got: layer.path,
      hint: "Load it as another adapter.",
    },
  );
}
