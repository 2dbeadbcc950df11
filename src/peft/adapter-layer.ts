/**
 * The module that stands in for an adapted layer. It holds the original as `base_layer` and any number of adapters by
 * name; which of them act is the business of the whole model, see attach.ts.
 */
import { add, cast } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { Setting } from "../graph/variable.ts";
import { type Layer, Module, type Parameter } from "../nn/module.ts";
import { dropout, type Generator as KeyGenerator } from "../tensor/random.ts";
import { type KindOfLayer, type LayerKind, layerKinds } from "./layer-kind.ts";
import type { AnyConfig, AnyLayerMethod, Base, Use } from "./method.ts";

/** One adapter's share of one layer. */
export interface LayerAdapter {
  readonly method: AnyLayerMethod;
  /** The adapter's config with the rank, alpha … of this layer. */
  readonly config: AnyConfig;
  readonly parameters: Readonly<Record<string, Parameter>>;
  /** Whether training may reach it. */
  readonly trainable: boolean;
  /** Of the dropout of this adapter, in all layers. */
  readonly random: KeyGenerator;
  /** A factor on its share; `setScale`. */
  readonly scale: Setting<number>;
}

/** `lora_A.weight` → `lora_A.default.weight`: names in the live model carry the adapter's name, as in PEFT. */
export const liveName = (file: string, adapter: string): string => {
  const [first, ...rest] = file.split(".");
  return [first, adapter, ...rest].join(".");
};

export class AdapterLayer extends Module implements Layer {
  readonly base_layer: Layer;
  readonly #path: string;
  readonly #kind: LayerKind;
  readonly #off: Setting<boolean>;
  readonly #adapters = new Map<string, LayerAdapter>();
  readonly #active = new Setting<readonly string[]>([]);
  readonly #merged = new Setting<readonly string[]>([]);

  /** @param off while true, the layer is what it was without adapters */
  constructor(base: Layer, path: string, kind: LayerKind, off: Setting<boolean>) {
    super();
    this.base_layer = base;
    this.training = base.training;
    this.#path = path;
    this.#kind = kind;
    this.#off = off;
  }

  get path(): string {
    return this.#path;
  }

  /** By name, in the order in which they were attached. */
  get adapters(): ReadonlyMap<string, LayerAdapter> {
    return this.#adapters;
  }

  /** Names of the adapters that act, in the order in which they do; some may be in other layers only. */
  get active(): readonly string[] {
    return this.#active.value;
  }

  /** Makes these adapters act; training reaches those of them that may be trained. */
  activate(names: readonly string[]): void {
    this.#active.value = names;
    for (const [name, { method, config, parameters, trainable }] of this.#adapters) {
      const specs = method.parameters(this.base(), config);
      for (const [key, parameter] of Object.entries(parameters))
        parameter.requiresGrad = trainable && names.includes(name) && specs[key]?.trainable !== false;
    }
  }

  /** Names of the adapters that are in the weight now; while there are any, none acts beside it. */
  get merged(): readonly string[] {
    return this.#merged.value;
  }

  set merged(names: readonly string[]) {
    this.#merged.value = names;
  }

  /** The original's, for code that looks at a layer's weight: a tied output layer, a shape. */
  get weight(): Parameter {
    return this.#facts.weight(this.base_layer);
  }

  get bias(): Parameter | null {
    return this.#facts.bias(this.base_layer);
  }

  get #facts(): KindOfLayer {
    return layerKinds[this.#kind];
  }

  add(name: string, adapter: LayerAdapter): void {
    this.#adapters.set(name, adapter);
  }

  remove(name: string): void {
    this.#adapters.delete(name);
  }

  override *ownParameters(): Generator<[name: string, parameter: Parameter]> {
    for (const [name, { method, parameters }] of this.#adapters)
      for (const [key, parameter] of Object.entries(parameters)) yield [liveName(method.files[key]!, name), parameter];
  }

  /** The layer under the adapters. */
  base(): Base {
    return describe(this.base_layer, this.#kind, this.#path);
  }

  forward(x: Tensor): Tensor {
    const bare = this.#off.value || this.merged.length > 0;
    return this.#with(bare ? [] : this.active)(x);
  }

  /** The layer with these adapters in place. The first name is outermost: what it does to x happens first. */
  #with(names: readonly string[]): Base {
    const adapters = names.flatMap((name) => this.#adapters.get(name) ?? []);
    return adapters.reduceRight((base, adapter) => this.#over(base, adapter), this.base());
  }

  /** The layer with one adapter in place. */
  #over(base: Base, { method, config, parameters, scale, random }: LayerAdapter): Base {
    const values = () => Object.fromEntries(Object.entries(parameters).map(([key, parameter]) => [key, parameter.value]));
    const use: Use = {
      scale: scale.value,
      training: this.training,
      dropout: (x, probability) => (this.training ? dropout(random.next(), x, probability) : x),
    };
    return withFacts(
      (x) => method.forward(x, base, values(), config, use),
      base,
      () => (method.delta ? add(base.weight, method.delta(base, values(), config, scale.value)) : base.weight),
    );
  }

  /** The weight with these adapters in it, as the layer keeps it; not computed yet. Each must be a change of the weight. */
  weightWith(names: readonly string[]): Tensor {
    return this.asStored(this.#with(names).weight);
  }

  /** A matrix in the orientation of `Base.weight`, as the layer keeps it. */
  asStored(matrix: Tensor): Tensor {
    return cast(this.#facts.turn?.(matrix) ?? matrix, this.weight.dtype);
  }
}

/** A layer without adapters, as methods see it. */
export function describe(layer: Layer, kind: LayerKind, path: string): Base {
  const facts: KindOfLayer = layerKinds[kind];
  const weight = facts.weight(layer);
  const [into, out] = facts.sizes(weight.shape);
  const call = (x: Tensor) => layer.forward(x);
  return Object.defineProperties(call as Base, {
    kind: { value: kind },
    path: { value: path },
    in: { value: into },
    out: { value: out },
    outputScale: { value: facts.outputScale?.(layer) ?? 1 },
    weight: { get: () => facts.turn?.(weight.value) ?? weight.value },
    bias: { get: () => facts.bias(layer)?.value ?? null },
  });
}

/** Another call and weight with everything else of `base`. */
function withFacts(call: (x: Tensor) => Tensor, base: Base, weight: () => Tensor): Base {
  const { kind, path, in: into, out, outputScale } = base;
  return Object.defineProperties(call as Base, {
    kind: { value: kind },
    path: { value: path },
    in: { value: into },
    out: { value: out },
    outputScale: { value: outputScale },
    weight: { get: weight },
    bias: { get: () => base.bias },
  });
}
