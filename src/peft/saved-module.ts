/**
 * Whole modules that are trained along with an adapter, PEFT's `modules_to_save`: an output layer for new words, a norm. The
 * module stays the one that it is; every adapter has parameters of its own for it, which stand in the places of the module's
 * while it runs, or, merged, until they are taken out again.
 */
import { ConfigError, nearestName } from "../errors.ts";
import { isFloat } from "../graph/dtype.ts";
import type { Tensor } from "../graph/node.ts";
import { Setting } from "../graph/variable.ts";
import { type Layer, Module, type Parameter } from "../nn/module.ts";
import { renameKey } from "./adapter-layer.ts";
import type { CalledLayer } from "./layer-kind.ts";
import type { AnyConfig } from "./method-config.ts";
import { baseRow, batchOf, byRow, type Scope, severalInputs } from "./row-groups.ts";

/** Where a module keeps a parameter. */
interface Place {
  readonly holder: Record<string, unknown>;
  readonly property: string;
  readonly own: Parameter;
}

/** Stands in for a module that adapters train as a whole. */
export class SavedModule extends Module implements Layer {
  readonly original_module: Module;
  readonly #path: string;
  readonly #scope: Scope;
  readonly #places: readonly Place[];
  /** Parameters by their paths in the module, by adapter. */
  readonly #copies = new Map<string, ReadonlyMap<string, Parameter>>();
  readonly #active = new Setting<string | null>(null);
  readonly #merged = new Setting<string | null>(null);

  constructor(module: Module, path: string, scope: Scope) {
    super();
    this.original_module = module;
    this.#path = path;
    this.#scope = scope;
    this.training = module.training;
    this.#places = [...module.namedModules()].flatMap(([, holder]) =>
      [...holder.ownParameters()].map(([property, own]) => ({ holder: holder as never, property, own })),
    );
  }

  /** By adapter, then by path in the module. */
  get copies(): ReadonlyMap<string, ReadonlyMap<string, Parameter>> {
    return this.#copies;
  }

  add(adapter: string, copies: ReadonlyMap<string, Parameter>): void {
    this.#copies.set(adapter, copies);
  }

  remove(adapter: string): void {
    this.#copies.delete(adapter);
  }

  rename(adapter: string, next: string): void {
    renameKey(this.#copies, adapter, next);
    if (this.#active.stored === adapter) this.#active.value = next;
    if (this.#merged.stored === adapter) this.#merged.value = next;
  }

  /** Whose parameters act; `null` for the module's own. */
  get active(): string | null {
    return this.#active.stored;
  }

  set active(adapter: string | null) {
    this.#active.value = adapter;
  }

  /** Whose parameters stand in the module, for all to see who look at it. */
  get merged(): string | null {
    return this.#merged.stored;
  }

  set merged(adapter: string | null) {
    this.#merged.value = adapter;
    this.#put(adapter);
  }

  /** Parameters of the module with those that stand in for them when an adapter is merged. */
  standIns(adapter: string): Map<Parameter, Parameter> {
    const copies = this.#copies.get(adapter);
    const own = [...new Set(this.#places.map((place) => place.own))];
    return new Map([...(copies?.values() ?? [])].map((copy, i) => [own[i] as Parameter, copy]));
  }

  #put(adapter: string | null): void {
    const standIns = adapter === null ? null : this.standIns(adapter);
    for (const { holder, property, own } of this.#places) holder[property] = standIns?.get(own) ?? own;
  }

  override *ownParameters(): Generator<[name: string, parameter: Parameter]> {
    for (const [adapter, copies] of this.#copies)
      for (const [path, parameter] of copies) yield [`modules_to_save.${adapter}.${path}`, parameter];
  }

  /** What the module does, whatever it takes and gives. */
  forward(x: Tensor, ...more: unknown[]): Tensor {
    const { off, rows } = this.#scope;
    if (rows.value && !off.value) return this.#byRow(x, rows.value, more);
    return this.#with(this.#merged.value !== null ? null : this.#active.value, x, more);
  }

  /** Runs with these parameters in place; `null` for those that are there now. */
  #with(adapter: string | null, x: Tensor, more: readonly unknown[]): Tensor {
    if (adapter !== null) this.#put(adapter);
    try {
      return (this.original_module as CalledLayer).forward(x, ...more);
    } finally {
      if (adapter !== null) this.#put(null);
    }
  }

  /** Row i of x through the parameters of the i-th adapter, or the module's own. */
  #byRow(x: Tensor, names: readonly string[], more: readonly unknown[]): Tensor {
    const here = names.map((name) => (this.#copies.has(name) ? name : baseRow));
    if (here.every((name) => name === baseRow)) return this.#with(null, x, more);
    if (more.length > 0) throw severalInputs(this.#path, names);
    return byRow(batchOf(x, names, this.#path), here, (rows, name) => this.#with(name === baseRow ? null : name, rows, more));
  }
}

/** PEFT adds both for classification, whichever of them a model has, if any: BART's and T5's output layer is called otherwise. */
const outputLayers = ["classifier", "score"];
const headsOfTasks: Readonly<Record<string, readonly string[]>> = {
  SEQ_CLS: outputLayers,
  TOKEN_CLS: outputLayers,
  QUESTION_ANS: ["qa_outputs"],
};

/**
 * `modulesToSave` with the output layers of the task, which are new in most models for it and have to be trained, too, as PEFT adds them:
 * to a method that has the option, where the model has one of them.
 */
export function withTaskHeads(config: AnyConfig, modules: ReadonlyMap<string, Module>): AnyConfig {
  const heads = headsOfTasks[String(config["taskType"])] ?? [];
  const isThere = [...modules.keys()].some((path) => heads.some((head) => path.endsWith(head)));
  if (!isThere || !("modulesToSave" in config)) return config;
  return { ...config, modulesToSave: [...new Set([...((config["modulesToSave"] as readonly string[] | null) ?? []), ...heads])] };
}

/**
 * The modules that `modulesToSave` means, by path: those whose path ends in one of the names, even in the middle of a word, as
 * in PEFT. Of modules inside each other the outer one.
 *
 * @throws {ConfigError} for a name that no module has, or modules without parameters
 */
export function modulesToSave(names: readonly string[], modules: ReadonlyMap<string, Module>): Map<string, Module> {
  const operation = "attach";
  const paths = [...modules.keys()].filter((path) => path !== "");
  const isThere = (name: string) => paths.some((path) => path.endsWith(name));
  for (const name of names) {
    if (isThere(name) || (outputLayers.includes(name) && outputLayers.every((other) => names.includes(other)))) continue;
    const near = nearestName(
      name,
      paths.flatMap((path) => [path, path.slice(path.lastIndexOf(".") + 1)]),
    );
    throw new ConfigError(`no module's path ends in "${name}" of modulesToSave.`, {
      operation,
      got: name,
      ...(near === undefined ? {} : { hint: `Did you mean "${near}"?` }),
    });
  }
  const meant = paths.filter((path) => names.some((name) => path.endsWith(name)));
  const outer = meant.filter((path) => !meant.some((other) => path.startsWith(`${other}.`)));
  const found = new Map(outer.map((path) => [path, modules.get(path) as Module]));
  for (const [path, module] of found)
    if (module.parameters().length === 0)
      throw new ConfigError(`${path} of modulesToSave has no parameters to train.`, { operation, got: path });
    else if (module.parameters().some(({ dtype }) => !isFloat(dtype)))
      throw new ConfigError(`${path} of modulesToSave keeps its weight as codes, which cannot be trained.`, {
        operation,
        got: path,
        hint: "Name it in `skip` when the model is quantised.",
      });
  return found;
}
