import { describe, expect, test } from "vitest";
import { compile } from "../../src/compile/trace.ts";
import { ConfigError, DTypeError, ShapeError } from "../../src/errors.ts";
import { add } from "../../src/graph/elementwise.ts";
import { reshape, sliceAxis } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import {
  binaryCrossEntropyWithLogits,
  crossEntropy,
  huberLoss,
  klDivergence,
  l1Loss,
  mseLoss,
  negativeLogLikelihood,
  smoothL1Loss,
} from "../../src/nn/loss.ts";
import { hvp } from "../../src/tensor/derivative.ts";
import { sigmoid } from "../../src/tensor/math.ts";
import { logSoftmax } from "../../src/tensor/statistics.ts";
import { onEveryDevice } from "../devices.ts";
import { distance, integers, onReference, randn, tensor, values } from "./tensors.ts";

onEveryDevice(() => {
  describe("crossEntropy", () => {
    const targets = [0, 4, 2, 2, 1, 3];

    test("a target that is no class is named where it can be read, as an index outside of a table is", () => {
      for (const target of [5, -1])
        expect(() => crossEntropy(randn([1, 5]), integers([target]))).toThrow(
          new ShapeError(`target ${target} is none of the 5 classes.`, {
            operation: "crossEntropy",
            expected: 5,
            got: target,
            hint: "Classes count from 0 to 4; rows with `ignoreIndex` (= -100) are left out.",
          }),
        );
      expect(() => negativeLogLikelihood(randn([1, 5]), integers([7]))).toThrow(ShapeError);
      expect(() => crossEntropy(randn([1, 5]), integers([-100]), { ignoreIndex: -1 })).toThrow("target -100 is none");
      // labels that were moved by one, of which the first is nobody's target
      const moved = reshape(sliceAxis(integers([9, 4, 2]), 0, 1, 3), [2, 1]);
      expect(values(crossEntropy(randn([2, 1, 5]), moved)).every(Number.isFinite)).toBe(true);
      expect(() => crossEntropy(randn([2, 1, 4]), moved)).toThrow("target 4 is none of the 4 classes");
    });

    test("a target that is computed later and is no class gives NaN instead of a wrong number", () => {
      const loss = compile((logits: Tensor, targets: Tensor) => crossEntropy(logits, targets));
      for (const target of [5, -1]) {
        expect(values(loss(randn([1, 5]), integers([target])))[0]).toBeNaN();
        expect(values(crossEntropy(randn([1, 5]), add(integers([target]), integers([0]))))[0]).toBeNaN();
      }
    });

    test("large logits do not overflow", () => {
      expect(values(crossEntropy(tensor([1000, -1000], [1, 2]), integers([0])))[0]).toBe(0);
      expect(values(crossEntropy(tensor([1000, -1000], [1, 2]), integers([1])))[0]).toBe(2000);
    });

    test("of log-probabilities is the negative log-likelihood", () => {
      const logits = randn([6, 5]);
      const options = { weight: tensor([1, 2, 3, 4, 5]), ignoreIndex: 2 };
      const got = negativeLogLikelihood(logSoftmax(logits), integers(targets), options);
      expect(distance(got, crossEntropy(logits, integers(targets), options))).toBeLessThan(1e-6);
    });
  });

  test("squares, absolute values and what is between them", () => {
    const [x, y] = [tensor([0, 0.5, 3]), tensor([0, 0, 0])];
    expect(values(mseLoss(x, y, { reduction: "none" }))).toEqual([0, 0.25, 9]);
    expect(values(l1Loss(x, y, { reduction: "sum" }))).toEqual([3.5]);
    expect(values(huberLoss(x, y, { delta: 2, reduction: "none" }))).toEqual([0, 0.125, 4]);
    expect(values(smoothL1Loss(x, y, { beta: 2, reduction: "none" }))).toEqual([0, 0.0625, 2]);
    expect(values(smoothL1Loss(x, y, { beta: 0, reduction: "none" }))).toEqual([0, 0.5, 3]);
  });

  test("binary cross-entropy is that of σ(x), also where σ(x) is 0 or 1 to every digit", () => {
    const [x, target] = [randn([7]), tensor([0, 1, 0.5, 1, 0, 0.25, 1])];
    const p = values(sigmoid(x));
    const weight = 3;
    const want = values(target).map((t, i) => -(weight * t * Math.log(p[i]!) + (1 - t) * Math.log(1 - p[i]!)));
    const got = binaryCrossEntropyWithLogits(x, target, { posWeight: tensor([weight]), reduction: "none" });
    expect(distance(got, tensor(want))).toBeLessThan(1e-5);
    expect(values(binaryCrossEntropyWithLogits(tensor([200, -200]), tensor([0, 1]), { reduction: "none" }))).toEqual([200, 200]);
  });

  test("klDivergence of a distribution from itself is 0, and a probability of 0 counts nothing", () => {
    const p = tensor([0.5, 0.5, 0, 1], [2, 2]);
    const logP = tensor([Math.log(0.5), Math.log(0.5), -5, 0], [2, 2]);
    expect(values(klDivergence(logP, p, { reduction: "batchmean" }))[0]).toBeCloseTo(0, 6);
    const logQ = logSoftmax(randn([2, 2]));
    expect(
      distance(
        klDivergence(logQ, logSoftmax(logP), { logTarget: true }),
        klDivergence(logQ, tensor(values(logSoftmax(logP)).map(Math.exp), [2, 2])),
      ),
    ).toBeLessThan(1e-5);
  });
});

