/** A small language model without attention, for tests of adapters: names and nesting as in Llama. */
import { currentDevice, downloadSync, upload } from "../../src/compile/program.ts";
import { add, tanh } from "../../src/graph/elementwise.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { Embedding } from "../../src/nn/embedding.ts";
import { normal } from "../../src/nn/init.ts";
import { Linear } from "../../src/nn/linear.ts";
import { type Layer, Module } from "../../src/nn/module.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";

class Attention extends Module {
  readonly q_proj: Layer;
  readonly v_proj: Layer;
  readonly o_proj: Layer;
  constructor(width: number, linear: (into: number, out: number, bias?: boolean) => Linear) {
    super();
    this.q_proj = linear(width, width + 1);
    this.v_proj = linear(width, width + 1, true);
    this.o_proj = linear(width + 1, width);
  }
  forward(x: Tensor): Tensor {
    return this.o_proj.forward(add(tanh(this.q_proj.forward(x)), this.v_proj.forward(x)));
  }
}

class Block extends Module {
  readonly self_attn: Attention;
  readonly norm = new Norm();
  constructor(width: number, linear: (into: number, out: number, bias?: boolean) => Linear) {
    super();
    this.self_attn = new Attention(width, linear);
  }
  forward(x: Tensor): Tensor {
    return add(x, this.norm.forward(this.self_attn.forward(x)));
  }
}

class Norm extends Module {
  forward(x: Tensor): Tensor {
    return tanh(x);
  }
}

class Body extends Module {
  readonly embed_tokens: Layer;
  readonly layers: Block[];
  constructor(embedding: Embedding, blocks: Block[]) {
    super();
    this.embed_tokens = embedding;
    this.layers = blocks;
  }
}

export class SmallModel extends Module {
  readonly config = { modelType: "llama" };
  readonly model: Body;
  readonly lm_head: Layer;

  constructor({ vocabulary = 11, width = 6, layers = 2, seed = 1, tied = false } = {}) {
    super();
    const generator = new TorchGenerator(seed);
    const init = normal({ std: 0.5, generator });
    const linear = (into: number, out: number, bias = false) => new Linear(into, out, { bias, init, initBias: init });
    const embedding = new Embedding(vocabulary, width, { init });
    this.model = new Body(
      embedding,
      Array.from({ length: layers }, () => new Block(width, linear)),
    );
    const head = linear(width, vocabulary);
    this.lm_head = tied ? Object.assign(head, { weight: embedding.weight }) : head;
  }

  /** @param ids [...] int32 → logits [..., vocabulary] */
  forward(ids: Tensor): Tensor {
    let x = this.model.embed_tokens.forward(ids);
    for (const block of this.model.layers) x = block.forward(x);
    return this.lm_head.forward(x);
  }
}

export const ids = (...values: number[]): Tensor => upload(currentDevice(), Int32Array.from(values), [1, values.length], "int32");
export const numbers = (x: Tensor): number[] => Array.from(downloadSync(x));
/** Largest difference of two tensors or lists of numbers. */
export function difference(a: Tensor, b: Tensor): number {
  const [x, y] = [numbers(a), numbers(b)];
  return x.reduce((most, value, i) => Math.max(most, Math.abs(value - (y[i] as number))), 0);
}
/** Fills all adapters with random values, so that they change the output. */
export function shake(model: Module, size = 0.3, seed = 5): void {
  const random = new TorchGenerator(seed);
  for (const [name, parameter] of model.namedParameters())
    if (name.includes(".lora_"))
      parameter.assign(upload(currentDevice(), random.normal(parameter.size, 0, size), parameter.shape, "float32"));
}
