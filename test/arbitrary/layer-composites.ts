/** Functions and layers of src/nn as composites, with their parameters among the inputs. */
import { useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { less, mul } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Draw } from "../../src/graph/primitive.ts";
import { constant } from "../../src/graph/source.ts";
import { observing } from "../../src/graph/variable.ts";
import { LlamaForCausalLM } from "../../src/models/llama.ts";
import { llamaConfig } from "../../src/models/llama-config.ts";
import * as activation from "../../src/nn/activation.ts";
import * as nnAttention from "../../src/nn/attention.ts";
import * as channelNorms from "../../src/nn/channel-norm.ts";
import * as deltaRule from "../../src/nn/delta-rule.ts";
import * as distanceLoss from "../../src/nn/distance-loss.ts";
import { Embedding } from "../../src/nn/embedding.ts";
import * as linears from "../../src/nn/linear.ts";
import * as loss from "../../src/nn/loss.ts";
import { GatedMLP } from "../../src/nn/mlp.ts";
import type { Module } from "../../src/nn/module.ts";
import * as norms from "../../src/nn/norm.ts";
import * as recurrent from "../../src/nn/recurrent.ts";
import * as rotaries from "../../src/nn/rotary.ts";
import * as transposedConvolution from "../../src/nn/transposed-convolution.ts";
import * as arrange from "../../src/tensor/arrange.ts";
import { type Composite, labels, one, sample, sides, wide } from "./composite.ts";

const rotaryTables = (
  device: Device,
  size: number,
  time: number,
  pairs: "halves" | "interleaved" = "halves",
): rotaries.RotaryTables => {
  useDevice(device);
  return new rotaries.Rotary(size, { ropeType: "default", ropeTheta: 100 }, { pairs }).range(time);
};

/** Reductions of a loss, each on rows of logits. */
const reductions = ["mean", "sum", "none"] as const;
const compared = (apply: (x: Tensor, y: Tensor, reduction: (typeof reductions)[number]) => Tensor, domain = wide): Composite => {
  return (draw) =>
    reductions.map((how) => sample([draw.shape(2), []], (x, y) => apply(x!, arrange.expand(y!, x!.shape), how), domain));
};
const classified = (
  apply: (x: Tensor, targets: Tensor, weight: Tensor, reduction: (typeof reductions)[number]) => Tensor,
): Composite => {
  return (draw) => {
    const [lead, C] = [draw.shape(2), draw.integer(2, 5)];
    return reductions.map((how) => ({
      inputs: [
        { shape: [...lead, C], domain: wide },
        { shape: [C], domain: [0.5, 2] },
      ],
      apply: (x, weight) => apply(x!, labels(lead, C), weight!, how),
    }));
  };
};

const heads = (draw: Draw): { q: number[]; k: number[]; T: number; B: number } => {
  const [B, G, share, T, D] = [
    draw.integer(1, 2),
    draw.integer(1, 2),
    draw.integer(1, 2),
    draw.integer(1, 4),
    draw.integer(1, 3),
  ];
  const Tq = draw.integer(1, T);
  return { q: [B, Tq, G * share, D], k: [B, T, G, D], T, B };
};