onReference("derivatives", () => {
  test("binary cross-entropy is curved by σ(1 − σ) everywhere, at 0 too, where training begins", () => {
    const target = tensor([0.1, 0.9, 1], [3], "float64");
    const [x, v] = [tensor([0, 3, 0], [3], "float64"), tensor([1, 1, 1], [3], "float64")];
    const curvature = hvp((z) => binaryCrossEntropyWithLogits(z, target, { reduction: "sum" }), x, v);
    expect(values(curvature)).toEqual([0.25, expect.closeTo(0.045176659730912, 12), 0.25]);
  });
});

onReference("what is refused", () => {
  test("rows and targets that do not fit, and targets that are no whole numbers", () => {
    expect(() => crossEntropy(randn([2, 3]), integers([1]))).toThrow(
      "crossEntropy: logits [2, 3] have rows [2], the targets are [1].",
    );
    const second = () =>
      crossEntropy(
        randn([2, 30, 16]),
        integers(
          Array.from({ length: 32 }, () => 0),
          [2, 16],
        ),
      );
    expect(second).toThrow("the targets are [2, 16]. Classes stand along the last axis: x.moveAxis(1, -1).");
    expect(() => crossEntropy(randn([2, 3]), randn([2, 3]))).toThrow("A target is the number of a class");
    expect(() => crossEntropy(randn([2, 3]), tensor([1, 2]))).toThrow(DTypeError);
    expect(() => crossEntropy(randn([2, 3]), integers([1, 2]), { weight: tensor([1]) })).toThrow(
      "`weight` is [1], there are 3 classes.",
    );
    expect(() => mseLoss(randn([2]), randn([3]))).toThrow("mseLoss: the input is [2], the target [3].");
    expect(() => mseLoss(randn([2]), [1, 2] as unknown as Tensor)).toThrow("mseLoss: `target` is a list, not a tensor.");
    expect(() => crossEntropy(randn([2, 3]), undefined as unknown as Tensor)).toThrow("`targets` is undefined, not a tensor.");
  });

  test("settings out of range", () => {
    const [x, at] = [randn([2, 3]), integers([1, 2])];
    expect(() => crossEntropy(x, at, { labelSmoothing: 2 })).toThrow(
      "crossEntropy: `labelSmoothing` (= 2) must be a number from 0 to 1.",
    );
    expect(() => crossEntropy(x, at, { reduction: "average" as never })).toThrow('must be "mean", "sum" or "none".');
    expect(() => huberLoss(x, x, { delta: 0 })).toThrow(ConfigError);
    expect(() => smoothL1Loss(x, x, { beta: -1 })).toThrow("`beta` (= -1) must be a number from 0.");
  });
});
