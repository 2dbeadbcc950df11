/**
 * Second pass of the compiler: which values are computed together. Elementwise nodes and reductions are gathered into
 * clusters that become one loop program each; every other node is a kernel call of its own.
 *
 * A cluster walks one space: `size` elements, cut at `bounds` (products of trailing sizes). Members have a value per
 * element, or, once a reduction over the last axis has fixed `inner`, one value per row of `inner` elements.
 */
import type { FusionPolicy } from "../devices/device.ts";
import { isItem } from "../graph/fused.ts";
import { afterOp } from "../graph/movement.ts";
import { type Tensor, topologicalOrder } from "../graph/node.ts";
import { type Shape, sizeOf } from "../graph/shape.ts";
import { contiguousView, isContiguous, reshapeView, type View } from "../graph/view.ts";
import { accessOf, dependencies, follow, isLeaf } from "./prepare.ts";

/** More instructions than this in one program spill registers in every engine. */
const maximumMembers = 160;
const maximumReads = 28;

export interface Cluster {
  readonly kind: "cluster";
  form: "rows" | "columns";
  members: Tensor[];
  /** The members again, to ask for. */
  inside: Set<Tensor>;
  /** What members read that are not members themselves. */
  outside: Set<Tensor>;
  /** The views of reads that do not walk in order: those whose axes a new cut has to agree with. */
  strided: View[];
  size: number;
  bounds: number[];
  /** Length of a row, once a reduction has fixed it. */
  inner: number | null;
  dependencies: Set<Unit>;
  /** The units that have this one among their dependencies. */
  dependents: Set<Unit>;
  first: number;
  last: number;
}

export interface Call {
  readonly kind: "call";
  readonly node: Tensor;
  dependencies: Set<Unit>;
  dependents: Set<Unit>;
  first: number;
  last: number;
}

export type Unit = Cluster | Call;

export interface Fusion {
  readonly units: readonly Unit[];
  readonly unitOf: ReadonlyMap<Tensor, Unit>;
  /** Computed wherever it is read instead of once. */
  readonly inlined: ReadonlySet<Tensor>;
  /** Nodes whose values are written to memory. */
  readonly stored: ReadonlySet<Tensor>;
}

/** One read of a value that lies in memory, or in a register of the same cluster: where, and through which view. */
export interface Read {
  readonly base: Tensor;
  readonly view: View;
}

export const isGenerated = (node: Tensor): boolean => !isLeaf(node) && node.op.kind === "source";
const isLoop = (node: Tensor): boolean => !isLeaf(node) && (node.op.kind === "elementwise" || node.op.kind === "reduction");

/** Trailing products of a shape: where its axes begin and end in row-major order. */
export function boundsOf(shape: Shape): number[] {
  const bounds: number[] = [];
  let product = 1;
  for (let axis = shape.length - 1; axis > 0; axis--) {
    product *= shape[axis]!;
    if (product !== 1 && product !== sizeOf(shape)) bounds.push(product);
  }
  return [...new Set(bounds)];
}

/** All cuts together, if each divides the next; otherwise `null`: the shapes have no common refinement. */
function refine(a: readonly number[], b: readonly number[], size: number): number[] | null {
  const merged = [...new Set([...a, ...b])].filter((bound) => bound !== size && bound !== 1).sort((x, y) => x - y);
  for (let i = 0; i < merged.length; i++) if ((merged[i + 1] ?? size) % merged[i]! !== 0) return null;
  return merged;
}

/** Sizes of the axes that `bounds` cut out of `size`, outermost first. */
export function refinedShape(size: number, bounds: readonly number[]): number[] {
  const cuts = [1, ...bounds, size];
  const shape: number[] = [];
  for (let i = cuts.length - 1; i > 0; i--) shape.push(cuts[i]! / cuts[i - 1]!);
  return shape.length > 1 ? shape.filter((extent) => extent !== 1) : shape;
}

