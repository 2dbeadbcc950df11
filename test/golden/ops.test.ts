/** The cases of `ops/`: values and gradients of single operations, as PyTorch computes them. */
import { pullback } from "../../src/autograd/grad.ts";
import { realize } from "../../src/compile/program.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { constant } from "../../src/graph/source.ts";
import { operations } from "./operations.ts";
import { expectClose, type GoldenCase, goldenSuite, goldenTensors, readGolden, toTensor } from "./suite.ts";

interface OperationCase {
  readonly name: string;
  readonly op: string;
  readonly file: string;
  readonly args: Readonly<Record<string, unknown>>;
  readonly inputs: Readonly<Record<string, unknown>>;
  readonly outputs: number;
  readonly grads: readonly string[];
  readonly rtol: number;
  readonly atol: number;
}

function golden({ name, op, file, args, inputs, outputs, grads, rtol, atol }: OperationCase): GoldenCase {
  const operation = operations[op];
  if (!operation) return { name };
  const run = async () => {
    const tensors = await goldenTensors("ops", file);
    const given: Record<string, Tensor> = {};
    for (const input of Object.keys(inputs)) given[input] = toTensor(tensors.get(`in.${input}`)!);
    const results = [operation(given, args)].flat();
    const cotangents = results.map((y, i) => {
      const g = tensors.get(`gout.${i}`);
      return g ? toTensor({ ...g, shape: y.shape }) : null;
    });
    const outs = results.flatMap((y, i) => (cotangents[i] ? [{ y, g: cotangents[i] }] : []));
    const back = pullback(
      outs.map(({ y }) => y),
      outs.map(({ g }) => g),
      grads.map((input) => given[input]!),
    );
    realize([...results, ...back.filter((g) => g !== null)]);
    for (let i = 0; i < outputs; i++) await expectClose(`out.${i}`, results[i]!, tensors.get(`out.${i}`)!, { rtol, atol });
    for (const [i, input] of grads.entries()) {
      const g = back[i] ?? constant(0, given[input]!.shape);
      await expectClose(`gradient of ${input}`, g, tensors.get(`gin.${input}`)!, { rtol, atol });
    }
  };
  return { name, run };
}

const index = readGolden<{ readonly cases: readonly OperationCase[] }>("ops", "index.json");
goldenSuite("ops", index?.cases.map(golden) ?? []);