/** Functions of src/nn. */
export const nnComposites = (device: Device) =>
  ({
    linear: (draw) => {
      const [into, out] = [draw.integer(1, 4), draw.integer(1, 4)];
      return [
        sample([[...draw.shape(2), into], [out, into], [out]], (x, w, b) => linears.linear(x!, w!, b!)),
        sample([[into], [out, into]], (x, w) => linears.linear(x!, w!)),
      ];
    },
    rmsNorm: (draw) => {
      const C = draw.integer(1, 5);
      return [true, false].map((unitOffset) =>
        sample([[...draw.shape(2), C], [C]], (x, w) => norms.rmsNorm(x!, w!, { eps: 0.1, unitOffset })),
      );
    },
    layerNorm: (draw) => {
      const C = draw.integer(2, 5);
      return [sample([[...draw.shape(2), C], [C], [C]], (x, w, b) => norms.layerNorm(x!, w!, b!, { eps: 0.1 }))];
    },
    contrastiveLoss: (draw) => {
      const [B, more, C] = [draw.integer(1, 3), draw.integer(0, 1), draw.integer(1, 3)];
      return [
        sample(
          [
            [B, C],
            [B + more, C],
          ],
          (x, y) => loss.contrastiveLoss(x!, y!, { scale: 3 }),
          [0.3, 2],
        ),
      ];
    },
    crossEntropy: classified((x, targets, weight, reduction) =>
      loss.crossEntropy(x, targets, { weight, reduction, labelSmoothing: 0.1, ignoreIndex: 1 }),
    ),
    negativeLogLikelihood: classified((x, targets, weight, reduction) =>
      loss.negativeLogLikelihood(x, targets, { weight, reduction }),
    ),
    mseLoss: compared((x, y, reduction) => loss.mseLoss(x, y, { reduction })),
    l1Loss: compared((x, y, reduction) => loss.l1Loss(x, y, { reduction })),
    huberLoss: compared((x, y, reduction) => loss.huberLoss(x, y, { reduction, delta: 0.7 })),
    smoothL1Loss: compared((x, y, reduction) => loss.smoothL1Loss(x, y, { reduction, beta: 0.7 })),
    binaryCrossEntropyWithLogits: compared(
      (x, y, reduction) => loss.binaryCrossEntropyWithLogits(x, y, { reduction, posWeight: constant(2, [], x.dtype) }),
      [0.1, 0.9],
    ),
    klDivergence: compared((x, y, reduction) => loss.klDivergence(x, y, { reduction }), [0.2, 0.9]),
    attend: (draw) => {
      const { q, k, T, B } = heads(draw);
      const keyMask = less(labels([B, T], T), constant(Math.max(1, T - 1), [], "int32"));
      const options = [{ isCausal: true }, { keyMask }, { isCausal: true, window: 2, scale: 0.4, keyMask }];
      return options.flatMap((each) => [
        sample([q, k, k], (x, y, z) => nnAttention.attend(x!, y!, z!, each)),
        sample([q, k, k, [q[2]!]], (x, y, z, sinks) => nnAttention.attend(x!, y!, z!, { ...each, sinks: sinks! })),
      ]);
    },
    scaledDotProductAttention: (draw) => {
      const [H, T, D] = [draw.integer(1, 2), draw.integer(1, 4), draw.integer(1, 3)];
      const shape = [1, H, T, D];
      return [
        sample([shape, shape, shape, [T, T]], (q, k, v, mask) =>
          nnAttention.scaledDotProductAttention(q!, k!, v!, { mask: mask! }),
        ),
      ];
    },
    gatedDeltaRule: (draw) => {
      const [T, G, share, K, V] = [
        draw.integer(1, 4),
        draw.integer(1, 2),
        draw.integer(1, 2),
        draw.integer(1, 2),
        draw.integer(1, 2),
      ];
      const [heads, gates] = [
        [1, T, G, K],
        [1, T, G * share],
      ];
      const chunk = draw.integer(1, 4);
      return (["output", "state"] as const).map((part) =>
        sample(
          [heads, heads, [1, T, G * share, V], gates, gates, [1, G * share, K, V]],
          (q, k, v, decay, beta, state) => deltaRule.gatedDeltaRule(q!, k!, v!, decay!, beta!, { state: state!, chunk })[part],
          [-1, 1],
        ),
      );
    },
    selu: one((x) => activation.selu(x!), ...sides),
    logSigmoid: one((x) => activation.logSigmoid(x!), ...sides),
    softcap: one((x) => activation.softcap(x!, 2)),
    glu: (draw) => [sample([[draw.integer(1, 3), 2 * draw.integer(1, 2)]], (x) => activation.glu(x!))],
    binaryCrossEntropy: compared((x, y, reduction) => loss.binaryCrossEntropy(x, y, { reduction }), [0.2, 0.8]),
    batchNorm: (draw) => {
      const C = draw.integer(1, 3);
      return [sample([[2, C, 3], [C], [C]], (x, w, b) => channelNorms.batchNorm(x!, null, w!, b!, { eps: 0.1 }))];
    },
    groupNorm: (draw) => {
      const C = 2 * draw.integer(1, 2);
      return [sample([[2, C, 3], [C], [C]], (x, w, b) => channelNorms.groupNorm(x!, 2, w!, b!, { eps: 0.1 }))];
    },
    cosineEmbeddingLoss: (draw) => {
      const rows = [draw.integer(1, 3), draw.integer(2, 3)];
      return [1, -1].map((target) =>
        sample(
          [rows, rows],
          (x, y) => distanceLoss.cosineEmbeddingLoss(x!, y!, constant(target, rows.slice(0, 1), "int32"), { margin: -2 }),
          [0.3, 2],
        ),
      );
    },
    marginRankingLoss: compared((x, y, reduction) =>
      distanceLoss.marginRankingLoss(x, y, constant(-1, x.shape, "int32"), { margin: 5, reduction }),
    ),
    tripletMarginLoss: (draw) => {
      const rows = [draw.integer(1, 3), draw.integer(2, 3)];
      return [2, 3].map((p) =>
        sample([rows, rows, rows], (x, y, z) =>
          distanceLoss.tripletMarginLoss(x!, arrange.flip(y!), mul(z!, constant(3)), { margin: 20, p }),
        ),
      );
    },
    recur: (draw) => {
      const [T, into, h] = [draw.integer(1, 3), draw.integer(1, 2), draw.integer(1, 2)];
      const kinds = { tanh: 1, lstm: 4, gru: 3 } as const;
      return (["tanh", "lstm", "gru"] as const).map((kind) => {
        const rows = kinds[kind] * h;
        return sample([[T, 2, into], [rows, into], [rows, h], [rows], [rows]], (x, weightIh, weightHh, biasIh, biasHh) => {
          const weights = { weightIh: weightIh!, weightHh: weightHh!, biasIh: biasIh!, biasHh: biasHh! };
          return recurrent.recur(kind, x!, weights, undefined, true).output;
        });
      });
    },
    convTranspose1d: (draw) => {
      const [stride, groups] = [draw.integer(1, 2), draw.integer(1, 2)];
      const options = { stride, groups, outputPadding: stride - 1, padding: 1 };
      return [sample([[1, 2, 3], [2, 1, 3], [groups]], (x, w, b) => transposedConvolution.convTranspose1d(x!, w!, b!, options))];
    },
    convTranspose2d: (draw) => {
      const stride = draw.integer(1, 2);
      return [
        sample([[1, 2, 2, 2], [2, 1, 2, 2], [1]], (x, w, b) => transposedConvolution.convTranspose2d(x!, w!, b!, { stride })),
      ];
    },
    rotate: (draw) => {
      const [T, H, pairs] = [draw.integer(1, 4), draw.integer(1, 2), draw.integer(1, 3)];
      return (["halves", "interleaved"] as const).map((order) =>
        sample([[1, T, H, 2 * pairs]], (x) => rotaries.rotate(x!, rotaryTables(device, 2 * pairs, T, order))),
      );
    },
  }) satisfies Record<string, Composite>;

