/**
 * The module that stands in for an adapted layer. It holds the original as `base_layer` and any number of adapters by
 * name; which of them act is the business of the whole model, see adapted-model.ts.
 */
import { defaultAdapterName } from "../formats/peft-adapter.ts";
import { add, cast } from "../graph/elementwise.ts";
import { stopGradient } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import { Setting } from "../graph/variable.ts";
import { type Layer, Module, type Parameter } from "../nn/module.ts";
import { dropout, type Generator as KeyGenerator, uniform } from "../tensor/random.ts";
import { alignedWith } from "./invocation.ts";
import type { CalledLayer, KindOfLayer } from "./layer-kind.ts";
import { type AnyLayerMethod, type Base, fileOf, type Use } from "./method.ts";
import type { AnyConfig } from "./method-config.ts";
import { baseRow, batchOf, byRow, type Scope, saidTasks, severalInputs } from "./row-groups.ts";
import type { LayerScale } from "./scale.ts";
import { times } from "./weight-change.ts";

/** One adapter's share of one layer. */
export interface LayerAdapter {
  readonly method: AnyLayerMethod;
  /** The adapter's config with the rank, alpha … of this layer. */
  readonly config: AnyConfig;
  readonly parameters: Readonly<Record<string, Parameter>>;
  /** Whether the parameters, and the weight that they change, are another layer's, too. */
  readonly tied: boolean;
  /** Parameters that the other layers of the adapter have, too, and their names in the file. */
  readonly shared: Readonly<Record<string, Parameter>>;
  readonly sharedFiles: Readonly<Record<string, string>>;
  /** What the method has beside the model. */
  readonly companion: unknown;
  /** Whether training may reach it. */
  readonly trainable: boolean;
  /** Of the dropout of this adapter, in all layers. */
  readonly random: KeyGenerator;
  /** A factor on its share; `setScale`. */
  readonly scale: LayerScale;
}

/** What its parameters are now, by key. */
export const valuesOf = ({ shared, parameters }: Pick<LayerAdapter, "shared" | "parameters">): Record<string, Tensor> =>
  Object.fromEntries(Object.entries({ ...shared, ...parameters }).map(([key, parameter]) => [key, parameter.value]));

/**
 * `lora_A.weight` → `lora_A.default.weight`: names in the live model carry the adapter's name, as in PEFT; in files of Shadow there is
 * always "default" in its place.
 */
const liveName = (file: string, adapter: string): string => {
  const [first, ...rest] = file.split(".");
  return [first, adapter, ...(rest[0] === defaultAdapterName ? rest.slice(1) : rest)].join(".");
};

/** The entry under another name, in its old place. */
export function renameKey<T>(entries: Map<string, T>, name: string, next: string): void {
  const all = [...entries];
  entries.clear();
  for (const [key, value] of all) entries.set(key === name ? next : key, value);
}

/** The same names, one of them another. */
export const renamed = (names: readonly string[], name: string, next: string): string[] =>
  names.map((each) => (each === name ? next : each));

/** A layer with adapters on it. */
export class AdapterLayer extends Module implements Layer {
  readonly base_layer: Layer;
  readonly #path: string;
  readonly #facts: KindOfLayer;
  readonly #scope: Scope;
  readonly #adapters = new Map<string, LayerAdapter>();
  readonly #active = new Setting<readonly string[]>([]);
  readonly #merged = new Setting<readonly string[]>([]);

