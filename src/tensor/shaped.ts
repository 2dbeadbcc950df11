/**
 * Shapes that the TypeScript compiler knows: `Shaped<[32, 128]>` is a tensor whose methods give tensors of known shape, and refuse what does
 * not fit while you type, with the words that the error would have at run time. Whoever does not ask for it never meets it: `Tensor` stays
 * what it is, and a `Shaped` goes wherever one is taken. A size that is only a `number` fits any other; where a shape cannot be told, it is
 * `Shape`.
 */
import { ShapeError, under, wordShape } from "../errors.ts";
import type { Tensor } from "../graph/node.ts";
import { checkShape, type Shape, sameShape } from "../graph/shape.ts";
import type { Variable } from "../graph/variable.ts";
import { asTensor, type TensorLike } from "./create.ts";
import type { Axes } from "./statistics.ts";

/** Sizes; without the constraint, as a type parameter among them would leave every question about the list open. */
type List = readonly unknown[];

/** Sizes as a message has them: `4, 8`. */
type Listed<S extends List> = S extends readonly [infer First, ...infer Rest]
  ? Rest extends readonly []
    ? `${First & number}`
    : `${First & number}, ${Listed<Rest>}`
  : "";

/** Whether nothing is known of a shape but that it is one. */
type IsOpen<S extends List> = number extends S["length"] ? true : false;

/** Whether two are the same, also where both are one type parameter: as members of an object they are compared, which is put off in brackets. */
type Same<A, B> = { readonly a: A; readonly b: B } extends { readonly a: B; readonly b: A } ? true : false;

/** The size that two broadcast to, in brackets; `false` where they do not. */
type Both<A, B> =
  Same<A, B> extends true
    ? [A]
    : [A] extends [1]
      ? [B] // a size of 1 takes whatever the other one is
      : [B] extends [1]
        ? [A]
        : [number] extends [A]
          ? [B]
          : [number] extends [B]
            ? [A]
            : false;

/** The shape that two broadcast to, aligned at the last axis; where they do not, the message. */
export type Broadcast<A extends List, B extends List, Operation extends string> = Aligned<A, B, [], A, B, Operation>;

type Aligned<
  A extends List,
  B extends List,
  Done extends List,
  WholeA extends List,
  WholeB extends List,
  Operation extends string,
> = true extends IsOpen<A> | IsOpen<B>
  ? Shape
  : A extends readonly [...infer RestA, infer LastA]
    ? B extends readonly [...infer RestB, infer LastB]
      ? Both<LastA, LastB> extends [infer Size]
        ? Aligned<RestA, RestB, [Size, ...Done], WholeA, WholeB, Operation>
        : `${Operation}: [${Listed<WholeA>}] and [${Listed<WholeB>}] do not broadcast (${LastA & number} ≠ ${LastB & number}).`
      : [...A, ...Done]
    : [...B, ...Done];

/** [..., M, K] · [..., K, N] → [..., M, N]; a vector is a row on the left and a column on the right. Where sizes differ, the message. */
export type Product<A extends List, B extends List> = true extends IsOpen<A> | IsOpen<B>
  ? Shape
  : A extends readonly [infer K]
    ? B extends readonly [infer L]
      ? Inner<A, B, K, L, []>
      : B extends readonly [...infer Batch, infer L, infer N]
        ? Inner<A, B, K, L, [...Batch, N]>
        : Shape
    : A extends readonly [...infer BatchA, infer M, infer K]
      ? B extends readonly [infer L]
        ? Inner<A, B, K, L, [...BatchA, M]>
        : B extends readonly [...infer BatchB, infer L, infer N]
          ? Batched<A, B, K, L, Broadcast<BatchA, BatchB, "matmul">, [M, N]>
          : Shape
      : Shape;

type Batched<A extends List, B extends List, K, L, Batch, Last extends List> = Batch extends List
  ? Inner<A, B, K, L, [...Batch, ...Last]>
  : Batch;

type Inner<A extends List, B extends List, K, L, Result> =
  Same<K, L> extends true
    ? Result
    : true extends ([K] extends [L] ? true : false) | ([L] extends [K] ? true : false)
      ? Result
      : `matmul: inner sizes differ: [${Listed<A>}] · [${Listed<B>}] (${K & number} ≠ ${L & number})`;

