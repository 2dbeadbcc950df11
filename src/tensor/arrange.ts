/** Rearranging tensors: joining, splitting, moving and repeating axes, padding, diagonals. Nothing here computes; see also pick.ts. */
import { ConfigError, checkOptions, requireKind, ShapeError, wordShape } from "../errors.ts";
import { concatenate } from "../graph/composite.ts";
import { mul, where } from "../graph/elementwise.ts";
import { expand, flip as flipAxis, pad, permute, reshape, slice, sliceAxis, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { checkList, normalizeAxes, normalizeAxis, resolveShape, type Shape, sizeOf } from "../graph/shape.ts";
import { constant, number } from "../graph/source.ts";

export { expand, permute, reshape, transpose } from "../graph/movement.ts";
export * from "./pick.ts";
export { concatenate };

/** Joins tensors along `axis`; PyTorch's name for `concatenate`. */
export const cat = (tensors: readonly Tensor[], axis = 0): Tensor => concatenate(tensors, axis);

/** Joins tensors of one shape along a new axis. */
export function stack(tensors: readonly Tensor[], axis = 0): Tensor {
  const [first] = tensors;
  if (!first) throw new ShapeError("needs at least one tensor.", { operation: "stack" });
  for (const x of tensors)
    if (wordShape(x.shape) !== wordShape(first.shape))
      throw new ShapeError(`${wordShape(first.shape)} and ${wordShape(x.shape)} differ.`, {
        operation: "stack",
        expected: first.shape,
        got: x.shape,
        hint: "Use concatenate to join along an axis that is there.",
      });
  const at = normalizeAxis("stack", axis, first.rank + 1);
  return concatenate(
    tensors.map((x) => unsqueeze(x, at)),
    at,
  );
}

/** Parts along `axis`: of the given sizes, or of one size with a smaller last one. */
export function split(x: Tensor, sizes: number | readonly number[], axis = 0): Tensor[] {
  const at = normalizeAxis("split", axis, x.rank);
  const extent = x.shape[at]!;
  if (typeof sizes === "number" && !(Number.isInteger(sizes) && sizes > 0))
    throw new ConfigError(`\`sizes\` (= ${sizes}) must be a positive integer or a list.`, { operation: "split", got: sizes });
  if (typeof sizes !== "number") checkList("split", "`sizes`", sizes);
  const list =
    typeof sizes === "number"
      ? Array.from({ length: Math.max(1, Math.ceil(extent / sizes)) }, (_, i) => Math.min(sizes, extent - i * sizes))
      : sizes;
  const total = list.reduce((a, b) => a + b, 0);
  if (total !== extent || list.some((size) => !Number.isInteger(size) || size < 0))
    throw new ShapeError(`sizes ${wordShape(list)} do not add up to the ${extent} of axis ${axis} (${total} ≠ ${extent}).`, {
      operation: "split",
      expected: extent,
      got: list,
    });
  let start = 0;
  return list.map((size) => {
    start += size;
    return sliceAxis(x, at, start - size, start);
  });
}

/** The slices along `axis`, without it. */
export function unbind(x: Tensor, axis = 0): Tensor[] {
  const at = normalizeAxis("unbind", axis, x.rank);
  const shape = x.shape.filter((_, i) => i !== at);
  return Array.from({ length: x.shape[at] as number }, (_, i) => reshape(sliceAxis(x, at, i, i + 1), shape));
}

/** The coordinates of all points of a grid whose lines stand at these vectors: one tensor for each, of an axis for each. */
export function meshgrid(vectors: readonly Tensor[], options: { readonly indexing?: "ij" | "xy" } = {}): Tensor[] {
  const { indexing = "ij" } = checkOptions("meshgrid", options, { indexing: ["ij", "xy"] });
  for (const x of vectors)
    if (x.rank !== 1)
      throw new ShapeError(`takes vectors, got ${wordShape(x.shape)}.`, { operation: "meshgrid", expected: 1, got: x.shape });
  // "xy" counts columns before rows
  const axes = vectors.map((_, i) => (indexing === "xy" && i < 2 && vectors.length > 1 ? 1 - i : i));
  const shape = axes.map((axis) => (vectors[axis] as Tensor).shape[0] as number);
  return vectors.map((x, i) =>
    expand(
      reshape(
        x,
        shape.map((_, axis) => (axis === axes[i] ? -1 : 1)),
      ),
      shape,
    ),
  );
}

/** At most `chunks` equal parts along `axis`, the last one smaller where the size does not divide. */
export function chunk(x: Tensor, chunks: number, axis = 0): Tensor[] {
  if (!(Number.isInteger(chunks) && chunks > 0))
    throw new ConfigError(`\`chunks\` (= ${chunks}) must be a positive integer.`, { operation: "chunk", got: chunks });
  return split(x, Math.max(1, Math.ceil(x.shape[normalizeAxis("chunk", axis, x.rank)]! / chunks)), axis);
}

/** Drops the named axes, or every axis, whose size is 1; others stay. */
export function squeeze(x: Tensor, axes?: number | readonly number[] | null): Tensor {
  const named = normalizeAxes("squeeze", axes, x.rank);
  return reshape(
    x,
    x.shape.filter((extent, axis) => extent !== 1 || !named.includes(axis)),
  );
}

/** A new axis of size 1 at `axis`; −1 puts it last. */
export function unsqueeze(x: Tensor, axis: number): Tensor {
  const at = normalizeAxis("unsqueeze", axis, x.rank + 1);
  return reshape(x, [...x.shape.slice(0, at), 1, ...x.shape.slice(at)]);
}

/** Merges axes start … end, both included, into one. */
export function flatten(x: Tensor, start = 0, end = -1): Tensor {
  if (x.rank === 0) return reshape(x, [1]);
  const [from, to] = [normalizeAxis("flatten", start, x.rank), normalizeAxis("flatten", end, x.rank)];
  if (from > to) throw new ShapeError(`axis ${start} comes after axis ${end}.`, { operation: "flatten", got: [start, end] });
  return reshape(x, [...x.shape.slice(0, from), sizeOf(x.shape.slice(from, to + 1)), ...x.shape.slice(to + 1)]);
}

/** Splits `axis` into axes of `sizes`; one may be −1. */
export function unflatten(x: Tensor, axis: number, sizes: Shape): Tensor {
  const at = normalizeAxis("unflatten", axis, x.rank);
  return reshape(x, [...x.shape.slice(0, at), ...resolveShape("unflatten", x.shape[at]!, sizes), ...x.shape.slice(at + 1)]);
}

/** Reverses the order along `axes`, all of them when absent. */
export function flip(x: Tensor, axes?: number | readonly number[] | null): Tensor {
  return normalizeAxes("flip", axes, x.rank).reduce(flipAxis, x);
}

/** Turns by 90° `times` times in the plane of two axes, from the first towards the second; negative numbers turn back. */
export function rot90(x: Tensor, times = 1, axes: readonly number[] = [0, 1]): Tensor {
  requireKind("rot90", "a whole number", { times });
  checkList("rot90", "`axes`", axes);
  if (normalizeAxes("rot90", axes, x.rank).length !== 2)
    throw new ShapeError(`turns in the plane of two axes, got ${wordShape(axes)}.`, {
      operation: "rot90",
      expected: 2,
      got: axes,
    });
  const [from, to] = axes.map((axis) => normalizeAxis("rot90", axis, x.rank)) as [number, number];
  const turns = ((times % 4) + 4) % 4;
  const half = turns >= 2 ? flip(x, axes) : x;
  return turns % 2 === 1 ? transpose(flipAxis(half, to), from, to) : half;
}

/** Moves elements by `shifts` along `axes`; what leaves at the end comes back at the start. Without axes: in row-major order. */
export function roll(x: Tensor, shifts: number | readonly number[], axes?: number | readonly number[] | null): Tensor {
  if (axes === undefined || axes === null) return reshape(roll(reshape(x, [x.size]), shifts, 0), x.shape);
  const [amounts, along] = [[shifts].flat() as number[], [axes].flat() as number[]];
  if (amounts.length !== along.length)
    throw new ShapeError(`${amounts.length} shifts for ${along.length} axes.`, {
      operation: "roll",
      got: shifts,
      expected: axes,
    });
  for (const amount of amounts)
    if (!Number.isInteger(amount))
      throw new ConfigError(`\`shifts\` (= ${amount}) must be whole numbers.`, { operation: "roll", got: shifts });
  return amounts.reduce((y, amount, i) => {
    const axis = normalizeAxis("roll", along[i]!, x.rank);
    const extent = x.shape[axis]!;
    if (extent === 0) return y;
    const cut = (((-amount % extent) + extent) % extent) | 0;
    return cut === 0 ? y : concatenate([sliceAxis(y, axis, cut, extent), sliceAxis(y, axis, 0, cut)], axis);
  }, x);
}

/** The whole tensor side by side: `repeats[axis]` times along each axis; more numbers than axes add axes in front. */
export function repeat(x: Tensor, repeats: readonly number[]): Tensor {
  checkList("repeat", "`repeats`", repeats);
  if (repeats.length < x.rank || repeats.some((n) => !Number.isInteger(n) || n < 0))
    throw new ShapeError(`${wordShape(repeats)} does not say how often to repeat each of ${x.rank} axes.`, {
      operation: "repeat",
      got: repeats,
      hint: "Give a whole number per axis.",
    });
  const shape = [...new Array<number>(repeats.length - x.rank).fill(1), ...x.shape];
  const spread = expand(
    reshape(
      x,
      shape.flatMap((extent) => [1, extent]),
    ),
    shape.flatMap((extent, axis) => [repeats[axis]!, extent]),
  );
  return reshape(
    spread,
    shape.map((extent, axis) => extent * repeats[axis]!),
  );
}

/** Every element `repeats` times in a row along `axis`, or of the flattened tensor. */
export function repeatInterleave(x: Tensor, repeats: number, axis?: number | null): Tensor {
  if (axis === undefined || axis === null) return repeatInterleave(reshape(x, [x.size]), repeats, 0);
  if (!Number.isInteger(repeats) || repeats < 0)
    throw new ConfigError(`\`repeats\` (= ${repeats}) must be a whole number.`, { operation: "repeatInterleave", got: repeats });
  const at = normalizeAxis("repeatInterleave", axis, x.rank);
  const before = x.shape.slice(0, at + 1);
  const after = x.shape.slice(at + 1);
  const spread = expand(reshape(x, [...before, 1, ...after]), [...before, repeats, ...after]);
  return reshape(spread, [...x.shape.slice(0, at), x.shape[at]! * repeats, ...after]);
}

/** Broadcasts to `shape`; −1 keeps a size. */
export const broadcastTo = expand;

/** Moves one axis to another place; the others keep their order. */
export function moveAxis(x: Tensor, from: number, to: number): Tensor {
  const [source, target] = [normalizeAxis("moveAxis", from, x.rank), normalizeAxis("moveAxis", to, x.rank)];
  const order = x.shape.map((_, axis) => axis).filter((axis) => axis !== source);
  order.splice(target, 0, source);
  return permute(x, order);
}

/** Swaps two axes. */
export const swapAxes = (x: Tensor, axis0: number, axis1: number): Tensor => transpose(x, axis0, axis1);

/** What stands around a padded tensor; see `padding`. */
export type PaddingMode = "constant" | "reflect" | "replicate" | "circular";

/**
 * More elements around a tensor: `amounts` holds [before, after] per axis, for the last axes when there are fewer pairs.
 * Negative amounts cut off. Modes: `constant` (`value`, 0 by default), `reflect` (mirrored without the edge), `replicate` (the
 * edge), `circular` (from the other end).
 */
export function padding(
  x: Tensor,
  amounts: readonly (readonly [before: number, after: number])[],
  options: { readonly mode?: PaddingMode; readonly value?: number } = {},
): Tensor {
  checkOptions("pad", options, { mode: null, value: "a number" });
  const { mode = "constant", value = 0 } = options;
  const arePairs =
    Array.isArray(amounts) &&
    amounts.every((pair) => Array.isArray(pair) && pair.length === 2 && pair.every((n) => Number.isInteger(n)));
  if (!arePairs || amounts.length > x.rank)
    throw new ShapeError(`amounts ${JSON.stringify(amounts)} are not pairs of whole numbers for ${x.rank} axes.`, {
      operation: "pad",
      got: amounts,
      hint: "Write [[before, after], …].",
    });
  const pairs = x.shape.map((_, axis): readonly [number, number] => amounts[axis - x.rank + amounts.length] ?? [0, 0]);
  const cut = slice(
    x,
    pairs.map(([before]) => Math.max(0, -before)),
    pairs.map(([, after], axis) => x.shape[axis]! - Math.max(0, -after)),
  );
  const wide = pairs.map(([before, after]): readonly [number, number] => [Math.max(0, before), Math.max(0, after)]);
  if (mode === "constant") {
    const around = (z: Tensor) =>
      pad(
        z,
        wide.map(([before]) => before),
        wide.map(([, after]) => after),
      );
    return value === 0 ? around(cut) : where(around(constant(1, cut.shape, "bool")), around(cut), number(x, value));
  }
  return wide.reduce((y, [before, after], axis) => (before + after === 0 ? y : extend(y, axis, before, after, mode)), cut);
}

function extend(x: Tensor, axis: number, before: number, after: number, mode: Exclude<PaddingMode, "constant">): Tensor {
  const extent = x.shape[axis]!;
  const limit = mode === "replicate" ? (extent ? Number.POSITIVE_INFINITY : 0) : mode === "reflect" ? extent - 1 : extent;
  if (Math.max(before, after) > limit)
    throw new ShapeError(
      `${mode} padding of ${Math.max(before, after)} needs more than the ${extent} elements of axis ${axis}.`,
      {
        operation: "pad",
        expected: limit,
        got: [before, after],
      },
    );
  const part = (start: number, stop: number) => sliceAxis(x, axis, start, stop);
  const edge = (at: number, times: number) =>
    expand(
      part(at, at + 1),
      x.shape.map((e, i) => (i === axis ? times : e)),
    );
  switch (mode) {
    case "reflect":
      return concatenate([flipAxis(part(1, before + 1), axis), x, flipAxis(part(extent - 1 - after, extent - 1), axis)], axis);
    case "replicate":
      return concatenate([edge(0, before), x, edge(extent - 1, after)], axis);
    case "circular":
      return concatenate([part(extent - before, extent), x, part(0, after)], axis);
    default:
      mode satisfies never;
      throw new ConfigError(`\`mode\` (= "${mode}") is not a way to pad.`, {
        operation: "pad",
        got: mode,
        hint: "Use constant, reflect, replicate or circular.",
      });
  }
}

/** The diagonal of two axes, which becomes the last axis; `offset` > 0 lies above the main one. A view: step L + 1 through L×L. */
export function diagonal(x: Tensor, offset = 0, axis0 = 0, axis1 = 1): Tensor {
  const [a, b] = [normalizeAxis("diagonal", axis0, x.rank), normalizeAxis("diagonal", axis1, x.rank)];
  if (a === b) throw new ShapeError(`axes ${axis0} and ${axis1} are the same.`, { operation: "diagonal", got: [axis0, axis1] });
  const others = x.shape.map((_, axis) => axis).filter((axis) => axis !== a && axis !== b);
  const matrix = permute(x, [...others, a, b]);
  const [row, column] = [Math.max(0, -offset), Math.max(0, offset)];
  const L = Math.max(0, Math.min(x.shape[a]! - row, x.shape[b]! - column));
  const lead = others.map((axis) => x.shape[axis]!);
  const at = (...last: number[]) => [...lead.map(() => 0), ...last];
  if (L === 0) return constant(0, [...lead, 0], x.dtype);
  const square = slice(matrix, at(row, column), [...lead, row + L, column + L]);
  return slice(reshape(square, [...lead, L * L]), at(0), [...lead, L * L], [...lead.map(() => 1), L + 1]);
}

/** Matrices with the last axis on their diagonal `offset`, zeros elsewhere: [..., L] → [..., L + |offset|, L + |offset|]. */
export function diagEmbed(x: Tensor, offset = 0): Tensor {
  if (x.rank === 0) throw new ShapeError("needs at least one axis.", { operation: "diagEmbed", got: x.shape });
  const lead = x.shape.slice(0, -1);
  const L = x.shape.at(-1)!;
  const none = lead.map(() => 0);
  // every element followed by L zeros, read as rows of L
  const rows = pad(reshape(x, [...lead, L, 1]), [...none, 0, 0], [...none, 0, L]);
  const square = reshape(sliceAxis(reshape(rows, [...lead, L * (L + 1)]), x.rank - 1, 0, L * L), [...lead, L, L]);
  const [down, right] = [Math.max(0, -offset), Math.max(0, offset)];
  return pad(square, [...none, down, right], [...none, right, down]);
}

/** xᵢ·yⱼ of two vectors. */
export function outer(x: Tensor, y: Tensor): Tensor {
  if (x.rank !== 1 || y.rank !== 1)
    throw new ShapeError(`takes two vectors, got ${wordShape(x.shape)} and ${wordShape(y.shape)}.`, {
      operation: "outer",
      got: [x.shape, y.shape],
    });
  return mul(reshape(x, [x.size, 1]), y);
}

/** Kronecker product: every element of x times the whole of y. */
export function kron(x: Tensor, y: Tensor): Tensor {
  const rank = Math.max(x.rank, y.rank);
  const fill = (z: Tensor) => [...new Array<number>(rank - z.rank).fill(1), ...z.shape];
  const [a, b] = [fill(x), fill(y)];
  const product = mul(
    reshape(
      x,
      a.flatMap((extent) => [extent, 1]),
    ),
    reshape(
      y,
      b.flatMap((extent) => [1, extent]),
    ),
  );
  return reshape(
    product,
    a.map((extent, axis) => extent * b[axis]!),
  );
}
