/**
 * Plans of graphs that are built again and again, as in a training loop without `compile`: for equal graphs of other values the passes
 * of the compiler run twice, and not in every step.
 */
import type { Device } from "../devices/device.ts";
import { customOp, stopGradientOp } from "../graph/movement.ts";
import { Tensor } from "../graph/node.ts";
import { input } from "../graph/source.ts";
import { attributesKey, isLeaf } from "./prepare.ts";
import { type Schedule, schedule } from "./schedule.ts";

/** A schedule, and which of the leaves of now its values from outside stand for. */
export interface Planned {
  readonly schedule: Schedule;
  leafOf(value: Tensor): Tensor;
}

/** A plan without a value of anybody's in it, so that it holds no memory: stand-ins in the order of the leaves. */
interface Kept {
  readonly schedule: Schedule;
  readonly places: ReadonlyMap<Tensor, number>;
}

/** How a graph is made, and what of. */
interface Outline {
  /** Equal for graphs that are made alike. */
  readonly key: string;
  readonly leaves: readonly Tensor[];
  readonly order: readonly Tensor[];
}

/** Plans that are kept for a device, those used last, and how long their keys may be together. */
const most = { plans: 64, characters: 4e6 };
/** Larger graphs are planned anew: their keys would take as much memory as they save time. */
const mostNodes = 20_000;

/** By key; `null` where a graph was seen once. */
class Plans {
  readonly #kept = new Map<string, Kept | null>();
  #characters = 0;

  get(key: string): Kept | null | undefined {
    const found = this.#kept.get(key);
    // to the end: it was used last
    if (found !== undefined) this.#kept.delete(key);
    if (found !== undefined) this.#kept.set(key, found);
    return found;
  }

  set(key: string, kept: Kept | null): void {
    if (!this.#kept.has(key)) this.#characters += key.length;
    this.#kept.set(key, kept);
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= most.plans && this.#characters <= most.characters) break;
      this.#kept.delete(oldest);
      this.#characters -= oldest.length;
    }
  }
}

const plansOf = new WeakMap<Device, Plans>();

/** The plan that computes `wanted`, which is made of `order`; used again where an equal graph was planned twice before. */
export function planFor(wanted: readonly Tensor[], order: readonly Tensor[], device: Device): Planned {
  const anew = (): Planned => ({ schedule: schedule(wanted, device), leafOf: (value) => value });
  const outline = outlineOf(wanted, order);
  if (outline === null) return anew();
  let plans = plansOf.get(device);
  if (!plans) plansOf.set(device, (plans = new Plans()));
  const { key, leaves } = outline;
  let kept = plans.get(key);
  if (kept === undefined) {
    plans.set(key, null);
    return anew();
  }
  if (kept === null) plans.set(key, (kept = keep(wanted, outline, device)));
  const { schedule: known, places } = kept;
  return { schedule: known, leafOf: (value) => leaves[places.get(value) as number] as Tensor };
}

/** Values of some operations are those of a source, whatever else they know. */
const isOther = ({ op }: Tensor): boolean => op === customOp || op === stopGradientOp;

/** Plans a copy of the graph in which stand-ins take the place of leaves. */
function keep(wanted: readonly Tensor[], { leaves, order }: Outline, device: Device): Kept {
  const places = new Map<Tensor, number>();
  const copies = new Map<Tensor, Tensor>();
  leaves.forEach((leaf, i) => {
    const standIn = input(leaf.shape, leaf.dtype);
    places.set(standIn, i);
    copies.set(leaf, standIn);
  });
  const copyOf = (node: Tensor): Tensor => copies.get(node) as Tensor;
  // in the order in which the nodes were made, which decides about the order of launches
  for (const node of [...order].sort((a, b) => a.id - b.id)) {
    if (copies.has(node)) continue;
    const [first] = node.sources;
    const copy = isOther(node)
      ? copyOf(first as Tensor)
      : new Tensor(node.op, node.sources.map(copyOf), node.shape, node.dtype, node.attributes);
    copies.set(node, copy);
  }
  return { schedule: schedule(wanted.map(copyOf), device), places };
}

const numbers = new WeakMap<object, number>();
let nextNumber = 0;
/** Operations by number: two of one name may differ. */
function numberOf(op: object): number {
  let number = numbers.get(op);
  if (number === undefined) numbers.set(op, (number = nextNumber++));
  return number;
}

/** `null` for graphs that are too large, or know what no text can say. */
function outlineOf(wanted: readonly Tensor[], order: readonly Tensor[]): Outline | null {
  if (order.length > mostNodes) return null;
  const index = new Map<Tensor, number>();
  const leaves: Tensor[] = [];
  const parts: string[] = [];
  for (const node of order) {
    if (!isLeaf(node) && isOther(node)) {
      index.set(node, index.get(node.sources[0] as Tensor) as number);
      continue;
    }
    let part = `${node.dtype}${node.shape}`;
    if (isLeaf(node)) leaves.push(node);
    else {
      part += `|${numberOf(node.op)}`;
      for (const source of node.sources) part += `,${index.get(source)}`;
      const attributes = attributesKey(node);
      if (attributes === null) return null;
      part += `|${attributes}`;
    }
    index.set(node, parts.length);
    parts.push(part);
  }
  return { key: `${parts.join(";")}#${wanted.map((node) => index.get(node))}`, leaves, order };
}
