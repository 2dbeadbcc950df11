/**
 * Does a real pretrained model fit, and what does it cost? Loads it, continues a text, trains LoRA on text and merges.
 * Run: `LORIKEET_MODEL=<folder, .safetensors, .gguf or hub id> npm run real-model [-- --steps 20 --batch 1 --tokens 256 --rank 8 --text FILE]`
 */
import { parseArgs } from "node:util";
import { currentDevice, download, upload } from "../src/compile/program.ts";
import { ConfigError } from "../src/errors.ts";
import type { CausalLM } from "../src/models/causal-lm.ts";
import { attach, lora, mergeDifference, trainableReport } from "../src/peft/index.ts";
import { loadCorpus } from "../src/text/corpora.ts";
import { type TextDataset, textDataset } from "../src/text/dataset.ts";
import type { Tokenizer } from "../src/text/tokenizer.ts";
import { evaluate } from "../src/train/evaluate.ts";
import { finetuning } from "../src/train/finetune.ts";
import { generate } from "../src/train/generation.ts";
import { loadModel } from "../src/train/load-model.ts";
import { peakResidentBytes } from "./timing.ts";

const mebibytes = (bytes: number) => Math.round(bytes / 2 ** 20);
const say = (text: string) => console.log(text);

export async function realModel(args: readonly string[]): Promise<Record<string, unknown>> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      steps: { type: "string", default: "20" },
      batch: { type: "string", default: "1" },
      tokens: { type: "string", default: "256" },
      rank: { type: "string", default: "8" },
      "learning-rate": { type: "string", default: "0.001" },
      text: { type: "string" },
    },
  });
  const source = process.env["LORIKEET_MODEL"];
  if (!source)
    throw new ConfigError("LORIKEET_MODEL names no model.", {
      operation: "real-model",
      hint: "Set it to a folder with config.json and safetensors, a GGUF file or a name on the Hub.",
    });
  const started = performance.now();
  const seconds = () => (performance.now() - started) / 1000;
  const { model, tokenizer } = await loadModel(source);
  const loadSeconds = seconds();
  const parameters = model.parameters().reduce((sum, { size }) => sum + size, 0);
  say(
    `${source}: ${(parameters / 1e6).toFixed(1)} M parameters, loaded in ${loadSeconds.toFixed(1)} s; ${currentDevice().about}`,
  );

  const dataset = textDataset(values.text === undefined ? await loadCorpus("moby-dick") : { file: values.text }, tokenizer, {
    window: Number(values.tokens),
  });
  const before = await evaluate(model, dataset, { batchSize: 1, maxTokens: 2000 });
  const generated = await continued(model, tokenizer);
  say(`generation: ${generated.tokensPerSecond.toFixed(1)} tokens/s: ${JSON.stringify(generated.text)}`);

  attach(model, lora({ r: Number(values.rank), loraAlpha: 2 * Number(values.rank), taskType: "CAUSAL_LM" }));
  const { trainable } = trainableReport(model);
  const trained = await train(model, dataset, values);
  const after = await evaluate(model, dataset, { batchSize: 1, maxTokens: 2000 });
  say(`held-out perplexity: ${before.perplexity.toFixed(2)} → ${after.perplexity.toFixed(2)}`);

  model.eval();
  const probe = Int32Array.from(tokenizer.encode("The whale swam before the ship, and the old captain").slice(0, 16));
  const inputIds = upload(currentDevice(), probe, [1, probe.length], "int32");
  const { logits } = model.forward({ inputIds });
  const largest = Float32Array.from(await download(logits)).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const mergeError = mergeDifference(model, () => model.forward({ inputIds }).logits);
  say(`merge: largest logit difference ${mergeError.toExponential(2)}, largest logit ${largest.toFixed(2)}`);

  const peak = peakResidentBytes();
  say(
    `memory: ${mebibytes(trained.planned)} MiB planned, ${mebibytes(peak)} MiB at the process's peak; ${seconds().toFixed(0)} s in all`,
  );
  return {
    bench: "real-model",
    model: source,
    device: currentDevice().about,
    parameters,
    trainable,
    loadSeconds,
    generatedTokensPerSecond: generated.tokensPerSecond,
    ...trained,
    perplexityBefore: before.perplexity,
    perplexityAfter: after.perplexity,
    mergeError,
    largestLogit: largest,
    peakBytes: peak,
    seconds: seconds(),
  };
}

/** 32 more tokens; the speed is that after the first, which makes the programs. */
async function continued(model: CausalLM, tokenizer: Tokenizer) {
  const tokens: number[] = [];
  let first = 0;
  for await (const token of generate(model, tokenizer.encode("It was the whale that"), { maxNewTokens: 33 })) {
    tokens.push(token);
    if (tokens.length === 2) first = performance.now();
  }
  const tokensPerSecond = (tokens.length - 2) / ((performance.now() - first) / 1000);
  return { tokensPerSecond, text: tokenizer.decode(tokens) };
}

async function train(
  model: CausalLM,
  dataset: TextDataset,
  { steps, batch, "learning-rate": learningRate }: { steps: string; batch: string; "learning-rate": string },
) {
  using trainer = finetuning(model, dataset, {
    steps: Number(steps),
    batchSize: Number(batch),
    learningRate: Number(learningRate),
  });
  const { history, tokensPerSecond } = await trainer.run({
    onStep: ({ step, loss, seconds }) => {
      if (step === 1 || step % 5 === 0) say(`step ${step}: loss ${loss.toFixed(4)}, ${seconds.toFixed(1)} s`);
    },
  });
  const { planned, parameters, program } = trainer.memory();
  say(`training: ${tokensPerSecond.toFixed(1)} tokens/s`);
  return { losses: history.loss, trainingTokensPerSecond: tokensPerSecond, planned, parameterBytes: parameters, program };
}
