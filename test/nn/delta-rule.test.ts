import fc from "fast-check";
import { expect, test } from "vitest";
import { concatenate } from "../../src/graph/composite.ts";
import { exp, mul, neg } from "../../src/graph/elementwise.ts";
import { sliceAxis } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { constant, number } from "../../src/graph/source.ts";
import { gatedDeltaRule } from "../../src/nn/delta-rule.ts";
import { rmsNorm } from "../../src/nn/norm.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";
import { sigmoid } from "../../src/tensor/math.ts";
import { cases } from "../arbitrary/cases.ts";
import { onEveryDevice } from "../devices.ts";
import { distance, onReference, randn, tensor, values } from "./tensors.ts";

interface Sizes {
  readonly B: number;
  readonly T: number;
  readonly G: number;
  readonly share: number;
  readonly K: number;
  readonly V: number;
}

/** q, k, v, decay, beta and a state, of the sizes that they have in models: keys of length 1, 0 < β < 1, d < 0. */
const shapesOf = ({ B, T, G, share, K, V }: Sizes): number[][] => {
  const H = G * share;
  return [
    [B, T, G, K],
    [B, T, G, K],
    [B, T, H, V],
    [B, T, H],
    [B, T, H],
    [B, H, K, V],
  ];
};
const draw = (shape: readonly number[], seed: number): Tensor => {
  const size = shape.reduce((product, extent) => product * extent, 1);
  return tensor([...new TorchGenerator(seed).randn64(size)], shape, "float64");
};
const unit = (x: Tensor): Tensor => mul(rmsNorm(x, null), number(x, (x.shape[3] as number) ** -0.5));
const bounded = ([q, k, v, decay, beta, state]: readonly Tensor[]): Six => [
  q!, unit(k!), v!, neg(exp(decay!)), sigmoid(beta!), state!]; // biome-ignore format: six
type Six = [q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor];

/** Token by token, as in the paper. */
function recurrence([q, k, v, decay, beta, state]: Six): { output: number[]; state: number[] } {
  const [B, T, G, K] = k.shape as [number, number, number, number];
  const [H, V] = v.shape.slice(2) as [number, number];
  const [qs, ks, vs, ds, bs, S] = [q, k, v, decay, beta, state].map(values) as [
    number[],
    number[],
    number[],
    number[],
    number[],
    number[],
  ];
  const output: number[] = [];
  for (let b = 0; b < B; b++)
    for (let t = 0; t < T; t++)
      for (let h = 0; h < H; h++) {
        const at = (b * T + t) * H + h;
        const [key, memory] = [((b * T + t) * G + Math.floor((h * G) / H)) * K, (b * H + h) * K * V];
        for (let j = 0; j < V; j++) {
          let held = 0;
          for (let i = 0; i < K; i++) held += (S[memory + i * V + j]! *= Math.exp(ds[at]!)) * ks[key + i]!;
          let seen = 0;
          for (let i = 0; i < K; i++)
            seen += (S[memory + i * V + j]! += bs[at]! * ks[key + i]! * (vs[at * V + j]! - held)) * qs[key + i]!;
          output.push(seen);
        }
      }
  return { output, state: S };
}

const small = (most: number) => fc.integer({ min: 1, max: most });
const sizes = fc.record({ B: small(2), T: small(19), G: small(2), share: small(3), K: small(4), V: small(4) });

