/** How close is looking up rows of a table, and adding gradients into it, to the limit of memory? */
import { embedding } from "../../src/nn/embedding.ts";
import { grad } from "../../src/tensor/derivative.ts";
import type { Case } from "./case.ts";

const [table, ids] = [[2048, 256], [8192]] as const;

export const cases: readonly Case[] = [
  { name: "embedding, 8192 of 2048 rows", shapes: [table, ids], integers: 2048, run: (w, i) => embedding(w!, i!), bar: 1.3 },
  {
    name: "embedding, derivative by the table",
    shapes: [table, ids, [8192, 256]],
    integers: 2048,
    run: (w, i, g) => grad((rows) => embedding(rows, i!).mul(g!).sum())(w!)[0]!,
  },
];
