/**
 * Mutable cells. Tensors never change; a variable holds one tensor after another: parameters, optimiser state, caches.
 * Reading a variable gives its tensor of this moment, so a graph that was built from it keeps its meaning.
 */
import { ConfigError, checkOptions, DTypeError, requireKind, ShapeError, under, wordShape, wordType } from "../errors.ts";
import { cast, copy } from "./elementwise.ts";
import { Tensor } from "./node.ts";
import { sameShape } from "./shape.ts";
import { buffer } from "./source.ts";

/** What is told of every read and write while a function is traced. */
export interface VariableObserver {
  read(variable: Variable): Tensor;
  write(variable: Variable, next: Tensor): void;
  /** The graph depends on this setting. */
  consult?(setting: Setting<unknown>): void;
}

const observers: VariableObserver[] = [];

/** Lets `observer` stand between all variables and the code run by `body`. */
export function observing<T>(observer: VariableObserver, body: () => T): T {
  observers.push(observer);
  try {
    return body();
  } finally {
    observers.pop();
  }
}

/** Whether a function is being traced, which then depends on the settings and variables that it reads. */
export const isObserved = (): boolean => observers.length > 0;

/**
 * A plain value that decides which graph is built: training or not, which adapters act. A traced program is replayed only
 * while all settings that it was built from have the values that they had.
 */
export class Setting<T> {
  #now: T;

  constructor(initial: T) {
    this.#now = initial;
  }

  get value(): T {
    observers[observers.length - 1]?.consult?.(this);
    return this.#now;
  }

  set value(next: T) {
    this.#now = next;
  }

  /** The value, whoever is observing. */
  get stored(): T {
    return this.#now;
  }
}

/** Counts replacements of modules: every traced program depends on it. */
export const structure = new Setting(0);

const recorders: Tensor[][] = [];
const replays: { readonly reads: readonly Tensor[]; next: number }[] = [];

/** What variables gave while `body` ran, in the order of reading. */
export function recordingReads<T>(body: () => T): { readonly result: T; readonly reads: readonly Tensor[] } {
  const reads: Tensor[] = [];
  recorders.push(reads);
  try {
    return { result: body(), reads };
  } finally {
    recorders.splice(recorders.indexOf(reads), 1);
  }
}

/** Runs `body` once more: variables give `reads`, one after the other, and nothing is assigned a second time. */
export function replayingReads<T>(reads: readonly Tensor[], body: () => T): T {
  const replay = { reads, next: 0 };
  replays.push(replay);
  try {
    return body();
  } finally {
    replays.pop();
  }
}

const substitutions: ReadonlyMap<Variable, Tensor>[] = [];

/** Whether variables may give other tensors than they hold, which no program that was traced before knows. */
export const isSubstituting = (): boolean => substitutions.length > 0;

/** Runs `body` while reading one of these variables gives another tensor, of the same shape. */
export function substituting<T>(values: ReadonlyMap<Variable, Tensor>, body: () => T): T {
  substitutions.push(values);
  try {
    return body();
  } finally {
    substitutions.pop();
  }
}

/** Computes tensors and keeps their values; given by the compiler, which this file must not import. */
let realizeAll: (tensors: readonly Tensor[]) => void = () => {
  throw new Error("variable: the compiler is not loaded");
};
/** The compiler lies above this layer and hands in here how values are computed. */
export const setRealize = (realize: typeof realizeAll): void => {
  realizeAll = realize;
};

function requireTensor(operation: string, value: unknown): asserts value is Tensor {
  if (!(value instanceof Tensor))
    throw new DTypeError(`a variable holds a tensor, got ${wordType(value)}.`, { operation, got: value, hint: "Use tensor(…)." });
}

/**
 * A cell that holds one tensor after another.
 *
 * @example
 * const count = new Variable(tensor(1));
 * const before = count.value;
 * count.assign(count.value.add(1));
 * count.value   // 2 float32 []
 * before        // 1 float32 []
 */
export class Variable {
  /** The gradient left by `backward()`, if any. */
  grad: Tensor | null = null;
  /** Whether `backward()` and training reach it. */
  requiresGrad: boolean;
  #current: Tensor;

  /** Takes over `initial`, which is computed now if it was not. */
  constructor(initial: Tensor, options: { readonly requiresGrad?: boolean } = {}) {
    checkOptions(new.target.name, options, { requiresGrad: "true or false" });
    requireTensor(new.target.name, initial);
    realizeAll([initial]);
    this.#current = this.#leaf(initial);
    this.requiresGrad = options.requiresGrad ?? true;
  }

  get shape(): readonly number[] {
    return this.#current.shape;
  }

  get dtype(): Tensor["dtype"] {
    return this.#current.dtype;
  }

  get size(): number {
    return this.#current.size;
  }

  /** The tensor of this moment. */
  get value(): Tensor {
    const observer = observers[observers.length - 1];
    const replay = replays[replays.length - 1];
    const given = substitutions.findLast((values) => values.has(this))?.get(this);
    const x = replay ? replay.reads[replay.next++] : (given ?? (observer ? observer.read(this) : this.#current));
    if (!x || !sameShape(x.shape, this.shape))
      throw new ConfigError("a function that is run again reads other variables than the first time.", {
        operation: "checkpoint",
        hint: "What it reads must not depend on anything but its arguments.",
      });
    for (const reads of recorders) reads.push(x);
    return x;
  }

  /** The tensor in the cell, whoever is observing. */
  get stored(): Tensor {
    return this.#current;
  }

  /** Puts another tensor of the same shape into the cell; it is computed now, or at the end of the traced program. */
  assign(next: Tensor): void {
    under("assign", () => assignAll([[this, next]]));
  }

  /** For the compiler: the cell's new content, already computed. */
  replace(next: Tensor): void {
    this.#current = this.#leaf(next);
  }

  /** The same memory without the history that led to it, so that derivatives end here. */
  #leaf(x: Tensor): Tensor {
    const leaf = buffer(x.shape, x.dtype, x.storage!);
    leaf.variable = this;
    return leaf;
  }
}

/** Assigns several variables at once, in one program; all right-hand sides are computed from the old values. */
export function assignAll(pairs: readonly (readonly [Variable, Tensor])[]): void {
  const operation = "assignAll";
  requireKind(operation, "a list", { pairs });
  const checked = pairs.map((pair) => {
    const [variable, next] = Array.isArray(pair) ? (pair as readonly [Variable, Tensor]) : [];
    if (!(variable instanceof Variable))
      throw new DTypeError(`needs pairs of a variable and its next value, got ${wordType(variable ?? pair)}.`, {
        operation,
        got: pair,
      });
    requireTensor(operation, next);
    if (!sameShape(variable.shape, next.shape))
      throw new ShapeError(`a variable of ${wordShape(variable.shape)} cannot hold ${wordShape(next.shape)}.`, {
        operation,
        expected: variable.shape,
        got: next.shape,
      });
    return [variable, cast(next, variable.dtype)] as const;
  });
  if (replays.length) return;
  const observer = observers[observers.length - 1];
  if (observer) {
    for (const [variable, next] of checked) observer.write(variable, next);
    return;
  }
  // a variable's memory is its own: values that somebody else holds, or two variables are given, are copied
  const taken = new Set<Tensor>();
  const owned = checked.map(([variable, next]) => {
    const own = next.storage !== null || taken.has(next) ? copy(next) : next;
    taken.add(own);
    return [variable, own] as const;
  });
  realizeAll(owned.map(([, next]) => next));
  // the old tensors stay: a loss that was built from them may still be asked for; the collector frees them
  for (const [variable, next] of owned) variable.replace(next);
}