onReference("the gated delta rule", () => {
  test("by chunks is the recurrence", () => {
    fc.assert(
      fc.property(sizes, small(6), fc.boolean(), fc.nat(1000), (drawn, chunk, isNew, seed) => {
        const all = bounded(shapesOf(drawn).map((shape, i) => draw(shape, seed + i)));
        const state = isNew ? mul(all[5], number(all[5], 0)) : all[5];
        const [q, k, v, decay, beta] = all;
        const got = gatedDeltaRule(q, k, v, decay, beta, { chunk, ...(isNew ? {} : { state }) });
        const want = recurrence([q, k, v, decay, beta, state]);
        const shape = [drawn.B, drawn.T, drawn.G * drawn.share, drawn.V];
        expect(distance(got.output, tensor(want.output, shape, "float64"))).toBeLessThan(1e-11);
        expect(distance(got.state, tensor(want.state, state.shape, "float64"))).toBeLessThan(1e-11);
      }),
      cases(20),
    );
  });

  test("a text in two parts is the whole, and tokens without key and β change what follows by their decay alone", () => {
    fc.assert(
      fc.property(sizes, fc.nat(10), small(6), fc.nat(1000), (drawn, first, chunk, seed) => {
        const [q, k, v, decay, beta, state] = bounded(shapesOf(drawn).map((shape, i) => draw(shape, seed + i)));
        const { T } = drawn;
        const cut = Math.min(first, T - 1);
        const part = (x: Tensor, from: number, to: number) => sliceAxis(x, 1, from, to);
        const run = (from: number, to: number, before: Tensor) => {
          const [a, b, c, d, e] = [q, k, v, decay, beta].map((x) => part(x, from, to)) as [
            Tensor,
            Tensor,
            Tensor,
            Tensor,
            Tensor,
          ];
          return gatedDeltaRule(a, b, c, d, e, { chunk, state: before });
        };
        const whole = gatedDeltaRule(q, k, v, decay, beta, { state });
        const half = cut > 0 ? run(0, cut, state) : undefined;
        const rest = run(cut, T, half?.state ?? state);
        expect(distance(half ? concatenate([half.output, rest.output], 1) : rest.output, whole.output)).toBeLessThan(1e-11);
        expect(distance(rest.state, whole.state)).toBeLessThan(1e-11);
        // padding in front of a new text
        const padded = [q, k, v, decay, beta].map((x) => {
          const front = part(x, 0, 1);
          return concatenate([x === decay ? front : mul(front, number(front, 0)), x], 1);
        }) as [Tensor, Tensor, Tensor, Tensor, Tensor];
        const { output, state: behind } = gatedDeltaRule(...padded, { chunk });
        const plain = gatedDeltaRule(q, k, v, decay, beta);
        expect(distance(sliceAxis(output, 1, 1, T + 1), plain.output)).toBeLessThan(1e-11);
        expect(distance(behind, plain.state)).toBeLessThan(1e-11);
      }),
      cases(10),
    );
  });

  test("sizes that do not fit are refused", () => {
    const [q, v, gate] = [randn([1, 3, 2, 4]), randn([1, 3, 4, 5]), randn([1, 3, 4])];
    const told = (call: () => unknown, message: RegExp) => expect(call).toThrow(message);
    told(
      () => gatedDeltaRule(q, q, randn([1, 3, 3, 5]), gate, gate),
      /^gatedDeltaRule: q \[1, 3, 2, 4\], .*v \[1, 3, 3, 5\].* do not fit/,
    );
    told(() => gatedDeltaRule(q, q, v, gate, gate, { state: randn([1, 4, 5, 4]) }), /state \[1, 4, 5, 4\] do not fit/);
    told(() => gatedDeltaRule(q, q, v, randn([1, 3, 2]), gate), /decay \[1, 3, 2\]/);
    told(() => gatedDeltaRule(q, q, v, gate, gate, { chunk: 0 }), /chunk/);
  });
});

onEveryDevice(() => {
  test("one key again and again, which powers of A would turn into digits that cancel", () => {
    const [T, K] = [100, 4];
    const key = mul(randn([1, 1, 1, K]), constant(0, [1, T, 1, K])); // zeros, then the first axis
    const one = concatenate([constant(1, [1, T, 1, 1]), sliceAxis(key, 3, 1, K)], 3);
    const v = randn([1, T, 1, 3], 5);
    const ones = constant(1, [1, T, 1]);
    const { output } = gatedDeltaRule(one, one, v, mul(ones, constant(0)), ones);
    expect(distance(output, v)).toBeLessThan(1e-5); // each value replaces the one before
  });
});
