/** Views: chains of movements that end in a wished-for shape, so that an operand reaches its reader turned, cut, padded or repeated. */
import { expand, flip, pad, permute, reshape, slice } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Draw } from "../../src/graph/primitive.ts";

export interface Viewed {
  /** What the values that lie in memory look like. */
  readonly shape: readonly number[];
  /** Moves them into the shape that was asked for. */
  view(x: Tensor): Tensor;
  readonly description: string;
}

/** A view that shows `shape`, made of up to `moves` movements. */
export function viewOf(draw: Draw, shape: readonly number[], moves = 2): Viewed {
  let viewed: Viewed = { shape, view: (x) => x, description: "" };
  for (let count = draw.integer(0, moves); count > 0; count--) {
    const { view, description } = viewed;
    const before = movementTo(draw, viewed.shape);
    viewed = {
      shape: before.shape,
      view: (x) => view(before.view(x)),
      description: `${before.description} ${description}`,
    };
  }
  return viewed;
}

/** One movement whose result has `shape`. */
function movementTo(draw: Draw, shape: readonly number[]): Viewed {
  const axis = draw.integer(0, Math.max(0, shape.length - 1));
  const all = <T>(f: (extent: number, i: number) => T): T[] => shape.map((extent, i) => f(extent, i));
  if (shape.length === 0) return { shape: [1], view: (x) => reshape(x, []), description: "reshape" };
  switch (draw.integer(0, 5)) {
    case 0: {
      // axes turned round by some places
      const turn = draw.integer(1, Math.max(1, shape.length - 1));
      const order = all((_, i) => (i + turn) % shape.length);
      const source = new Array<number>(shape.length);
      order.forEach((from, i) => {
        source[from] = shape[i]!;
      });
      return { shape: source, view: (x) => permute(x, order), description: `permute[${order}]` };
    }
    case 1: {
      const [step, first, rest] = [draw.integer(1, 3), draw.integer(0, 2), draw.integer(0, 2)];
      const source = all((extent, i) => (i === axis ? first + (extent - 1) * step + 1 + rest : extent));
      const view = (x: Tensor) =>
        slice(
          x,
          all((_, i) => (i === axis ? first : 0)),
          all((extent, i) => (i === axis ? first + (extent - 1) * step + 1 : extent)),
          all((_, i) => (i === axis ? step : 1)),
        );
      return { shape: source, view, description: `slice(${first}:${step})` };
    }
    case 2:
      return { shape, view: (x) => flip(x, axis), description: `flip(${axis})` };
    case 3: {
      const before = Math.min(draw.integer(0, 3), shape[axis]! - 1);
      const after = Math.min(draw.integer(0, 3), shape[axis]! - 1 - before);
      const view = (x: Tensor) =>
        pad(
          x,
          all((_, i) => (i === axis ? before : 0)),
          all((_, i) => (i === axis ? after : 0)),
        );
      return {
        shape: all((extent, i) => (i === axis ? extent - before - after : extent)),
        view,
        description: `pad(${before},${after})`,
      };
    }
    case 4:
      return {
        shape: all((extent, i) => (i === axis ? 1 : extent)),
        view: (x) => expand(x, shape),
        description: `expand(${axis})`,
      };
    default:
      // one axis more or less
      return {
        shape: [...shape.slice(0, axis), 1, ...shape.slice(axis)],
        view: (x) => reshape(x, shape),
        description: "reshape",
      };
  }
}
