/**
 * First pass of the compiler: the graph that was asked for becomes one in which every movement can be said by strides.
 * Equal nodes become one, fused operations without a kernel on the device become their composition, sums of a matrix
 * product and something else become a product that starts from it, and copies are put in where strides are not enough.
 */
import type { Device } from "../devices/device.ts";
import { matmulOp } from "../graph/contraction.ts";
import { copy, elementwise } from "../graph/elementwise.ts";
import { isItem, itemOp } from "../graph/fused.ts";
import { afterOp, customOp, expandOp, moveView, padOp, reshape, reshapeOp, stopGradientOp } from "../graph/movement.ts";
import { checkAlive, Tensor, topologicalOrder, withSources } from "../graph/node.ts";
import type { Fused, KernelOperation } from "../graph/primitive.ts";
import { sameShape, sizeOf } from "../graph/shape.ts";
import { constant, isConstant } from "../graph/source.ts";
import { contiguousView, isContiguous, type View } from "../graph/view.ts";

/** A node whose values lie somewhere: not a movement. */
type Base = Tensor;

/** How a node's elements are found: the movements that lead from a base to it, nearest to the base first. */
export interface Access {
  readonly base: Base;
  readonly moves: readonly Tensor[];
}

/** Whether a node has its value from elsewhere: stored, or an argument of a traced program. */
export const isLeaf = (node: Tensor): boolean => node.storage !== null || node.op.name === "input" || node.op.name === "buffer";
const isGenerated = (node: Tensor): boolean => !isLeaf(node) && (node.op.name === "constant" || node.op.name === "iota");
const isAlias = (node: Tensor): boolean => node.op === stopGradientOp || node.op === afterOp || node.op === customOp;

const noMoves: readonly Tensor[] = [];

/** Follows movements back to the base. Items of fused nodes are bases. */
export function accessOf(node: Tensor): Access {
  if (node.op.kind !== "movement" || isItem(node) || isLeaf(node)) return { base: node, moves: noMoves };
  const moves: Tensor[] = [];
  let at = node;
  while (!isLeaf(at) && at.op.kind === "movement" && !isItem(at)) {
    if (!isAlias(at)) moves.push(at);
    at = at.sources[0]!;
  }
  return { base: at, moves: moves.reverse() };
}

/** The view of `moves` over `view`; `null` where strides cannot say it. */
export function follow(view: View | null, moves: readonly Tensor[]): View | null {
  let at = view;
  for (const move of moves) {
    if (at === null) return null;
    at = moveView(move, at);
  }
  return at;
}

const viewOf = (node: Tensor): View | null => {
  const { base, moves } = accessOf(node);
  return follow(contiguousView(base.shape), moves);
};

/** What a node's values depend on, for ordering: its sources, but only the value of a custom derivative's node. */
export const dependencies = (node: Tensor): readonly Tensor[] =>
  isLeaf(node) ? [] : node.op === customOp ? node.sources.slice(0, 1) : node.sources;

/** The graph after the first pass. */
export interface Prepared {
  /** In the order of the roots that were given. */
  readonly roots: readonly Tensor[];
  /**
   * When a node was made, first to last, also for nodes that replace others. Running in this order keeps lives short:
   * a derivative is made right after what it needs.
   */
  age(node: Tensor): number;
}

/** Rewrites the graphs behind `roots` for `device`. */
export function prepare(roots: readonly Tensor[], device: Device): Prepared {
  const ages = new Map<Tensor, number>();
  const inherit = (next: Tensor, from: Tensor): Tensor => {
    // one that was there before keeps its own
    if (next.id > from.id && !ages.has(next)) ages.set(next, ages.get(from) ?? from.id);
    return next;
  };
  const absorbed = absorbAddends(simplify(roots, device, inherit), inherit);
  return { roots: joinUpdates(absorbed, device.updateDepth ?? 0, inherit), age: (node) => ages.get(node) ?? node.id };
}

/** Tells that a new node stands for an old one; gives the new one back. */
type Inherit = (next: Tensor, from: Tensor) => Tensor;

/** Whether a node is 1 everywhere, in no memory. */
function isOne(node: Tensor): boolean {
  let at = node;
  while (!isLeaf(at) && (at.op === expandOp || at.op === reshapeOp)) at = at.sources[0]!;
  return isConstant(at) && at.attributes["value"] === 1;
}

