/**
 * P-tuning: n vectors in front of every text, as in prompt tuning, which while they are trained come out of a network that reads a table of n
 * vectors: three linear layers with ReLU between them (MLP), or an LSTM in both directions with two linear layers behind it. The file
 * holds what comes out, so a loaded adapter is the table of prompt tuning. It equals no LoRA.
 *
 * With MLP, PEFT overlooks `encoderNumLayers` and `encoderDropout`.
 */
import { choice, configSchema, float, integer, key } from "../../formats/peft-config.ts";
import { concatenate } from "../../graph/composite.ts";
import { add, max } from "../../graph/elementwise.ts";
import { reshape } from "../../graph/movement.ts";
import type { Tensor } from "../../graph/node.ts";
import { sizeOf } from "../../graph/shape.ts";
import { number } from "../../graph/source.ts";
import { recur } from "../../nn/recurrent.ts";
import type { TorchGenerator } from "../../random/torch-generator.ts";
import { defineMethod, type ParameterSpec, type Use } from "../method.ts";
import type { MethodConfig } from "../method-config.ts";
import { drawLinear } from "../prompt/linear-start.ts";
import { type PromptConfig, type PromptMethod, promptKeys } from "../prompt/prompt-method.ts";
import { through } from "../weight-change.ts";
import { wordTable } from "./prompt-tuning.ts";

const schema = configSchema("P_TUNING", "p_tuning_", {
  ...promptKeys,
  encoder_reparameterization_type: key("MLP", choice("MLP", "LSTM")),
  encoder_hidden_size: key(null, integer(1)),
  encoder_num_layers: key(2, integer(1)),
  encoder_dropout: key(0, float(0, 1)),
});
type Config = MethodConfig<typeof schema> & PromptConfig;
type Values = Readonly<Record<string, Tensor>>;

/** The linear layers by number, with what goes in and comes out. */
function linears({
  encoderReparameterizationType,
  encoderHiddenSize,
  tokenDim: d,
}: Config): [at: number, into: number, out: number][] {
  const h = encoderHiddenSize as number;
  return encoderReparameterizationType === "MLP"
    ? [
        [0, d, h],
        [2, h, h],
        [4, h, d],
      ]
    : [
        [0, 2 * h, 2 * h],
        [2, 2 * h, d],
      ];
}

/** The endings of the LSTM's parameters, in PyTorch's order, with what goes into each. */
function directions({
  encoderHiddenSize,
  encoderNumLayers,
  tokenDim,
}: Config): { ending: string; layer: number; into: number }[] {
  return Array.from({ length: encoderNumLayers }, (_, layer) =>
    ["", "_reverse"].map((way) => ({
      ending: `l${layer}${way}`,
      layer,
      into: layer === 0 ? tokenDim : 2 * (encoderHiddenSize as number),
    })),
  ).flat();
}

/** Shapes of an LSTM's parameters, in PyTorch's order. */
function lstmShapes(config: Config): Record<string, ParameterSpec> {
  const h = config.encoderHiddenSize as number;
  const entries = directions(config).flatMap(({ ending, into }) =>
    Object.entries({ weight_ih: [4 * h, into], weight_hh: [4 * h, h], bias_ih: [4 * h], bias_hh: [4 * h] }).map(
      ([name, shape]) => [`lstm_head.${name}_${ending}`, { shape }] as const,
    ),
  );
  return Object.fromEntries(entries);
}

/** Both directions, one layer after the other: [n, d] → [n, 2·h]. Dropout between the layers. */
function readBothWays(x: Tensor, p: Values, { encoderNumLayers, encoderDropout }: Config, use: Use): Tensor {
  let y = reshape(x, [x.shape[0]!, 1, x.shape[1]!]); // one sequence
  for (let layer = 0; layer < encoderNumLayers; layer++) {
    const way = (ending: string, reverse: boolean) => {
      const weight = (name: string) => p[`lstm_head.${name}_l${layer}${ending}`] as Tensor;
      const weights = {
        weightIh: weight("weight_ih"),
        weightHh: weight("weight_hh"),
        biasIh: weight("bias_ih"),
        biasHh: weight("bias_hh"),
      };
      return recur("lstm", y, weights, undefined, reverse).output;
    };
    const both = concatenate([way("", false), way("_reverse", true)], 2);
    y = layer + 1 < encoderNumLayers ? use.dropout(both, encoderDropout) : both;
  }
  return reshape(y, [x.shape[0]!, y.shape[2]!]);
}

const isLstm = ({ encoderReparameterizationType }: Config): boolean => encoderReparameterizationType === "LSTM";

const prompt: PromptMethod<Config> = {
  place: "inputs",
  tables: wordTable,
  encoder(config) {
    const layers = linears(config).flatMap(([at, into, out]) => [
      [`mlp_head.${at}.weight`, { shape: [out, into] }] as const,
      [`mlp_head.${at}.bias`, { shape: [out] }] as const,
    ]);
    return {
      parameters: {
        "embedding.weight": { shape: wordTable(config).prompt_embeddings },
        ...(isLstm(config) ? lstmShapes(config) : {}),
        ...Object.fromEntries(layers),
      },
      encode(p, use) {
        const table = p["embedding.weight"] as Tensor;
        const into = isLstm(config) ? readBothWays(table, p, config, use) : table;
        return linears(config).reduce((x, [at], i) => {
          const y = add(through(x, p[`mlp_head.${at}.weight`] as Tensor), p[`mlp_head.${at}.bias`] as Tensor);
          return i + 1 < linears(config).length ? max(y, number(y, 0)) : y;
        }, into);
      },
    };
  },
  initialise(config, random) {
    const [rows, d] = wordTable(config).prompt_embeddings;
    const table = random.normal(rows * d, 0, 1);
    const recurrent = isLstm(config) ? drawLstm(config, random) : {};
    const layers = linears(config).map(([at, into, out]) => drawLinear(random, `mlp_head.${at}`, into, out));
    return Object.assign({ "embedding.weight": table, ...recurrent }, ...layers) as Record<string, Float32Array>;
  },
};

/** Uniform in ±1/√h, as PyTorch draws them. */
function drawLstm(config: Config, random: TorchGenerator): Record<string, Float32Array> {
  const bound = 1 / Math.sqrt(config.encoderHiddenSize as number);
  const entries = Object.entries(lstmShapes(config)).map(
    ([name, { shape }]) => [name, random.uniform(sizeOf(shape), -bound, bound)] as const,
  );
  return Object.fromEntries(entries);
}

/** P-tuning: `pTuning({ numVirtualTokens: 20, encoderHiddenSize: 128 })`. */
export const pTuning = defineMethod({
  schema,
  papers: ["https://arxiv.org/abs/2103.10385"],
  formula: "f([encoder(P); E(ids)])",
  layers: {},
  prompt,
  samples: (draw) => ({
    numVirtualTokens: draw.integer(1, 4),
    encoderReparameterizationType: (draw.integer(0, 1) ? "MLP" : "LSTM") as Config["encoderReparameterizationType"],
    encoderHiddenSize: draw.integer(1, 6),
    encoderNumLayers: draw.integer(1, 2),
  }),
});
