/** The cases of `heads/` (test/fixtures/generate/gen_heads.py): GPT-Neo, output layers of other families and rope types. */

import { join } from "node:path";
import { expect } from "vitest";
import { realize } from "../../src/compile/program.ts";
import type { Tensor } from "../../src/graph/node.ts";
import { stack } from "../../src/index.ts";
import type { CausalLM } from "../../src/models/causal-lm.ts";
import type { EncoderInputs, EncoderStates } from "../../src/models/encoder.ts";
import { answersText } from "../../src/models/seq2seq-lm.ts";
import { type FeatureExtractor, type QuestionAnswerer, taskOf } from "../../src/models/task.ts";
import type { Module } from "../../src/nn/module.ts";
import { gradientsOf } from "../../src/optim/optimizer.ts";
import { complete } from "../../src/train/generation.ts";
import { loadModel } from "../../src/train/load-model.ts";
import { expectClose, type GoldenCase, goldenFolder, goldenSuite, goldenTensors, readGolden, toTensor } from "./suite.ts";

/** A model of any kind, as far as it is run alike. */
type AnyModel = Module & {
  forward(inputs: Readonly<Record<string, unknown>>): { readonly logits: Tensor; readonly loss?: Tensor };
};

/** Without an output layer the states stand for the logits, and Σ states² of the tokens, and of the pooler Σ, for the loss. */
function statesOf({ lastHiddenState, poolerOutput }: EncoderStates, attentionMask: Tensor) {
  const mask = attentionMask.cast("float32").unsqueeze(-1);
  const loss = lastHiddenState.square().mul(mask).sum();
  return { logits: lastHiddenState, loss: poolerOutput ? loss.add(poolerOutput.sum()) : loss };
}

function answerOf(model: QuestionAnswerer, inputs: EncoderInputs, startPositions: Tensor, endPositions: Tensor) {
  const { startLogits, endLogits, loss } = model.forward({ ...inputs, startPositions, endPositions });
  return { logits: stack([startLogits, endLogits], -1), loss };
}

const close = { rtol: 1e-4, atol: 1e-4 };

async function run(name: string, architecture: string): Promise<void> {
  const stored = await goldenTensors("heads", name, "expected.safetensors");
  const task = taskOf(architecture)!;
  const { model: loaded, generation } = await loadModel(join(goldenFolder, "heads", name), { task });
  const model = loaded as Module as AnyModel;
  const at = (key: string) => toTensor(stored.get(key)!);
  const [inputIds, attentionMask] = [at("in.input_ids"), at("in.attention_mask")];
  const { logits, loss } =
    task === "FeatureExtraction"
      ? statesOf((loaded as Module as FeatureExtractor).forward({ inputIds, attentionMask }), attentionMask)
      : task === "QuestionAnswering"
        ? answerOf(
            loaded as Module as QuestionAnswerer,
            { inputIds, attentionMask },
            at("in.start_positions"),
            at("in.end_positions"),
          )
        : model.forward({ inputIds, attentionMask, labels: at("in.labels") });
  const named = new Map(model.namedParameters());
  const wanted = [...stored.keys()].filter((key) => key.startsWith("grad."));
  const parameters = wanted.map((key) => named.get(key.slice("grad.".length))!);
  expect(wanted).not.toEqual([]);
  const gradients = gradientsOf(loss!, parameters);
  realize([logits, loss!, ...gradients.values()]);
  const want = stored.get("logits")!;
  const [mask, width] = [stored.get("in.attention_mask")!.data, want.shape.at(-1)!];
  const counted = want.shape.length === 3 ? Int32Array.from(want.data, (_, i) => Number(mask[Math.floor(i / width)])) : undefined;
  await expectClose("logits", logits, want, { ...close, ...(counted && { mask: counted }) });
  await expectClose("loss", loss!, stored.get("loss")!, close);
  for (const [i, key] of wanted.entries())
    await expectClose(key, gradients.get(parameters[i]!)!, stored.get(key)!, { rtol: 1e-3, atol: 1e-5 });
  if (stored.has("gen.output")) {
    const [prompt, all] = ["gen.prompt", "gen.output"].map((key) => [...stored.get(key)!.data] as number[]);
    const { stopTokens, ...settings } = generation;
    const first = answersText(loaded) ? [settings.startToken ?? loaded.startToken] : prompt!;
    const written = await complete(loaded as CausalLM, prompt!, { ...settings, maxNewTokens: all!.length - first.length });
    expect([...first, ...written]).toEqual(all);
  }
  if (stored.has("past.logits")) {
    const layers = [...stored.keys()].filter((key) => key.startsWith("past.keys.")).length;
    const past = Array.from({ length: layers }, (_, i) => ({ keys: at(`past.keys.${i}`), values: at(`past.values.${i}`) }));
    const [B, T] = stored.get("past.logits")!.shape as [number, number];
    const first = {
      shape: [B, T],
      data: stored.get("in.input_ids")!.data.filter((_, i) => i % stored.get("in.input_ids")!.shape[1]! < T),
    };
    await expectClose("past", model.forward({ inputIds: toTensor(first), past }).logits, stored.get("past.logits")!, close);
  }
  if (stored.has("embeds.in")) {
    const { logits: got } = model.forward({ inputsEmbeds: at("embeds.in") });
    await expectClose("embeds", got, stored.get("embeds.logits")!, close);
  }
}

const index = readGolden<{ readonly models: readonly { readonly name: string; readonly architecture: string }[] }>(
  "heads",
  "index.json",
);
goldenSuite(
  "heads",
  index?.models.map(({ name, architecture }): GoldenCase => ({ name, run: () => run(name, architecture) })) ?? [],
);
