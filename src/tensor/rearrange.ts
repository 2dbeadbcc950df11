/**
 * Reshaping, reducing and repeating by patterns that name the axes, as in einops: "b t (h d) -> b h t d".
 * @see https://openreview.net/forum?id=oapKSVM2bcj
 */
import { ConfigError, FormatError, nearestName, requireKind, ShapeError, wordArgument, wordShape } from "../errors.ts";
import { expand, permute, reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { sizeOf } from "../graph/shape.ts";
import { amax, amin, mean, prod, sum } from "./statistics.ts";

/** Sizes of the axes that the pattern names and the shape does not tell. */
export type AxisSizes = Readonly<Record<string, number>>;

/** One side of a pattern: per axis of the tensor, the named axes that it is made of. A number is an axis without a name. */
type Side = readonly (readonly string[])[];

/** An ellipsis outside of brackets: as many axes as it stands for, not one made of them. */
const bareDots: readonly string[] = ["..."];

const isNumber = (name: string): boolean => /^\d+$/.test(name);

function parseSide(text: string, fail: (problem: string) => never): Side {
  const axes: (readonly string[])[] = [];
  let group: string[] | null = null;
  for (const token of text.match(/\(|\)|\.\.\.|[^\s()]+/g) ?? []) {
    if (token === "(") {
      if (group) fail("brackets inside brackets");
      group = [];
    } else if (token === ")") {
      if (!group) fail('")" without "("');
      axes.push(group!);
      group = null;
    } else {
      if (token !== "..." && !/^([A-Za-z_]\w*|\d+)$/.test(token)) fail(`"${token}" is not the name of an axis`);
      if (group) group.push(token);
      else axes.push(token === "..." ? bareDots : [token]);
    }
  }
  if (group) fail('"(" without ")"');
  const names = axes.flat().filter((name) => !isNumber(name));
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice) fail(`"${twice}" stands twice on one side`);
  return axes;
}

interface Pattern {
  readonly left: Side;
  readonly right: Side;
  readonly sizes: ReadonlyMap<string, number>;
}

/** Reads a pattern and finds the size of every axis in it. Numbers become names of their own. */
function read(operation: string, x: Tensor, pattern: string, given: AxisSizes): Pattern {
  const fail = (problem: string): never => {
    throw new FormatError(`${problem} in "${pattern}".`, { operation, got: pattern });
  };
  if (typeof pattern !== "string")
    throw new FormatError(`a pattern is a string such as "b t c -> b c t", got ${wordArgument(pattern)}.`, {
      operation,
      got: pattern,
    });
  const sides = pattern.split("->");
  if (sides.length !== 2) fail('the two sides are not divided by one "->"');
  const [before, after] = sides.map((side) => parseSide(side, fail)) as [Side, Side];
  const dots = (side: Side) => side.flat().includes("...");
  if (before.some((group) => group !== bareDots && group.includes("..."))) fail('"..." in brackets on the left');
  if (dots(after) && !dots(before)) fail('"..." only on the right');
  const hidden = x.rank - before.length + (dots(before) ? 1 : 0);
  if (hidden < 0 || (!dots(before) && hidden !== 0))
    throw new ShapeError(`"${pattern}" names ${before.length - (dots(before) ? 1 : 0)} axes, x is ${wordShape(x.shape)}.`, {
      operation,
      expected: before.length,
      got: x.shape,
    });
  const behindDots = Array.from({ length: hidden }, (_, i) => `…${i}`);
  const sizes = new Map<string, number>();
  const spell = (side: Side, where: string): string[][] =>
    side.flatMap((group, axis): string[][] => {
      if (group === bareDots) return behindDots.map((name) => [name]);
      return [
        group.flatMap((name, i) => {
          if (name === "...") return behindDots;
          if (!isNumber(name)) return [name];
          sizes.set(`${where}${axis}.${i}`, Number(name));
          return name === "1" ? [] : [`${where}${axis}.${i}`];
        }),
      ];
    });
  const [left, right] = [spell(before, "<"), spell(after, ">")];
  const names = new Set([...left, ...right].flat());
  requireKind(operation, "an object", { sizes: given });
  for (const [name, size] of Object.entries(given)) {
    if (!names.has(name)) {
      const near = nearestName(name, names);
      throw new ConfigError(`"${pattern}" has no axis "${name}".`, {
        operation,
        got: name,
        ...(near && { hint: `Did you mean "${near}"?` }),
      });
    }
    if (!Number.isInteger(size) || size < 0)
      throw new ConfigError(`\`${name}\` (= ${size}) must be a whole number from 0.`, { operation, got: size });
    sizes.set(name, size);
  }
  left.forEach((group, axis) => {
    const extent = x.shape[axis]!;
    const unknown = group.filter((name) => !sizes.has(name));
    const known = group.reduce((product, name) => product * (sizes.get(name) ?? 1), 1);
    if (unknown.length > 1)
      fail(`the sizes of ${unknown.map((name) => `"${name}"`).join(" and ")} are not known: give all but one`);
    if (unknown.length === 1 ? known === 0 || extent % known !== 0 : known !== extent)
      throw new ShapeError(`axis ${axis} of ${wordShape(x.shape)} is ${extent}, which "${pattern}" makes of ${known || 0}.`, {
        operation,
        expected: extent,
        got: known,
      });
    if (unknown.length === 1) sizes.set(unknown[0]!, extent / known);
  });
  return { left, right, sizes };
}

