/** How close is attention to the limit of its products? (`npm run bench -- attention` has more, derivatives too.) */
import { attention } from "../../src/graph/attention.ts";
import type { Case } from "./case.ts";

const self = (name: string, shape: readonly number[], isCausal: boolean): Case => ({
  name,
  shapes: [shape, shape, shape],
  run: (q, k, v) => attention(q!, k!, v!, { isCausal }),
});

export const cases: readonly Case[] = [
  self("causal attention [4, 128, 8, 32]", [4, 128, 8, 32], true),
  self("attention [4, 128, 8, 32]", [4, 128, 8, 32], false),
  self("causal attention [1, 1024, 4, 64]", [1, 1024, 4, 64], true),
];
