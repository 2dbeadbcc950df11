/**
 * Picking parts of a tensor as Python does: `at(x, "1:3, ::2, -1, ..., None")`, or with the same things as values:
 * `at(x, { start: 1, stop: 3 }, { step: 2 }, -1, "...", null)`.
 */
import { ConfigError, checkOptions, DTypeError, FormatError, ShapeError, wordArgument, wordShape, wordType } from "../errors.ts";
import { isFloat, type TypedArray } from "../graph/dtype.ts";
import { add, and, cast, less, mul, where } from "../graph/elementwise.ts";
import { take } from "../graph/indexing.ts";
import { permute, reshape, slice } from "../graph/movement.ts";
import { Tensor } from "../graph/node.ts";
import { sizeOf } from "../graph/shape.ts";
import { constant } from "../graph/source.ts";
import { asIndex, type NestedArray } from "./create.ts";

/** start:stop:step with Python's meaning: negative ends count from the back, ends outside are moved to the edge. */
export interface Range {
  readonly start?: number | null;
  readonly stop?: number | null;
  readonly step?: number;
}

/**
 * What an axis can be indexed with: a number drops the axis, a range keeps part of it, an int32 tensor takes the elements it
 * names (arrays of numbers will do) and puts its own axes there, `null` makes a new axis of size 1, `"..."` stands for all axes that are
 * not named. Several tensors go together, broadcast, element by element, as in PyTorch: `x.at([0, 1], [2, 0])` is x[0, 2] and x[1, 0];
 * their axes come first when ranges stand between them. Other texts hold several of these: `"1:3, ::2, -1, ..., None"`.
 */
export type IndexItem = number | Range | null | Tensor | TypedArray | NestedArray | string;

type Parsed = number | Range | null | Tensor | "...";

/** One entry of a text: a number, a range, `...` or `None`. */
function parseEntry(entry: string, text: string): Parsed {
  const word = entry.trim();
  if (word === "...") return "...";
  if (word === "None" || word === "null") return null;
  if (/^[+-]?\d+$/.test(word)) return Number(word);
  const range = /^([+-]?\d+)?\s*:\s*([+-]?\d+)?\s*(?::\s*([+-]?\d+)?)?$/.exec(word);
  if (!range)
    throw new FormatError(`"${word}" in "${text}" is not an index.`, {
      operation: "at",
      got: word,
      hint: 'Use numbers, ranges as "1:3" or "::2", "..." and "None".',
    });
  const number = (part: string | undefined) => (part === undefined ? null : Number(part));
  return { start: number(range[1]), stop: number(range[2]), step: number(range[3]) ?? 1 };
}

function parse(item: IndexItem): Parsed[] {
  if (typeof item === "string") return item.split(",").map((entry) => parseEntry(entry, item));
  if (Array.isArray(item) || ArrayBuffer.isView(item)) return [asIndex("at", item)];
  if (typeof item === "number" || item === null || item instanceof Tensor) return [item];
  if (typeof item !== "object")
    throw new ConfigError(`${wordType(item)} is not an index.`, {
      operation: "at",
      got: item,
      hint: 'Use numbers, { start, stop, step }, null, "...", or int32 tensors.',
    });
  checkOptions<object>("at", item, { start: null, stop: null, step: null });
  return [item as Range];
}

/** First index, the index not reached any more, and step of a range over `extent` elements; PySlice_AdjustIndices. */
function resolveRange({ start, stop, step = 1 }: Range, extent: number): { start: number; stop: number; step: number } {
  for (const value of [start, stop, step])
    if (value !== null && value !== undefined && !Number.isInteger(value))
      throw new ShapeError(`${wordArgument(value)} in a range is not a whole number.`, { operation: "at", got: value });
  if (step === 0) throw new ShapeError("the step of a range cannot be 0.", { operation: "at", got: step });
  const [low, high] = step > 0 ? [0, extent] : [-1, extent - 1];
  const bound = (value: number | null | undefined, absent: number) =>
    value === null || value === undefined ? absent : Math.min(Math.max(value < 0 ? value + extent : value, low), high);
  return { start: bound(start, step > 0 ? low : high), stop: bound(stop, step > 0 ? high : low), step };
}

/**
 * Part of a tensor; no copy unless an index is a tensor.
 *
 * Boolean masks would give a size that is known only when the values are: use `where(mask, x, 0)`, or multiply.
 *
 * @throws {ShapeError} for an index outside its axis or more indices than axes; @throws {FormatError} for a text that is no index
 * @example
 * const x = tensor([[0, 1, 2], [3, 4, 5]]);
 * at(x, 0)              // [0 1 2] float32 [3]
 * at(x, "..., -1")      // [2 5] float32 [2]
 * at(x, "::-1, 1:3")    // rows backwards, columns 1 and 2
 * // [[4 5]
 * //  [1 2]] float32 [2, 2]
 * at(x, [1, 1, -2])     // rows at these indices: float32 [3, 3]
 * at(x, [0, 1], [2, 0]) // [2 3] float32 [2]
 * at(x, null, { stop: 1 }, 2)   // [[2]] float32 [1, 1]
 */
