/** How the two factors of a low-rank adapter start: what `initLoraWeights` may name. One entry a name. */
import type { TorchGenerator } from "../random/torch-generator.ts";
import { gaussian, standard, untrained } from "./init/standard.ts";
import type { Base, Start } from "./method.ts";

/** First values of A [r, in] and B [out, r] (for an embedding A [r, rows], B [C, r]). */
export interface Initialiser {
  /** B·A = 0 at the start, so that a fresh adapter changes nothing. */
  readonly startsAtZero: boolean;
  /** @param scaling s in W + s·B·A */
  start(base: Base, r: number, scaling: number, random: TorchGenerator): Start;
}

/** By the value of the key; `true` and `false` are values of JSON. */
export const initialisers = { true: standard, false: untrained, gaussian } as const satisfies Record<string, Initialiser>;

/** What `initLoraWeights` may be. */
export type InitialiserName = keyof typeof initialisers;