export function fuse(roots: readonly Tensor[], policy: FusionPolicy): Fusion {
  const order = topologicalOrder(roots, isLeaf);
  const position = new Map(order.map((node, i) => [node, i]));
  const bases = order.filter((node) => !isLeaf(node) && (node.op.kind !== "movement" || isItem(node)) && !isGenerated(node));
  const readers = new Map<Tensor, Tensor[]>();
  for (const node of order) {
    if (node.op.kind === "movement" && !isItem(node) && !isLeaf(node)) continue;
    for (const source of dependencies(node)) {
      const { base } = accessOf(source);
      const list = readers.get(base);
      if (list) list.push(node);
      else readers.set(base, [node]);
    }
  }
  const rootSet = new Set(roots);
  const inlined = new Set<Tensor>();
  if (policy.elementwise) for (const node of bases) if (worthInlining(node)) inlined.add(node);

  /** Made of index numbers and constants only, so nothing has to be read to compute it. */
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

  function worthInlining(node: Tensor): boolean {
    if (node.op.kind !== "elementwise" || rootSet.has(node) || node.op.name === "copy") return false;
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
      const path = [...inner.moves, ...moves];
      if (follow(contiguousView(inner.base.shape), path) === null) return false;
      return !inlined.has(inner.base) || chainHolds(inner.base, path);
    });
  }

  const unitOf = new Map<Tensor, Unit>();
  const units = new Set<Unit>();

  for (const node of bases) {
    if (inlined.has(node)) continue;
    const needs = unitDependencies(node, unitOf, inlined);
    const index = position.get(node)!;
    if (!isLoop(node)) {
      if (isItem(node)) {
        // results of a fused node belong to its call
        unitOf.set(node, unitOf.get(node.sources[0]!)!);
        continue;
      }
      const call: Call = { kind: "call", node, dependencies: new Set(), dependents: new Set(), first: index, last: index };
      units.add(call);
      unitOf.set(node, call);
      waitFor(call, needs);
      continue;
    }
    const target = joinClusters(node, needs, index);
    unitOf.set(node, target);
    admit(target, node);
    target.last = index;
    // joining may have merged clusters that were needed one by one
    const isCurrent = [...needs].every((need) => units.has(need));
    waitFor(target, isCurrent ? needs : unitDependencies(node, unitOf, inlined));
  }

  const stored = new Set<Tensor>(roots);
  for (const node of bases) {
    if (inlined.has(node)) continue;
    const unit = unitOf.get(node)!;
    for (const { base } of loopReads(node, inlined) ?? []) if (unitOf.has(base) && unitOf.get(base) !== unit) stored.add(base);
    if (!isLoop(node)) {
      stored.add(node);
      if (!isItem(node)) for (const source of node.sources) stored.add(accessOf(source).base);
    }
  }
  return { units: [...units], unitOf, inlined, stored };

  function waitFor(unit: Unit, needs: Iterable<Unit>): void {
    for (const need of needs) {
      if (need === unit) continue;
      unit.dependencies.add(need);
      need.dependents.add(unit);
    }
  }

  function admit(cluster: Cluster, node: Tensor): void {
    cluster.members.push(node);
    cluster.inside.add(node);
    for (const { base, view } of loopReads(node, inlined)!) {
      if (!cluster.inside.has(base)) cluster.outside.add(base);
      if (!isContiguous(view)) cluster.strided.push(view);
    }
  }

  function newCluster(node: Tensor, index: number): Cluster {
    const columns = node.op.kind === "reduction" && !foldsLastAxis(node);
    const shape = node.op.kind === "reduction" && !columns ? node.sources[0]!.shape : node.shape;
    const size = sizeOf(shape);
    const inner = node.op.kind === "reduction" && !columns ? shape[shape.length - 1]! : null;
    const cluster: Cluster = {
      kind: "cluster",
      form: columns ? "columns" : "rows",
      members: [],
      inside: new Set(),
      outside: new Set(),
      strided: [],
      size,
      bounds: boundsOf(shape),
      inner,
      dependencies: new Set(),
      dependents: new Set(),
      first: index,
      last: index,
    };
    if (inner !== null) cluster.bounds = refine(cluster.bounds, [inner], size) ?? cluster.bounds;
    units.add(cluster);
    return cluster;
  }

  /** The cluster that `node` becomes a member of: the merger of all its producers' clusters that fit, or a new one. */
  function joinClusters(node: Tensor, needs: Set<Unit>, index: number): Cluster {
    const mayJoin = node.op.kind === "elementwise" ? policy.elementwise : policy.rows;
    const reads = loopReads(node, inlined);
    if (!mayJoin || reads === null || node.size === 0) return newCluster(node, index);
    const candidates = [...needs]
      .filter((unit): unit is Cluster => unit.kind === "cluster" && unit.form === "rows")
      .sort((a, b) => b.last - a.last);
    let target: Cluster | null = null;
    for (const candidate of candidates) {
      if (!policy.rows && candidate.inner !== null) continue;
      const merged: Cluster | null = target === null ? candidate : combine(target, candidate);
      if (merged === null) continue;
      const fitted = spaceWith(merged, node, reads);
      if (fitted === null) continue;
      // nothing that must run before the cluster may need the cluster
      const parts = target ? [target, candidate] : [candidate];
      if (anyReaches(needs, parts) || anyReaches(merged.dependencies, parts)) continue;
      if (target && target !== candidate) replace([target, candidate], merged);
      Object.assign(merged, fitted);
      target = merged;
    }
    return target ?? newCluster(node, index);
  }

  /** Both clusters as one, if their spaces agree. Does not touch them. */
  function combine(a: Cluster, b: Cluster): Cluster | null {
    if (a === b) return a;
    if (a.members.length + b.members.length > maximumMembers) return null;
    if (a.size !== b.size || (a.inner !== null && b.inner !== null && a.inner !== b.inner)) return null;
    const bounds = refine(a.bounds, b.bounds, a.size);
    const inner = a.inner ?? b.inner;
    if (bounds === null || (inner !== null && refine(bounds, [inner], a.size) === null)) return null;
    const members = [...a.members, ...b.members].sort((x, y) => position.get(x)! - position.get(y)!);
    const inside = new Set(members);
    const merged: Cluster = {
      kind: "cluster",
      form: "rows",
      members,
      inside,
      outside: new Set([...a.outside, ...b.outside].filter((base) => !inside.has(base))),
      strided: [...a.strided, ...b.strided],
      size: a.size,
      bounds,
      inner,
      dependencies: new Set([...a.dependencies, ...b.dependencies]),
      dependents: new Set([...a.dependents, ...b.dependents]),
      first: Math.min(a.first, b.first),
      last: Math.max(a.last, b.last),
    };
    for (const part of [a, b]) {
      merged.dependencies.delete(part);
      merged.dependents.delete(part);
    }
    // one part may read the other, which it did through memory so far
    const holds = merged.members.every((member) => {
      const level = member.op.kind !== "reduction" && isRowLevel(member, merged) ? "row" : "element";
      return passedOn(inside, loopReads(member, inlined)!, level, merged, inner);
    });
    return holds && sayable(merged, merged.strided) ? merged : null;
  }

  function replace(parts: readonly Cluster[], merged: Cluster): void {
    for (const part of parts) units.delete(part);
    units.add(merged);
    for (const member of merged.members) unitOf.set(member, merged);
    for (const unit of merged.dependents) {
      for (const part of parts) unit.dependencies.delete(part);
      unit.dependencies.add(merged);
    }
    for (const unit of merged.dependencies) {
      for (const part of parts) unit.dependents.delete(part);
      unit.dependents.add(merged);
    }
  }

  /** True when one of `units` that is not among `parts` has to run after one that is. */
  function anyReaches(units: ReadonlySet<Unit>, parts: readonly Unit[]): boolean {
    for (const unit of units) if (!parts.includes(unit) && parts.some((part) => reaches(unit, part))) return true;
    return false;
  }

  /** True when `from` has to run after `to`. */
  function reaches(from: Unit, to: Unit): boolean {
    if (from === to) return true;
    if (from.last < to.first) return false;
    const seen = new Set<Unit>();
    const stack = [from];
    while (stack.length) {
      const unit = stack.pop()!;
      if (unit === to) return true;
      if (seen.has(unit) || unit.last < to.first) continue;
      seen.add(unit);
      stack.push(...unit.dependencies);
    }
    return false;
  }

  /** How the cluster's space changes when `node` joins; `null` if it does not fit. */
  function spaceWith(cluster: Cluster, node: Tensor, reads: readonly Read[]): { bounds: number[]; inner: number | null } | null {
    if (cluster.members.length >= maximumMembers) return null;
    const { inside, outside } = cluster;
    const more = new Set(reads.map(({ base }) => base).filter((base) => !inside.has(base) && !outside.has(base)));
    if (outside.size + more.size > maximumReads) return null;
    const { size } = cluster;
    let { inner } = cluster;
    let level: "element" | "row";
    let bounds: number[] | null;
    if (node.op.kind === "reduction") {
      if (!foldsLastAxis(node)) return null;
      const shape = node.sources[0]!.shape;
      if (sizeOf(shape) !== size) return null;
      const last = shape[shape.length - 1]!;
      if (inner !== null && inner !== last) return null;
      inner = last;
      level = "element";
      bounds = refine(cluster.bounds, [...boundsOf(shape), last], size);
    } else if (node.size === size) {
      level = "element";
      bounds = refine(cluster.bounds, boundsOf(node.shape), size);
    } else if (inner !== null && node.size * inner === size) {
      level = "row";
      bounds = refine(
        cluster.bounds,
        boundsOf(node.shape).map((bound) => bound * inner!),
        size,
      );
    } else return null;
    if (bounds === null) return null;
    // a row-level value exists only where rows are: a cut at `inner` must be among the bounds
    if (inner !== null && inner !== size && !bounds.includes(inner)) return null;
    if (!passedOn(inside, reads, level, cluster, inner)) return null;
    const strided = reads.map(({ view }) => view).filter((view) => !isContiguous(view));
    // views that agreed with the cuts still do where there are no new ones
    const isCutAnew = inner !== cluster.inner || bounds.length !== cluster.bounds.length;
    return sayable({ size, bounds, inner }, isCutAnew ? [...cluster.strided, ...strided] : strided) ? { bounds, inner } : null;
  }

  /** True when what the reader takes from members is in a register when it is needed: its own element, or its own row's value. */
  function passedOn(
    members: ReadonlySet<Tensor>,
    reads: readonly Read[],
    level: "element" | "row",
    cluster: Cluster,
    inner: number | null,
  ): boolean {
    return reads.every(({ base, view }) => {
      if (!members.has(base)) return true;
      if (inner === null || !isRowLevel(base, cluster))
        return level === "element" && base.size === cluster.size && isContiguous(view);
      return level === "row" ? isContiguous(view) : isRowBroadcast(view, cluster.size, inner);
    });
  }

  /** The views can be walked along the axes that lower.ts will give the cluster: its rows, cut at the bounds, and one row whole. */
  function sayable({ size, inner, bounds }: Pick<Cluster, "size" | "inner" | "bounds">, strided: readonly View[]): boolean {
    if (strided.length === 0) return true;
    const cuts = inner === null ? [] : bounds.flatMap((bound) => (bound > inner ? [bound / inner] : []));
    const rows = inner === null ? [] : refinedShape(size / inner, cuts).filter((extent) => extent !== 1);
    const full = inner === null ? refinedShape(size, bounds) : [...rows, inner];
    return strided.every((view) => reshapeView(view, inner === null || sizeOf(view.shape) === size ? full : rows) !== null);
  }
}