/** The number of an axis counted from 0, as text; `string` where it is not known. */
type Place<S extends Shape, Axis extends number> = number extends Axis
  ? string
  : Axis extends number // each of several for itself
    ? `${Axis}` extends `-${infer Back extends number}`
      ? `${Minus<S["length"], Back>}`
      : `${Axis}`
    : never;

/** Length − Back, counted up, so that sizes may be type parameters. */
type Minus<Length, Back extends number, Result extends 0[] = []> = [...Result, ...Zeros<Back>]["length"] extends Length
  ? Result["length"]
  : Minus<Length, Back, [...Result, 0]>;
type Zeros<N extends number, Result extends 0[] = []> = Result["length"] extends N ? Result : Zeros<N, [...Result, 0]>;

type PlacesOf<S extends Shape, A> = A extends number ? Place<S, A> : A extends Shape ? Place<S, A[number]> : never;

/** Without the axes of these places. */
type Without<S extends Shape, Places extends string, Passed extends unknown[] = []> = S extends readonly [
  infer First extends number,
  ...infer Rest extends Shape,
]
  ? `${Passed["length"]}` extends Places
    ? Without<Rest, Places, [...Passed, 0]>
    : [First, ...Without<Rest, Places, [...Passed, 0]>]
  : [];

/** What is left of a shape when axes are folded: all of them, or those named. */
export type Folded<S extends Shape, A, Keep extends boolean> =
  IsOpen<S> extends true
    ? Shape
    : boolean extends Keep
      ? Shape
      : A extends null | undefined
        ? Keep extends true
          ? { [Axis in keyof S]: 1 }
          : []
        : string extends PlacesOf<S, A>
          ? Shape
          : Keep extends true
            ? { [Axis in keyof S]: Axis extends PlacesOf<S, A> ? 1 : S[Axis] }
            : Without<S, PlacesOf<S, A>>;

/** The size of an axis. */
type SizeAt<S extends Shape, Axis extends number> = Place<S, Axis> extends keyof S ? S[Place<S, Axis>] & number : number;

/** With two axes swapped. */
export type Swapped<S extends Shape, A extends number, B extends number> = true extends
  | IsOpen<S>
  | (string extends Place<S, A> | Place<S, B> ? true : false)
  ? Shape
  : { [Axis in keyof S]: Axis extends Place<S, A> ? SizeAt<S, B> : Axis extends Place<S, B> ? SizeAt<S, A> : S[Axis] };

/** Axes in another order. */
export type Permuted<S extends Shape, Order extends Shape> = true extends IsOpen<S> | IsOpen<Order>
  ? Shape
  : { [At in keyof Order]: SizeAt<S, Order[At] & number> };

/** A wished-for shape, whose −1 is a size that is not known. */
type Wished<S extends Shape> = { -readonly [Axis in keyof S]: S[Axis] extends -1 ? number : S[Axis] };

/** With a new axis of size 1. */
type Widened<S extends Shape, Axis extends number> =
  IsOpen<S> extends true
    ? Shape
    : Place<[...S, number], Axis> extends infer At extends string
      ? string extends At
        ? Shape
        : Inserted<S, At>
      : never;

type Inserted<S extends Shape, At extends string, Passed extends Shape = []> = `${Passed["length"]}` extends At
  ? [...Passed, 1, ...S]
  : S extends readonly [infer First extends number, ...infer Rest extends Shape]
    ? Inserted<Rest, At, [...Passed, First]>
    : Shape;

/** The shape of what is taken for a tensor, as far as its type tells. */
export type ShapeOf<Y> = Y extends number | boolean ? [] : Y extends { readonly shape: infer S extends Shape } ? S : Shape;

/** Asks of an argument that a shape came of it; a message there is what the compiler says is missing. */
type Fits<Result> = Result extends string ? Result : unknown;
type Result<R> = R extends List ? Shaped<{ [Axis in keyof R]: R[Axis] & number }> : never;

