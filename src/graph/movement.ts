/** Movement: the same elements at other indices. None of these copies; the reader's view takes them in. */
import { ConfigError, ShapeError, wordShape, wordType } from "../errors.ts";
import { Tensor } from "./node.ts";
import type { Draw, Movement, Sample } from "./primitive.ts";
import { reduceSum } from "./reduction.ts";
import { broadcastShapes, checkList, checkShape, normalizeAxis, resolveShape, type Shape, sameShape } from "./shape.ts";
import { constant } from "./source.ts";
import { expandView, padView, permuteView, reshapeView, sliceView, type View } from "./view.ts";

const wide: readonly [number, number] = [-2, 2];
const one = (shape: readonly number[], apply: (x: Tensor) => Tensor): Sample => ({ inputs: [{ shape, domain: wide }], apply });

/** See {@link reshape}. */
export const reshapeOp: Movement = {
  kind: "movement",
  name: "reshape",
  formula: "same elements, other sizes",
  vjp: (g, _y, x) => [reshape(g, x!.shape)],
  samples: (draw: Draw) => {
    const shape = draw.shape(3);
    return [
      one(shape, (x) => reshape(x, [...shape].reverse())),
      one(shape, (x) =>
        reshape(
          permute(
            x,
            shape.map((_, i) => shape.length - 1 - i),
          ),
          [-1],
        ),
      ),
    ];
  },
};

/** See {@link permute}. */
export const permuteOp: Movement = {
  kind: "movement",
  name: "permute",
  formula: "axes in another order",
  vjp: (g, y) => {
    const axes = y.attributes["axes"] as number[];
    return [
      permute(
        g,
        axes.map((_, axis) => axes.indexOf(axis)),
      ),
    ];
  },
  samples: (draw) => {
    const shape = draw.shape(4);
    const turn = draw.integer(0, 3);
    return [
      one(shape, (x) =>
        permute(
          x,
          shape.map((_, axis) => (axis + turn) % shape.length),
        ),
      ),
    ];
  },
};

/** See {@link expand}. */
export const expandOp: Movement = {
  kind: "movement",
  name: "expand",
  formula: "axes of size 1 repeated",
  vjp: (g, y, x) => [
    reduceSum(
      g,
      x!.shape.flatMap((extent, axis) => (extent !== y.shape[axis] ? [axis] : [])),
    ),
  ],
  samples: (draw) => {
    const shape = draw.shape(3);
    return [
      one(
        shape.map((extent) => (draw.integer(0, 1) ? 1 : extent)),
        (x) => expand(x, shape),
      ),
    ];
  },
};

/** See {@link pad}. */
export const padOp: Movement = {
  kind: "movement",
  name: "pad",
  formula: "zeros around",
  vjp: (g, y, x) => {
    const before = y.attributes["before"] as number[];
    return [
      slice(
        g,
        before,
        before.map((start, axis) => start + x!.shape[axis]!),
      ),
    ];
  },
  samples: (draw) => {
    const shape = draw.shape(3);
    const before = shape.map(() => draw.integer(0, 3));
    return [one(shape, (x) => pad(x, before, [...before].reverse()))];
  },
};

/** See {@link slice}. */
export const sliceOp: Movement = {
  kind: "movement",
  name: "slice",
  formula: "every step-th element of a range",
  vjp: (g, y, x) => [spread(g, x!.shape, y.attributes["starts"] as number[], y.attributes["steps"] as number[])],
  samples: (draw) => {
    const shape = draw.shape(3, 6);
    const step = draw.integer(1, 3);
    const starts = shape.map((extent) => draw.integer(0, extent - 1));
    return [
      one(shape, (x) =>
        slice(
          x,
          starts,
          shape,
          shape.map(() => step),
        ),
      ),
      one(shape, (x) =>
        slice(
          x,
          starts,
          shape.map(() => -1),
          shape.map(() => -step),
        ),
      ),
    ];
  },
};

/** Same value, but the reverse walk ends here. */
export const stopGradientOp: Movement = {
  kind: "movement",
  name: "stopGradient",
  formula: "x, held constant",
  vjp: () => [null],
};

/** Same value as the first source, but not computed before the second is there: what makes recomputation happen late. */
export const afterOp: Movement = {
  kind: "movement",
  name: "after",
  formula: "x, once y is known",
  vjp: (g) => [g, null],
};

