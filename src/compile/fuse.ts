/**
 * Second pass of the compiler: which values are computed together. Elementwise nodes and reductions are gathered into
 * clusters that become one loop program each; every other node is a kernel call of its own.
 */
import type { FusionPolicy } from "../devices/device.ts";
import { isItem } from "../graph/fused.ts";
import { afterOp } from "../graph/movement.ts";
import { type Tensor, topologicalOrder } from "../graph/node.ts";
import { addMember, type Call, type Cluster, clusterFor, mergedCluster, spaceWith, type Unit } from "./cluster.ts";
import { inlinedNodes, isGenerated, isLoop, type Read, readsThrough } from "./inline.ts";
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
  const bases = order.filter((node) => !isLeaf(node) && !isView(node) && !isGenerated(node));
  const inlined = policy.elementwise ? inlinedNodes(bases, readersOf(order), new Set(roots)) : new Set<Tensor>();
  const computed = bases.filter((node) => !inlined.has(node));
  const gathering = new Gathering(order, inlined, policy);
  for (const node of computed) gathering.take(node);
  const { units, unitOf } = gathering;
  return { units: [...units], unitOf, inlined, stored: storedNodes(roots, computed, gathering) };
}

/** Another look at the values of its source. */
const isView = (node: Tensor): boolean => node.op.kind === "movement" && !isItem(node);

/** The nodes that read each node, directly or through views. */
function readersOf(order: readonly Tensor[]): Map<Tensor, Tensor[]> {
  const readers = new Map<Tensor, Tensor[]>();
  for (const node of order) {
    if (isView(node) && !isLeaf(node)) continue;
    for (const source of dependencies(node)) {
      const { base } = accessOf(source);
      const list = readers.get(base);
      if (list) list.push(node);
      else readers.set(base, [node]);
    }
  }
  return readers;
}

/** What is wanted, what one unit makes for another, and what calls read and make. */
function storedNodes(roots: readonly Tensor[], computed: readonly Tensor[], { unitOf, readsOf }: Gathering): Set<Tensor> {
  const stored = new Set<Tensor>(roots);
  for (const node of computed) {
    const unit = unitOf.get(node)!;
    for (const { base } of readsOf(node) ?? []) if (unitOf.has(base) && unitOf.get(base) !== unit) stored.add(base);
    if (isLoop(node)) continue;
    stored.add(node);
    if (!isItem(node)) for (const source of node.sources) stored.add(accessOf(source).base);
  }
  return stored;
}

/** The units so far; nodes are taken one by one, in topological order. */
class Gathering {
  readonly units = new Set<Unit>();
  readonly unitOf = new Map<Tensor, Unit>();
  readonly readsOf: (node: Tensor) => readonly Read[] | null;
  readonly #place: ReadonlyMap<Tensor, number>;
  readonly #inlined: ReadonlySet<Tensor>;
  readonly #policy: FusionPolicy;

  constructor(order: readonly Tensor[], inlined: ReadonlySet<Tensor>, policy: FusionPolicy) {
    this.#place = new Map(order.map((node, i) => [node, i]));
    this.#inlined = inlined;
    this.#policy = policy;
    this.readsOf = readsThrough(inlined);
  }