/** True for values that a rows cluster holds once per row. */
export function isRowLevel(node: Tensor, cluster: Cluster): boolean {
  return cluster.inner !== null && cluster.inner > 1 && node.size * cluster.inner === cluster.size;
}

/** One value per row of `inner` elements, repeated along the row. */
function isRowBroadcast(view: View, size: number, inner: number): boolean {
  const rows = reshapeView(view, [size / inner, inner]);
  return (
    rows !== null &&
    rows.valid === null &&
    rows.offset === 0 &&
    rows.strides[1] === 0 &&
    (rows.strides[0] === 1 || size === inner)
  );
}

export function foldsLastAxis(node: Tensor): boolean {
  const axes = node.attributes["axes"] as readonly number[];
  return axes.length === 1 && axes[0] === node.shape.length - 1;
}

/** Units that must have run before `node` can: those of the values it reads, and of what `after` waits for. */
function unitDependencies(node: Tensor, unitOf: ReadonlyMap<Tensor, Unit>, inlined: ReadonlySet<Tensor>): Set<Unit> {
  const needs = new Set<Unit>();
  const visit = (source: Tensor): void => {
    let at = source;
    while (!isLeaf(at) && at.op.kind === "movement" && !isItem(at)) {
      if (at.op === afterOp) visit(at.sources[1]!);
      at = at.sources[0]!;
    }
    if (inlined.has(at)) for (const inner of at.sources) visit(inner);
    else if (unitOf.has(at)) needs.add(unitOf.get(at)!);
  };
  for (const source of dependencies(node)) visit(source);
  return needs;
}

const readCache = new WeakMap<Tensor, { inlined: ReadonlySet<Tensor>; reads: Read[] | null }>();

/** What a loop node reads, through the nodes that are inlined into it. `null` for nodes that are not loops. */
export function loopReads(node: Tensor, inlined: ReadonlySet<Tensor>): Read[] | null {
  if (!isLoop(node)) return null;
  const cached = readCache.get(node);
  if (cached?.inlined === inlined) return cached.reads;
  const reads: Read[] = [];
  const visit = (source: Tensor, outer: readonly Tensor[]): void => {
    const { base, moves } = accessOf(source);
    const path = [...moves, ...outer];
    if (inlined.has(base)) for (const inner of base.sources) visit(inner, path);
    else reads.push({ base, view: follow(contiguousView(base.shape), path)! });
  };
  for (const source of node.sources) visit(source, []);
  readCache.set(node, { inlined, reads });
  return reads;
}
