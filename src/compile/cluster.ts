/**
 * The units that are launched: clusters, which become one loop program each, and calls of kernels.
 *
 * A cluster walks one space: `size` elements, cut at `bounds` (products of trailing sizes). Members have a value per
 * element, or, once a reduction over the last axis has fixed `inner`, one value per row of `inner` elements.
 */
import type { Tensor } from "../graph/node.ts";
import { type Shape, sizeOf } from "../graph/shape.ts";
import { reshapeView, type View } from "../graph/view.ts";
import { foldsLastAxis, type Read } from "./inline.ts";

/** More instructions than this in one program spill registers in every engine. */
const maximumMembers = 160;
const maximumReads = 28;

/** Nodes that become one loop program. */
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
  /** Place of its last node in the order of all. */
  last: number;
  /** At least that of all that must have run before it does: the place of its first node, unless those came later. */
  level: number;
}

/** What a cluster walks. */
type Space = Pick<Cluster, "size" | "inner" | "bounds">;

/** A node that has a kernel of its own. */
export interface Call {
  readonly kind: "call";
  readonly node: Tensor;
  dependencies: Set<Unit>;
  dependents: Set<Unit>;
  /** Place of its last node in the order of all. */
  last: number;
  /** At least that of all that must have run before it does: the place of its first node, unless those came later. */
  level: number;
}

/** What is launched. */
export type Unit = Cluster | Call;

/** Trailing products of a shape: where its axes begin and end in row-major order. */
function boundsOf(shape: Shape): number[] {
  const bounds: number[] = [];
  let product = 1;
  for (let axis = shape.length - 1; axis > 0; axis--) {
    product *= shape[axis]!;
    if (product !== 1 && product !== sizeOf(shape)) bounds.push(product);
  }
  return [...new Set(bounds)];
}

/** All cuts together, if each divides the next; otherwise `null`: the shapes have no common refinement. `a` itself where `b` has no others. */
function refine(a: number[], b: readonly number[], size: number): number[] | null {
  if (b.every((bound) => bound === size || bound === 1 || a.includes(bound))) return a;
  const merged = [...new Set([...a, ...b])].filter((bound) => bound !== size && bound !== 1).sort((x, y) => x - y);
  for (let i = 0; i < merged.length; i++) if ((merged[i + 1] ?? size) % merged[i]! !== 0) return null;
  return merged;
}

