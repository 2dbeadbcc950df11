/** Causal language models: any decoder, an output layer after it, and a cache for it. */
import { add } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import type { Shape } from "../graph/shape.ts";
import { type Initializer, zeros } from "../nn/init.ts";
import { Linear } from "../nn/linear.ts";
import { type Layer, Module } from "../nn/module.ts";
import { KeyValueCache } from "./cache.ts";
import { type Backbone, type CausalLM, type CausalLMInputs, type CausalLMOutput, type TextInputs, tied } from "./causal-lm.ts";
import { type CheckpointNames, type NamedPart, pathBy } from "./checkpoint-name.ts";
import type { ConfigJson } from "./config-reader.ts";
import { causalOutput, type DecoderStates, type Pass } from "./decoder.ts";
import { beginWithBase, type ClassOf, type Family } from "./family.ts";

/** A causal model without its output layer. */
export interface Decoder extends Module, Backbone {
  /** @throws {ShapeError} for inputs whose sizes do not fit each other or the model */
  forward(inputs: TextInputs): DecoderStates;
}

/** A decoder with an output layer that predicts the next token. */
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

  /** Where the decoder is, and how checkpoints name its parameters. */
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

  /** An auxiliary loss that is added to that of the tokens; most models have none. */
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

/** A family whose models read from left to right. */
export interface DecoderFamily<Name extends string, Config, Base extends Module> extends Family<Name, Config, Base> {
  reader(base: Base): Decoder;
}

/** The keys of a config that the output layer goes by. */
interface WordConfig {
  readonly vocabSize: number;
  readonly tieWordEmbeddings: boolean;
}

/** The class of a family's models that predict the next token. @param options.bias whether the output layer has one */
export function causalLM<Name extends string, Config extends WordConfig, Base extends Module>(
  name: string,
  family: DecoderFamily<Name, Config, Base>,
  { bias = false } = {},
): ClassOf<DecoderLM & { readonly [K in Name]: Base } & { readonly config: Config }, Config> {
  class FamilyLM extends DecoderLM {
    static readonly family = family;
    declare lm_head: Layer; // comes after the model, whose embedding it may share
    declare readonly config: Config;

    constructor(given: Config | ConfigJson, options: { readonly init?: Initializer } = {}) {
      super();
      const { config, base, init } = beginWithBase(this, family, given, options);
      const decoder = family.reader(base);
      this.lm_head = new Linear(decoder.sizes.width, config.vocabSize, { bias, init, initBias: zeros, ...tied(config, decoder) });
    }

    get backbone(): Decoder {
      return family.reader(Reflect.get(this, family.name) as Base);
    }

    protected get part(): NamedPart {
      return family;
    }
  }
  // the name of the base is data, so that the type system cannot find it in the class
  return Object.defineProperty(FamilyLM, "name", { value: name }) as unknown as ReturnType<typeof causalLM<Name, Config, Base>>;
}
