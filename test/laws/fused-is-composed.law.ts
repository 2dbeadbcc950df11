/**
 * Hand-written code equals what it replaces, in value and derivatives: a fused operation its composition, a matrix product its sums of
 * products, a derivative given to `withVjp` the derivative of the function next to it.
 *
 *   |y − y′| ≤ E(y) + E(y′) and |vjp(f)(g) − vjp(f′)(g)| ≤ E + E′, with f′ made of loops only, E the error bounds of rounding.ts
 *
 * On the reference device f′ is compared in float64; on wasm the tuned kernels are compared. That a kernel reads any view, dtype and
 * size is the law devices-agree.
 *
 * @see src/graph/fused.ts, src/autograd/custom.ts
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { withVjp } from "../../src/autograd/custom.ts";
import { pullback } from "../../src/autograd/grad.ts";
import { realize, upload, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { attentionOp } from "../../src/graph/attention.ts";
import { matmulOp } from "../../src/graph/contraction.ts";
import { isFloat } from "../../src/graph/dtype.ts";
import { mul } from "../../src/graph/elementwise.ts";
import { applyFused, isItem } from "../../src/graph/fused.ts";
import { customOp, reshape } from "../../src/graph/movement.ts";
import { Tensor, topologicalOrder } from "../../src/graph/node.ts";
import type { Draw, Fused, Sample } from "../../src/graph/primitive.ts";
import { primitives } from "../../src/graph/primitives.ts";
import { reduceSum } from "../../src/graph/reduction.ts";
import { sigmoid, silu } from "../../src/tensor/math.ts";
import { logSoftmax } from "../../src/tensor/statistics.ts";
import { broken } from "../arbitrary/broken-device.ts";
import { cases } from "../arbitrary/cases.ts";
import type { Composite } from "../arbitrary/composite.ts";
import { composites } from "../arbitrary/composites.ts";
import { draws, randomValues, repeating } from "../arbitrary/draw.ts";
import { difference, tolerances } from "../arbitrary/rounding.ts";
import { valuesOf } from "../arbitrary/values.ts";

const reference = createReference();
const wasm = createWasm({ threads: 2 });
const targets = [
  { device: reference, unit: 2 ** -53 },
  { device: wasm, unit: 2 ** -24 },
];
beforeAll(() => void useDevice(reference));
afterAll(() => wasm[Symbol.dispose]());

/** a [..., M, K] · b [..., K, N] as a sum of products. */
function sumOfProducts(a: Tensor, b: Tensor): Tensor {
  const [batch, [M, K], N] = [a.shape.slice(0, -2), a.shape.slice(-2) as [number, number], b.shape[b.rank - 1]!];
  const products = mul(reshape(a, [...batch, M, K, 1]), reshape(b, [...batch, 1, K, N]));
  return reshape(reduceSum(products, [products.rank - 2]), [...batch, M, N]);
}

/** The same graphs without anything written by hand; leaves stay the tensors that they are. */
function composed(roots: readonly Tensor[], known = new Map<Tensor, Tensor>()): Tensor[] {
  const results = new Map<Tensor, readonly Tensor[]>();
  for (const node of topologicalOrder(roots, (x) => known.has(x))) {
    if (known.has(node)) continue;
    const sources = node.sources.map((source) => known.get(source)!);
    if (node.op === customOp) known.set(node, sources[0]!);
    else if (node.op === matmulOp) known.set(node, sumOfProducts(sources[0]!, sources[1]!));
    else if (isItem(node)) known.set(node, results.get(node.sources[0]!)![node.attributes["index"] as number]!);
    else if (node.op.kind === "fused") {
      for (const source of sources) known.set(source, source);
      results.set(node, composed(node.op.compose(sources, node.attributes), known));
      known.set(node, node);
    } else
      known.set(
        node,
        sources.every((source, i) => source === node.sources[i])
          ? node
          : new Tensor(node.op, sources, node.shape, node.dtype, node.attributes),
      );
  }
  return roots.map((root) => known.get(root)!);
}

interface Built {
  readonly y: Tensor;
  readonly xs: readonly Tensor[];
}

