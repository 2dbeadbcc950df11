/** A model that continues a text: whatever its layers are, an output layer behind them and a cache for them. */
import { add } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import type { Shape } from "../graph/shape.ts";
import { type Layer, Module } from "../nn/module.ts";
import { KeyValueCache } from "./cache.ts";
import type { Backbone, CausalLM, CausalLMInputs, CausalLMOutput, TextInputs } from "./causal-lm.ts";
import { type CheckpointNames, type NamedPart, pathBy } from "./checkpoint-name.ts";
import { causalOutput, type DecoderStates, type Pass } from "./decoder.ts";

/** A model that reads a text from left to right, without an output layer. */
export interface Decoder extends Module, Backbone {
  /** @throws {ShapeError} for inputs whose sizes do not fit each other or the model */
  forward(inputs: TextInputs): DecoderStates;
}

/** A decoder with an output layer that gives logits of the next token. */
export abstract class DecoderLM extends Module implements CausalLM, CheckpointNames {
  /** The keys of its `config.json`, in camelCase. */
  abstract readonly config: object;

  /** Everything but the output layer. */
  abstract get backbone(): Decoder;

  /** The output layer. */
  abstract lm_head: Layer;

  /** [B, T, C] → [B, T, V] */
  protected toLogits(states: Tensor): Tensor {
    return this.lm_head.forward(states);
  }

  /** Where everything but the output layer is. */
  protected abstract get part(): NamedPart;

  pathOf(name: string): string | null {
    return pathBy(this.part, name);
  }

  nameOf(path: string): string {
    return this.part.nameOf?.(path) ?? path;
  }

  partsOf(path: string, shape: Shape): readonly string[] | undefined {
    return this.part.partsOf?.(path, shape);
  }

  /** What is added to the loss of the words; nothing in most models. */
  protected addedLoss(_pass: Pass): Tensor | undefined {
    return undefined;
  }

  get maxLength(): number | undefined {
    return this.backbone.sizes.maxLength;
  }

  /** @throws {ShapeError} when ids, mask, positions or labels are not all [B, T], or T is more than there are positions */
  forward(inputs: CausalLMInputs): CausalLMOutput {
    const states = this.backbone.forward(inputs);
    const output = causalOutput(inputs, states, (last) => this.toLogits(last));
    const added = output.loss && this.addedLoss(states.pass);
    return output.loss && added ? { ...output, loss: add(output.loss, added) } : output;
  }

  createCache(batch: number, size: number): KeyValueCache {
    return new KeyValueCache(this.backbone.sizes, batch, size);
  }
}