/**
 * Equal nodes become one; fused operations without a kernel become their composition; unsayable views become copies; a product with 1,
 * as every derivative begins, becomes its other factor.
 * Elementwise nodes and reductions are left as they are: whoever writes the same formula again in a derivative wants it
 * computed again instead of kept; within one program equal instructions are one anyway.
 */
function simplify(roots: readonly Tensor[], device: Device, inherit: Inherit): Tensor[] {
  const done = new Map<Tensor, Tensor>();
  const known = new Map<string, Tensor>();
  const compositions = new Map<Tensor, readonly Tensor[]>();

  const intern = (node: Tensor): Tensor => {
    if (
      isLeaf(node) ||
      node.op.kind === "reduction" ||
      (node.op.kind === "elementwise" && node.op !== elementwise.copy) ||
      node.op === afterOp
    )
      return node;
    const attributes = attributesKey(node);
    if (attributes === null) return node;
    const key = `${node.op.name}|${node.dtype}|${node.shape}|${node.sources.map((s) => s.id)}|${attributes}`;
    const same = known.get(key);
    if (same) return same;
    known.set(key, node);
    return node;
  };

  const settle = (node: Tensor): Tensor => {
    if (isLeaf(node)) {
      checkAlive("run", node);
      return node;
    }
    const kind = node.op.kind;
    if (isItem(node) && node.sources[0]!.op.kind === "fused" && !hasKernel(device, node.sources[0]!)) {
      const fused = node.sources[0]!;
      let results = compositions.get(fused);
      if (!results) {
        const firstOfComposition = constant(0).id;
        results = (fused.op as Fused).compose(fused.sources, fused.attributes).map(visit);
        // the whole composition is as old as what it stands for
        for (const part of topologicalOrder(results, (n) => isLeaf(n) || n.id < firstOfComposition)) inherit(part, fused);
        compositions.set(fused, results);
      }
      return results[node.attributes["index"] as number]!;
    }
    if (node.op === customOp || node.op === stopGradientOp) return visit(node.sources[0]!);
    let sources: Tensor[] = node.sources.map(visit);
    if (node.op === elementwise.mul) {
      const other = sources.findIndex(isOne);
      if (other >= 0) return sources[1 - other]!;
    }
    if (node.op === matmulOp) sources = [sources[0]!, inherit(unwidened(sources[1]!, device, intern), sources[1]!)];
    if (kind === "kernel")
      sources = sources.map((source, i) => inherit(operand(node.op as KernelOperation, i, source, intern), source));
    if (kind === "fused")
      sources = sources.map((source, i) => inherit(fusedOperand(node.op as Fused, i, source, intern), source));
    let next = withSources(node, sources);
    if (kind === "movement" && !isAlias(node) && node.op !== itemOp) {
      const source = sources[0]!;
      // the source's view can be said, and no other movement takes it to one that cannot
      const unsayable = node.op === reshapeOp ? viewOf(next) === null : node.op === padOp && isGenerated(accessOf(source).base);
      if (unsayable) next = new Tensor(node.op, [intern(copy(source))], node.shape, node.dtype, node.attributes);
    }
    return intern(next);
  };

  const visit = (root: Tensor): Tensor => {
    if (done.has(root)) return done.get(root)!;
    // sources first, without recursion as deep as the graph
    for (const node of topologicalOrder([root], (n) => isLeaf(n) || done.has(n)))
      if (!done.has(node)) done.set(node, inherit(settle(node), node));
    return done.get(root)!;
  };
  return roots.map(visit);
}

/** The same text for equal attributes, and only for them; `null` where one is what no text can say. */
export function attributesKey({ attributes }: Tensor): string | null {
  let key = "";
  for (const name in attributes) {
    const value = valueKey(attributes[name]);
    if (value === null) return null;
    key += `${name}:${value};`;
  }
  return key;
}

/** The same for one value; `null` for functions and the like. */
function valueKey(value: unknown): string | null {
  if (typeof value === "number") return Object.is(value, -0) ? "-0" : `${value}`;
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "boolean" || value === null || value === undefined) return `${value}`;
  if (typeof value !== "object") return null;
  const isList = Array.isArray(value);
  if (!isList && Object.getPrototypeOf(value) !== Object.prototype) return null;
  let text = isList ? "[" : "{";
  for (const [name, item] of Object.entries(value)) {
    const said = valueKey(item);
    if (said === null) return null;
    text += isList ? `${said},` : `${JSON.stringify(name)}:${said},`;
  }
  return text + (isList ? "]" : "}");
}

