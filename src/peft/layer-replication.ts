/**
 * The option `layerReplication`: the model's layers are put together anew from ranges of its own, some several times. A repeated layer has
 * the weights of the first, but a place, and so adapters, of its own.
 *
 * @see https://huggingface.co/docs/peft/developer_guides/lora#memory-efficient-layer-replication-with-lora
 */
import { ConfigError } from "../errors.ts";
import type { Tensor } from "../graph/node.ts";
import { structure } from "../graph/variable.ts";
import { Module, type Parameter, withParts } from "../nn/module.ts";
import { AdapterLayer } from "./adapter-layer.ts";
import type { CalledLayer } from "./layer-kind.ts";

/** A module once more: the same weights, with children of its own in the places of the module's while it runs. */
class Replica extends Module {
  readonly #original: Module;
  readonly #place: number | null;

  /** @param place number of a whole layer in the model; `null` for modules inside */
  constructor(original: Module, place: number | null = null) {
    super();
    this.#original = original;
    this.#place = place;
    const again = (child: Module) => ([...child.children()].length > 0 ? new Replica(child) : child);
    for (const [name, value] of Object.entries(original)) {
      if (value instanceof Module) Object.assign(this, { [name]: again(value) });
      else if (Array.isArray(value) && value.some((item) => item instanceof Module))
        Object.assign(this, { [name]: value.map((item) => (item instanceof Module ? again(item) : item)) });
      else Object.defineProperty(this, name, { get: () => Reflect.get(original, name) });
    }
    this.training = original.training;
  }

  override get training(): boolean {
    return super.training;
  }

  override set training(on: boolean) {
    super.training = on;
    if (this.#original) this.#original.training = on;
  }

  override *ownParameters(): Generator<[name: string, parameter: Parameter]> {
    yield* this.#original.ownParameters();
  }

  forward(x: Tensor, ...more: unknown[]): Tensor {
    const given = more.map((each) => this.#placed(each));
    return withParts(this.#original, Object.fromEntries(Object.entries(this)), () =>
      (this.#original as CalledLayer).forward(x, ...given),
    );
  }

  /** The pass through the model, as one in which this layer has its own place in cache and past. */
  #placed(given: unknown): unknown {
    const isPass = typeof given === "object" && given !== null && "past" in given && "update" in given;
    return this.#place !== null && isPass ? { ...given, layer: this.#place } : given;
  }
}

/** Where a model has its layers. */
interface LayerList {
  readonly holder: Record<string, unknown>;
  readonly name: string;
  readonly layers: readonly Module[];
}

/** As PEFT looks for them: below `model`s and `bert`, the list `layers`, `encoder.layer` or `h`. */
function findLayers(model: Module): LayerList | undefined {
  const child = (of: unknown, name: string) => (of as Record<string, unknown>)[name];
  let at: unknown = model;
  while (child(at, "model") instanceof Module) at = child(at, "model");
  if (child(at, "bert") instanceof Module) at = child(at, "bert");
  const places = [
    [at, "layers"],
    [child(at, "encoder") ?? {}, "layer"],
    [at, "h"],
  ] as const;
  for (const [holder, name] of places) {
    const layers = child(holder, name);
    if (Array.isArray(layers) && layers.length > 0 && layers.every((layer) => layer instanceof Module))
      return { holder: holder as Record<string, unknown>, name, layers };
  }
  return undefined;
}

/** A model whose layers are put together anew, ready to be put in place and taken out again. */
export interface Replication {
  readonly map: readonly (readonly [number, number])[];
  /** Puts the new layers in the places of the old, and their number into the model's config. */
  apply(): void;
  /** The other way. */
  restore(): void;
}

/** The replication that an adapter wants, where the model does not have it already. @throws {ConfigError} when it has another */
export function newReplication(model: Module, wanted: unknown, present: Replication | null): Replication | null {
  const map = (wanted ?? null) as Replication["map"] | null;
  if (map === null) return null;
  if (present === null) return replicateLayers(model, map);
  if (JSON.stringify(map) === JSON.stringify(present.map)) return null;
  throw new ConfigError(`the model's layers are put together as ${JSON.stringify(present.map)} already.`, {
    operation: "attach",
    got: map,
    hint: "All adapters of a model that have `layerReplication` must have the same one.",
  });
}

/**
 * What `layerReplication` makes of a model.
 *
 * @param map ranges [start, end) of layers
 * @throws {ConfigError} for a model whose layers are not found, ranges outside of them, or layers that are adapted already
 */
function replicateLayers(model: Module, map: readonly (readonly [number, number])[]): Replication {
  const operation = "attach";
  const found = findLayers(model);
  if (!found)
    throw new ConfigError("`layerReplication` finds no list of layers in this model.", {
      operation,
      got: model.constructor.name,
      hint: "It works for models like Llama and BERT.",
    });
  const { holder, name, layers } = found;
  for (const [start, end] of map)
    if (start < 0 || end > layers.length || start >= end)
      throw new ConfigError(
        `\`layerReplication\` has [${start}, ${end}], which is not a range of the ${layers.length} layers (from 0, the end not counted).`,
        { operation, got: map },
      );
  if (map.length === 0)
    throw new ConfigError("`layerReplication` is empty: no layer would be left.", { operation, got: map, hint: "Leave it out." });
  if (layers.some((layer) => [...layer.namedModules()].some(([, module]) => module instanceof AdapterLayer)))
    throw new ConfigError("the layers are adapted already, so `layerReplication` cannot put them together anew.", {
      operation,
      got: map,
      hint: "Attach the adapter with `layerReplication` first.",
    });
  const order = map.flatMap(([start, end]) => Array.from({ length: end - start }, (_, i) => start + i));
  // a layer that stays where it was is the layer itself
  const next = order.map((index, place) => {
    const layer = layers[index] as Module;
    return index === place ? layer : new Replica(layer, place);
  });
  const { config } = model as { readonly config?: { numHiddenLayers?: number } };
  const put = (list: readonly Module[]) => {
    holder[name] = list;
    if (config && "numHiddenLayers" in config) config.numHiddenLayers = list.length;
    structure.value = structure.stored + 1;
  };
  return { map, apply: () => put(next), restore: () => put(layers) };
}