/** A method of two tensors that broadcast. */
type Elementwise<S extends Shape, Operation extends string> = <Y extends TensorLike>(
  y: Y & Fits<Broadcast<S, ShapeOf<Y>, Operation>>,
) => Result<Broadcast<S, ShapeOf<Y>, Operation>>;

type Reduction<S extends Shape> = <const A extends Axes | null = null, Keep extends boolean = false>(
  axes?: A,
  keepDims?: Keep,
) => Shaped<Folded<S, A, Keep>>;

/** Methods whose result has the shape of the tensor. */
type Keeping =
  | "neg" | "abs" | "sign" | "square" | "sqrt" | "rsqrt" | "reciprocal" | "exp" | "expm1" | "log" | "log1p" | "sin" | "cos" | "tan" | "tanh"
  | "erf" | "floor" | "ceil" | "round" | "relu" | "sigmoid" | "silu" | "gelu" | "softplus" | "logicalNot" | "clamp" | "cast" | "tril" | "triu"
  | "softmax" | "logSoftmax" | "cumsum" | "flip" | "roll" | "detach" | "to" | "realize"; // biome-ignore format: words

type ElementwiseName =
  | "add" | "sub" | "mul" | "div" | "mod" | "pow" | "maximum" | "minimum" | "less" | "lessEqual" | "greater" | "greaterEqual" | "equal" | "notEqual"
  | "logicalAnd" | "logicalOr"; // biome-ignore format: words

type ReductionName = "sum" | "mean" | "prod" | "amax" | "amin" | "any" | "all" | "logSumExp";

type Methods<S extends Shape> = {
  readonly [Name in Keeping]: (...rest: Parameters<Tensor[Name]>) => Shaped<S>;
} & { readonly [Name in ElementwiseName]: Elementwise<S, Name> } & { readonly [Name in ReductionName]: Reduction<S> } & {
  readonly shape: S;
  matmul<Y extends TensorLike>(y: Y & Fits<Product<S, ShapeOf<Y>>>): Result<Product<S, ShapeOf<Y>>>;
  reshape<const Wish extends Shape>(shape: Wish): Shaped<Wished<Wish>>;
  broadcastTo<const Wish extends Shape>(shape: Wish): Shaped<Wished<Wish>>;
  permute<const Order extends Shape>(axes: Order): Shaped<Permuted<S, Order>>;
  transpose<A extends number = -2, B extends number = -1>(axis0?: A, axis1?: B): Shaped<Swapped<S, A, B>>;
  swapAxes<A extends number, B extends number>(axis0: A, axis1: B): Shaped<Swapped<S, A, B>>;
  unsqueeze<Axis extends number>(axis: Axis): Shaped<Widened<S, Axis>>;
};

type Others = Omit<Tensor, keyof Methods<Shape>>;

/** A tensor whose shape the compiler knows. An interface, so that messages call it by its name. */
export interface Shaped<S extends Shape> extends Others, Methods<S> {}

/**
 * The tensor itself, whose shape the compiler knows from here on: of the example below, `w.matmul(x)` does not compile, with the message
 * `matmul: inner sizes differ: [3, 4] · [1, 3] (4 ≠ 1)`.
 *
 * @param shape as it is; a size that is only known when the program runs is a `number` for the compiler
 * @throws {ShapeError} where the tensor has another one
 * @example
 * const x = shaped(tensor([[1, 2, 3]]), [1, 3]); // Shaped<[1, 3]>
 * const w = shaped(zeros([3, 4]), [3, 4]);
 * x.matmul(w).shape // [1, 4]
 */
export function shaped<const S extends Shape>(x: Tensor | Variable, shape: S): Shaped<{ -readonly [Axis in keyof S]: S[Axis] }> {
  const value = under("shaped", () => asTensor(x));
  checkShape("shaped", shape);
  if (!sameShape(value.shape, shape))
    throw new ShapeError(`${wordShape(shape)} was expected, got ${wordShape(value.shape)}.`, {
      operation: "shaped",
      expected: shape,
      got: value.shape,
    });
  return value as unknown as Shaped<{ -readonly [Axis in keyof S]: S[Axis] }>;
}