/** True when a matrix kernel can walk the operand: batch strides are free, one of the last two axes is unit. */
function matrixLike(view: View): boolean {
  if (view.valid !== null || view.strides.some((stride) => stride < 0)) return false;
  const rank = view.shape.length;
  const [rows, columns] = [rank - 2, rank - 1];
  const unit = (axis: number) => view.strides[axis] === 1 || view.shape[axis] === 1;
  return unit(columns) || unit(rows);
}

/** What a product reads on its right side: a matrix of 16 bits as it lies, where the kernel widens it and nothing need be written. */
function unwidened(source: Tensor, device: Device, intern: (x: Tensor) => Tensor): Tensor {
  const { base, moves } = accessOf(source);
  if (isLeaf(base) || base.op !== elementwise.cast || base.dtype !== "float32" || !device.widens?.has(base.sources[0]!.dtype))
    return source;
  const narrow = moves.reduce(
    (at, { op, shape, attributes }) => intern(new Tensor(op, [at], shape, at.dtype, attributes)),
    base.sources[0]!,
  );
  return viewOf(narrow) === null ? source : narrow;
}

function operand(op: KernelOperation, index: number, source: Tensor, intern: (x: Tensor) => Tensor): Tensor {
  const { base } = accessOf(source);
  const view = viewOf(source);
  const fine =
    !isGenerated(base) &&
    view !== null &&
    (op === matmulOp ? matrixLike(view) : op.strided?.includes(index) ? view.valid === null : isContiguous(view));
  return fine ? source : intern(copy(source));
}

/** Kernels of fused operations are made for some dtypes; of others the composition runs. */
const hasKernel = (device: Device, { op, sources }: Tensor): boolean =>
  device.kernels.has(op.name) && sources.every(({ dtype }, i) => dtype === ((op as Fused).operands?.[i] ?? "float32"));

/** Fused kernels read their strided operands through any strides whose last axis is unit. */
function fusedOperand(op: Fused, index: number, source: Tensor, intern: (x: Tensor) => Tensor): Tensor {
  const { base } = accessOf(source);
  const view = viewOf(source);
  const walkable =
    view !== null &&
    view.valid === null &&
    (view.strides[view.strides.length - 1] === 1 || view.shape[view.shape.length - 1] === 1);
  const fine = !isGenerated(base) && view !== null && (op.strided?.includes(index) ? walkable : isContiguous(view));
  return fine ? source : intern(copy(source));
}

/** How many nodes read each one; to be a root is to be read, too. */
function readersOf(order: readonly Tensor[], roots: readonly Tensor[]): Map<Tensor, number> {
  const readers = new Map<Tensor, number>();
  const count = (node: Tensor): void => void readers.set(node, (readers.get(node) ?? 0) + 1);
  for (const node of order) dependencies(node).forEach(count);
  roots.forEach(count);
  return readers;
}

/** The product behind `node` when it is reached by reshapes only and read once all the way. */
function productBehind(node: Tensor, readers: ReadonlyMap<Tensor, number>): Tensor | null {
  let at = node;
  while (at.op === reshapeOp && at.storage === null && readers.get(at) === 1) at = at.sources[0]!;
  return at.op === matmulOp && at.storage === null && readers.get(at) === 1 ? at : null;
}

/**
 * add(matmul(a, b), c) becomes matmul(a, b) starting from c: a bias, a residual or a low-rank update costs no pass of its own.
 * Only where nobody else reads the product.
 */
