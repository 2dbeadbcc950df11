/**
 * A fused program computes what its graph means: whatever shares a loop, stays in a register, is overwritten or left out, every
 * requested value is the one that its operations give when run one by one; derivatives too.
 *
 *   run(fuse(graph)) = run(graph), to the rounding of the dtype
 *
 * @see src/compile/fuse.ts; test/arbitrary/graph.ts for what the graphs are made of, test/arbitrary/rounding.ts for the bound
 */
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { pullback } from "../../src/autograd/grad.ts";
import { realize, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { isFloat } from "../../src/graph/dtype.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { constant } from "../../src/graph/source.ts";
import { type Bug, broken, bugs } from "../arbitrary/broken-device.ts";
import { cases } from "../arbitrary/cases.ts";
import { variants } from "../arbitrary/devices.ts";
import { type GraphOptions, growGraph, type Recipe, recipes } from "../arbitrary/graph.ts";
import { difference, tolerances } from "../arbitrary/rounding.ts";
import { valuesOf } from "../arbitrary/values.ts";

const reference = createReference();
const vectorTails: GraphOptions = { extents: [1, 2, 3, 4, 5, 7, 8, 9, 16, 17], maxRank: 3 };

/** Throws where `tensors` differ from `expected`, computed one operation at a time, by more than rounding. */
function compare(tensors: readonly Tensor[], expected: readonly Tensor[], unit: number): void {
  realize(tensors);
  // what is made of constants only goes where the current device is
  useDevice(reference);
  const allowed = tolerances(expected, { unit });
  tensors.forEach((tensor, i) => {
    const wrong = difference(valuesOf(tensor), valuesOf(expected[i]!), allowed[i]!);
    if (wrong) throw new Error(`${tensor.op.name} [${tensor.shape}]: ${wrong}`);
  });
}

function valuesAgree(recipe: Recipe, device: Device, unit: number): void {
  const { roots } = growGraph(recipe, device, reference);
  compare(
    roots.map(({ tensor }) => tensor),
    roots.map(({ expected }) => expected),
    unit,
  );
}

/** The same for a root and its derivatives by all leaves, asked for together. */
function derivativesAgree(recipe: Recipe, device: Device, unit: number): void {
  const { values, roots } = growGraph(recipe, device, reference);
  const root = roots.find(({ tensor }) => isFloat(tensor.dtype));
  if (!root) return;
  const leaves = values.slice(0, recipe.leaves.length).filter(({ tensor }) => isFloat(tensor.dtype));
  const gradients = (y: Tensor, inputs: readonly Tensor[]) =>
    pullback([y], [constant(1, y.shape, y.dtype)], inputs).filter((g) => g !== null);
  compare(
    [
      root.tensor,
      ...gradients(
        root.tensor,
        leaves.map(({ tensor }) => tensor),
      ),
    ],
    [
      root.expected,
      ...gradients(
        root.expected,
        leaves.map(({ expected }) => expected),
      ),
    ],
    unit,
  );
}

const tried = await Promise.all(
  variants
    .filter(({ name }) => ["reference, fused", "wasm, 2 threads", "gpu, cpu"].includes(name))
    .map(async ({ name, open, unit }) => ({ name, unit, device: await open() })),
);

describe.each(tried)("$name", ({ device, unit }) => {
  afterAll(() => device[Symbol.dispose]());
  const count = unit < 2 ** -24 ? 300 : device.name === "gpu" ? 40 : 120;

  test("values of small graphs", () => {
    fc.assert(
      fc.property(recipes(), (recipe) => valuesAgree(recipe, device, unit)),
      cases(count),
    );
  });
  test("values of graphs with axes around the width of a vector", () => {
    fc.assert(
      fc.property(recipes(vectorTails), (recipe) => valuesAgree(recipe, device, unit)),
      cases(count),
    );
  });
  test("derivatives", () => {
    fc.assert(
      fc.property(recipes({ maxSteps: 8 }), (recipe) => derivativesAgree(recipe, device, unit)),
      cases(count),
    );
  });
});

describe("mutants are caught", () => {
  test.each((Object.entries(bugs) as [string, Bug][]).filter(([, { loop }]) => loop))("%s", (_, bug) => {
    const device = broken(createReference({ fuse: true }), bug);
    const { failed } = fc.check(
      fc.property(recipes(vectorTails), (recipe) => valuesAgree(recipe, device, 2 ** -53)),
      { numRuns: 100, endOnFailure: true },
    );
    expect(failed).toBe(true);
  });
});
