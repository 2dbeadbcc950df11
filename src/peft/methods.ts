/** The adapter methods: one line each. Being listed here is being tested, saved, loaded, merged and documented. */
import { ConfigError, wordType } from "../errors.ts";
import type { AnyMethod } from "./method.ts";
import { adalora } from "./methods/adalora.ts";
import { adamss } from "./methods/adamss.ts";
import { adaptionPrompt } from "./methods/adaption-prompt.ts";
import { alora } from "./methods/alora.ts";
import { bdlora } from "./methods/bdlora.ts";
import { beft } from "./methods/beft.ts";
import { boft } from "./methods/boft.ts";
import { c3a } from "./methods/c3a.ts";
import { cartridge } from "./methods/cartridge.ts";
import { cpt } from "./methods/cpt.ts";
import { deft } from "./methods/deft.ts";
import { delora } from "./methods/delora.ts";
import { dora } from "./methods/dora.ts";
import { fourierft } from "./methods/fourierft.ts";
import { frod } from "./methods/frod.ts";
import { glora } from "./methods/glora.ts";
import { gralora } from "./methods/gralora.ts";
import { hira } from "./methods/hira.ts";
import { hra } from "./methods/hra.ts";
import { ia3 } from "./methods/ia3.ts";
import { kasa } from "./methods/kasa.ts";
import { lily } from "./methods/lily.ts";
import { lnTuning } from "./methods/ln-tuning.ts";
import { loha } from "./methods/loha.ts";
import { lokr } from "./methods/lokr.ts";
import { lora } from "./methods/lora.ts";
import { miss } from "./methods/miss.ts";
import { monteclora } from "./methods/monteclora.ts";
import { multitaskPrompt } from "./methods/multitask-prompt.ts";
import { oft } from "./methods/oft.ts";
import { osf } from "./methods/osf.ts";
import { pTuning } from "./methods/p-tuning.ts";
import { peanut } from "./methods/peanut.ts";
import { poly } from "./methods/poly.ts";
import { prefixTuning } from "./methods/prefix-tuning.ts";
import { promptTuning } from "./methods/prompt-tuning.ts";
import { psoft } from "./methods/psoft.ts";
import { pvera } from "./methods/pvera.ts";
import { qalora } from "./methods/qalora.ts";
import { randlora } from "./methods/randlora.ts";
import { road } from "./methods/road.ts";
import { shadow } from "./methods/shadow.ts";
import { shira } from "./methods/shira.ts";
import { supertuning } from "./methods/supertuning.ts";
import { tinylora } from "./methods/tinylora.ts";
import { trainableTokens } from "./methods/trainable-tokens.ts";
import { unilora } from "./methods/unilora.ts";
import { vblora } from "./methods/vblora.ts";
import { velora } from "./methods/velora.ts";
import { vera } from "./methods/vera.ts";
import { waveft } from "./methods/waveft.ts";

/** By the name that people call a method. */
export const methods = {
  lora,
  dora,
  adalora,
  ia3,
  loha,
  lokr,
  vera,
  oft,
  boft,
  fourierft,
  hra,
  road,
  hira,
  miss,
  c3a,
  gralora,
  delora,
  vblora,
  lnTuning,
  adaptionPrompt,
  promptTuning,
  prefixTuning,
  pTuning,
  multitaskPrompt,
  cartridge,
  cpt,
  trainableTokens,
  bdlora,
  kasa,
  velora,
  qalora,
  monteclora,
  alora,
  beft,
  deft,
  glora,
  peanut,
  poly,
  pvera,
  randlora,
  shadow,
  shira,
  supertuning,
  waveft,
  tinylora,
  unilora,
  osf,
  lily,
  frod,
  adamss,
  psoft,
} as const satisfies Record<string, AnyMethod>;

/** A name in that list. */
export type MethodName = keyof typeof methods;

/** One entry for each time that a method was registered. */
const others = new Set<{ readonly method: AnyMethod }>();

/** The methods that files may hold: those of this list, then those that programs have registered. */
export const knownMethods = (): readonly AnyMethod[] => [...Object.values(methods), ...[...others].map(({ method }) => method)];

/**
 * Makes a method of your own one that `loadAdapter` and `hotSwap` know. `attach` and `saveAdapter` take any method, registered or not.
 * PEFT itself reads such files only where the method is registered there, too.
 *
 * @returns takes it off again, unless somebody else has registered it, too
 * @throws {ConfigError} for what `defineMethod` has not made, and when another method, which it is no variant of, has its PEFT type
 * @see docs/extending.md, which defines one and registers it
 */
export function registerMethod(method: AnyMethod): () => void {
  if (typeof method !== "function" || !("schema" in method))
    throw new ConfigError(`the method is ${wordType(method)}, not one of defineMethod.`, {
      operation: "registerMethod",
      got: method,
      hint: "Give the method itself, registerMethod(rowScale), not a config of it.",
    });
  const taken = knownMethods().find(
    (known) =>
      known !== method && known.peftType === method.peftType && (method.variantOf ?? method) !== (known.variantOf ?? known),
  );
  if (taken)
    throw new ConfigError(`there is another method of the type ${method.peftType}, which files of that type are read as.`, {
      operation: "registerMethod",
      got: method.peftType,
      hint: "Give it a type of its own in configSchema, or `variantOf` the method that it is another form of.",
    });
  const entry = { method };
  others.add(entry);
  return () => void others.delete(entry);
}
