import { beforeEach, describe, expect, test } from "vitest";
import { checkpoint } from "../../src/autograd/custom.ts";
import { backward, grad } from "../../src/autograd/grad.ts";
import { hvp, perSampleGradients } from "../../src/autograd/jvp.ts";
import { downloadSync, plan, upload, useDevice } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import type { Device } from "../../src/devices/device.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { attention } from "../../src/graph/attention.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { add, mul, sub, tanh } from "../../src/graph/elementwise.ts";
import { expand, pad, reshape, transpose } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { reduceSum } from "../../src/graph/reduction.ts";
import { constant } from "../../src/graph/source.ts";
import { assignAll, Variable } from "../../src/graph/variable.ts";
import { random } from "../../src/index.ts";
import { gelu } from "../../src/tensor/math.ts";
import { mean, softmax } from "../../src/tensor/statistics.ts";

let device: Device;
beforeEach(() => {
  device = createReference({ fuse: true });
  useDevice(device);
});
const values = (n: number, f = Math.sin): Float32Array => Float32Array.from({ length: n }, (_, i) => f(i + 1));
const make = (shape: number[], f = Math.sin): Tensor =>
  upload(
    device,
    values(
      shape.reduce((a, b) => a * b, 1),
      f,
    ),
    shape,
    "float32",
  );
const total = (x: Tensor): Tensor =>
  reshape(
    reduceSum(
      x,
      x.shape.map((_, axis) => axis),
    ),
    [],
  );

describe("compile", () => {
  test("a replayed training step equals the same step built anew each time", () => {
    const run = (wrap: (f: (x: Tensor) => Tensor) => (x: Tensor) => Tensor) => {
      const W = new Variable(make([4, 3]));
      const momentum = new Variable(make([4, 3], () => 0));
      const step = wrap((x) => {
        const loss = total(mul(tanh(matmul(x, transpose(W.value))), tanh(matmul(x, transpose(W.value)))));
        backward(loss);
        const m = add(mul(momentum.value, constant(0.9)), W.grad!);
        W.grad = null;
        assignAll([
          [momentum, m],
          [W, sub(W.value, mul(m, constant(0.1)))],
        ]);
        return loss;
      });
      const losses = [1, 2, 3, 4].map(() => downloadSync(step(make([2, 3])))[0]!);
      return { losses, W: [...downloadSync(W.value)] };
    };
    const replayed = run((f) => compile(f));
    const anew = run((f) => f);
    expect(replayed.losses[3]).toBeLessThan(replayed.losses[0]!);
    replayed.losses.forEach((loss, i) => expect(loss).toBeCloseTo(anew.losses[i]!, 6));
    replayed.W.forEach((w, i) => expect(w).toBeCloseTo(anew.W[i]!, 6));
  });

  test("one trace serves all arguments of one shape, and memory does not grow", () => {
    let traced = 0;
    const total2 = new Variable(make([3], () => 0));
    const f = compile((x: Tensor) => {
      traced++;
      total2.assign(add(total2.value, x));
      return total(x);
    });
    f(make([3])).dispose();
    const before = device.statistics;
    for (let i = 0; i < 50; i++) {
      using x = make([3]);
      f(x).dispose();
    }
    expect(traced).toBe(1);
    expect(device.statistics.buffers).toBe(before.buffers);
    expect(device.statistics.kernels).toBe(before.kernels);
    f(make([3])).dispose();
    expect(downloadSync(total2.value)[0]).toBeCloseTo(52 * Math.sin(1), 5);
  });

  test("of programs those that were used last are kept, and memory does not grow with more", () => {
    let traced = 0;
    const f = compile(
      (x: Tensor) => {
        traced++;
        return total(mul(x, x));
      },
      { mostPrograms: 3 },
    );
    const run = (size: number): void => {
      using x = make([size]);
      using y = f(x);
      expect(downloadSync(y)[0]).toBeCloseTo(
        values(size).reduce((sum, value) => sum + value * value, 0),
        4,
      );
    };
    for (const size of [1, 2, 3]) run(size);
    run(1);
    run(4); // takes the place of 2
    expect([traced, f.traces]).toEqual([4, 3]);
    for (const size of [1, 3, 4]) run(size);
    expect(traced).toBe(4);
    run(2); // takes the place of 1
    run(3);
    expect([traced, f.traces]).toEqual([5, 3]);
    // each has room for its argument and its result
    const { buffers } = device.statistics;
    for (let size = 10; size < 30; size++) run(size);
    expect([f.traces, device.statistics.buffers]).toEqual([3, buffers]);
    expect(f.explain()).toMatch(/kernel/);
    f.dispose();
    expect([f.traces, device.statistics.buffers]).toEqual([0, buffers - 6]);
  });

  test("a number of programs that is none is refused", () => {
    for (const mostPrograms of [0, -1, 1.5, Number.NaN, "3" as unknown as number])
      expect(() => compile((x: Tensor) => x, { mostPrograms })).toThrow(/compile: `mostPrograms`/);
    expect(() => compile((x: Tensor) => x, { most: 3 } as never)).toThrow(/not an option/);
  });

  test("results have the shapes that were asked for, also after a last reshape", () => {
    const f = compile((x: Tensor) => [reshape(reduceSum(x, [1]), [2]), transpose(x)]);
    const [rows, turned] = f(make([2, 3])) as [Tensor, Tensor];
    expect([rows.shape, turned.shape]).toEqual([[2], [3, 2]]);
  });

  test("variables that swap their contents both get the old value of the other", () => {
    const [a, b] = [new Variable(make([2])), new Variable(make([2], Math.cos))];
    const swap = compile((x: Tensor) => {
      assignAll([
        [a, b.value],
        [b, a.value],
      ]);
      return x;
    });
    swap(make([1]));
    expect(downloadSync(a.value)[0]).toBeCloseTo(Math.cos(1));
    expect(downloadSync(b.value)[0]).toBeCloseTo(Math.sin(1));
  });

  test("a tensor read from a variable before the step is not silently the new value", () => {
    const a = new Variable(make([2]));
    const old = a.value;
    compile((x: Tensor) => {
      a.assign(add(a.value, x));
      return x;
    })(make([2]));
    expect(() => downloadSync(add(old, old))).toThrow(/disposed/);
  });
});

