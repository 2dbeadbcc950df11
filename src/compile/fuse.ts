/**
 * Second pass of the compiler: which values are computed together. Elementwise nodes and reductions are gathered into
 * clusters that become one loop program each; every other node is a kernel call of its own.
 */
import type { FusionPolicy } from "../devices/device.ts";
import { isItem } from "../graph/fused.ts";
import { afterOp } from "../graph/movement.ts";
import { type Tensor, topologicalOrder } from "../graph/node.ts";
import { sizeOf } from "../graph/shape.ts";
import {
  boundsOf,
  type Call,
  type Cluster,
  isCutLike,
  isRowLevel,
  maximumMembers,
  passedOn,
  refine,
  sayable,
  spaceWith,
  type Unit,
} from "./cluster.ts";
import { foldsLastAxis, inlinedNodes, isGenerated, isLoop, readsThrough } from "./inline.ts";
import { accessOf, dependencies, isLeaf } from "./prepare.ts";

/** What is computed together, and which values lie in memory. */
export interface Fusion {
  readonly units: readonly Unit[];
  readonly unitOf: ReadonlyMap<Tensor, Unit>;
  /** Computed wherever it is read instead of once. */
  readonly inlined: ReadonlySet<Tensor>;
  /** Nodes whose values are written to memory. */
  readonly stored: ReadonlySet<Tensor>;
}

/** Gathers the nodes that `roots` need. @param policy what the device can have in one program */
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
  const inlined = policy.elementwise ? inlinedNodes(bases, readers, new Set(roots)) : new Set<Tensor>();

  const loopReads = readsThrough(inlined);

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
    for (const { base } of loopReads(node) ?? []) if (unitOf.has(base) && unitOf.get(base) !== unit) stored.add(base);
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
    for (const { base, view, whole } of loopReads(node)!) {
      if (!cluster.inside.has(base)) cluster.outside.add(base);
      if (!whole) cluster.strided.push(view);
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
    const reads = loopReads(node);
    if (!mayJoin || reads === null || node.size === 0) return newCluster(node, index);
    const candidates: Cluster[] = [];
    for (const unit of needs) if (unit.kind === "cluster" && unit.form === "rows") candidates.push(unit);
    candidates.sort((a, b) => b.last - a.last);
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
      return passedOn(inside, loopReads(member)!, level, merged, inner);
    });
    return holds && [a, b].every((part) => isCutLike(part, merged) || sayable(merged, part.strided)) ? merged : null;
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
