/** How the two factors of a low-rank adapter start: what `initLoraWeights` may name. One entry a name. */
import { ConfigError, nearestName } from "../errors.ts";
import type { ConfigKeys } from "../formats/peft-config.ts";
import type { TorchGenerator } from "../random/torch-generator.ts";
import { corda, cordaKeys } from "./init/corda.ts";
import { eva, evaKeys } from "./init/eva.ts";
import { loftq, loftqKeys } from "./init/loftq.ts";
import { loraGa, loraGaKeys } from "./init/lora-ga.ts";
import { mica } from "./init/mica.ts";
import { olora } from "./init/olora.ts";
import { orthogonal } from "./init/orthogonal.ts";
import { pissa } from "./init/pissa.ts";
import { gaussian, standard, untrained } from "./init/standard.ts";
import type { Base, Calibration, Start } from "./method.ts";
import { subConfig } from "./sub-config.ts";

/** What a start may depend on besides the layer. */
export interface Given {
  readonly r: number;
  /** s in W + s·B·A */
  readonly scaling: number;
  /** Of the initialiser: its part of the config, with PEFT's keys and every default. */
  readonly options: Readonly<Record<string, unknown>>;
  /** What a pass over data has found. */
  readonly calibration?: Calibration | undefined;
}

/** First values of A [r, in] and B [out, r] (for an embedding A [r, rows], B [C, r]). */
export interface Initialiser {
  /** A fresh adapter changes nothing, up to rounding. */
  readonly startsAtZero: boolean;
  /** A part of the weight moves into the factors; whether what that is can be told from the weight, or only from data. */
  readonly residual?: "from the weight" | "from data";
  /** B is not trained. */
  readonly fixesB?: boolean;
  /** @throws {ConfigError} when it is nothing for this layer, or data is missing */
  start(base: Base, given: Given, random: TorchGenerator): Start;
}

/** By the value of the key; `true` and `false` are values of JSON. */
export const initialisers = {
  true: standard,
  false: untrained,
  gaussian,
  orthogonal,
  pissa: pissa(),
  olora,
  mica,
  corda,
  eva,
  lora_ga: loraGa,
  loftq,
} as const satisfies Record<string, Initialiser>;

/** What `initLoraWeights` may be. */
export type InitialiserName = keyof typeof initialisers | `pissa_niter_${number}`;

/** Parts of the config that belong to one initialiser: key, its spelling here, and its own keys. */
const parts: Readonly<Record<string, { readonly option: string; readonly keys: ConfigKeys }>> = {
  corda: { option: "cordaConfig", keys: cordaKeys },
  eva: { option: "evaConfig", keys: evaKeys },
  lora_ga: { option: "loraGaConfig", keys: loraGaKeys },
  loftq: { option: "loftqConfig", keys: loftqKeys },
};

/** The initialiser that `initLoraWeights` names. @throws {ConfigError} when there is none */
export function findInitialiser(name: unknown): Initialiser {
  const known: Readonly<Record<string, Initialiser>> = initialisers;
  const found = Object.hasOwn(known, String(name)) ? known[String(name)] : undefined;
  if (found) return found;
  const iterations = typeof name === "string" ? /^pissa_niter_(\d+)$/.exec(name) : null;
  if (iterations) return pissa(Number(iterations[1]));
  const names = [...Object.keys(known), "pissa_niter_4"].map((key) => (key === "true" || key === "false" ? key : `"${key}"`));
  const near = typeof name === "string" ? nearestName(name, Object.keys(known)) : undefined;
  throw new ConfigError(`\`initLoraWeights\` (= ${JSON.stringify(name)}) is not one of ${names.join(", ")}.`, {
    operation: "lora",
    got: name,
    expected: Object.keys(known),
    ...(near === undefined ? {} : { hint: `Did you mean "${near}"?` }),
  });
}

/** Parts that belong to another initialiser than the one named, and are given all the same. */
export const partsOfOthers = (name: unknown, config: Readonly<Record<string, unknown>>): { option: string; of: string }[] =>
  Object.entries(parts).flatMap(([of, { option }]) => {
    const isGiven = config[option] && (option !== "loftqConfig" || Object.keys(config[option]).length > 0);
    return isGiven && of !== String(name) ? [{ option, of }] : [];
  });

/**
 * The initialiser's own part of a config, in PEFT's spelling with every default; `null` where it has none.
 *
 * @throws {ConfigError} for an unknown key or a wrong value
 */
export function initialiserOptions(
  name: unknown,
  config: Readonly<Record<string, unknown>>,
): { readonly option: string; readonly options: Readonly<Record<string, unknown>> } | null {
  const part = parts[String(name)];
  if (!part) return null;
  const { option, keys } = part;
  return { option, options: subConfig(option, config[option], keys) };
}
