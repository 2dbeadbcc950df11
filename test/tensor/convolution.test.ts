import fc from "fast-check";
import { expect, test } from "vitest";
import { avgPool1d, conv1d, conv2d, maxPool1d, maxPool2d } from "../../src/tensor/convolution.ts";
import { arange, tensor } from "../../src/tensor/create.ts";
import "../../src/tensor/methods.ts";
import { onEveryDevice } from "../devices.ts";

onEveryDevice((device) => {
  test("conv1d is the sum over channels and kernel positions, for any stride, padding, dilation and groups", () => {
    const small = (max: number) => fc.integer({ min: 1, max });
    fc.assert(
      fc.property(
        fc.record({
          N: small(2),
          G: small(2),
          C: small(2),
          O: small(3),
          K: small(3),
          T: small(6),
          stride: small(3),
          dilation: small(2),
        }),
        ({ N, G, C, O, K, T, stride, dilation }) => {
          const pad = Math.max(0, Math.ceil((dilation * (K - 1) + 1 - T) / 2));
          const x = Array.from({ length: N * G * C * T }, (_, i) => Math.sin(i * 7 + 1));
          const w = Array.from({ length: G * O * C * K }, (_, i) => Math.cos(i * 5 + 2));
          const y = conv1d(
            tensor(x, { shape: [N, G * C, T] }),
            tensor(w, { shape: [G * O, C, K] }),
            tensor(Array.from({ length: G * O }, (_, i) => i)),
            { stride, dilation, padding: pad, groups: G },
          );
          const places = y.shape[2]!;
          const got = y.dataSync();
          for (let n = 0; n < N; n++)
            for (let o = 0; o < G * O; o++)
              for (let t = 0; t < places; t++) {
                let sum = o;
                for (let c = 0; c < C; c++)
                  for (let k = 0; k < K; k++) {
                    const at = t * stride + k * dilation - pad;
                    const channel = Math.floor(o / O) * C + c;
                    if (at >= 0 && at < T) sum += x[(n * G * C + channel) * T + at]! * w[(o * C + c) * K + k]!;
                  }
                expect(got[(n * G * O + o) * places + t]).toBeCloseTo(sum, 4);
              }
        },
      ),
      { numRuns: device === "reference" ? 60 : 25 },
    );
  });

  test("padding may be told in words, as in PyTorch", () => {
    const line = (...values: number[]) => tensor([[values]]);
    // what is one too many goes behind
    expect(conv1d(line(1, 2, 3), line(10, 1), null, { padding: "same" }).toArray()).toEqual([[[12, 23, 30]]]);
    expect(conv1d(line(1, 2, 3, 4, 5), line(100, 10, 1, 0), null, { padding: "same" }).toArray()).toEqual([
      [[12, 123, 234, 345, 450]],
    ]);
    expect(conv1d(line(1, 2, 3, 4, 5), line(10, 1), null, { padding: "same", dilation: 3 }).toArray()).toEqual([
      [[3, 14, 25, 30, 40]],
    ]);
    expect(conv1d(line(1, 2, 3), line(10, 1), null, { padding: "valid" }).toArray()).toEqual([[[12, 23]]]);
  });

  test("pooling folds windows", () => {
    const x = arange(16).reshape([1, 1, 4, 4]);
    expect(maxPool2d(x, { kernelSize: 2 }).toArray()).toEqual([
      [
        [
          [5, 7],
          [13, 15],
        ],
      ],
    ]);
    expect(maxPool1d(tensor([[-1, -5, -2]]), { kernelSize: 3, stride: 1, padding: 1 }).toArray()).toEqual([[-1, -1, -2]]);
    expect(avgPool1d(tensor([[3, 6, 9]]), { kernelSize: 3, stride: 2, padding: 1 }).toArray()).toEqual([[3, 5]]);
  });
});

test("errors name the sizes that do not fit", () => {
  const x = arange(12).reshape([1, 2, 6]);
  expect(() => conv1d(x, arange(9).reshape([1, 3, 3]))).toThrow(
    "conv1d: x [1, 2, 6] and weight [1, 3, 3] do not fit 1 groups. weight is [out, in / groups, ...kernel].",
  );
  expect(() => conv1d(x, arange(14).reshape([1, 2, 7]))).toThrow(
    "conv1d: a kernel that reaches over 7 does not fit 6 along spatial axis 0. Add padding.",
  );
  expect(() => conv2d(x, x)).toThrow("conv2d: needs 4 axes, got x [1, 2, 6] and weight [1, 2, 6].");
  expect(() => conv1d(x, arange(4).reshape([1, 2, 2]), null, { stride: 0 })).toThrow(
    "conv1d: `stride` (= 0) must be a whole number from 1, or 1 of them.",
  );
  expect(() => maxPool2d(x, { kernelSize: [2, 3], padding: [1, 2] })).toThrow(
    "maxPool2d: `padding` (= [1,2]) is more than half of the kernel [2, 3]. Windows of nothing but padding have no value; use pad.",
  );
  expect(() => maxPool2d(x, {} as { kernelSize: number })).toThrow(
    "maxPool2d: `kernelSize` (= undefined) must be a whole number from 1, or 2 of them.",
  );
  expect(() => conv1d(x, arange(4).reshape([1, 2, 2]), null, { stride: 2, padding: "same" })).toThrow(
    'conv1d: `padding` "same" goes with stride 1, not [2].',
  );
  expect(() => conv1d(x, arange(4).reshape([1, 2, 2]), null, { padding: "full" as never })).toThrow(
    'conv1d: `padding` (= "full") must be a whole number from 0, or 1 of them.',
  );
});