/** The elements of `x` in another shape; one size may be -1. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const resolved = resolveShape("reshape", x.size, shape);
  if (sameShape(resolved, x.shape)) return x;
  // a reshape of a reshape needs only the last
  const source = x.op === reshapeOp && x.storage === null ? x.sources[0]! : x;
  return sameShape(resolved, source.shape) ? source : new Tensor(reshapeOp, [source], resolved, x.dtype);
}

/** Axes in another order: axis i of the result is axis `axes[i]` of x. @throws {ShapeError} unless each is named once */
export function permute(x: Tensor, axes: readonly number[]): Tensor {
  checkList("permute", "an order of axes", axes);
  const order = axes.map((axis) => normalizeAxis("permute", axis, x.rank));
  if (order.length !== x.rank || new Set(order).size !== x.rank)
    throw new ShapeError(`${wordShape(axes)} does not name each of the ${x.rank} axes once.`, {
      operation: "permute",
      got: axes,
    });
  if (order.every((axis, i) => axis === i)) return x;
  return new Tensor(
    permuteOp,
    [x],
    order.map((axis) => x.shape[axis]!),
    x.dtype,
    { axes: order },
  );
}

/** Swaps two axes; by default the last two. */
export function transpose(x: Tensor, axis0 = -1, axis1 = -2): Tensor {
  const a = normalizeAxis("transpose", axis0, x.rank);
  const b = normalizeAxis("transpose", axis1, x.rank);
  return permute(
    x,
    x.shape.map((_, axis) => (axis === a ? b : axis === b ? a : axis)),
  );
}

/** Broadcasts `x` to `shape`; -1 keeps a size. */
export function expand(x: Tensor, shape: Shape): Tensor {
  checkList("broadcastTo", "a shape", shape);
  const lead = shape.length - x.rank;
  const wished = shape.map((extent, axis) => (extent === -1 ? (x.shape[axis - lead] ?? -1) : extent));
  checkShape("broadcastTo", wished);
  if (lead < 0 || !sameShape(broadcastShapes("broadcastTo", x.shape, wished), wished))
    throw new ShapeError(`${wordShape(x.shape)} does not broadcast to ${wordShape(shape)}.`, {
      operation: "broadcastTo",
      expected: shape,
      got: x.shape,
    });
  const aligned = lead === 0 ? x : reshape(x, [...new Array<number>(lead).fill(1), ...x.shape]);
  return sameShape(aligned.shape, wished) ? aligned : new Tensor(expandOp, [aligned], wished, x.dtype);
}

/** Zeros around `x`: `before[axis]` and `after[axis]` of them. */
export function pad(x: Tensor, before: readonly number[], after: readonly number[]): Tensor {
  if (before.length !== x.rank || after.length !== x.rank)
    throw new ShapeError(`needs ${x.rank} amounts on each side, got ${before.length} and ${after.length}.`, { operation: "pad" });
  checkShape("pad", before);
  checkShape("pad", after);
  if (before.every((n) => n === 0) && after.every((n) => n === 0)) return x;
  return new Tensor(
    padOp,
    [x],
    x.shape.map((extent, axis) => extent + before[axis]! + after[axis]!),
    x.dtype,
    {
      before: [...before],
      after: [...after],
    },
  );
}

/**
 * `x[starts[i] : stops[i] : steps[i]]` per axis, with indices already counted from the front
 * (a backward walk stops before `stops`, which may be -1).
 */
export function slice(
  x: Tensor,
  starts: readonly number[],
  stops: readonly number[],
  steps: readonly number[] = starts.map(() => 1),
): Tensor {
  const shape = starts.map((start, axis) => Math.max(0, Math.ceil((stops[axis]! - start) / steps[axis]!)));
  shape.forEach((extent, axis) => {
    const [first, last] = [starts[axis]!, starts[axis]! + (extent - 1) * steps[axis]!];
    if (extent > 0 && !(Math.min(first, last) >= 0 && Math.max(first, last) < x.shape[axis]!))
      throw new ShapeError(`elements ${first} to ${last} of axis ${axis} are not all in ${wordShape(x.shape)}.`, {
        operation: "slice",
        got: [first, last],
        expected: x.shape[axis],
      });
  });
  if (sameShape(shape, x.shape) && steps.every((step, axis) => step === 1 || shape[axis] === 1)) return x;
  return new Tensor(sliceOp, [x], shape, x.dtype, { starts: [...starts], steps: [...steps] });
}

