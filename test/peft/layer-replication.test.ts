/** Layers that are put together anew: their places, adapters, caches and files. Values are in the golden case of PEFT. */
import { describe, expect, it } from "vitest";
import { sliceAxis } from "../../src/graph/movement.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { BertForSequenceClassification } from "../../src/models/bert.ts";
import { GPT2LMHeadModel } from "../../src/models/gpt2.ts";
import { LlamaForCausalLM } from "../../src/models/llama.ts";
import type { Module } from "../../src/nn/module.ts";
import { attach, deleteAdapter, detach, disabled, loadAdapter, lora, merge, saveAdapter } from "../../src/peft/index.ts";
import { manualSeed } from "../../src/tensor/random.ts";
import { onEveryDevice } from "../devices.ts";
import { temporaryFolder } from "../temporary-folder.ts";
import { difference, ids, numbers, shake } from "./small-model.ts";

const config = {
  model_type: "llama",
  vocab_size: 17,
  hidden_size: 12,
  intermediate_size: 10,
  num_hidden_layers: 3,
  num_attention_heads: 2,
  initializer_range: 0.4,
};
const llama = (seed = 1): LlamaForCausalLM => {
  manualSeed(seed);
  return new LlamaForCausalLM(config);
};
const tokens = () => ids(3, 1, 4, 1, 5, 9, 2);
const options = { r: 2, loraAlpha: 4, targetModules: ["q_proj", "down_proj"] };
const logits = (model: LlamaForCausalLM): Tensor => model.forward({ inputIds: tokens() }).logits;

onEveryDevice(() => {
  describe("layerReplication", () => {
    const layerReplication: [number, number][] = [
      [1, 3],
      [0, 2],
      [0, 1],
    ];

    it("runs the layers in their new order, each place with its own adapter and cache", async () => {
      const model = llama();
      const before = { list: model.model.layers, logits: numbers(logits(model)) };
      const adapter = attach(model, lora({ ...options, layerReplication }));
      expect(model.model.layers.length).toBe(5);
      expect(model.config.numHiddenLayers).toBe(5);
      expect(adapter.layers.size).toBe(10);
      // by hand: a model whose layers are these
      const plain = llama();
      const order = [1, 2, 0, 1, 0].map((i) => before.list[i]!);
      const x = plain.model;
      const states = model.model.forward({ inputIds: tokens() }).hiddenStates;
      Object.assign(x, { layers: order });
      const twin = plain.forward({ inputIds: tokens() });
      expect(states.length).toBe(6);
      expect(
        difference(
          disabled(model, () => logits(model)),
          twin.logits,
        ),
      ).toBeLessThan(1e-5);
      shake(model, 0.4);
      expect(difference(logits(model), twin.logits)).toBeGreaterThan(1e-2);
      // token by token
      const whole = logits(model);
      const cache = model.createCache(1, 7);
      const steps = Array.from({ length: 7 }, (_, t) => {
        const { logits: step } = model.forward({ inputIds: sliceAxis(tokens(), 1, t, t + 1), cache });
        return numbers(step);
      });
      for (const [i, value] of numbers(whole).entries()) expect(steps.flat()[i]).toBeCloseTo(value, 4);
      expect(() => merge(model)).toThrow("merge: several layers share one weight");

      const folder = temporaryFolder();
      await saveAdapter(model, folder);
      const again = llama();
      await loadAdapter(again, folder);
      expect(difference(logits(again), whole)).toBeLessThan(1e-5);

      detach(model);
      expect(model.model.layers).toBe(before.list);
      expect(model.config.numHiddenLayers).toBe(3);
      expect(numbers(logits(model))).toEqual(before.logits);
    });

    it("trains the adapters, and dropout acts in repeated layers as in the others", () => {
      const model = llama();
      attach(
        model,
        lora({
          ...options,
          layerReplication: [
            [2, 3],
            [2, 3],
          ],
        }),
      );
      shake(model, 0.4);
      const all = [...model.namedModules()].filter(([path]) => path.startsWith("model.layers"));
      model.train();
      expect(all.every(([, module]) => module.training)).toBe(true);
      model.eval();
      expect(all.some(([, module]) => module.training)).toBe(false);
      expect(model.numParameters({ trainable: true })).toBe(2 * (2 * 24 + 2 * 22));
    });

    it("goes with other adapters of the same layers, and stays for them", () => {
      const model = llama();
      attach(model, lora({ ...options, layerReplication }));
      expect(() => attach(model, lora({ ...options, layerReplication: [[0, 2]] }), { name: "b" })).toThrow("already");
      attach(model, lora({ ...options, layerReplication }), { name: "b" });
      attach(model, lora({ ...options, targetModules: ["layers.4.self_attn.v_proj"] }), { name: "c" });
      deleteAdapter(model, "default");
      deleteAdapter(model, "b");
      expect(model.model.layers.length).toBe(5);
      deleteAdapter(model, "c");
      expect(model.model.layers.length).toBe(3);
    });

    it("works for BERT", () => {
      manualSeed(2);
      const bert = new BertForSequenceClassification({
        ...{ model_type: "bert", vocab_size: 17, hidden_size: 8, num_hidden_layers: 2, num_attention_heads: 2 },
        ...{ intermediate_size: 10, max_position_embeddings: 16, type_vocab_size: 2 },
      });
      const before = numbers(bert.forward({ inputIds: tokens() }).logits);
      const { layers } = attach(
        bert,
        lora({
          r: 2,
          targetModules: ["query"],
          layerReplication: [
            [0, 2],
            [0, 1],
          ],
        }),
      );
      expect([...layers.keys()].at(-1)).toBe("bert.encoder.layer.2.attention.self.query");
      const fresh = numbers(bert.forward({ inputIds: tokens() }).logits);
      expect(fresh).not.toEqual(before);
      shake(bert, 0.5);
      expect(numbers(bert.forward({ inputIds: tokens() }).logits)).not.toEqual(fresh);
      detach(bert);
      expect(numbers(bert.forward({ inputIds: tokens() }).logits)).toEqual(before);
    });

    it.each([
      [[[0, 4]], "[0, 4], which is not a range of the 3 layers"],
      [[[2, 2]], "[2, 2], which is not a range"],
      [[], "no layer would be left"],
      [[[0]], "must be a list of [start, end]"],
    ])("refuses %j, with nothing changed", (wrong, problem) => {
      const model = llama();
      const { layers } = model.model;
      const attachWrong = (on: Module) => () => attach(on, lora({ ...options, layerReplication: wrong as never }));
      expect(attachWrong(model)).toThrow(problem);
      expect(() => attach(model, lora({ ...options, layerReplication, targetModules: ["nothing"] }))).toThrow(
        "no module matches",
      );
      expect(model.model.layers).toBe(layers);
      expect(model.config.numHiddenLayers).toBe(3);
    });

    it("refuses models whose layers PEFT does not find, and layers that are adapted", () => {
      const gpt2 = new GPT2LMHeadModel({ model_type: "gpt2", vocab_size: 9, n_embd: 4, n_layer: 1, n_head: 1, n_positions: 8 });
      expect(() => attach(gpt2, lora({ r: 1, targetModules: ["c_attn"], layerReplication: [[0, 1]] }))).toThrow(
        "finds no list of layers in this model",
      );
      const model = llama();
      attach(model, lora(options));
      expect(() => attach(model, lora({ ...options, layerReplication }), { name: "b" })).toThrow(
        "the layers are adapted already",
      );
    });
  });
});