/** Runs `body` with tensors in place of the module's parameters. */
export function withParameters<T>(module: Module, values: readonly Tensor[], body: () => T): T {
  const stands = new Map(module.parameters().map((parameter, i) => [parameter as object, values[i]!]));
  return observing(
    {
      read: (variable) => stands.get(variable) ?? variable.stored,
      write: () => {
        throw new Error("a layer wrote to a variable");
      },
      consult: () => {},
    },
    body,
  );
}

/** A layer as a function of its input and all its parameters. */
const layer =
  (
    device: Device,
    make: (draw: Draw) => { module: Module; shapes: number[][]; forward(...inputs: Tensor[]): Tensor },
  ): Composite =>
  (draw) => {
    useDevice(device);
    const { module, shapes, forward } = make(draw);
    const parameters = module.parameters();
    return [
      sample([...shapes, ...parameters.map(({ shape }) => [...shape])], (...all) =>
        withParameters(module, all.slice(shapes.length), () => forward(...all.slice(0, shapes.length))),
      ),
    ];
  };

/** Layers. */
export const layers = (device: Device) =>
  ({
    Linear: layer(device, (draw) => {
      const module = new linears.Linear(draw.integer(1, 4), draw.integer(1, 4), { bias: draw.integer(0, 1) === 1 });
      return { module, shapes: [[2, module.inFeatures]], forward: (x) => module.forward(x!) };
    }),
    Embedding: layer(device, (draw) => {
      const module = new Embedding(draw.integer(1, 5), draw.integer(1, 3));
      return { module, shapes: [], forward: () => module.forward(labels([2, 3], module.numEmbeddings)) };
    }),
    RMSNorm: layer(device, (draw) => {
      const module = new norms.RMSNorm(draw.integer(1, 5), { eps: 0.1 });
      return { module, shapes: [[2, module.weight.size]], forward: (x) => module.forward(x!) };
    }),
    LayerNorm: layer(device, (draw) => {
      const module = new norms.LayerNorm(draw.integer(2, 5), { eps: 0.1 });
      return { module, shapes: [[2, module.weight!.size]], forward: (x) => module.forward(x!) };
    }),
    GatedMLP: layer(device, (draw) => {
      const module = new GatedMLP(3, draw.integer(1, 4), { bias: true });
      return { module, shapes: [[2, 3]], forward: (x) => module.forward(x!) };
    }),
    LlamaForCausalLM: layer(device, (draw) => {
      const config = llamaConfig({
        model_type: "llama",
        vocab_size: 5,
        hidden_size: 4,
        intermediate_size: 3,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: draw.integer(1, 2),
        max_position_embeddings: 8,
        rms_norm_eps: 0.1,
        tie_word_embeddings: draw.integer(0, 1) === 1,
      });
      const module = new LlamaForCausalLM(config);
      const T = draw.integer(2, 3);
      const inputIds = labels([1, T], 5);
      return { module, shapes: [], forward: () => module.forward({ inputIds, labels: inputIds }).loss! };
    }),
  }) satisfies Record<string, Composite>;
