/** Values that are computed wherever they are read instead of once, and what loops read through them. */
import type { Tensor } from "../graph/node.ts";
import { isConstant } from "../graph/source.ts";
import { contiguousView, isContiguous, type View } from "../graph/view.ts";
import { accessOf, follow, isLeaf } from "./prepare.ts";

/** One read of a value that lies in memory, or in a register of the same cluster: where, and through which view. */
export interface Read {
  readonly base: Tensor;
  readonly view: View;
  /** Whether the view walks all of the base, in order. */
  readonly whole: boolean;
}

const noMoves: readonly Tensor[] = [];

/** Values that are made from numbers and indices where they are read, and stand in no memory. */
export const isGenerated = (node: Tensor): boolean => !isLeaf(node) && node.op.kind === "source";
/** What becomes a part of a loop program. */
export const isLoop = (node: Tensor): boolean =>
  !isLeaf(node) && (node.op.kind === "elementwise" || node.op.kind === "reduction");

/**
 * The elementwise nodes that are computed wherever they are read: those made of index numbers and constants by a few operations, and
 * those that one reader takes in another order, or folds over leading axes.
 *
 * @param bases   all nodes that are no views, in topological order
 * @param readers of each of them
 * @param roots   are wanted themselves
 */
export function inlinedNodes(
  bases: readonly Tensor[],
  readers: ReadonlyMap<Tensor, readonly Tensor[]>,
  roots: ReadonlySet<Tensor>,
): Set<Tensor> {
  const inlined = new Set<Tensor>();
  for (const node of bases) if (worthInlining(node)) inlined.add(node);
  return inlined;

  function worthInlining(node: Tensor): boolean {
    if (node.op.kind !== "elementwise" || roots.has(node) || node.op.name === "copy") return false;
    const list = readers.get(node) ?? [];
    if (list.length === 0 || list.some((reader) => !isLoop(reader))) return false;
    if (generated(node, 12) >= 0) return readsThroughViews(node, list);
    if (list.length !== 1 || node.op.heavy) return false;
    // a single reader through a view that is not the identity, or a fold over leading axes
    const reader = list[0]!;
    const uses = reader.sources.filter((source) => accessOf(source).base === node);
    if (uses.length !== 1) return false;
    const { moves } = accessOf(uses[0]!);
    const expands = moves.some((move) => move.op.name === "expand");
    const view = follow(contiguousView(node.shape), moves);
    const columns = reader.op.kind === "reduction" && !foldsLastAxis(reader);
    const misaligned = view === null || !isContiguous(view);
    return !expands && (misaligned || columns) && readsThroughViews(node, list);
  }

  /** Every source of `node` can be read through every reader's view of `node`. */
  function readsThroughViews(node: Tensor, list: readonly Tensor[]): boolean {
    for (const reader of list)
      for (const use of reader.sources) {
        const outer = accessOf(use);
        if (outer.base !== node) continue;
        if (outer.moves.some((move) => move.op.name === "pad")) return false;
        for (const source of node.sources) {
          const inner = accessOf(source);
          if (isConstant(inner.base)) continue;
          if (follow(contiguousView(inner.base.shape), [...inner.moves, ...outer.moves]) === null) return false;
          // a chain of inlined nodes has to hold all the way down
          if (inlined.has(inner.base) && !chainHolds(inner.base, [...inner.moves, ...outer.moves])) return false;
        }
      }
    return true;
  }

  function chainHolds(node: Tensor, moves: readonly Tensor[]): boolean {
    return node.sources.every((source) => {
      const inner = accessOf(source);
      if (isConstant(inner.base)) return true;
      const path = [...inner.moves, ...moves];
      if (follow(contiguousView(inner.base.shape), path) === null) return false;
      return !inlined.has(inner.base) || chainHolds(inner.base, path);
    });
  }
}

/** What is left of `budget` operations once a node is computed from index numbers and constants alone; −1 where it cannot be. */
function generated(node: Tensor, budget: number): number {
  if (isGenerated(node)) return budget;
  if (budget <= 0 || isLeaf(node) || node.op.kind !== "elementwise" || node.op.heavy) return -1;
  let left = budget - 1;
  for (const source of node.sources) {
    const { base, moves } = accessOf(source);
    if (moves.some((move) => move.op.name === "pad")) return -1;
    left = generated(base, left);
    if (left < 0) return -1;
  }
  return left;
}

/** Whether a reduction folds the last axis and no other: rows. */
export function foldsLastAxis(node: Tensor): boolean {
  const axes = node.attributes["axes"] as readonly number[];
  return axes.length === 1 && axes[0] === node.shape.length - 1;
}

/** What loop nodes read, numbers not counted, through the nodes that are inlined into them; `null` for nodes that are not loops. */
export function readsThrough(inlined: ReadonlySet<Tensor>): (node: Tensor) => readonly Read[] | null {
  const known = new Map<Tensor, readonly Read[] | null>();
  return (node) => {
    let reads = known.get(node);
    if (reads === undefined) known.set(node, (reads = isLoop(node) ? readsOf(node) : null));
    return reads;
  };

  function readsOf(node: Tensor): Read[] {
    const reads: Read[] = [];
    const visit = (source: Tensor, outer: readonly Tensor[]): void => {
      const { base, moves } = accessOf(source);
      const path = outer.length ? [...moves, ...outer] : moves;
      if (inlined.has(base)) for (const inner of base.sources) visit(inner, path);
      else if (!isConstant(base)) {
        const view = follow(contiguousView(base.shape), path)!;
        reads.push({ base, view, whole: isContiguous(view) });
      }
    };
    for (const source of node.sources) visit(source, noMoves);
    return reads;
  }
}