/** Sizes of the axes that `bounds` cut out of `size`, outermost first. */
function refinedShape(size: number, bounds: readonly number[]): number[] {
  const cuts = [1, ...bounds, size];
  const shape: number[] = [];
  for (let i = cuts.length - 1; i > 0; i--) shape.push(cuts[i]! / cuts[i - 1]!);
  return shape.length > 1 ? shape.filter((extent) => extent !== 1) : shape;
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

/** How the cluster's space changes when `node` joins; `null` if it does not fit. */
export function spaceWith(
  cluster: Cluster,
  node: Tensor,
  reads: readonly Read[],
): { bounds: number[]; inner: number | null } | null {
  if (cluster.members.length >= maximumMembers) return null;
  const { inside, outside, size } = cluster;
  if (outside.size + reads.length > maximumReads) {
    const more = new Set(reads.map(({ base }) => base).filter((base) => !inside.has(base) && !outside.has(base)));
    if (outside.size + more.size > maximumReads) return null;
  }
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
  const next = { size, bounds, inner };
  const strided = reads.filter(({ whole }) => !whole).map(({ view }) => view);
  return sayable(next, strided) && (isCutLike(cluster, next) || sayable(next, cluster.strided)) ? { bounds, inner } : null;
}

/** A cluster of one node that is no member yet, see `addMember`. @param place of the node in the order of all */
export function clusterFor(node: Tensor, place: number): Cluster {
  const isFold = node.op.kind === "reduction";
  const isColumns = isFold && !foldsLastAxis(node);
  const hasRows = isFold && !isColumns;
  const shape = hasRows ? node.sources[0]!.shape : node.shape;
  const size = sizeOf(shape);
  const inner = hasRows ? shape[shape.length - 1]! : null;
  const bounds = boundsOf(shape);
  return {
    kind: "cluster",
    form: isColumns ? "columns" : "rows",
    members: [],
    inside: new Set(),
    outside: new Set(),
    strided: [],
    size,
    bounds: inner === null ? bounds : (refine(bounds, [inner], size) ?? bounds),
    inner,
    dependencies: new Set(),
    dependents: new Set(),
    last: place,
    level: place,
  };
}

/** @param reads what the node reads */
export function addMember(cluster: Cluster, node: Tensor, reads: readonly Read[]): void {
  cluster.members.push(node);
  cluster.inside.add(node);
  for (const { base, view, whole } of reads) {
    if (!cluster.inside.has(base)) cluster.outside.add(base);
    if (!whole) cluster.strided.push(view);
  }
}

/** Both clusters as one, if their spaces agree; `null` if not. Does not touch them. @param place of a node in the order of all */
export function mergedCluster(
  a: Cluster,
  b: Cluster,
  place: (node: Tensor) => number,
  readsOf: (node: Tensor) => readonly Read[],
): Cluster | null {
  if (a === b) return a;
  if (a.members.length + b.members.length > maximumMembers) return null;
  if (a.size !== b.size || (a.inner !== null && b.inner !== null && a.inner !== b.inner)) return null;
  const bounds = refine(a.bounds, b.bounds, a.size);
  const inner = a.inner ?? b.inner;
  if (bounds === null || (inner !== null && refine(bounds, [inner], a.size) === null)) return null;
  const members = [...a.members, ...b.members].sort((x, y) => place(x) - place(y));
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
    last: Math.max(a.last, b.last),
    level: Math.max(a.level, b.level),
  };
  for (const part of [a, b]) {
    merged.dependencies.delete(part);
    merged.dependents.delete(part);
  }
  // one part may read the other, which it did through memory so far
  const holds = members.every((member) => {
    const level = member.op.kind !== "reduction" && isRowLevel(member, merged) ? "row" : "element";
    return passedOn(inside, readsOf(member), level, merged, inner);
  });
  return holds && [a, b].every((part) => isCutLike(part, merged) || sayable(merged, part.strided)) ? merged : null;
}

/** Views that agree with the cuts of one agree with the other's. */
const isCutLike = (part: Space, { bounds, inner }: Space): boolean =>
  inner === part.inner && (bounds === part.bounds || bounds.length === part.bounds.length);

/** True when what the reader takes from members is in a register when it is needed: its own element, or its own row's value. */
function passedOn(
  members: ReadonlySet<Tensor>,
  reads: readonly Read[],
  level: "element" | "row",
  cluster: Cluster,
  inner: number | null,
): boolean {
  return reads.every(({ base, view, whole }) => {
    if (!members.has(base)) return true;
    if (inner === null || !isRowLevel(base, cluster)) return level === "element" && base.size === cluster.size && whole;
    return level === "row" ? whole : isRowBroadcast(view, cluster.size, inner);
  });
}

/** The axes that a cluster walks: those that its rows are cut into, and these with one row whole; without rows, those of its elements. */
export function axesOf({ size, inner, bounds }: Space): { readonly rows: number[]; readonly all: number[] } {
  if (inner === null) return { rows: [], all: refinedShape(size, bounds) };
  const cuts = bounds.flatMap((bound) => (bound > inner ? [bound / inner] : []));
  const rows = refinedShape(size / inner, cuts).filter((extent) => extent !== 1);
  return { rows, all: [...rows, inner] };
}

/** The views can be walked along the cluster's axes. */
function sayable(space: Space, strided: readonly View[]): boolean {
  if (strided.length === 0) return true;
  const { rows, all } = axesOf(space);
  return strided.every(
    (view) => reshapeView(view, space.inner === null || sizeOf(view.shape) === space.size ? all : rows) !== null,
  );
}
