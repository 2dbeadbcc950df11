/** A config that PEFT accepts is accepted here, and the other way round; what real PEFT says is in accepted/configs.json. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { LorikeetError } from "../../src/errors.ts";
import { createModel } from "../../src/models/create-model.ts";
import { attach, detach, methods } from "../../src/peft/index.ts";
import type { AnyMethod } from "../../src/peft/method.ts";
import { toCamel } from "../../src/peft/method-config.ts";

interface Row {
  readonly type: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly refusedBy: "config" | "model" | null;
  readonly because: string | null;
}
const { model: json, configs } = JSON.parse(readFileSync(new URL("accepted/configs.json", import.meta.url), "utf8")) as {
  readonly model: { readonly model_type: string };
  readonly configs: readonly Row[];
};

const model = createModel(json, { task: "CausalLM" });

/** Where the config is refused, and why; `null` when it is not. */
function refusal({ type, options }: Row): { readonly by: "config" | "model"; readonly message: string } | null {
  const method = (Object.values(methods) as AnyMethod[]).find(({ peftType }) => peftType === type)!;
  let by: "config" | "model" = "config";
  try {
    const adapter = method(toCamel(options));
    if (needsMore(options)) return null;
    by = "model";
    attach(model, adapter);
    detach(model);
    return null;
  } catch (error) {
    if (!(error instanceof LorikeetError)) throw error;
    return { by, message: (error as Error).message };
  }
}

/** Starts that need data or a library, which is no part of the config. */
const needsMore = ({ init_lora_weights: init }: Row["options"]) => ["loftq", "eva", "corda", "lora_ga"].includes(init as string);

const isPattern = ({ target_modules: targets }: Row["options"]) => typeof targets === "string";
const startOf = ({ init_lora_weights: init }: Row["options"]) => String(init);
const parts = { loftq_config: "loftq", eva_config: "eva", corda_config: "corda", lora_ga_config: "lora_ga" };

/** What is refused here and not in PEFT, and why. Files with such a config are read as PEFT reads them. */
const stricter: Readonly<Record<string, (options: Row["options"], row: Row) => boolean>> = {
  "layers chosen by numbers or names that do nothing: some of PEFT's methods refuse that, here all do": (options) =>
    (isPattern(options) && (options["layers_to_transform"] ?? options["layers_pattern"]) !== undefined) ||
    (options["layers_pattern"] !== undefined && options["layers_to_transform"] === undefined),
  "a part of the config of a start that is not used, of which PEFT warns": (options) =>
    Object.entries(parts).some(([key, start]) => options[key] !== undefined && startOf(options) !== start),
  "two methods that both start from the weight's singular vectors": (options) =>
    ["kasa_config", "use_bdlora"].some((key) => options[key] !== undefined) && /^(pissa|olora)/.test(startOf(options)),
  "starts that PEFT silently leaves undone in embeddings and parameters": (options) =>
    /^(orthogonal|pissa.*|olora|nothing)$/.test(startOf(options)) &&
    (options["target_parameters"] !== undefined || String(options["target_modules"]) === "embed_tokens"),
  "KaSA of layers that share a weight, which would be cut more than once": (options) =>
    options["kasa_config"] !== undefined && options["layer_replication"] !== undefined,
  "a bias of B is for plain LoRA": (options) =>
    options["lora_bias"] === true && ["kasa_config", "velora_config", "use_bdlora"].some((key) => options[key] !== undefined),
  "no layers at all": (options) => String(options["layer_replication"] ?? "none") === "",
  "dropout of everything": (options) => options["lora_dropout"] === 1,
  "ranks of 0, used or not": (options) =>
    options["init_r"] === 0 || Object.values((options["rank_pattern"] ?? {}) as object).includes(0),
  "no words to act from": (options) => String(options["alora_invocation_tokens"] ?? "none") === "",
};
/** The other way round. */
const laxer: typeof stricter = {
  "LoftQ with its default config": (options) => startOf(options) === "loftq" && options["loftq_config"] === undefined,
};

describe("configs", () => {
  it("are refused where PEFT refuses them", () => {
    const used = new Set<string>();
    const odd = configs.flatMap((row) => {
      const own = refusal(row);
      if ((own === null) === (row.refusedBy === null)) return [];
      const reason = Object.entries(own ? stricter : laxer).find(([, applies]) => applies(row.options, row))?.[0];
      if (reason === undefined) return [{ ...row, own: own && `${own.by} ${own.message}` }];
      used.add(reason);
      return [];
    });
    expect(odd).toEqual([]);
    expect([...used].sort()).toEqual([...Object.keys(stricter), ...Object.keys(laxer)].sort());
    expect(configs.filter(({ refusedBy }) => refusedBy !== null).length).toBeGreaterThan(200);
  });

  it("are refused at once, not when they are attached, where PEFT does so", () => {
    // the tokenizer for a text to start from is given to attach
    const late = configs.filter(
      (row) => row.refusedBy === "config" && refusal(row)?.by === "model" && row.options["prompt_tuning_init"] !== "TEXT",
    );
    expect(late).toEqual([]);
  });
});
