/** Shapes that the compiler knows: what it derives is what runs, and what does not fit must not compile. */
import { describe, expect, test } from "vitest";
import "../../src/devices/choose.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Shape } from "../../src/graph/shape.ts";
import { Variable } from "../../src/graph/variable.ts";
import { zeros } from "../../src/tensor/create.ts";
import { softmax } from "../../src/tensor/functions.ts";
import "../../src/tensor/methods.ts";
import { type Broadcast, type Product, type Shaped, shaped } from "../../src/tensor/shaped.ts";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Same<A, B>) => {};

/** The compiler and the program say the same of a shape. */
const both = <S extends Shape>(x: Shaped<S>, shape: Same<S, readonly number[]> extends true ? Shape : NoInfer<S>): void =>
  expect(x.shape).toEqual(shape);

const of = <const S extends Shape>(shape: S) => shaped(zeros(shape), shape);

describe("a shape that is known", () => {
  const x = of([4, 8]);

  test("stays, broadcasts, multiplies", () => {
    same<(typeof x)["shape"], [4, 8]>(true);
    both(x.exp().relu().cast("float16"), [4, 8]);
    both(x.softmax(-1), [4, 8]);
    both(x.add(1), [4, 8]);
    both(x.add(of([8])), [4, 8]);
    both(x.mul(of([3, 1, 8])), [3, 4, 8]);
    both(of([4, 1]).sub(of([1, 8])), [4, 8]);
    both(x.matmul(of([8, 2])), [4, 2]);
    both(of([5, 1, 4, 8]).matmul(of([3, 8, 2])), [5, 3, 4, 2]);
    both(of([8]).matmul(of([8, 2])), [2]);
    both(x.matmul(of([8])), [4]);
    both(of([8]).matmul(of([8])), []);
  });

  test("is folded", () => {
    both(x.sum(), []);
    both(x.sum(null, true), [1, 1]);
    both(x.mean(-1), [4]);
    both(x.amax(0), [8]);
    both(x.amax(0, true), [1, 8]);
    both(of([2, 3, 4]).prod([0, -1]), [3]);
    both(of([2, 3, 4]).logSumExp([0, -1], true), [1, 3, 1]);
  });

  test("is arranged anew", () => {
    both(x.transpose(), [8, 4]);
    both(of([2, 3, 4]).transpose(0, -1), [4, 3, 2]);
    both(of([2, 3, 4]).swapAxes(1, 0), [3, 2, 4]);
    both(of([2, 3, 4]).permute([2, 0, -2]), [4, 2, 3]);
    both(x.reshape([2, 16]), [2, 16]);
    both(x.broadcastTo([3, 4, 8]), [3, 4, 8]);
    both(x.unsqueeze(0), [1, 4, 8]);
    both(x.unsqueeze(1), [4, 1, 8]);
    both(x.unsqueeze(-1), [4, 8, 1]);
  });

  test("goes where a tensor is taken, and comes of a variable", () => {
    const whole: Tensor = x;
    expect(softmax(x).shape).toEqual(whole.shape);
    both(shaped(new Variable(zeros([2, 3])), [2, 3]), [2, 3]);
    // attention of one head, from end to end
    const [q, k, v] = [of([2, 16, 8]), of([2, 16, 8]), of([2, 16, 8])];
    both(
      q
        .matmul(k.transpose())
        .mul(8 ** -0.5)
        .softmax()
        .matmul(v),
      [2, 16, 8],
    );
  });

  test("is checked when the program runs", () => {
    expect(() => shaped(zeros([4, 8]), [8, 4])).toThrow("shaped: [8, 4] was expected, got [4, 8].");
    expect(() => shaped(zeros([4, 8]), [4])).toThrow("shaped: [4] was expected, got [4, 8].");
  });
});

describe("what is not known", () => {
  const batch = 3 as number;
  const x = shaped(zeros([batch, 8]), [batch, 8]);

  test("a size that is only a number fits any other", () => {
    same<(typeof x)["shape"], [number, 8]>(true);
    const y = x.matmul(of([8, 2]));
    same<(typeof y)["shape"], [number, 2]>(true);
    const z = x.add(of([3, 8]));
    same<(typeof z)["shape"], [3, 8]>(true);
    const row = x.mul(of([1, 8]));
    same<(typeof row)["shape"], [number, 8]>(true);
    const flat = x.reshape([-1]);
    same<(typeof flat)["shape"], [number]>(true);
    expect([y.shape, z.shape, row.shape, flat.shape]).toEqual([[3, 2], [3, 8], [3, 8], [24]]);
  });

  test("a shape or an axis that is not known gives one that is not", () => {
    const open = x.add(zeros([8]));
    same<(typeof open)["shape"], Shape>(true);
    const product = x.matmul(zeros([8, 4]));
    same<(typeof product)["shape"], Shape>(true);
    const axis = 1 as number;
    const sum = x.sum(axis);
    same<(typeof sum)["shape"], Shape>(true);
    const turned = x.transpose(0, axis);
    same<(typeof turned)["shape"], Shape>(true);
    expect([open.shape, product.shape, sum.shape, turned.shape]).toEqual([[3, 8], [3, 4], [3], [8, 3]]);
  });
});

test("sizes may be type parameters", () => {
  const attend = <B extends number, T extends number>(
    q: Shaped<[B, T, 8]>,
    k: Shaped<[B, T, 8]>,
    v: Shaped<[B, T, 4]>,
  ): Shaped<[B, T, 4]> => q.matmul(k.transpose()).softmax().matmul(v);
  const y = attend(of([2, 16, 8]), of([2, 16, 8]), of([2, 16, 4]));
  both(y, [2, 16, 4]);
  // @ts-expect-error 15 keys for 16 queries
  expect(() => attend(of([2, 16, 8]), of([2, 15, 8]), of([2, 16, 4]))).toThrow(/inner sizes differ/);
});

function mustNotCompile(x: Shaped<[4, 8]>): void {
  // @ts-expect-error inner sizes differ
  x.matmul(of([4, 8]));
  // @ts-expect-error the same, of a vector
  x.matmul(of([4]));
  // @ts-expect-error batches do not broadcast
  of([2, 4, 8]).matmul(of([3, 8, 2]));
  // @ts-expect-error sizes do not broadcast
  x.add(of([4]));
  // @ts-expect-error what comes of it is another shape
  const y: Shaped<[4, 8]> = x.transpose();
  // @ts-expect-error a text is no tensor
  x.add("1");
  void y;
}

test("messages are those of the run", () => {
  expect(mustNotCompile).toBeTypeOf("function");
  const inner: Product<[4, 8], [7, 2]> = "matmul: inner sizes differ: [4, 8] · [7, 2] (8 ≠ 7)";
  const apart: Broadcast<[4, 8], [4], "add"> = "add: [4, 8] and [4] do not broadcast (8 ≠ 4).";
  expect(() => zeros([4, 8]).matmul(zeros([7, 2]))).toThrow(inner);
  expect(() => zeros([4, 8]).add(zeros([4]))).toThrow(apart);
});