function build({ inputs, apply }: Sample, device: Device, seed: number): Built {
  const xs = inputs.map(({ shape, domain }, i) =>
    upload(device, Float32Array.from(randomValues(shape, domain, seed + i)), shape, "float32"),
  );
  return { y: apply(...xs), xs };
}

/** `y` and its derivatives by all inputs. */
function withDerivatives(y: Tensor, xs: readonly Tensor[], device: Device, seed: number): (Tensor | null)[] {
  if (!isFloat(y.dtype)) return [y];
  const g = upload(device, Float32Array.from(randomValues(y.shape, [-1, 1], seed)), y.shape, "float32");
  return [y, ...pullback([y], [g], xs)];
}

/** Throws where what is written by hand differs from what it is made of. `make` gives the same sample for each device. */
function holds(make: (device: Device) => Sample, seed: number, among = targets): void {
  useDevice(reference);
  const plain = build(make(reference), reference, seed);
  const byHand = withDerivatives(plain.y, plain.xs, reference, seed + 100);
  const expected = withDerivatives(composed([plain.y])[0]!, plain.xs, reference, seed + 100);
  // where only one of the two has no derivative, it has to be zero
  const both = byHand.flatMap((x, i) => (x && expected[i] ? [i] : []));
  for (const alone of [...byHand, ...expected].filter((x, i) => x && !both.includes(i % byHand.length)))
    if (valuesOf(alone!).some((value) => value !== 0)) throw new Error("one has a derivative, the other has none");
  const pick = (all: readonly (Tensor | null)[]) => both.map((i) => all[i]!);
  const wanted = pick(expected);
  realize(wanted);
  for (const { device, unit } of among) {
    useDevice(reference);
    const allowed = tolerances([...pick(byHand), ...wanted], { unit });
    useDevice(device);
    const again =
      device === reference
        ? byHand
        : (({ y, xs }) => withDerivatives(y, xs, device, seed + 100))(build(make(device), device, seed));
    const got = pick(again);
    realize(got);
    got.forEach((x, i) => {
      const sum = allowed[i]!.map((value, j) => value + allowed[i + got.length]![j]!);
      const wrong = difference(valuesOf(x), valuesOf(wanted[i]!), sum);
      if (wrong) throw new Error(`${device.name}: ${i === 0 ? "value" : `derivative ${i}`}, [${x.shape}]: ${wrong}`);
    });
  }
}

/** A composite whose samples are drawn once and made for each device. */
const drawnFrom = (composite: (device: Device) => Composite, draw: Draw, seed: number) => {
  const again = repeating(draw);
  return (device: Device): Sample => {
    const samples = composite(device)(again());
    return samples[seed % samples.length]!;
  };
};

/** Draws the largest of everything. */
const largest: Draw = {
  integer: (_low, high) => high,
  extent: (small) => small,
  shape: (maxRank = 3, maxExtent = 5) => new Array<number>(maxRank).fill(maxExtent),
};
const nodesOf = (composite: Composite): Tensor[] =>
  topologicalOrder(composite(largest).map((sample) => build(sample, reference, 1).y));
useDevice(reference);
const graphs = Object.entries(composites(reference)).map(([name, composite]) => ({ name, nodes: nodesOf(composite) }));
const byHand = graphs.filter(({ nodes }) => nodes.some(({ op }) => op === customOp || op === matmulOp || op.kind === "fused"));