function absorbAddends(roots: readonly Tensor[], inherit: Inherit): Tensor[] {
  const order = topologicalOrder(roots, isLeaf);
  const readers = readersOf(order, roots);

  const product = (node: Tensor) => productBehind(node, readers);
  const absorb = (node: Tensor, addend: Tensor): Tensor | null => {
    const found = product(node);
    if (found === null || addend.dtype !== found.dtype) return null;
    const matrix = reshape(addend, found.shape);
    const view = viewOf(matrix);
    if (view === null || view.valid !== null || isGenerated(accessOf(matrix).base)) return null;
    const rank = view.strides.length;
    if (view.strides.some((stride) => stride < 0) || (view.strides[rank - 1] !== 1 && view.shape[rank - 1] !== 1)) return null;
    if (found.sources.length === 2) {
      const next = new Tensor(matmulOp, [...found.sources, matrix], found.shape, found.dtype);
      readers.set(next, 1);
      return reshape(next, node.shape);
    }
    return null;
  };
  /** A value that lies in memory anyway, so that reading it as a start costs nothing extra. */
  const stored = (node: Tensor): boolean => {
    const { base } = accessOf(node);
    return isLeaf(base) || base.op.kind === "kernel" || isItem(base) || (readers.get(base) ?? 0) > 1;
  };

  const done = new Map<Tensor, Tensor>();
  const get = (node: Tensor): Tensor => done.get(node) ?? node;
  for (const node of order) {
    const sources = isLeaf(node) ? node.sources : node.sources.map(get);
    let next: Tensor | null = null;
    if (!isLeaf(node) && node.op === elementwise.add && node.dtype !== "int32" && sizeOf(node.shape) > 0) {
      const [x, y] = sources as [Tensor, Tensor];
      if (product(y) && (stored(x) || product(x))) next = absorb(y, x);
      if (!next && product(x) && stored(y)) next = absorb(x, y);
      // the product has a start already: pass the addend on to that start
      if (!next) next = absorbDeeper(x, y) ?? absorbDeeper(y, x);
    }
    next ??= withSources(node, sources);
    if (next !== node) readers.set(next, readers.get(node) ?? 0);
    // a new product may stand behind a reshape; a base that was there keeps its own age
    if (next !== node) inherit(accessOf(next).base, node);
    done.set(node, inherit(next, node));
  }
  return roots.map(get);

  function absorbDeeper(node: Tensor, addend: Tensor): Tensor | null {
    const found = product(node);
    if (!found || found.sources.length !== 3 || !stored(addend)) return null;
    const inner = absorb(found.sources[2]!, reshape(addend, found.shape));
    if (!inner) return null;
    const next = new Tensor(matmulOp, [found.sources[0]!, found.sources[1]!, inner], found.shape, found.dtype);
    readers.set(next, 1);
    return reshape(next, node.shape);
  }
}

/**
 * A product that starts from another one, of which one is at most `depth` deep, as in x·Wᵀ + (x·Aᵀ)·Bᵀ, becomes one with two pairs
 * of factors, so that what the other adds is not written and read again. Only where nobody else reads the one inside.
 */
function joinUpdates(roots: readonly Tensor[], depth: number, inherit: Inherit): Tensor[] {
  if (depth === 0) return [...roots];
  const order = topologicalOrder(roots, isLeaf);
  const readers = readersOf(order, roots);

  const depthOf = ({ sources }: Tensor): number => sources[0]!.shape[sources[0]!.rank - 1]!;
  /** The product that this one starts from. */
  const startOf = (node: Tensor): Tensor | null => {
    if (node.op !== matmulOp || isLeaf(node) || node.sources.length !== 3) return null;
    const start = productBehind(node.sources[2]!, readers);
    return start && start.sources.length <= 3 && sameShape(start.shape, node.shape) ? start : null;
  };
  const join = (node: Tensor): Tensor => {
    const start = startOf(node);
    if (start === null) return node;
    const [update, main] = depthOf(start) < depthOf(node) ? [start, node] : [node, start];
    const [c, d] = update.sources as [Tensor, Tensor];
    if (depthOf(update) > depth || c.dtype !== "float32" || d.dtype !== "float32") return node;
    const sources = [...main.sources.slice(0, 2), c, d, ...start.sources.slice(2)];
    return new Tensor(matmulOp, sources, node.shape, node.dtype);
  };

  const done = new Map<Tensor, Tensor>();
  for (const node of order) {
    const moved = isLeaf(node)
      ? node
      : withSources(
          node,
          node.sources.map((source) => done.get(source) ?? source),
        );
    if (moved !== node) readers.set(moved, readers.get(node) ?? 0);
    const next = join(moved);
    if (next !== moved) readers.set(next, readers.get(node) ?? 0);
    if (next !== node) done.set(node, inherit(next, node));
  }
  return roots.map((root) => done.get(root) ?? root);
}
