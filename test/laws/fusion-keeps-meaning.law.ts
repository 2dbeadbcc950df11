/**
 * A program that was fused computes what its graph means.
 */
import fc from "fast-check";
import { test } from "vitest";
import { downloadSync, realize } from "../../src/compile/program.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { growGraph, recipes } from "../arbitrary/graph.ts";
import { difference, tolerances } from "../arbitrary/rounding.ts";

const reference = createReference();
const fused = createReference({ fuse: true });

test("fused and unfused programs agree in float64", () => {
  fc.assert(
    fc.property(recipes(), (recipe) => {
      const { roots } = growGraph(recipe, fused, reference);
      realize(roots.map((root) => root.tensor));
      const allowed = tolerances(
        roots.map((root) => root.expected),
        { unit: 2 ** -53 },
      );
      roots.forEach(({ tensor, expected }, i) => {
        const wrong = difference(downloadSync(tensor), downloadSync(expected), allowed[i]!);
        if (wrong) throw new Error(`${tensor.op.name} [${tensor.shape}]: ${wrong}`);
      });
    }),
    { numRuns: Number(process.env["CASES"] ?? 300), ...(process.env["SEED"] ? { seed: Number(process.env["SEED"]) } : {}) },
  );
}, 600_000);