export function at(x: Tensor, ...index: readonly IndexItem[]): Tensor {
  const items = index.flatMap(parse);
  const named = items.filter((item) => item !== null && item !== "...").length;
  const dots = items.filter((item) => item === "...").length;
  if (dots > 1) throw new ShapeError('"..." can stand only once in an index.', { operation: "at", got: items });
  if (named > x.rank)
    throw new ShapeError(`${named} indices for ${wordShape(x.shape)}, which has ${x.rank} axes.`, {
      operation: "at",
      expected: x.rank,
      got: named,
    });
  const whole = new Array<Parsed>(x.rank - named).fill({});
  const full = dots ? items.flatMap((item) => (item === "..." ? whole : [item])) : [...items, ...whole];
  // first everything that a view can say, axis by axis; then the axes taken by tensors
  const [starts, stops, steps]: [number[], number[], number[]] = [[], [], []];
  const shape: number[] = [];
  const taken: Taken[] = [];
  for (const item of full) {
    const axis = starts.length;
    const extent = x.shape[axis]!;
    if (item === null) {
      shape.push(1);
      continue;
    }
    if (item instanceof Tensor) {
      checkIndexTensor(item);
      taken.push({ index: cast(item, "int32"), axis: shape.length });
    }
    if (typeof item === "number") {
      if (!Number.isInteger(item) || item < -extent || item >= extent)
        throw new ShapeError(`index ${item} is outside axis ${axis} of ${wordShape(x.shape)}.`, {
          operation: "at",
          expected: extent,
          got: item,
          hint: extent ? `Use ${-extent}…${extent - 1}.` : "It is empty.",
        });
      const from = item < 0 ? item + extent : item;
      starts.push(from);
      stops.push(from + 1);
      steps.push(1);
      continue;
    }
    const range = resolveRange(item instanceof Tensor ? {} : (item as Range), extent);
    starts.push(range.start);
    stops.push(range.stop);
    steps.push(range.step);
    shape.push(Math.max(0, Math.ceil((range.stop - range.start) / range.step)));
  }
  const viewed = reshape(slice(x, starts, stops, steps), shape);
  return taken.length > 0 ? takeAlong(viewed, taken) : viewed;
}

function checkIndexTensor(index: Tensor): void {
  if (index.dtype === "bool")
    throw new DTypeError("a boolean mask would give a size that is known only when the values are.", {
      operation: "at",
      got: index.dtype,
      hint: "Use where(mask, x, 0), or int32 indices.",
    });
  if (isFloat(index.dtype))
    throw new DTypeError(`indices are int32, got ${index.dtype}.`, {
      operation: "at",
      got: index.dtype,
      hint: 'Use index.cast("int32").',
    });
}

/** An axis, and which of its elements are taken. */
interface Taken {
  readonly index: Tensor;
  readonly axis: number;
}

/** Elements at the indices of these axes, negative ones counted from the back; the axes of the indices take their place. */
function takeAlong(x: Tensor, taken: readonly Taken[]): Tensor {
  const int = (value: number) => constant(value, [], "int32");
  const axes = taken.map(({ axis }) => axis);
  const others = x.shape.map((_, i) => i).filter((i) => !axes.includes(i));
  // row-major addresses over the axes that are taken; −1, an error when it runs, where one of the indices is outside
  const address = taken.reduce<Tensor | null>((before, { index, axis }) => {
    const extent = x.shape[axis]!;
    const wrapped = where(less(index, int(0)), add(index, int(extent)), index);
    if (before === null) return taken.length > 1 ? where(less(wrapped, int(extent)), wrapped, int(-1)) : wrapped;
    const inside = and(less(int(-1), wrapped), and(less(wrapped, int(extent)), less(int(-1), before)));
    return where(inside, add(mul(before, int(extent)), wrapped), int(-1));
  }, null)!;
  const rows = reshape(permute(x, [...axes, ...others]), [
    sizeOf(axes.map((axis) => x.shape[axis]!)),
    ...others.map((axis) => x.shape[axis]!),
  ]);
  const y = take(rows, address); // [...index, ...others]
  const order = y.shape.map((_, i) => i);
  const rest = order.slice(address.rank);
  const together = axes.every((axis, i) => axis === axes[0]! + i);
  const before = together ? rest.slice(0, axes[0]) : [];
  return permute(y, [...before, ...order.slice(0, address.rank), ...rest.slice(before.length)]);
}
