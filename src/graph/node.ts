/// <reference lib="esnext.disposable" preserve="true" />
// ↑ so that a project without this library in its settings can check our declarations
/**
 * A tensor: an immutable node of a graph. Operations only make more nodes; shapes and dtypes are known at once,
 * values when somebody asks for them. Fluent methods are added in tensor/methods.ts.
 */
import { DisposedError, DTypeError, requireKind, wordType } from "../errors.ts";
import type { DType } from "./dtype.ts";
import type { Primitive } from "./primitive.ts";
import type { Shape } from "./shape.ts";

/** The values of a tensor in the memory of a device. */
export interface Storage {
  /** The device that holds the bytes, and the bytes' handle there; graph code looks into neither. Other ones once it has been moved. */
  readonly device: object;
  readonly buffer: Disposable;
  /** What lies there. */
  readonly dtype: DType;
  readonly size: number;
  disposed: boolean;
  /** Gives the memory back when nothing holds this object; see compile/storage.ts. */
  hold?: object | undefined;
}

/** Gives the memory back. */
export function disposeStorage(storage: Storage): void {
  storage.disposed = true;
  storage.hold = undefined;
  storage.buffer[Symbol.dispose]();
}

let nextId = 0;

/** An immutable value: an operation, its sources, and shape and dtype of the result. */
export class Tensor {
  /** Counts up in the order of creation, so sources always have smaller ids. */
  readonly id: number = nextId++;
  readonly op: Primitive;
  readonly sources: readonly Tensor[];
  readonly shape: Shape;
  readonly dtype: DType;
  /** What the operation needs to know besides its sources. Plain data. */
  readonly attributes: Readonly<Record<string, unknown>>;
  /** Set once the values have been computed or uploaded. */
  storage: Storage | null = null;
  /** The mutable cell whose value this is, if any; see variable.ts. */
  variable: object | null = null;

  constructor(
    op: Primitive,
    sources: readonly Tensor[],
    shape: Shape,
    dtype: DType,
    attributes: Readonly<Record<string, unknown>> = {},
  ) {
    this.op = op;
    this.sources = sources;
    this.shape = shape;
    this.dtype = dtype;
    this.attributes = attributes;
  }

  /** Number of axes. */
  get rank(): number {
    return this.shape.length;
  }

  /** Number of elements. */
  get size(): number {
    let size = 1;
    for (const extent of this.shape) size *= extent;
    return size;
  }

  /** Gives the device memory back now instead of when the collector finds out. */
  dispose(): void {
    if (this.storage !== null && !this.storage.disposed) disposeStorage(this.storage);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** @throws {DisposedError} when the values of `x` were given back. */
export function checkAlive(operation: string, x: Tensor): void {
  if (x.storage?.disposed)
    throw new DisposedError(`a tensor of shape [${x.shape.join(", ")}] was disposed before this use.`, {
      operation,
      hint: "Dispose tensors after their last use, or leave them to the collector.",
    });
}

/** The operation of a node on other sources; the node itself where they are its own. */
export const withSources = (node: Tensor, sources: readonly Tensor[]): Tensor =>
  sources.every((source, i) => source === node.sources[i])
    ? node
    : new Tensor(node.op, sources, node.shape, node.dtype, node.attributes);

/** All nodes that `roots` are made of, sources before their readers. `stop` keeps a node but not what is behind it. */
export function topologicalOrder(roots: readonly Tensor[], stop: (node: Tensor) => boolean = () => false): Tensor[] {
  const seen = new Set<Tensor>();
  const order: Tensor[] = [];
  // the path to the node that is looked at, and by how many sources of each it has gone on; −1 for those that stop
  const path: Tensor[] = [];
  const taken: number[] = [];
  const enter = (node: Tensor): void => {
    if (seen.has(node)) return;
    seen.add(node);
    path.push(node);
    taken.push(node.sources.length === 0 || stop(node) ? -1 : 0);
  };
  for (const root of roots) {
    enter(root);
    while (path.length) {
      const top = path.length - 1;
      const node = path[top]!;
      const next = taken[top]!;
      if (next >= 0 && next < node.sources.length) {
        taken[top] = next + 1;
        enter(node.sources[next]!);
      } else {
        order.push(node);
        path.pop();
        taken.pop();
      }
    }
  }
  return order;
}

/** @throws {ConfigError} when this is no list; @throws {DTypeError} when something in it is no tensor */
export function requireTensorList(operation: string, name: string, list: unknown): asserts list is readonly Tensor[] {
  requireKind(operation, "a list", { [name]: list });
  for (const [i, x] of (list as unknown[]).entries())
    if (!(x instanceof Tensor)) requireTensors(operation, { [`${name}[${i}]`]: x });
}

/** @throws {DTypeError} when one of these is no tensor, as only a caller without types can do */
export function requireTensors(operation: string, given: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(given))
    if (!(value instanceof Tensor))
      throw new DTypeError(`\`${name}\` is ${wordType(value)}, not a tensor.`, { operation, got: value, hint: "Use tensor(…)." });
}