  constructor(base: Layer, path: string, facts: KindOfLayer, scope: Scope) {
    super();
    this.base_layer = base;
    this.training = base.training;
    this.#path = path;
    this.#facts = facts;
    this.#scope = scope;
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

  /** Whether the weight is kept as codes, so that a change of it is rounded to codes. */
  get holdsCodes(): boolean {
    return this.#facts.codes !== undefined;
  }

  get bias(): Parameter | null {
    return this.#facts.bias(this.base_layer);
  }

  /** Whether some adapter looks at the model's inputs. */
  get readsText(): boolean {
    return [...this.#adapters.values()].some(({ method }) => method.readsText !== undefined);
  }

  add(name: string, adapter: LayerAdapter): void {
    this.#adapters.set(name, adapter);
  }

  remove(name: string): void {
    this.#adapters.delete(name);
  }

  rename(name: string, next: string): void {
    renameKey(this.#adapters, name, next);
    this.#active.value = renamed(this.#active.stored, name, next);
    this.#merged.value = renamed(this.#merged.stored, name, next);
  }

  override *ownParameters(): Generator<[name: string, parameter: Parameter]> {
    for (const [name, { method, parameters, shared, sharedFiles }] of this.#adapters) {
      for (const [key, parameter] of Object.entries(parameters)) yield [liveName(fileOf(method.files, key), name), parameter];
      for (const [key, parameter] of Object.entries(shared)) yield [liveName(fileOf(sharedFiles, key), name), parameter];
    }
  }

  /** The layer under the adapters. @param more what it is given with x, where that is not all */
  base(more: readonly unknown[] = []): Base {
    return describe(this.base_layer, this.#facts, this.#path, more);
  }

  forward(x: Tensor, ...more: unknown[]): Tensor {
    const { off, rows } = this.#scope;
    if (off.value || this.#scope.router?.rests) return this.base(more)(x);
    if (rows.value) return this.#byRow(x, rows.value, more);
    return this.#with(
      this.active.filter((name) => !this.merged.includes(name)),
      more,
    )(x);
  }

  /** Row i of x through the i-th adapter, of those that are on this layer. */
  #byRow(x: Tensor, names: readonly string[], more: readonly unknown[]): Tensor {
    const here = names.map((name) => (this.#adapters.has(name) ? name : baseRow));
    const base = this.base(more);
    if (here.every((name) => name === baseRow)) return base(x);
    if (more.length > 0) throw severalInputs(this.#path, names);
    const batch = batchOf(x, names, this.#path);
    const output = base(batch);
    return byRow(batch, here, (rows, name, pick) => {
      const adapter = this.#adapters.get(name);
      if (!adapter) return pick(output);
      // the base layer has run on all rows as they come; a method that changes them first runs it again on its own
      const under = makeBase((z) => (z === rows ? pick(output) : base(z)), base, {
        weight: () => base.weight,
        original: () => base.original,
        bias: () => base.bias,
      });
      return this.#over(under, adapter, null, pick)(rows);
    });
  }

  /**
   * These adapters, as far as they are here, from the one next to the layer outwards: as in PEFT the later ones are around the earlier
   * ones, except among those that say otherwise. What comes out gives the list back when it is put in.
   */
  outwards(names: readonly string[]): string[] {
    const here = names.filter((name) => this.#adapters.has(name));
    const isInner = (name: string) => this.#adapters.get(name)?.method.laterIsInner === true;
    const inner = here.filter(isInner);
    return here.map((name) => (isInner(name) ? (inner.pop() as string) : name));
  }

  #outwards(names: readonly string[]): [name: string, adapter: LayerAdapter][] {
    return this.outwards(names).map((name) => [name, this.#adapters.get(name) as LayerAdapter]);
  }

  /** The layer with these adapters in place. */
  #with(names: readonly string[], more: readonly unknown[] = []): Base {
    const { router } = this.#scope;
    const routed = (name: string) => router && ((x: Tensor) => router.weight(this.#path, name, x));
    return this.#outwards(names).reduce((base, [name, adapter]) => this.#over(base, adapter, routed(name)), this.base(more));
  }

  /**
   * The layer with one adapter in place.
   *
   * @param routed how much of it acts on each token of x
   * @param pick   takes the rows that it runs on from something of the whole batch
   */
  #over(
    base: Base,
    { method, config, parameters, shared, companion, scale, random }: LayerAdapter,
    routed: ((x: Tensor) => Tensor) | null = null,
    pick: (whole: Tensor) => Tensor = (whole) => whole,
  ): Base {
    const values = () => valuesOf({ shared, parameters });
    const use: Use = {
      scale: scale.value,
      training: this.training,
      dropout: (x, probability) => (this.training && probability !== 0 ? dropout(random.next(), x, probability) : x),
      keep: (name, value) => parameters[name]?.assign(stopGradient(value)),
      uniform: (shape) => uniform(random.next(), shape),
      since: (tokens, x) => {
        const found = this.#scope.reading?.since(tokens);
        return found ? alignedWith(pick(found), x, this.#path) : constant(1, [], "int32");
      },
      companion,
      pass: this.#pass(random),
      tasks: () => {
        const tasks = this.#scope.reading?.taskIds ?? saidTasks(this.#scope);
        return tasks && pick(tasks);
      },
    };
    const project = () => {
      const moved = (this.training && method.project?.(base, values(), config)) || {};
      for (const [key, next] of Object.entries(moved))
        if (next && parameters[key]?.requiresGrad) parameters[key].assign(stopGradient(next));
    };
    const forward = (x: Tensor) => {
      project();
      const used = routed ? { ...use, scale: times(routed(x), scale.value) } : use;
      return method.forward(x, base, values(), config, used);
    };
    return makeBase(forward, base, {
      weight: () => (method.delta ? add(base.weight, method.delta(base, values(), config, scale.value)) : base.weight),
      original: () => base.original,
      bias: () => {
        const change = base.bias && method.biasDelta?.(base, values(), config, scale.value);
        return base.bias && change ? add(base.bias, change) : base.bias;
      },
    });
  }

  /** The pass of the model, for the adapter of this generator. */
  #pass(adapter: KeyGenerator): Use["pass"] {
    const { reading } = this.#scope;
    if (!reading) return null;
    const { inputs, carried, losses } = reading;
    return {
      inputs,
      get carried() {
        return carried.get(adapter);
      },
      set carried(x) {
        if (x) carried.set(adapter, x);
      },
      addLoss: (loss) => void losses.push(loss),
    };
  }

  /** @throws whatever a method says against being merged; nothing is computed */
  checkChange(names: readonly string[]): void {
    const { weight, bias } = this.#with(names);
    void [weight, bias];
  }

  /**
   * What the layer's parameters become with these adapters in them: weight and bias, not computed yet, or for a weight of codes
   * new codes. Each must be a change of the weight. What is tied to another layer is left to that one, or it would be added twice to
   * the weight that both share.
   */
  changedBy(names: readonly string[]): Map<Parameter, Tensor> {
    const own = names.filter((name) => !this.#adapters.get(name)?.tied);
    if (own.length === 0) return new Map();
    const { weight, bias } = this.#with(own);
    const changed = new Map(own.some((name) => this.#adapters.get(name)?.method.delta) ? this.valuesFor(weight) : []);
    if (this.bias && bias && bias !== this.bias.value) changed.set(this.bias, cast(bias, this.bias.dtype));
    return changed;
  }

  /**
   * W′ − W that these adapters make, in the orientation of `Base.weight`, and b′ − b; not computed yet. `fromWeight` says whether
   * they depend on W or b, so that they are others once they are in it.
   */
  change(names: readonly string[]): {
    readonly weight: Tensor | null;
    readonly bias: Tensor | null;
    readonly fromWeight: boolean;
  } {
    const [weights, biases]: [Tensor[], Tensor[]] = [[], []];
    let fromWeight = false;
    const adapters = this.#outwards(names).filter(([, { tied }]) => !tied);
    adapters.reduce((under, [, own]) => {
      const { method, config, scale } = own;
      const values = valuesOf(own);
      const look = <T>(value: T): T => {
        fromWeight = true;
        return value;
      };
      const seen = makeBase((x) => under(x), under, {
        weight: () => look(under.weight),
        original: () => look(under.original),
        bias: () => under.bias,
      });
      const delta = method.delta?.(seen, values, config, scale.stored);
      if (delta) weights.push(delta);
      const bias = under.bias && method.biasDelta?.(seen, values, config, scale.stored);
      if (bias) biases.push(bias);
      return this.#over(under, own);
    }, this.base());
    const sum = (parts: readonly Tensor[]) => (parts.length > 0 ? parts.reduce(add) : null);
    return { weight: sum(weights), bias: sum(biases), fromWeight };
  }

  /** A matrix in the orientation of `Base.weight`, as the layer keeps it. */
  asStored(matrix: Tensor): Tensor {
    return cast(this.inLayout(matrix), this.weight.dtype);
  }

  /** The same in the matrix's own dtype. */
  inLayout(matrix: Tensor): Tensor {
    return this.#facts.turn?.(matrix, this.weight.shape) ?? matrix;
  }

  /** A value that the weight had, in the orientation of `Base.weight`. */
  asMatrix(weight: Tensor): Tensor {
    return this.#facts.turn?.(weight, this.base().weight.shape) ?? weight;
  }

  /** What the layer's parameters become for a matrix in the orientation of `Base.weight`. */
  valuesFor(matrix: Tensor): ReadonlyMap<Parameter, Tensor> {
    return this.#facts.codes?.encoded(this.base_layer, matrix) ?? new Map([[this.weight, this.asStored(matrix)]]);
  }
}

/** A layer without adapters, as methods see it. */
export function describe(layer: Layer, facts: KindOfLayer, path: string, more: readonly unknown[] = []): Base {
  const weight = facts.weight(layer);
  const [into, out] = facts.sizes(weight.shape, layer);
  const outputScale = facts.outputScale?.(layer) ?? 1;
  const matrix = () => facts.codes?.matrix(layer) ?? facts.turn?.(weight.value, [out, into]) ?? weight.value;
  return makeBase(
    (x) => (layer as CalledLayer).forward(x, ...more),
    {
      ...{ kind: facts.kind, path, in: into, out, layer, outputScale, more },
      ...(facts.run ? { run: (weight: Tensor, x: Tensor) => facts.run!(layer, weight, x, more) } : {}),
    },
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
  { kind, path, in: into, out, layer, outputScale, more, run }: Omit<Base, "weight" | "original" | "bias">,
  { weight, original, bias }: { weight(): Tensor; original(): Tensor; bias(): Tensor | null },
): Base {
  return Object.defineProperties(call as Base, {
    kind: { value: kind },
    path: { value: path },
    in: { value: into },
    out: { value: out },
    layer: { value: layer },
    outputScale: { value: outputScale },
    more: { value: more },
    run: { value: run },
    weight: { get: weight },
    original: { get: original },
    bias: { get: bias },
  });
}
