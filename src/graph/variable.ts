/**
 * Mutable cells. Tensors never change; a variable holds one tensor after another: parameters, optimiser state, caches.
 * Reading a variable gives its tensor of this moment, so a graph that was built from it keeps its meaning.
 */
import { ShapeError, wordShape } from "../errors.ts";
import { cast } from "./elementwise.ts";
import type { Tensor } from "./node.ts";
import { sameShape } from "./shape.ts";

/** What is told of every read and write while a function is traced. */
export interface VariableObserver {
  read(variable: Variable): Tensor;
  write(variable: Variable, next: Tensor): void;
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

export const isObserved = (): boolean => observers.length > 0;

/** Computes tensors and keeps their values; given by the compiler, which this file must not import. */
let realizeAll: (tensors: readonly Tensor[]) => void = () => {
  throw new Error("variable: the compiler is not loaded");
};
export const setRealize = (realize: typeof realizeAll): void => {
  realizeAll = realize;
};

export class Variable {
  /** The gradient left by `backward()`, if any. */
  grad: Tensor | null = null;
  /** Whether `backward()` and training reach it. */
  requiresGrad: boolean;
  #current: Tensor;

  /** Takes over `initial`, which is computed now if it was not. */
  constructor(initial: Tensor, options: { readonly requiresGrad?: boolean } = {}) {
    realizeAll([initial]);
    this.#current = initial;
    initial.variable = this;
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
    return observer ? observer.read(this) : this.#current;
  }

  /** The tensor in the cell, whoever is observing. */
  get stored(): Tensor {
    return this.#current;
  }

  /** Puts another tensor of the same shape into the cell; it is computed now, or at the end of the traced program. */
  assign(next: Tensor): void {
    assignAll([[this, next]]);
  }

  /** For the compiler: the cell's new content, already computed. */
  replace(next: Tensor): void {
    if (next === this.#current) return;
    next.variable = this;
    this.#current = next;
  }
}

/** Assigns several variables at once, in one program; all right-hand sides are computed from the old values. */
export function assignAll(pairs: readonly (readonly [Variable, Tensor])[]): void {
  const checked = pairs.map(([variable, next]) => {
    if (!sameShape(variable.shape, next.shape))
      throw new ShapeError(`a variable of ${wordShape(variable.shape)} cannot hold ${wordShape(next.shape)}.`, {
        operation: "assign",
        expected: variable.shape,
        got: next.shape,
      });
    return [variable, cast(next, variable.dtype)] as const;
  });
  const observer = observers[observers.length - 1];
  if (observer) {
    for (const [variable, next] of checked) observer.write(variable, next);
    return;
  }
  realizeAll(checked.map(([, next]) => next));
  for (const [variable, next] of checked) {
    const old = variable.stored;
    variable.replace(next);
    if (old !== next) old.dispose();
  }
}
