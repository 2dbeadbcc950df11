/** The plain starts of LoRA: random and zero, so that the product is zero. */
import type { TorchGenerator } from "../../random/torch-generator.ts";
import type { Initialiser } from "../initialiser.ts";
import type { Base } from "../method.ts";

/** First values, from a stream of random numbers. */
export type Draw = (random: TorchGenerator, count: number) => Float32Array;

/** Zeros. */
export const zeros: Draw = (_, count) => new Float32Array(count);
/** Kaiming's uniform with a = √5, as torch.nn.Linear starts: ±1/√fanIn. */
export const uniform =
  (fanIn: number): Draw =>
  (random, count) =>
    random.uniform(count, -1 / Math.sqrt(fanIn), 1 / Math.sqrt(fanIn));
/** N(0, std²). */
export const normal =
  (std: number): Draw =>
  (random, count) =>
    random.normal(count, 0, std);

/** Linear: A and B as given. Embedding: A and B as given by `table`, whose roles are the other way round in PEFT. */
const from = (
  startsAtZero: boolean,
  linear: (base: Base, r: number) => readonly [A: Draw, B: Draw],
  table: readonly [A: Draw, B: Draw],
): Initialiser => ({
  startsAtZero,
  start(base, { r }, random) {
    const [drawA, drawB] = base.kind === "embedding" ? table : linear(base, r);
    const A = drawA(random, r * base.in);
    return { values: { A, B: drawB(random, base.out * r) } };
  },
});

/** A uniform in ±1/√in, B = 0; an embedding: A = 0, B ~ N(0, 1). */
export const standard = from(true, (base) => [uniform(base.in), zeros], [zeros, normal(1)]);
/** A ~ N(0, 1/r²), B = 0. */
export const gaussian = from(true, (_, r) => [normal(1 / r), zeros], [zeros, normal(1)]);
/** Both random, so that a fresh adapter changes the output: for tests, as in PEFT. */
export const untrained = from(false, (base, r) => [uniform(base.in), uniform(r)], [normal(1), normal(1)]);
