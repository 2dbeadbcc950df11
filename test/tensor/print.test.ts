import { inspect } from "node:util";
import { expect, test } from "vitest";
import { observing } from "../../src/graph/variable.ts";
import { arange, tensor } from "../../src/tensor/create.ts";
import { print } from "../../src/tensor/print.ts";
import "../../src/tensor/methods.ts";
import { onEveryDevice } from "../devices.ts";

onEveryDevice(() => {
  test("all of a tensor is shown where that is asked for, however long it is", () => {
    const shown = print(arange(200_000), { threshold: 200_000 });
    expect(
      shown
        .match(/\d+(?=[\s\]])/g)
        ?.map(Number)
        .slice(0, 200_000)
        .every((value, i) => value === i),
    ).toBe(true);
    expect(shown.slice(-40)).toMatch(/ 199998 199999\] \w+ \[200000\]$/);
  });

  test("columns are aligned and no more digits are shown than some value needs", () => {
    expect(
      print(
        tensor([
          [1, 2.5],
          [-3, 4],
        ]),
      ),
    ).toBe("[[ 1.0  2.5]\n [-3.0  4.0]] float32 [2, 2]");
    expect(print(tensor([1, 2, 3]))).toBe("[1 2 3] float32 [3]");
    expect(print(tensor([1 / 3, 2]))).toBe("[0.3333 2.0000] float32 [2]");
    expect(print(tensor([1 / 3, 2]), { precision: 2 })).toBe("[0.33 2.00] float32 [2]");
    expect(print(tensor(0.5))).toBe("0.5 float32 []");
    expect(print(tensor([true, false]))).toBe("[ true false] bool [2]");
    expect(print(tensor([-1, 10], { dtype: "int32" }))).toBe("[-1 10] int32 [2]");
    expect(print(tensor([0.5, 2], { dtype: "bfloat16" }))).toBe("[0.5 2.0] bfloat16 [2]");
    expect(print(tensor([]))).toBe("[] float32 [0]");
  });

  test("very large and very small values are written with exponents, the others stay as they are", () => {
    expect(print(tensor([1e-6, 1]))).toBe("[1e-06 1e+00] float32 [2]");
    expect(print(tensor([1.5e10, 0, Number.NaN, Number.NEGATIVE_INFINITY]))).toBe(
      "[1.5e+10 0.0e+00     nan    -inf] float32 [4]",
    );
  });

  test("blocks are set apart by empty lines", () => {
    expect(print(arange(8).reshape([2, 2, 2]))).toBe("[[[0 1]\n  [2 3]]\n\n [[4 5]\n  [6 7]]] float32 [2, 2, 2]");
  });

  test("big tensors show their edges", () => {
    expect(print(arange(2000))).toBe("[   0    1    2 … 1997 1998 1999] float32 [2000]");
    const lines = print(arange(10000).reshape([100, 100]), { edgeItems: 1 }).split("\n");
    expect(lines).toEqual(["[[   0 …   99]", " …", " [9900 … 9999]] float32 [100, 100]"]);
  });

  test("long rows are broken into lines", () => {
    expect(print(arange(8), { lineWidth: 10 })).toBe("[0 1 2 3 4\n 5 6 7] float32 [8]");
  });

  test("String, inspect and print agree; while tracing or after disposal only the type is shown", () => {
    const x = tensor([1, 2]);
    expect(`${x}`).toBe(x.print());
    expect(inspect(x)).toBe(x.print());
    expect(Object.prototype.toString.call(x)).toBe("[object Tensor]");
    const observer = { read: () => x, write: () => {} };
    expect(observing(observer, () => `${x}`)).toBe("float32 [2], being traced");
    x.dispose();
    expect(`${x}`).toBe("float32 [2], disposed");
  });
});