const extents = (names: readonly string[], sizes: ReadonlyMap<string, number>): number[] => names.map((name) => sizes.get(name)!);

/** From axes in the order of `from` to the shape of the right side; names that are only there are repeated. */
function arrange(operation: string, x: Tensor, from: readonly string[], { right, sizes }: Pattern, pattern: string): Tensor {
  const order = right.flat();
  const known = order.filter((name) => from.includes(name));
  const ordered = permute(
    x,
    known.map((name) => from.indexOf(name)),
  );
  const added = order.filter((name) => !from.includes(name));
  for (const name of added)
    if (!sizes.has(name))
      throw new ConfigError(`the size of "${name}" in "${pattern}" is not known.`, {
        operation,
        got: name,
        hint: `Give it: { ${name}: … }.`,
      });
  const spread = expand(
    reshape(
      ordered,
      order.map((name) => (from.includes(name) ? sizes.get(name)! : 1)),
    ),
    extents(order, sizes),
  );
  return reshape(
    spread,
    right.map((group) => sizeOf(extents(group, sizes))),
  );
}

function requireSame(
  operation: string,
  pattern: string,
  { left, right }: Pattern,
  only: { left: boolean; right: boolean },
): void {
  const [from, to] = [left.flat(), right.flat()];
  const gone = only.left ? from.find((name) => !to.includes(name)) : undefined;
  const came = only.right ? to.find((name) => !from.includes(name)) : undefined;
  const name = gone ?? came;
  if (name === undefined) return;
  const side = gone === undefined ? "right" : "left";
  throw new FormatError(`"${pattern}" has ${/^[<>]/.test(name) ? "a number" : `the axis "${name}"`} on the ${side} only.`, {
    operation,
    got: pattern,
    hint: side === "right" ? "Use repeat for new axes." : "Use reduce to fold axes.",
  });
}

/**
 * The same elements with axes split, merged and moved as the pattern says; a view where strides can say it.
 *
 * @example
 * rearrange(zeros([2, 5, 24]), "b t (h d) -> b h t d", { h: 8 })   // float32 [2, 8, 5, 3]
 * rearrange(zeros([2, 5, 24]), "b ... -> (...) b")                 // float32 [120, 2]
 */
export function rearrange(x: Tensor, pattern: string, sizes: AxisSizes = {}): Tensor {
  const found = read("rearrange", x, pattern, sizes);
  requireSame("rearrange", pattern, found, { left: true, right: true });
  const from = found.left.flat();
  return arrange("rearrange", reshape(x, extents(from, found.sizes)), from, found, pattern);
}

const folds = { sum, mean, max: amax, min: amin, prod };
/** How `reduce` folds axes. */
export type Fold = keyof typeof folds;

/**
 * Folds the axes that are not on the right, then arranges the others.
 *
 * @example
 * reduce(tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), "(h 2) (w 2) -> h w", "max")   // [[6 8]] float32 [1, 2]
 */
export function reduce(x: Tensor, pattern: string, fold: Fold, sizes: AxisSizes = {}): Tensor {
  if (!Object.hasOwn(folds, fold))
    throw new ConfigError(`\`fold\` (= "${fold}") is not known.`, {
      operation: "reduce",
      got: fold,
      hint: `Use ${Object.keys(folds).join(", ")}.`,
    });
  const found = read("reduce", x, pattern, sizes);
  requireSame("reduce", pattern, found, { left: false, right: true });
  const from = found.left.flat();
  const kept = new Set(found.right.flat());
  const axes = from.flatMap((name, axis) => (kept.has(name) ? [] : [axis]));
  const folded = folds[fold](reshape(x, extents(from, found.sizes)), axes);
  return arrange(
    "reduce",
    folded,
    from.filter((name) => kept.has(name)),
    found,
    pattern,
  );
}

/**
 * Repeats along the axes that are only on the right, whose sizes are given.
 *
 * @example
 * repeatPattern(tensor([[1, 2]]), "h w -> h (w copies)", { copies: 3 })   // [[1 1 1 2 2 2]] float32 [1, 6]
 */
export function repeatPattern(x: Tensor, pattern: string, sizes: AxisSizes = {}): Tensor {
  const found = read("repeat", x, pattern, sizes);
  requireSame("repeat", pattern, found, { left: true, right: false });
  const from = found.left.flat();
  return arrange("repeat", reshape(x, extents(from, found.sizes)), from, found, pattern);
}
