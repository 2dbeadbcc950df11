/**
 * What is asked for one after another and computed in one go: a loss and its gradients, of which each would walk the same graph again
 * for a loop that reads them one by one, or that makes its step first and logs the loss after.
 */
import { type Tensor, topologicalOrder } from "./node.ts";

interface Group {
  /** One value that anybody who computes a part of the group can have at nearly no cost. */
  readonly summary: Tensor;
  readonly parts: readonly Tensor[];
}

const groups = new WeakMap<Tensor, Group>();

/**
 * From now on who asks for `summary` or one of `parts` gets all of them, and what is made of a part brings the summary along.
 *
 * @param summary one value, as a loss is
 * @param parts   what was made after it: others belong to somebody else
 */
export function computeTogether(summary: Tensor, parts: Iterable<Tensor>): void {
  const own = [...parts].filter((part) => part.id > summary.id && part.storage === null);
  const group: Group = { summary, parts: own };
  for (const member of [summary, ...own]) groups.set(member, group);
}

/**
 * What should be computed with `wanted`.
 *
 * @param order  the nodes that `wanted` is made of
 * @param isLeaf where a graph ends
 * @param canUse whether the value of such an end is there
 */
export function companionsOf(
  wanted: readonly Tensor[],
  order: readonly Tensor[],
  isLeaf: (node: Tensor) => boolean,
  canUse: (leaf: Tensor) => boolean,
): Tensor[] {
  const found = new Set<Tensor>();
  for (const node of order) {
    const group = groups.get(node);
    if (group) found.add(group.summary);
  }
  for (const root of wanted) for (const part of groups.get(root)?.parts ?? []) found.add(part);
  for (const root of wanted) found.delete(root);
  const known = new Set(order);
  const isKnown = (node: Tensor): boolean => isLeaf(node) || known.has(node);
  return [...found].filter((node) => {
    if (node.storage !== null) return false;
    const walk = topologicalOrder([node], isKnown);
    if (!walk.every((each) => known.has(each) || !isLeaf(each) || canUse(each))) return false;
    // what companions have in common is looked at once
    for (const each of walk) known.add(each);
    return true;
  });
}