/** Elements from `start` up to `stop` of one axis. */
export function sliceAxis(x: Tensor, axis: number, start: number, stop: number): Tensor {
  return slice(
    x,
    x.shape.map((_, i) => (i === axis ? start : 0)),
    x.shape.map((extent, i) => (i === axis ? stop : extent)),
  );
}

/** Undoes a slice: puts `g` back where it was taken from, zeros elsewhere. */
function spread(g: Tensor, shape: Shape, starts: readonly number[], steps: readonly number[]): Tensor {
  let result = g;
  for (let axis = 0; axis < shape.length; axis++) {
    const extent = result.shape[axis]!;
    if (extent === 0) return constant(0, shape, g.dtype);
    const step = Math.abs(steps[axis]!);
    let start = starts[axis]!;
    if (steps[axis]! < 0) {
      result = flip(result, axis);
      start -= (extent - 1) * step;
    }
    if (step !== 1 && extent > 1) {
      // each element followed by step − 1 zeros, the last zeros cut off
      const split = [...result.shape.slice(0, axis + 1), 1, ...result.shape.slice(axis + 1)];
      const padded = pad(
        reshape(result, split),
        split.map(() => 0),
        split.map((_, i) => (i === axis + 1 ? step - 1 : 0)),
      );
      const merged = [...result.shape.slice(0, axis), extent * step, ...result.shape.slice(axis + 1)];
      result = sliceAxis(reshape(padded, merged), axis, 0, (extent - 1) * step + 1);
    }
    const after = shape[axis]! - start - result.shape[axis]!;
    result = pad(
      result,
      result.shape.map((_, i) => (i === axis ? start : 0)),
      result.shape.map((_, i) => (i === axis ? after : 0)),
    );
  }
  return result;
}

/** Elements of one axis in reverse order. */
export function flip(x: Tensor, axis: number): Tensor {
  const last = x.shape[axis]! - 1;
  return slice(
    x,
    x.shape.map((_, i) => (i === axis ? last : 0)),
    x.shape.map((extent, i) => (i === axis ? -1 : extent)),
    x.shape.map((_, i) => (i === axis ? -1 : 1)),
  );
}

/** The same value, through which no derivative passes. */
export const stopGradient = (x: Tensor): Tensor => new Tensor(stopGradientOp, [x], x.shape, x.dtype);
/** The value of `x`, computed once `dependency` has been: an order that no data flow asks for. */
export const after = (x: Tensor, dependency: Tensor): Tensor => new Tensor(afterOp, [x, dependency], x.shape, x.dtype);

/**
 * The value of the first source with a derivative of its own: `attributes.backward(g, y, ...inputs)` gives the
 * cotangents of the other sources. See autograd/custom.ts.
 */
export const customOp: Movement = {
  kind: "movement",
  name: "custom",
  formula: "x, with a derivative given by hand",
  vjp(g, y, _x, ...inputs) {
    const cotangents = (y.attributes["backward"] as (...all: Tensor[]) => unknown)(g, y, ...inputs);
    const isGiven = (given: unknown): given is Tensor | null => given === null || given instanceof Tensor;
    if (Array.isArray(cotangents) && cotangents.every(isGiven)) return [null, ...cotangents];
    const got = Array.isArray(cotangents)
      ? `a list with ${wordType(cotangents.find((each) => !isGiven(each)))}`
      : wordType(cotangents);
    throw new ConfigError(`\`backward\` gave ${got}.`, {
      operation: "withVjp",
      got: cotangents,
      hint: "It gives a list: one tensor for each input, null where there is none.",
    });
  },
};

/** How a movement changes the view of its source; `null` where strides cannot say it. */
export function moveView(node: Tensor, view: View): View | null {
  const { attributes } = node;
  switch (node.op) {
    case reshapeOp:
      return reshapeView(view, node.shape);
    case permuteOp:
      return permuteView(view, attributes["axes"] as number[]);
    case expandOp:
      return expandView(view, node.shape);
    case padOp:
      return padView(view, attributes["before"] as number[], attributes["after"] as number[]);
    case sliceOp:
      return sliceView(view, attributes["starts"] as number[], attributes["steps"] as number[], node.shape);
    default:
      return view;
  }
}

/** The movements by name. */
export const movements = {
  reshape: reshapeOp,
  permute: permuteOp,
  expand: expandOp,
  pad: padOp,
  slice: sliceOp,
  stopGradient: stopGradientOp,
  after: afterOp,
  custom: customOp,
};