  take(node: Tensor): void {
    const { units, unitOf } = this;
    if (isItem(node)) {
      // results of a fused node belong to its call
      unitOf.set(node, unitOf.get(node.sources[0]!)!);
      return;
    }
    const place = this.#place.get(node)!;
    const needs = this.#needsOf(node);
    if (!isLoop(node)) {
      const call: Call = { kind: "call", node, dependencies: new Set(), dependents: new Set(), last: place, level: place };
      units.add(call);
      unitOf.set(node, call);
      waitFor(call, needs);
      return;
    }
    const cluster = this.#joined(node, needs) ?? clusterFor(node, place);
    units.add(cluster);
    unitOf.set(node, cluster);
    addMember(cluster, node, this.readsOf(node)!);
    cluster.last = place;
    // joining may have merged clusters that were needed one by one
    const isCurrent = [...needs].every((need) => units.has(need));
    waitFor(cluster, isCurrent ? needs : this.#needsOf(node));
  }

  /** The cluster that `node` becomes a member of: the merger of all its producers' clusters that fit; `null` for one of its own. */
  #joined(node: Tensor, needs: ReadonlySet<Unit>): Cluster | null {
    const policy = this.#policy;
    const mayJoin = node.op.kind === "elementwise" ? policy.elementwise : policy.rows;
    const reads = this.readsOf(node);
    if (!mayJoin || reads === null || node.size === 0) return null;
    const candidates: Cluster[] = [];
    for (const unit of needs) if (unit.kind === "cluster" && unit.form === "rows") candidates.push(unit);
    candidates.sort((a, b) => b.last - a.last);
    let target: Cluster | null = null;
    for (const candidate of candidates) {
      if (!policy.rows && candidate.inner !== null) continue;
      const merged: Cluster | null = target === null ? candidate : this.#merged(target, candidate);
      if (merged === null) continue;
      const fitted = spaceWith(merged, node, reads);
      if (fitted === null) continue;
      // nothing that must run before the cluster may need the cluster
      const parts = target ? [target, candidate] : [candidate];
      if (anyReaches(needs, parts) || anyReaches(merged.dependencies, parts)) continue;
      if (target && target !== candidate) this.#replace([target, candidate], merged);
      Object.assign(merged, fitted);
      target = merged;
    }
    return target;
  }

  #merged(a: Cluster, b: Cluster): Cluster | null {
    return mergedCluster(
      a,
      b,
      (node) => this.#place.get(node)!,
      (node) => this.readsOf(node)!,
    );
  }

  #replace(parts: readonly Cluster[], merged: Cluster): void {
    const { units, unitOf } = this;
    for (const part of parts) units.delete(part);
    units.add(merged);
    for (const member of merged.members) unitOf.set(member, merged);
    for (const unit of merged.dependents) {
      for (const part of parts) unit.dependencies.delete(part);
      unit.dependencies.add(merged);
      raise(unit, merged.level);
    }
    for (const unit of merged.dependencies) {
      for (const part of parts) unit.dependents.delete(part);
      unit.dependents.add(merged);
    }
  }

  /** Units that must have run before `node` can: those of the values it reads, and of what `after` waits for. */
  #needsOf(node: Tensor): Set<Unit> {
    const { unitOf } = this;
    const inlined = this.#inlined;
    const needs = new Set<Unit>();
    const visit = (source: Tensor): void => {
      let at = source;
      while (!isLeaf(at) && isView(at)) {
        if (at.op === afterOp) visit(at.sources[1]!);
        at = at.sources[0]!;
      }
      if (inlined.has(at)) for (const inner of at.sources) visit(inner);
      else if (unitOf.has(at)) needs.add(unitOf.get(at)!);
    };
    for (const source of dependencies(node)) visit(source);
    return needs;
  }
}

function waitFor(unit: Unit, needs: Iterable<Unit>): void {
  for (const need of needs) {
    if (need === unit) continue;
    unit.dependencies.add(need);
    need.dependents.add(unit);
    raise(unit, need.level);
  }
}

/** Tells a unit, and those that wait for it, that something of this level runs before. */
function raise(unit: Unit, level: number): void {
  const stack = [unit];
  for (let at = stack.pop(); at; at = stack.pop()) {
    if (at.level >= level) continue;
    at.level = level;
    stack.push(...at.dependents);
  }
}

/** True when one of `units` that is not among `parts` has to run after one that is. */
function anyReaches(units: ReadonlySet<Unit>, parts: readonly Unit[]): boolean {
  for (const unit of units) if (!parts.includes(unit) && parts.some((part) => reaches(unit, part))) return true;
  return false;
}

/** True when `from` has to run after `to`. */
function reaches(from: Unit, to: Unit): boolean {
  const seen = new Set<Unit>();
  const stack = [from];
  while (stack.length) {
    const unit = stack.pop()!;
    if (unit === to) return true;
    if (seen.has(unit) || unit.level < to.level) continue;
    seen.add(unit);
    stack.push(...unit.dependencies);
  }
  return false;
}
