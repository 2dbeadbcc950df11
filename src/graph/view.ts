/** Views: how an element's index becomes an address. Movement operations only change a view; whoever reads folds it in. */
import { contiguousStrides, type Shape, sizeOf } from "./shape.ts";

/**
 * Address of index i = `offset` + Σ i[axis]·`strides`[axis], in elements.
 * `valid` gives, per axis, the indices [from, to) that are inside; outside of them the value is zero (padding).
 */
export interface View {
  readonly shape: Shape;
  readonly strides: readonly number[];
  readonly offset: number;
  readonly valid: readonly (readonly [from: number, to: number])[] | null;
}

/** All elements of a buffer in row-major order. */
export const contiguousView = (shape: Shape): View => ({ shape, strides: contiguousStrides(shape), offset: 0, valid: null });

/** True when the view reads its elements in the order in which they lie, all of them, from the first. */
export function isContiguous(view: View): boolean {
  if (view.offset !== 0 || view.valid !== null) return false;
  let stride = 1;
  for (let axis = view.shape.length - 1; axis >= 0; axis--) {
    const extent = view.shape[axis]!;
    if (extent !== 1 && view.strides[axis] !== stride) return false;
    stride *= extent;
  }
  return true;
}

/** True when no index is inside: every element is padding. */
export const isNothing = (view: View): boolean => view.valid !== null && view.valid.some(([from, to]) => from >= to);

/** The view with its axes in another order: axis i of the result is `axes[i]` of the old one. */
export function permuteView(view: View, axes: readonly number[]): View {
  return {
    shape: axes.map((axis) => view.shape[axis]!),
    strides: axes.map((axis) => view.strides[axis]!),
    offset: view.offset,
    valid: view.valid && axes.map((axis) => view.valid![axis]!),
  };
}

/** Repeats axes of size 1; `shape` has the rank of the view. */
export function expandView(view: View, shape: Shape): View {
  const grows = (axis: number) => view.shape[axis] === 1 && shape[axis] !== 1;
  return {
    shape,
    strides: view.strides.map((stride, axis) => (grows(axis) ? 0 : stride)),
    offset: view.offset,
    // an axis that was padded away to nothing stays so for every repeat
    valid:
      view.valid &&
      view.valid.map(([from, to], axis) => (grows(axis) ? (from <= 0 && to >= 1 ? [0, shape[axis]!] : [0, 0]) : [from, to])),
  };
}

/** Takes every `steps`-th element from `starts`; a negative step walks backwards. */
export function sliceView(view: View, starts: readonly number[], steps: readonly number[], shape: Shape): View {
  let offset = view.offset;
  for (let axis = 0; axis < shape.length; axis++) offset += starts[axis]! * view.strides[axis]!;
  return normalizeValid({
    shape,
    strides: view.strides.map((stride, axis) => stride * steps[axis]!),
    offset,
    valid:
      view.valid &&
      view.valid.map(([from, to], axis) => {
        const start = starts[axis]!;
        const step = steps[axis]!;
        return step > 0
          ? [Math.max(0, Math.ceil((from - start) / step)), Math.min(shape[axis]!, Math.floor((to - 1 - start) / step) + 1)]
          : [Math.max(0, Math.ceil((start - (to - 1)) / -step)), Math.min(shape[axis]!, Math.floor((start - from) / -step) + 1)];
      }),
  });
}

/** Adds `before` and `after` zeros along every axis. */
export function padView(view: View, before: readonly number[], after: readonly number[]): View {
  let offset = view.offset;
  for (let axis = 0; axis < before.length; axis++) offset -= before[axis]! * view.strides[axis]!;
  return normalizeValid({
    shape: view.shape.map((extent, axis) => extent + before[axis]! + after[axis]!),
    strides: view.strides,
    offset,
    valid: view.shape.map((extent, axis) => {
      const [from, to] = view.valid?.[axis] ?? [0, extent];
      return [from + before[axis]!, to + before[axis]!];
    }),
  });
}

function normalizeValid(view: View): View {
  const whole = view.valid?.every(([from, to], axis) => from <= 0 && to >= view.shape[axis]!) ?? true;
  return whole ? { ...view, valid: null } : view;
}

/**
 * The same elements in another shape, when strides can say it; otherwise `null` (somebody has to copy).
 * Groups of axes that multiply to the same size are matched from the left.
 */
export function reshapeView(view: View, shape: Shape): View | null {
  if (isContiguous(view)) return contiguousView(shape);
  if (sizeOf(shape) === 0) return { shape, strides: contiguousStrides(shape), offset: 0, valid: null };
  if (isNothing(view))
    return shape.length === 0
      ? null
      : {
          shape,
          strides: shape.map(() => 0),
          offset: 0,
          valid: shape.map((extent, axis): [number, number] => [0, axis === 0 ? 0 : extent]),
        };
  const strides = shape.map(() => 0);
  const valid = view.valid && shape.map((extent): [number, number] => [0, extent]);
  let from = 0;
  let to = 0;
  while (from < view.shape.length || to < shape.length) {
    const fromStart = from;
    const toStart = to;
    let fromSize = from < view.shape.length ? view.shape[from++]! : 1;
    let toSize = to < shape.length ? shape[to++]! : 1;
    while (fromSize !== toSize) {
      if (fromSize < toSize) {
        if (from >= view.shape.length) return null;
        fromSize *= view.shape[from++]!;
      } else {
        if (to >= shape.length) return null;
        toSize *= shape[to++]!;
      }
    }
    // axes of size 1 say nothing about addresses
    let last = -1;
    let joined = false;
    let partial = -1;
    for (let axis = fromStart; axis < from; axis++) {
      const extent = view.shape[axis]!;
      if (extent === 1) continue;
      if (last >= 0 && view.strides[last] !== view.strides[axis]! * extent) return null;
      if (view.valid && (view.valid[axis]![0] > 0 || view.valid[axis]![1] < extent)) partial = axis;
      joined = last >= 0;
      last = axis;
    }
    let stride = last < 0 ? 0 : view.strides[last]!;
    let first = -1;
    for (let axis = to - 1; axis >= toStart; axis--) {
      const extent = shape[axis]!;
      if (extent === 1) continue;
      joined ||= first >= 0;
      strides[axis] = stride;
      stride *= extent;
      first = axis;
    }
    if (partial < 0) continue;
    if (joined) return null;
    valid![first] = [...view.valid![partial]!];
  }
  return { shape, strides, offset: view.offset, valid };
}
