/**
 * Sums of tensors that are zeros but for a piece each. One after the other, every piece would cost a walk over the whole; here many are
 * joined with their neighbours first, and these with theirs, so that n pieces cost what log n of such walks do.
 */
import { add, or } from "./elementwise.ts";
import { scatterAdd, scatterAddOp } from "./indexing.ts";
import { pad, padOp } from "./movement.ts";
import type { Tensor } from "./node.ts";

/** A tensor that stands from `start` on along an axis of a longer one. */
export interface Piece {
  readonly x: Tensor;
  readonly start: number;
}

/** So many are added in one loop; more of them in groups as large. */
const few = 8;

/** Zeros of `extent` along `axis` with pieces put in, in the order of their starts; where they overlap they add up. */
export function assemble(pieces: readonly Piece[], axis: number, extent: number): Tensor {
  if (pieces.length > 2 * few) {
    const groups = Array.from({ length: Math.ceil(pieces.length / few) }, (_, i) => {
      const group = pieces.slice(i * few, (i + 1) * few);
      const start = group[0]!.start;
      const end = Math.max(...group.map((piece) => piece.start + piece.x.shape[axis]!));
      const moved = group.map((piece) => ({ x: piece.x, start: piece.start - start }));
      return { x: assemble(moved, axis, end - start), start };
    });
    return assemble(groups, axis, extent);
  }
  return pieces
    .map(({ x, start }) =>
      pad(
        x,
        x.shape.map((_, i) => (i === axis ? start : 0)),
        x.shape.map((length, i) => (i === axis ? extent - start - length : 0)),
      ),
    )
    .reduce((sum, x) => (x.dtype === "bool" ? or(sum, x) : add(sum, x)));
}

/** How many elements of a sum's term are worth a walk: of a padded one or of rows in a table of zeros, those that were put in. */
export function filled(x: Tensor): number {
  if (x.storage !== null) return x.size;
  return x.op === padOp ? x.sources[0]!.size : x.op === scatterAddOp ? x.sources[1]!.size : x.size;
}

/** The axis along which alone a tensor is padded; −1 for all others. */
function paddedAxis(x: Tensor): number {
  if (x.op !== padOp || x.storage !== null) return -1;
  const within = x.sources[0]!.shape;
  const axis = x.shape.findIndex((extent, i) => extent !== within[i]);
  return x.shape.every((extent, i) => i === axis || extent === within[i]) ? axis : -1;
}

const startOf = (x: Tensor, axis: number): number => (x.attributes["before"] as readonly number[])[axis]!;

/** The sum of terms of one shape. What is padded is assembled, and what is put into rows of a table is put there together. */
export function addUp(terms: readonly Tensor[]): Tensor {
  if (terms.length <= 2 * few) return terms.reduce(add);
  const rest: Tensor[] = [];
  const rows: Tensor[] = [];
  /** By axis and window. */
  const padded = new Map<number, Map<string, Tensor[]>>();
  for (const x of terms) {
    const axis = paddedAxis(x);
    if (x.op === scatterAddOp && x.storage === null) rows.push(x);
    else if (axis < 0) rest.push(x);
    else {
      const windows = padded.get(axis) ?? new Map<string, Tensor[]>();
      padded.set(axis, windows);
      const window = `${startOf(x, axis)},${x.sources[0]!.shape[axis]}`;
      const same = windows.get(window);
      if (same) same.push(x);
      else windows.set(window, [x]);
    }
  }
  if (rows.length > 0) {
    const [index, updates] = [0, 1].map((i) => {
      let start = 0;
      const pieces = rows.map(({ sources }) => {
        const x = sources[i]!;
        start += x.shape[0]!;
        return { x, start: start - x.shape[0]! };
      });
      return assemble(pieces, 0, start);
    });
    rest.push(scatterAdd(index!, updates!, rows[0]!.shape[0]!, rows[0]!.attributes["extent"] as number | undefined));
  }
  for (const [axis, windows] of padded) {
    const pieces = [...windows.values()].map((same) => ({
      x: addUp(same.map((x) => x.sources[0]!)),
      start: startOf(same[0]!, axis),
    }));
    pieces.sort((a, b) => a.start - b.start);
    rest.push(assemble(pieces, axis, terms[0]!.shape[axis]!));
  }
  return rest.reduce(add);
}