describe("kernels", () => {
  test("another batch size or length needs no new ones, forward and backward", () => {
    using wasm = createWasm({ threads: 1 });
    useDevice(wasm);
    const draw = (shape: number[]) => random.normal(random.key(1), shape).realize();
    const W = new Variable(draw([8, 16]));
    const step = compile((x: Tensor) => {
      const [B, T] = x.shape as [number, number];
      const h = softmax(gelu(matmul(x, W.value))); // [B, T, 16]
      const q = reshape(h, [B, T, 2, 8]);
      const y = reshape(attention(q, q, q, { isCausal: true }), [B, T, 16]);
      const loss = mean(mul(y, y));
      backward(loss);
      const g = W.grad!;
      W.grad = null;
      return [loss, g];
    });
    const kernels = ([B, T]: readonly [number, number]) => {
      step(draw([B, T, 8]));
      return wasm.statistics.kernels;
    };
    const first = kernels([2, 16]);
    expect(
      (
        [
          [3, 16],
          [2, 17],
          [7, 13],
          [4, 50],
        ] as const
      ).map(kernels),
    ).toEqual([first, first, first, first]);
    expect(step.traces).toBe(5);
  });
});

describe("derivatives", () => {
  /** The gradients of a stack of layers by its input and all weights, and what is planned for them. */
  const stackGradients = (layers: number, wrap: (f: typeof layer) => typeof layer) => {
    const size = 64;
    const inputs = [
      make([size, size]),
      ...Array.from({ length: layers }, (_, i) => make([size, size], (n) => Math.cos(n + i) / size)),
    ];
    const f = (x: Tensor, ...weights: Tensor[]) => total(weights.reduce((y, W) => wrap(layer)(y, W), x));
    const gradients = grad(f)(...inputs);
    return { gradients, matrices: plan(gradients).arenaBytes / (size * size * device.storageBytes("float32")) };
  };
  const layer = (x: Tensor, W: Tensor): Tensor => {
    const hidden = tanh(matmul(x, W));
    return add(x, matmul(tanh(matmul(mul(hidden, hidden), W)), W));
  };

  test("checkpointing changes memory, not gradients", () => {
    const plain = stackGradients(8, (f) => f);
    const saved = stackGradients(8, (f) => checkpoint(f));
    plain.gradients.forEach((g, i) => {
      const [a, b] = [downloadSync(g), downloadSync(saved.gradients[i]!)];
      a.forEach((value, j) => expect(b[j]).toBeCloseTo(value, 5));
    });
    // what is kept of a layer is its input
    const perLayer = (wrap: (f: typeof layer) => typeof layer) =>
      (stackGradients(12, wrap).matrices - stackGradients(8, wrap).matrices) / 4;
    expect(perLayer((f) => checkpoint(f))).toBeLessThan(1.5);
    expect(perLayer((f) => f)).toBeGreaterThan(2.5);
  });

  test("the gradient of a weight is made as soon as what it needs is there, not after the whole reverse walk", () => {
    const { gradients } = stackGradients(4, (f) => f);
    const { steps, roots } = plan(gradients);
    const at = (i: number) => steps.findIndex((step) => step.outputs.includes(roots[i]!));
    // the last layer's first, the first layer's last
    expect([1, 2, 3, 4].map(at)).toEqual([1, 2, 3, 4].map(at).sort((a, b) => b - a));
    expect(at(4)).toBeLessThan(steps.length / 2 + 4);
  });

  test("a product with 1, with which a derivative begins, is not computed; one with what only begins as 1 is", () => {
    const [x, w] = [make([4, 8]), make([4, 8], Math.cos)];
    const [g] = grad((y) => total(mul(y, w)))(x);
    // the factor, written where the gradient is to lie
    expect(plan([g!]).steps.map(({ label }) => label)).toEqual(["copy"]);
    expect(downloadSync(g!)).toEqual(downloadSync(w));
    expect(downloadSync(mul(x, expand(constant(1, [1, 8]), [4, 8])))).toEqual(downloadSync(x));
    const edge = mul(x, pad(constant(1, [4, 6]), [0, 1], [0, 1]));
    expect([...downloadSync(edge)].filter((value) => value === 0)).toHaveLength(8);
    const factor = new Variable(make([4, 8], () => 1));
    const y = mul(x, factor.value);
    expect(plan([y]).steps.map(({ label }) => label)).toEqual(["mul"]);
    // a result is memory of its own
    const same = mul(x, constant(1));
    downloadSync(same);
    expect(same.storage).not.toBe(x.storage);
  });

  test("hvp of Σx³ is 6x·v", () => {
    const x = make([3]);
    const v = make([3], Math.cos);
    const result = downloadSync(hvp((y) => total(mul(mul(y, y), y)), x, v));
    result.forEach((value, i) => expect(value).toBeCloseTo(6 * Math.sin(i + 1) * Math.cos(i + 1), 5));
  });

  test("per-sample gradients add up to the gradient of the sum", () => {
    const W = make([2, 3]);
    const X = make([4, 3], Math.cos);
    const [g] = perSampleGradients(([w], x) => total(tanh(matmul(w!, x!))), [W], [X]);
    expect(g!.shape).toEqual([4, 2, 3]);
    const W2 = new Variable(make([2, 3]));
    backward(total(tanh(matmul(X, transpose(W2.value)))));
    const sum = downloadSync(reduceSum(g!, [0]));
    downloadSync(W2.grad!).forEach((value, i) => expect(sum[i]).toBeCloseTo(value, 5));
  });
});
