/** Shapes: sizes of axes, broadcasting, strides. Pure arithmetic on lists of numbers. */
import { ShapeError, wordArgument, wordShape } from "../errors.ts";

/** Sizes of the axes, the outermost first; `[]` for a scalar. */
export type Shape = readonly number[];

/** Number of elements. A shape without axes holds one. */
export function sizeOf(shape: Shape): number {
  let size = 1;
  for (const extent of shape) size *= extent;
  return size;
}

/** Whether both have the same axes. */
export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((extent, axis) => extent === b[axis]);
}

/** Row-major strides in elements. */
export function contiguousStrides(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= shape[axis]!;
  }
  return strides;
}

/** @throws {ShapeError} when `list` is one number, a text or anything else that is not a list: nothing but types forbids that. */
export function checkList(operation: string, what: string, list: unknown): void {
  if (Array.isArray(list)) return;
  throw new ShapeError(`${what} is a list of whole numbers, got ${wordArgument(list)}.`, {
    operation,
    got: list,
    ...(typeof list === "number" && { hint: `Write [${list}].` }),
  });
}

/** @throws {ShapeError} unless every size is a whole number ≥ 0, and their product a number that can be counted to. */
export function checkShape(operation: string, shape: Shape): void {
  checkList(operation, "a shape", shape);
  for (const extent of shape)
    if (!Number.isInteger(extent) || extent < 0)
      throw new ShapeError(`${wordShape(shape)} is not a shape: sizes are whole numbers from 0.`, { operation, got: shape });
  if (sizeOf(shape) > Number.MAX_SAFE_INTEGER)
    throw new ShapeError(`${wordShape(shape)} has more elements than can be counted (2⁵³).`, { operation, got: shape });
}

/** Axis counted from the front; negative ones count from the back. */
export function normalizeAxis(operation: string, axis: number, rank: number): number {
  if (!Number.isInteger(axis))
    throw new ShapeError(`an axis is a whole number, got ${wordArgument(axis)}.`, {
      operation,
      got: axis,
      ...(Object.keys(Object(axis)).includes("keepDims") && { hint: `Write ${operation}(axes, keepDims).` }),
    });
  if (axis < -rank || axis >= rank)
    throw new ShapeError(`axis ${axis} is outside a tensor of ${rank} axes.`, {
      operation,
      expected: rank,
      got: axis,
      hint: rank === 0 ? "A scalar has none." : `Use ${-rank}…${rank - 1}.`,
    });
  return axis < 0 ? axis + rank : axis;
}

/** Sorted axes without repeats; `undefined` means all of them. */
export function normalizeAxes(operation: string, axes: number | readonly number[] | undefined | null, rank: number): number[] {
  if (axes === undefined || axes === null) return Array.from({ length: rank }, (_, axis) => axis);
  const named: readonly number[] = Array.isArray(axes) ? axes : [axes];
  const list = named.map((axis) => normalizeAxis(operation, axis, rank));
  if (new Set(list).size !== list.length) throw new ShapeError(`axes ${wordShape(list)} repeat one.`, { operation, got: axes });
  return list.sort((a, b) => a - b);
}

/** The shape that all of `shapes` broadcast to, aligned at the last axis. */
export function broadcastShapes(operation: string, ...shapes: readonly Shape[]): number[] {
  const longest = shapes.reduce((a, b) => (b.length > a.length ? b : a), []);
  if (shapes.every((shape) => shape.length === 0 || sameShape(shape, longest))) return [...longest];
  const rank = Math.max(...shapes.map((shape) => shape.length));
  return Array.from({ length: rank }, (_, axis) => {
    let extent = 1;
    for (const shape of shapes) {
      const own = shape[axis - rank + shape.length] ?? 1;
      if (own === 1 || own === extent) continue;
      if (extent !== 1)
        throw new ShapeError(`${shapes.map(wordShape).join(" and ")} do not broadcast (${extent} ≠ ${own}).`, {
          operation,
          got: shapes,
          hint: "Sizes must be equal or 1, counted from the last axis.",
        });
      extent = own;
    }
    return extent;
  });
}

/** Fills in the one -1 of a wished-for shape. */
export function resolveShape(operation: string, size: number, wished: Shape): number[] {
  checkList(operation, "a shape", wished);
  if (wished.some((extent) => !Number.isInteger(extent) || extent < -1))
    throw new ShapeError(`${wordShape(wished)} is not a shape: sizes are whole numbers from 0, or -1 once.`, {
      operation,
      got: wished,
    });
  const unknown = wished.filter((extent) => extent === -1).length;
  if (unknown > 1)
    throw new ShapeError(`${wordShape(wished)} has ${unknown} unknown sizes.`, {
      operation,
      got: wished,
      hint: "Use -1 for one axis only.",
    });
  const known = sizeOf(wished.filter((extent) => extent !== -1));
  const shape = wished.map((extent) => (extent === -1 ? (known === 0 ? 0 : size / known) : extent));
  if (sizeOf(shape) !== size || shape.some((extent) => !Number.isInteger(extent)))
    throw new ShapeError(`${size} values do not fill ${wordShape(wished)}${unknown ? "" : ` (${known})`}.`, {
      operation,
      expected: wished,
      got: size,
      hint: unknown ? `The known sizes give ${known}.` : "Use -1 for one axis to have it computed.",
    });
  return shape;
}
