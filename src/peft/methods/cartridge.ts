/**
 * Cartridge: keys and values of n virtual tokens in front of those of every self-attention, as in prefix tuning without a projection, the first
 * `numFrozenTokens` of which stay as they began: models look at early tokens whatever those are (attention sinks), and moving them harms
 * training. The file holds the table [n, 2·layers·d]. They begin at random, or as the keys and values of a text
 * (`initializeKvPrefixFromText`); several are put together by `composeCartridges`. It equals no LoRA.
 */
import { ConfigError } from "../../errors.ts";
import { configSchema, integer, key } from "../../formats/peft-config.ts";
import { concatenate } from "../../graph/composite.ts";
import type { Tensor } from "../../graph/node.ts";
import { defineMethod } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { type PromptMethod, promptKeys } from "../prompt/prompt-method.ts";
import { width } from "./prefix-tuning.ts";

const schema = configSchema("CARTRIDGE", "cartridge_", { ...promptKeys, num_frozen_tokens: key(1, integer(0)) });
type Config = MethodConfig<typeof schema>;

const parts = ["frozen_embedding", "trainable_embedding"] as const;

const prompt: PromptMethod<Config> = {
  place: "cache",
  tables: (config) => ({ prompt_embeddings: [config.numVirtualTokens, width(config)] }),
  encoder(config) {
    const { numVirtualTokens: n, numFrozenTokens: frozen } = config;
    const specs = {
      frozen_embedding: { shape: [frozen, width(config)], trainable: false },
      trainable_embedding: { shape: [n - frozen, width(config)] },
    };
    const own = parts.filter((part) => specs[part].shape[0] !== 0);
    return {
      parameters: Object.fromEntries(own.map((part) => [part, specs[part]])),
      encode: (p) =>
        concatenate(
          own.map((part) => p[part] as Tensor),
          0,
        ),
    };
  },
  decode({ prompt_embeddings: table }, config) {
    const at = config.numFrozenTokens * width(config);
    const values = table as Float32Array;
    return { frozen_embedding: values.slice(0, at), trainable_embedding: values.slice(at) };
  },
  initialise(config, random) {
    const table = (rows: number) => random.normal(rows * width(config), 0, 1);
    const { numVirtualTokens: n, numFrozenTokens: frozen } = config;
    return { frozen_embedding: table(frozen), trainable_embedding: table(n - frozen) };
  },
};

/** Cartridge: `cartridge({ numVirtualTokens: 128 })`. */
export const cartridge = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2506.06266"],
  formula: "attend(q, [K_P; k], [V_P; v]), first rows frozen",
  check({ numVirtualTokens, numFrozenTokens }) {
    if (numVirtualTokens !== null && numFrozenTokens > numVirtualTokens)
      throw new ConfigError(
        `\`numFrozenTokens\` (= ${numFrozenTokens}) is more than there are virtual tokens (${numVirtualTokens}).`,
        {
          operation: "cartridge",
          got: numFrozenTokens,
        },
      );
  },
  layers: {},
  prompt,
  samples: (draw) => ({ numVirtualTokens: draw.integer(2, 4), numFrozenTokens: draw.integer(0, 1) }),
});
