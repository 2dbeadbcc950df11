/** What must compile and what must not; checked by `npm run typecheck`, not run. */
import { expect, test } from "vitest";
import type { Tensor } from "../../src/graph/node.ts";
import type { Variable } from "../../src/graph/variable.ts";
import { tensor } from "../../src/tensor/create.ts";
import { grad, perSampleGradients, valueAndGrad, vjp } from "../../src/tensor/derivative.ts";
import * as functions from "../../src/tensor/functions.ts";
import "../../src/tensor/methods.ts";
import type { Extremes } from "../../src/tensor/statistics.ts";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Same<A, B>) => {};

function mustCompile(x: Tensor, variable: Variable): void {
  same<ReturnType<typeof functions.add>, Tensor>(true);
  same<Parameters<typeof functions.softmax>[1], number | undefined>(true);
  const y: Tensor = functions.add(x, [
    [1, 2],
    [3, 4],
  ]);
  const z: Tensor = x.mul(Float32Array.of(1)).sub(variable).div(2).pow(0.5);
  const whole: Tensor = x.max();
  const along: Extremes = x.max(-1);
  const parts: Tensor[] = functions.split(x, 2, -1);
  const later: Promise<ArrayLike<number>> = x.data();
  functions.concatenate([x, [1], variable], -1);
  functions.sum([1, 2, 3], null, true);
  functions.norm(x, { p: 1, axes: [0, 1] });
  x.at("1:2", null, { step: -1 }, 0, x.cast("int32"));
  x.pad([[1, 1]], { mode: "reflect" });
  void [y, z, whole, along, parts, later];
}

function derivativesMustCompile(x: Tensor, f: (...all: Tensor[]) => Tensor): void {
  const [dx, dy] = grad((a, b) => a.mul(b).sum())(x, 2);
  same<typeof dx, Tensor>(true);
  const { gradients } = valueAndGrad((a) => a.sum())([1, 2]);
  const first: Tensor = gradients[0];
  const many: Tensor[] = grad(f)(x, x, x);
  const [gx]: [Tensor] = vjp((a) => a.exp(), x).pullback(1);
  const [perSample]: [Tensor, Tensor] = perSampleGradients(([w, b], row) => row.matmul(w).add(b).sum(), [x, 0], [x]);
  void [dx, dy, first, many, gx, perSample];
}

function mustNotCompile(x: Tensor): void {
  // @ts-expect-error a text is no tensor
  functions.add(x, "1");
  // @ts-expect-error a second tensor is missing
  functions.matmul(x);
  // @ts-expect-error methods of one tensor take nothing
  x.exp(1);
  // @ts-expect-error axes are numbers
  x.sum("0");
  // @ts-expect-error float8 is no dtype
  x.cast("float8");
  // @ts-expect-error a ragged element
  tensor([[1], ["2"]]);
  // @ts-expect-error a string is no shape
  x.reshape("2, 3");
  // @ts-expect-error without an axis there are no indices
  x.max().indices;
  // @ts-expect-error an unknown mode
  x.pad([[1, 1]], { mode: "wrap" });
  // @ts-expect-error an option that is not there
  functions.norm(x, { order: 2 });
  // @ts-expect-error a fold that is not there
  x.reduce("a -> ", "median");
  // @ts-expect-error a function of two tensors needs two
  grad((a, b) => a.mul(b).sum())(x);
  // @ts-expect-error a function to differentiate gives a tensor
  grad(() => 3);
  // @ts-expect-error shapes do not change
  x.shape[0] = 3;
}

test("types are checked by the compiler", () => expect([mustCompile, derivativesMustCompile, mustNotCompile]).toHaveLength(3));
