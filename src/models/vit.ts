/**
 * ViT: an image as a sequence of patches, read by pre-norm blocks. Parameters are named as in transformers 5; checkpoints use the older
 * names.
 * @see https://arxiv.org/abs/2010.11929
 */
import { checkOptions, requireKind, ShapeError, wordShape } from "../errors.ts";
import { concatenate } from "../graph/composite.ts";
import { add } from "../graph/elementwise.ts";
import { expand, reshape, transpose } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { activation } from "../nn/activation.ts";
import { Conv2d } from "../nn/convolution.ts";
import { Dropout } from "../nn/dropout.ts";
import { type Initializer, normal, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { group, type Layer, Module, Parameter } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import type { CheckpointNames } from "./checkpoint-name.ts";
import { type ClassifierOutput, classifierLoss } from "./classifier.ts";
import { type ConfigJson, ConfigReader, readOnce } from "./config-reader.ts";
import { attendHeads, type EncoderStates, encode, firstToken, layers } from "./encoder.ts";
import type { ImageClassifier, ImageInputs } from "./task.ts";

/** The settings of a `config.json` that affect the computation, in camelCase. */
export type ViTConfig = ReturnType<typeof vitConfig>;

/** @throws {ConfigError} for a missing key and for a value that is not supported, by name */
export function vitConfig(json: ConfigJson) {
  const config = new ConfigReader(json, "vit");
  config.fixed("head_dim", config.headSize("hidden_size", "num_attention_heads"));
  const [imageSize, patchSize] = [config.sides("image_size", 224), config.sides("patch_size", 16)];
  if (imageSize.some((side, axis) => side < (patchSize[axis] as number)))
    config.refuse("patch_size", patchSize, `must fit into image_size (= ${wordShape(imageSize)})`);
  return {
    modelType: "vit",
    hiddenSize: config.count("hidden_size"),
    intermediateSize: config.count("intermediate_size"),
    numHiddenLayers: config.layers("num_hidden_layers"),
    numAttentionHeads: config.count("num_attention_heads"),
    hiddenAct: config.activation("hidden_act", "gelu"),
    hiddenDropoutProb: config.probability("hidden_dropout_prob", 0),
    attentionProbsDropoutProb: config.probability("attention_probs_dropout_prob", 0),
    layerNormEps: config.number("layer_norm_eps", 1e-12),
    initializerRange: config.number("initializer_range", 0.02),
    /** Height and width. */
    imageSize,
    patchSize,
    numChannels: config.count("num_channels", 3),
    qkvBias: config.flag("qkv_bias", true),
    numLabels: config.numLabels(),
    problemType: config.problemType(),
  };
}

const norm = ({ hiddenSize, layerNormEps: eps }: ViTConfig): LayerNorm => new LayerNorm(hiddenSize, { eps });
const dense = (into: number, out: number, init: Initializer, bias = true): Layer =>
  new Linear(into, out, { init, initBias: zeros, bias });

/** Patches behind a token that stands for the whole image, with learned positions. */
export class ViTEmbeddings extends Module {
  /** [1, 1, C] */
  readonly cls_token: Parameter;
  readonly patch_embeddings;
  /** [1, 1 + patches, C] */
  readonly position_embeddings: Parameter;
  readonly dropout: Dropout;
  readonly #config: ViTConfig;

  constructor(config: ViTConfig, init: Initializer) {
    super();
    const { hiddenSize: C, imageSize, patchSize, numChannels } = config;
    const patches = imageSize.reduce((product, side, axis) => product * Math.floor(side / (patchSize[axis] as number)), 1);
    const drawn = (shape: readonly number[]) => Parameter.from(init(shape), shape);
    const projection: Layer = new Conv2d(numChannels, C, patchSize, { stride: patchSize, init, initBias: zeros });
    this.#config = config;
    this.cls_token = drawn([1, 1, C]);
    this.patch_embeddings = group({ projection });
    this.position_embeddings = drawn([1, 1 + patches, C]);
    this.dropout = new Dropout(config.hiddenDropoutProb);
  }

  /** [B, channels, height, width] → [B, T, C] */
  forward(pixelValues: Tensor): Tensor {
    const { hiddenSize: C, imageSize, numChannels } = this.#config;
    const expected = [numChannels, ...imageSize];
    if (pixelValues.rank !== 4 || expected.some((size, i) => pixelValues.shape[i + 1] !== size))
      throw new ShapeError(`\`pixelValues\` is ${wordShape(pixelValues.shape)}, it should be [batch, ${expected.join(", ")}].`, {
        operation: "vit",
        expected,
        got: pixelValues.shape,
      });
    const B = pixelValues.shape[0] as number;
    const patches = transpose(reshape(this.patch_embeddings.projection.forward(pixelValues), [B, C, -1])); // [B, patches, C]
    const x = concatenate([expand(this.cls_token.value, [B, 1, C]), patches], 1);
    return this.dropout.forward(add(x, this.position_embeddings.value));
  }
}

/** One block: x + attention(norm(x)), then that + mlp(norm(that)). */
export class ViTLayer extends Module {
  readonly attention;
  readonly layernorm_before: LayerNorm;
  readonly layernorm_after: LayerNorm;
  readonly mlp;
  readonly dropout: Dropout;
  readonly #config: ViTConfig;

  constructor(config: ViTConfig, init: Initializer) {
    super();
    const { hiddenSize: C, intermediateSize: F, qkvBias } = config;
    const own = () => dense(C, C, init, qkvBias);
    this.#config = config;
    this.attention = group({ q_proj: own(), k_proj: own(), v_proj: own(), o_proj: dense(C, C, init) });
    this.layernorm_before = norm(config);
    this.layernorm_after = norm(config);
    this.mlp = group({ fc1: dense(C, F, init), fc2: dense(F, C, init) });
    this.dropout = new Dropout(config.hiddenDropoutProb);
  }

  /** [B, T, C] → [B, T, C] */
  forward(x: Tensor): Tensor {
    const { numAttentionHeads, attentionProbsDropoutProb, hiddenAct } = this.#config;
    const { q_proj, k_proj, v_proj, o_proj } = this.attention;
    const y = this.layernorm_before.forward(x);
    const attended = attendHeads(q_proj.forward(y), k_proj.forward(y), v_proj.forward(y), numAttentionHeads, {
      dropout: this.training ? attentionProbsDropoutProb : 0,
    });
    const z = add(this.dropout.forward(o_proj.forward(attended)), x);
    const { fc1, fc2 } = this.mlp;
    return add(this.dropout.forward(fc2.forward(activation(hiddenAct)(fc1.forward(this.layernorm_after.forward(z))))), z);
  }
}

/** Embeddings, blocks and the final norm. */
export class ViTModel extends Module {
  readonly embeddings: ViTEmbeddings;
  readonly layers: ViTLayer[];
  readonly layernorm: LayerNorm;

  constructor(config: ViTConfig, init: Initializer) {
    super();
    this.embeddings = new ViTEmbeddings(config, init);
    this.layers = layers(config.numHiddenLayers, () => new ViTLayer(config, init));
    this.layernorm = norm(config);
  }

  /** The final norm is in `lastHiddenState` only. @throws {ShapeError} for an image of another size */
  forward(pixelValues: Tensor): EncoderStates {
    const { lastHiddenState, hiddenStates } = encode(this.embeddings.forward(pixelValues), this.layers);
    return { lastHiddenState: this.layernorm.forward(lastHiddenState), hiddenStates };
  }
}

/** Parts of paths here, and in checkpoints. */
const names = [
  ["vit.layers.", "vit.encoder.layer."],
  [".attention.q_proj.", ".attention.attention.query."],
  [".attention.k_proj.", ".attention.attention.key."],
  [".attention.v_proj.", ".attention.attention.value."],
  [".attention.o_proj.", ".attention.output.dense."],
  [".mlp.fc1.", ".intermediate.dense."],
  [".mlp.fc2.", ".output.dense."],
] as const;

/**
 * A ViT that classifies images.
 *
 * @throws {ConfigError} (constructor) for a missing key of `config` and for values that are not supported
 * @example
 * const model = new ViTForImageClassification({ hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2,
 *   num_attention_heads: 4, image_size: 32, patch_size: 8, num_labels: 10 });
 * const { logits } = model.forward({ pixelValues: zeros([2, 3, 32, 32]) });   // [2, 10]
 */
export class ViTForImageClassification extends Module implements ImageClassifier, CheckpointNames {
  readonly vit: ViTModel;
  classifier: Layer;
  readonly config: ViTConfig;

  constructor(config: ViTConfig | ConfigJson, options: { readonly init?: Initializer } = {}) {
    super();
    checkOptions(new.target.name, options, { init: "a function" });
    const known = readOnce(config, "hiddenSize", vitConfig);
    const init = options.init ?? normal({ std: known.initializerRange });
    this.config = known;
    this.vit = new ViTModel(known, init);
    this.classifier = dense(known.hiddenSize, known.numLabels, init);
  }

  /** @throws {ShapeError} for sizes that do not fit */
  forward(inputs: ImageInputs): ClassifierOutput {
    requireKind("vit", "an object", { inputs });
    const { pixelValues, labels } = inputs;
    requireTensors("vit", { pixelValues });
    const { lastHiddenState, hiddenStates } = this.vit.forward(pixelValues);
    const logits = this.classifier.forward(firstToken(lastHiddenState)); // [B, classes]
    return { logits, hiddenStates, ...(labels ? { loss: classifierLoss(logits, labels, this.config.problemType) } : {}) };
  }

  pathOf(name: string): string | null {
    if (name.startsWith("vit.pooler.")) return null;
    return names.reduce((path, [here, there]) => path.replace(there, here), name);
  }

  nameOf(path: string): string {
    return names.reduce((name, [here, there]) => name.replace(here, there), path);
  }
}
