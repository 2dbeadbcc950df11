/**
 * Modules: trees of layers. A layer's parameters and children are its properties, so the path of a parameter
 * (`model.layers.0.self_attn.q_proj.weight`) is the path of properties that leads to it; models name theirs as
 * Hugging Face does, to the letter.
 */
import { currentDevice, realize, upload } from "../compile/program.ts";
import {
  ConfigError,
  checkOptions,
  FormatError,
  nearestName,
  requireKind,
  ShapeError,
  under,
  wordShape,
  wordType,
} from "../errors.ts";
import { checkDType, type DType, isFloat, requireFloat } from "../graph/dtype.ts";
import { cast } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { type Shape, sameShape } from "../graph/shape.ts";
import { showAs } from "../graph/shown-as.ts";
import { assignAll, isObserved, Setting, structure, Variable } from "../graph/variable.ts";
import { outline } from "./outline.ts";

/** A value that training may change. */
export class Parameter extends Variable {
  /** A float32 parameter on the current device. */
  static from(values: Float32Array, shape: Shape): Parameter {
    return new Parameter(upload(currentDevice(), values, shape, "float32"));
  }

  /** How many values of the model it stands for: its own, unless it holds them as codes. */
  get represents(): number {
    return this.size;
  }
}

/** A value that a layer changes itself, in training, and no gradient does: running statistics. Checkpoints keep it. */
export class Buffer extends Parameter {
  constructor(initial: Tensor) {
    super(initial, { requiresGrad: false });
  }
}

/** A module that maps one tensor to one tensor. Adapters stand in for the layers that they change by being one. */
export interface Layer extends Module {
  forward(x: Tensor): Tensor;
}

/**
 * A layer or a tree of layers. What its properties hold, modules, lists of modules and parameters, is found by itself.
 *
 * @example
 * class Block extends Module {
 *   readonly inner = new Linear(8, 8);
 *   forward(x: Tensor) { return add(x, this.inner.forward(x)); }
 * }
 * [...new Block().stateDict().keys()]   // ["inner.weight", "inner.bias"]
 */
export abstract class Module {
  /** Whether layers that behave differently in training (dropout) should. Set for a whole tree by `train()` and `eval()`. */
  get training(): boolean {
    return this.#training.value;
  }

  set training(on: boolean) {
    this.#training.value = on;
  }

  readonly #training = new Setting(false);

  /** Children by property name, in the order of definition; lists give their indices as names. */
  *children(): Generator<[name: string, child: Module]> {
    for (const [name, value] of Object.entries(this)) {
      if (value instanceof Module) yield [name, value];
      else if (Array.isArray(value))
        for (const [i, item] of value.entries()) if (item instanceof Module) yield [`${name}.${i}`, item];
    }
  }

  /** This module and everything below it, each with its path; this one's is "". */
  *namedModules(prefix = ""): Generator<[path: string, module: Module]> {
    yield [prefix, this];
    for (const [name, child] of this.children()) yield* child.namedModules(join(prefix, name));
  }

  /** Parameters held by this module itself. */
  *ownParameters(): Generator<[name: string, parameter: Parameter]> {
    for (const [name, value] of Object.entries(this)) if (value instanceof Parameter) yield [name, value];
  }

  /** Every path of every parameter below this module: one that is shared has several. */
  *parameterPaths(prefix = ""): Generator<[path: string, parameter: Parameter]> {
    for (const [path, module] of this.namedModules(prefix))
      for (const [name, parameter] of module.ownParameters()) yield [join(path, name), parameter];
  }

  /** Every parameter below this module with its path; one that is shared is given once, under its first path. */
  *namedParameters(prefix = ""): Generator<[path: string, parameter: Parameter]> {
    const seen = new Set<Parameter>();
    for (const [path, parameter] of this.parameterPaths(prefix)) {
      if (seen.has(parameter)) continue;
      seen.add(parameter);
      yield [path, parameter];
    }
  }

  /** Every parameter below this module, once. */
  parameters(): Parameter[] {
    return [...this.namedParameters()].map(([, parameter]) => parameter);
  }

  /** Further paths of parameters that are shared: an output layer tied to the embedding. */
  sharedPaths(): Set<string> {
    const first = new Set([...this.namedParameters()].map(([path]) => path));
    return new Set([...this.parameterPaths()].flatMap(([path]) => (first.has(path) ? [] : [path])));
  }

  /** Values in all parameters, or in those that training changes; shared ones count once. */
  numParameters(options: { readonly trainable?: boolean } = {}): number {
    const { trainable = false } = checkOptions("numParameters", options, { trainable: "true or false" });
    return (trainable ? this.trainableParameters() : this.parameters()).reduce((sum, each) => sum + each.represents, 0);
  }

  /** Parameters that training changes. */
  trainableParameters(): Parameter[] {
    return this.parameters().filter((parameter) => parameter.requiresGrad);
  }

  /** The module at a path. @throws {ConfigError} naming the nearest path when there is none */
  getModule(path: string): Module {
    requireKind("getModule", "a string", { path });
    for (const [at, module] of this.namedModules()) if (at === path) return module;
    const near = nearestName(
      path,
      [...this.namedModules()].map(([at]) => at),
    );
    throw new ConfigError(`there is no module "${path}".`, {
      operation: "getModule",
      got: path,
      ...(near ? { hint: `Did you mean "${near}"?` } : {}),
    });
  }

  /** Puts `replacement` where the module at `path` was and returns that one. */
  replaceModule(path: string, replacement: Module): Module {
    const old = under("replaceModule", () => this.getModule(path));
    requireModule("replaceModule", replacement);
    const names = path.split(".");
    const last = names.pop()!;
    let holder: unknown = this;
    for (const name of names) holder = (holder as Record<string, unknown>)[name];
    (holder as Record<string, unknown>)[last] = replacement;
    structure.value = structure.stored + 1;
    return old;
  }

