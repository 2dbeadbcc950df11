/**
 * The module that stands in for an adapted layer. It holds the original as `base_layer` and any number of adapters by
 * name; which of them act is the business of the whole model, see adapted-model.ts.
 */
import { add, cast } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { Setting } from "../graph/variable.ts";
import { type Layer, Module, type Parameter } from "../nn/module.ts";
import { dropout, type Generator as KeyGenerator } from "../tensor/random.ts";
import type { KindOfLayer } from "./layer-kind.ts";
import type { AnyConfig, AnyLayerMethod, Base, Use } from "./method.ts";

/** One adapter's share of one layer. */
export interface LayerAdapter {
  readonly method: AnyLayerMethod;
  /** The adapter's config with the rank, alpha … of this layer. */
  readonly config: AnyConfig;
  readonly parameters: Readonly<Record<string, Parameter>>;
  /** Parameters that the other layers of the adapter have, too, and their names in the file. */
  readonly shared: Readonly<Record<string, Parameter>>;
  readonly sharedFiles: Readonly<Record<string, string>>;
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

/** A layer with adapters on it. */
export class AdapterLayer extends Module implements Layer {
  readonly base_layer: Layer;
  readonly #path: string;
  readonly #facts: KindOfLayer;
  readonly #off: Setting<boolean>;
  readonly #adapters = new Map<string, LayerAdapter>();
  readonly #active = new Setting<readonly string[]>([]);
  readonly #merged = new Setting<readonly string[]>([]);

  /** @param off while true, the layer is what it was without adapters */
  constructor(base: Layer, path: string, facts: KindOfLayer, off: Setting<boolean>) {
    super();
    this.base_layer = base;
    this.training = base.training;
    this.#path = path;
    this.#facts = facts;
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

  /** Names of the adapters that are in the weight now. */
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

  add(name: string, adapter: LayerAdapter): void {
    this.#adapters.set(name, adapter);
  }

  remove(name: string): void {
    this.#adapters.delete(name);
  }

  override *ownParameters(): Generator<[name: string, parameter: Parameter]> {
    for (const [name, { method, parameters, shared, sharedFiles }] of this.#adapters) {
      for (const [key, parameter] of Object.entries(parameters)) yield [liveName(method.files[key] as string, name), parameter];
      for (const [key, parameter] of Object.entries(shared)) yield [liveName(sharedFiles[key] as string, name), parameter];
    }
  }

  /** The layer under the adapters. */
  base(): Base {
    return describe(this.base_layer, this.#facts, this.#path);
  }

  forward(x: Tensor): Tensor {
    const beside = this.#off.value ? [] : this.active.filter((name) => !this.merged.includes(name));
    return this.#with(beside)(x);
  }

  /** The layer with these adapters in place. The first name is outermost: what it does to x happens first. */
  #with(names: readonly string[]): Base {
    const adapters = names.flatMap((name) => this.#adapters.get(name) ?? []);
    return adapters.reduceRight((base, adapter) => this.#over(base, adapter), this.base());
  }

  /** The layer with one adapter in place. */
  #over(base: Base, { method, config, parameters, shared, scale, random }: LayerAdapter): Base {
    const values = () =>
      Object.fromEntries(Object.entries({ ...shared, ...parameters }).map(([key, parameter]) => [key, parameter.value]));
    const use: Use = {
      scale: scale.value,
      training: this.training,
      dropout: (x, probability) => (this.training ? dropout(random.next(), x, probability) : x),
    };
    return makeBase((x) => method.forward(x, base, values(), config, use), base, {
      weight: () => (method.delta ? add(base.weight, method.delta(base, values(), config, scale.value)) : base.weight),
      original: () => base.original,
      bias: () => {
        const change = base.bias && method.biasDelta?.(base, values(), config, scale.value);
        return base.bias && change ? add(base.bias, change) : base.bias;
      },
    });
  }

  /** Weight and bias with these adapters in them, as the layer keeps them; not computed yet. Each must be a change of the weight. */
  changedBy(names: readonly string[]): Map<Parameter, Tensor> {
    const { weight, bias } = this.#with(names);
    const changed = new Map([[this.weight, this.asStored(weight)]]);
    if (this.bias && bias && bias !== this.bias.value) changed.set(this.bias, cast(bias, this.bias.dtype));
    return changed;
  }

  /** A matrix in the orientation of `Base.weight`, as the layer keeps it. */
  asStored(matrix: Tensor): Tensor {
    return cast(this.#facts.turn?.(matrix, this.weight.shape) ?? matrix, this.weight.dtype);
  }
}

/** A layer without adapters, as methods see it. */
export function describe(layer: Layer, facts: KindOfLayer, path: string): Base {
  const weight = facts.weight(layer);
  const [into, out] = facts.sizes(weight.shape);
  const outputScale = facts.outputScale?.(layer) ?? 1;
  const matrix = () => facts.turn?.(weight.value, [out, into]) ?? weight.value;
  return makeBase(
    (x) => layer.forward(x),
    { kind: facts.kind, path, in: into, out, layer, outputScale },
    {
      weight: matrix,
      original: matrix,
      bias: () => facts.bias(layer)?.value ?? null,
    },
  );
}

/** A call with what is known about the layer; weight and bias are made when somebody asks. */
function makeBase(
  call: (x: Tensor) => Tensor,
  { kind, path, in: into, out, layer, outputScale }: Omit<Base, "weight" | "original" | "bias">,
  { weight, original, bias }: { weight(): Tensor; original(): Tensor; bias(): Tensor | null },
): Base {
  return Object.defineProperties(call as Base, {
    kind: { value: kind },
    path: { value: path },
    in: { value: into },
    out: { value: out },
    layer: { value: layer },
    outputScale: { value: outputScale },
    weight: { get: weight },
    original: { get: original },
    bias: { get: bias },
  });
}
