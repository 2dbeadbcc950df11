/**
 * The public surface: functions that take tensors and whatever tensors can be made of, through typed-function. Signatures are
 * built at the first call, so that importing costs nothing. Inside the engine everybody calls the plain functions.
 */
import typedFunction from "typed-function";
import { ConfigError, DTypeError, renamed, wordType } from "../errors.ts";
import { Tensor } from "../graph/node.ts";
import { Variable } from "../graph/variable.ts";
import { asTensor, type TensorLike } from "./create.ts";
import { scalarLike } from "./math.ts";

type Typed = typeof typedFunction;
// biome-ignore lint/suspicious/noExplicitAny: any function of the engine
type Plain = (...args: any[]) => unknown;

let typed: Typed | null = null;

/** Our own typed-function, with tensors as a type and what converts to them. */
function ours(): Typed {
  if (typed) return typed;
  const made = typedFunction.create();
  made.addTypes(
    [
      { name: "Tensor", test: (value) => value instanceof Tensor },
      { name: "Variable", test: (value) => value instanceof Variable },
      { name: "TypedArray", test: (value) => ArrayBuffer.isView(value) && !(value instanceof DataView) },
    ],
    false,
  );
  const sources = ["number", "Array", "TypedArray", "Variable", "boolean"];
  made.addConversions(sources.map((from) => ({ from, to: "Tensor", convert: asTensor })));
  made.onMismatch = (name, args, signatures) => {
    throw mismatch(name, args, made.createError(name, args, signatures));
  };
  typed = made;
  return made;
}

/** In which order messages name types. */
const order = ["Tensor", "Variable", "number", "boolean", "string", "Array", "TypedArray"];

/** typed-function's complaint in our words. */
function mismatch(operation: string, args: ArrayLike<unknown>, { data, message }: ReturnType<Typed["createError"]>): Error {
  const index = data?.index ?? 0;
  const expected = [...new Set(data?.expected)].sort((a, b) => order.indexOf(a) - order.indexOf(b));
  const last = expected.pop();
  const words = expected.length ? `${expected.join(", ")} or ${last}` : `${last}`;
  switch (data?.category) {
    case "wrongType":
      return new DTypeError(`argument ${index + 1} is ${wordType(args[index])}, not ${words}.`, {
        operation,
        expected: data.expected,
        got: args[index],
      });
    case "tooFewArgs":
      return new ConfigError(`argument ${index + 1} is missing (${words}).`, {
        operation,
        expected: data.expected,
        got: args.length,
      });
    case "tooManyArgs":
      return new ConfigError(`takes ${data.expectedLength} arguments, got ${args.length}.`, {
        operation,
        expected: data.expectedLength,
        got: args.length,
      });
    default:
      return new DTypeError(message, { operation, got: args });
  }
}

/** A function that picks its implementation by the types of its arguments; built when it is first called. Errors bear its name. */
export function dispatched(name: string, signatures: () => Readonly<Record<string, Plain>>): Plain {
  let made: Plain | null = null;
  const call = (...args: unknown[]): unknown => {
    made ??= ours()(name, signatures());
    try {
      return made(...args);
    } catch (error) {
      throw renamed(error, name);
    }
  };
  Object.defineProperty(call, "name", { value: name });
  return call;
}

/** `"Tensor, Tensor"` followed by up to `extra` arguments of any type, all of one meaning. */
export function withExtras(first: string, extra: number, f: Plain): Record<string, Plain> {
  return Object.fromEntries(
    Array.from({ length: extra + 1 }, (_, n) => [[first, ...new Array<string>(n).fill("any")].join(", "), f]),
  );
}

/** The public form of a function whose first argument is a tensor. */
export type OfOne<F> = F extends (x: Tensor, ...rest: infer R) => infer Y ? (x: TensorLike, ...rest: R) => Y : never;
/** The public form of a function whose first two arguments are tensors. */
export type OfTwo<F> = F extends (x: Tensor, y: Tensor, ...rest: infer R) => infer Y
  ? (x: TensorLike, y: TensorLike, ...rest: R) => Y
  : never;
/** The public form of a function whose first three arguments are tensors. */
export type OfThree<F> = F extends (x: Tensor, y: Tensor, z: Tensor, ...rest: infer R) => infer Y
  ? (x: TensorLike, y: TensorLike, z: TensorLike, ...rest: R) => Y
  : never;

/** One tensor, and up to `extra` other arguments. */
export const ofOne = <F extends Plain>(name: string, f: F, extra = 0): OfOne<F> =>
  dispatched(name, () => withExtras("Tensor", extra, f)) as OfOne<F>;

/** Two tensors; a number beside a tensor takes its dtype where it can. */
export const ofTwo = <F extends (x: Tensor, y: Tensor) => Tensor>(name: string, f: F): OfTwo<F> =>
  dispatched(name, () => ({
    "Tensor, Tensor": f,
    "Tensor, number": (x: Tensor, y: number) => f(x, scalarLike(x, y)),
    "number, Tensor": (x: number, y: Tensor) => f(scalarLike(y, x), y),
  })) as OfTwo<F>;

/** Two tensors that are no partners in arithmetic, and up to `extra` other arguments. */
export const ofPair = <F extends Plain>(name: string, f: F, extra = 0): OfTwo<F> =>
  dispatched(name, () => withExtras("Tensor, Tensor", extra, f)) as OfTwo<F>;

/** Three tensors, and up to `extra` other arguments. */
export const ofTriple = <F extends Plain>(name: string, f: F, extra = 0): OfThree<F> =>
  dispatched(name, () => withExtras("Tensor, Tensor, Tensor", extra, f)) as OfThree<F>;

/** A list of tensors, and up to `extra` other arguments. */
export const ofList = <Rest extends unknown[], Y>(
  name: string,
  f: (tensors: Tensor[], ...rest: Rest) => Y,
  extra: number,
): ((tensors: readonly TensorLike[], ...rest: Rest) => Y) =>
  dispatched(name, () =>
    withExtras("Array", extra, (list: readonly TensorLike[], ...rest: Rest) => f(list.map(asTensor), ...rest)),
  ) as (tensors: readonly TensorLike[], ...rest: Rest) => Y;