  /** All parameters by path, as they are now. */
  stateDict(): Map<string, Tensor> {
    return new Map([...this.namedParameters()].map(([path, parameter]) => [path, parameter.stored]));
  }

  /**
   * Takes parameter values by path. Second names of shared parameters are overlooked.
   *
   * @param options.strict whether every parameter must be there and nothing else; true when absent
   * @returns paths that are missing and those that are no parameter's; both empty when `strict`
   * @throws {FormatError} when `strict`, for a missing or an unknown path; @throws {ShapeError} for another shape. Nothing is changed then.
   */
  loadStateDict(
    state: ReadonlyMap<string, Tensor>,
    options: { readonly strict?: boolean } = {},
  ): { readonly missing: readonly string[]; readonly unexpected: readonly string[] } {
    requireKind("loadStateDict", "a Map", { state });
    const { strict = true } = checkOptions("loadStateDict", options, { strict: "true or false" });
    const own = new Map(this.namedParameters());
    const shared = this.sharedPaths();
    const missing = [...own.keys()].filter((path) => !state.has(path));
    const unexpected = [...state.keys()].filter((path) => !own.has(path) && !shared.has(path));
    for (const path of strict ? missing : [])
      throw new FormatError(`"${path}" is missing.`, {
        operation: "loadStateDict",
        expected: path,
        ...hintFor(path, state.keys()),
      });
    const pairs = [...own].flatMap(([path, parameter]) => {
      const value = state.get(path);
      return value ? [{ path, parameter, value }] : [];
    });
    for (const { path, parameter, value } of pairs)
      if (!sameShape(value.shape, parameter.shape))
        throw new ShapeError(`"${path}" is ${wordShape(value.shape)} in the file, ${wordShape(parameter.shape)} in the model.`, {
          operation: "loadStateDict",
          expected: parameter.shape,
          got: value.shape,
        });
    for (const path of strict ? unexpected : [])
      throw new FormatError(`"${path}" is not a parameter of this model.`, {
        operation: "loadStateDict",
        got: path,
        ...hintFor(path, own.keys()),
      });
    assignAll(pairs.map(({ parameter, value }) => [parameter, value]));
    return { missing, unexpected };
  }

  /** Layers such as dropout act as in training. */
  train(on = true): this {
    for (const [, module] of this.namedModules()) module.training = on;
    return this;
  }

  /** Layers such as dropout do nothing. */
  eval(): this {
    return this.train(false);
  }

  /**
   * Casts what has fractions among the parameters and buffers, and their gradients, in place: tied ones stay tied. Values of 16 bits save
   * memory and are widened to compute; codes of quantised weights, and their scales, stay. Optimisers go on, with their state in the
   * dtype that it has: for float64 make them afterwards.
   *
   * @throws {DTypeError} for a dtype without fractions; @throws {ConfigError} inside a compiled function
   * @example
   * new Linear(2, 3).to("bfloat16").weight.dtype   // "bfloat16"
   */
  to(dtype: DType): this {
    checkDType("to", dtype);
    requireFloat("to", dtype);
    if (isObserved())
      throw new ConfigError("inside a compiled function it would happen once only, while tracing.", {
        operation: "to",
        hint: "Call it before the compiled function.",
      });
    const cells = this.parameters().filter(
      (each) => isFloat(each.dtype) && each.dtype !== dtype && each.represents === each.size,
    );
    const next = cells.map((each) => cast(each.stored, dtype));
    realize(next);
    cells.forEach((cell, i) => {
      cell.replace(next[i]!);
      if (cell.grad) cell.grad = cast(cell.grad, dtype);
    });
    if (cells.length > 0) structure.value = structure.stored + 1;
    return this;
  }

  /** Nothing below this module is changed by training any more. */
  freeze(): this {
    for (const parameter of this.parameters()) parameter.requiresGrad = false;
    return this;
  }
}

showAs(Module.prototype, outline);

/**
 * What a function of a model is given is one.
 * @throws {ConfigError} for anything else, such as a promise of a model, or what `loadModel` gives with the model in it
 */
export function requireModule(operation: string, model: unknown): asserts model is Module {
  if (model instanceof Module) return;
  const holds = typeof model === "object" && model !== null && "model" in model;
  const way =
    model instanceof Promise ? "Wait for it: `await`." : holds ? "Take the model out of it: const { model } = …" : undefined;
  throw new ConfigError(`the model is ${wordType(model)}, not a module.`, { operation, got: model, ...(way && { hint: way }) });
}

/**
 * Runs `body` while `module` has other modules, lists of modules or parameters under these names; whatever happens, its own are back
 * afterwards.
 */
export function withParts<T>(module: Module, parts: Readonly<Record<string, unknown>>, body: () => T): T {
  const own = Object.fromEntries(Object.keys(parts).map((name) => [name, Reflect.get(module, name)]));
  Object.assign(module, parts);
  try {
    return body();
  } finally {
    Object.assign(module, own);
  }
}

/**
 * Modules and parameters under names: a step of a path at which nothing is computed.
 *
 * @example
 * group({ query: new Linear(8, 8), key: new Linear(8, 8) }).query.forward(zeros([1, 8]))
 */
export const group = <Parts extends Readonly<Record<string, Module | readonly Module[] | Parameter>>>(
  parts: Parts,
): Module & Parts => Object.assign(new (class Group extends Module {})(), parts);

function hintFor(path: string, names: Iterable<string>): { hint?: string } {
  const near = nearestName(path, names);
  return near ? { hint: `The nearest is "${near}".` } : {};
}

const join = (prefix: string, name: string): string => (prefix === "" ? name : `${prefix}.${name}`);