describe("composites with something written by hand", () => {
  test.each(byHand.map(({ name }) => name))("%s", (name) => {
    fc.assert(
      fc.property(draws({ large: true }), fc.nat(1e6), (draw, seed) =>
        holds(
          drawnFrom((device) => composites(device)[name]!, draw, seed),
          seed,
        ),
      ),
      // a whole model is a long way for a sum of products
      cases(name === "LlamaForCausalLM" ? 1 : 2),
    );
  });

  /** Not to be compared with a composition. */
  const others = [
    "autograd/custom.ts", // the definition
    "linalg/solve.ts", // values made outside of the graph: test/linalg compares with finite differences
    "linalg/factor.ts", // the same
    "linalg/triangular.ts", // the same
    "peft/methods/oft.ts", // a projection that the gradient passes by, on purpose
    "peft/methods/osf.ts", // a gradient that is projected, on purpose: the golden case compares it with PEFT
  ];

  test("every derivative by hand in src is among them", () => {
    const files = readdirSync("src", { recursive: true, encoding: "utf8" }).filter((path) => path.endsWith(".ts"));
    const uses = files
      .filter((path) => !others.includes(path.replaceAll("\\", "/")))
      .flatMap((path) => readFileSync(join("src", path), "utf8").match(/\bwithVjp\(/g) ?? []);
    const nodes = graphs.flatMap((graph) => graph.nodes).filter(({ op }) => op === customOp);
    expect(new Set(nodes.map(({ attributes }) => String(attributes["backward"]))).size).toBe(uses.length);
  });
});

/** Sums of products are slow, so sizes stay near those of a few vectors. */
const modest = (draw: Draw): Draw => ({
  integer: (low, high) => draw.integer(low, high),
  extent: (small) => Math.min(draw.extent(small), 33),
  shape: (...limits) => draw.shape(...limits),
});

describe("fused operations and products of matrices", () => {
  const entries = Object.entries(primitives).filter(([, op]) => (op.kind === "fused" || op === matmulOp) && "samples" in op);
  test.each(entries)("%s", (_, op) => {
    fc.assert(
      fc.property(draws({ large: op.kind === "fused" }), fc.nat(1e6), (draw, seed) =>
        holds(
          drawnFrom(() => (d) => (op as Fused).samples!(modest(d)), draw, seed),
          seed,
        ),
      ),
      cases(5),
    );
  });
});

describe("mutants are caught", () => {
  const caught = (apply: (x: Tensor, y: Tensor) => Tensor, among = targets) =>
    expect(() =>
      fc.assert(
        fc.property(fc.nat(1e6), (seed) => {
          const inputs = [0, 1].map(() => ({ shape: [2, 3, 2, 4], domain: [-2, 2] as const }));
          holds(() => ({ inputs, apply: (x, y) => apply(x!, y!) }), seed, among);
        }),
        { numRuns: 5, endOnFailure: true },
      ),
    ).toThrow();
  /** Attention of x on y with another operation in the place of the right one. */
  const attend = (op: Fused) => (x: Tensor, y: Tensor) => {
    const results = [
      { shape: [2, 3, 2, 4], dtype: "float32" as const },
      { shape: [2, 2, 3], dtype: "float32" as const },
    ];
    return applyFused(op, [x, y, y], results, { causal: 1, scale: 0.7, window: 0 })[0]!;
  };

  test("SwiGLU's derivative without its second term", () =>
    caught(
      withVjp(
        (gate, up) => mul(silu(gate!), up!),
        (g, _, gate, up) => [mul(mul(g, up!), sigmoid(gate!)), mul(g, silu(gate!))],
      ),
    ));
  test("a derivative of the logarithm of softmax that subtracts too much", () =>
    caught((x, y) =>
      withVjp(
        (z) => logSoftmax(z!, -1),
        (g, value) => [mul(g, value)],
      )(mul(x, y)),
    ));
  test("attention's derivatives by keys and queries in each other's place", () =>
    caught(
      attend({
        ...attentionOp,
        pullback: (gs, node) => {
          const [dq, dk, dv] = attentionOp.pullback!(gs, node)!;
          return [dk!, dq!, dv!];
        },
      }),
    ));
  test("an attention kernel without its scale", () => {
    const device = broken(wasm, { call: (call) => ({ ...call, attributes: { ...call.attributes, scale: 1 } }) });
    caught(attend(attentionOp), [{ device, unit: 2 ** -24 }]);
  });
  test("a composition that looks one key too far", () =>
    caught(
      attend({ ...attentionOp, compose: (sources, attributes) => attentionOp.compose(sources, { ...attributes, causal: 0 }) }),
      [{ device: wasm, unit: 2 ** -24 }],
    ));
});
