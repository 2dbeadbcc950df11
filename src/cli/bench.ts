/** `lorikeet bench`: how fast a model trains and writes on this machine; with `--profile`, where the time of a step goes. */
import process from "node:process";
import type { Command } from "commander";
import { currentDevice, download, upload } from "../compile/program.ts";
import { compile } from "../compile/trace.ts";
import { profile, profileTable } from "../devices/wasm/profile.ts";
import { ConfigError } from "../errors.ts";
import type { Tensor } from "../graph/node.ts";
import type { CausalLM } from "../models/causal-lm.ts";
import { AdamW } from "../optim/adam.ts";
import { gradientsOf } from "../optim/optimizer.ts";
import { attach } from "../peft/attach.ts";
import { lora } from "../peft/methods/lora.ts";
import { generate } from "../train/generation.ts";
import { loadModel } from "../train/load-model.ts";
import { tinyModel } from "./model-option.ts";
import { path, whole } from "./option.ts";
import { megabytes, words } from "./quantity.ts";
import { progress, say, shown } from "./terminal.ts";

interface BenchOptions {
  readonly model: string;
  readonly rank: number;
  readonly batch: number;
  readonly window: number;
  readonly steps: number;
  readonly tokens: number;
  readonly profile?: boolean;
  readonly explain?: boolean;
  readonly json?: boolean;
}

/** Adds `lorikeet bench`, which measures training and generation of a model on this machine. */
export function addBench(program: Command): void {
  program
    .command("bench")
    .description("measure LoRA steps and generation of a model on this machine")
    .option("--model <folder>", "the model to load", path, tinyModel)
    .option("--rank <n>", "rank of the adapter on all linear layers", whole(), 8)
    .option("--batch <n>", "batch size", whole(), 4)
    .option("--window <n>", "tokens per row", whole(2), 128)
    .option("--steps <n>", "steps to time", whole(), 20)
    .option("--tokens <n>", "tokens to generate", whole(2), 64)
    .option("--profile", "time by kernel, beside what the processor could do")
    .option("--explain", "kernels and memory of a step")
    .option("--json", "end with one line of JSON on standard output")
    .action(bench);
}

async function bench(options: BenchOptions): Promise<void> {
  const { rank, batch, window, steps } = options;
  say(`Reading ${shown(options.model)} ...`);
  const { model, tokenizer } = await loadModel(options.model);
  const device = currentDevice();
  const vocabulary = tokenizer.vocabularySize;
  const { maxLength = Number.POSITIVE_INFINITY } = model;
  if (window > maxLength)
    throw new ConfigError(`the model has ${maxLength} positions, fewer than ${window}.`, {
      operation: "bench",
      got: window,
      expected: maxLength,
      hint: "Set --window lower.",
    });
  const tokensPerSecond = await writingSpeed(model, vocabulary, options);
  attach(model, lora({ r: rank, loraAlpha: 2 * rank, targetModules: "all-linear", taskType: "CAUSAL_LM" }));
  model.train();
  const parameters = [...model.namedParameters()].flatMap(([, parameter]) => (parameter.requiresGrad ? [parameter] : []));
  const optimizer = new AdamW(parameters, { lr: 1e-4 });
  const step = compile((inputIds: Tensor, targets: Tensor) => {
    const { loss } = model.forward({ inputIds, targets });
    optimizer.step(gradientsOf(loss as Tensor, parameters));
    return loss as Tensor;
  });
  const random = (seed: number) =>
    upload(
      device,
      Int32Array.from({ length: batch * window }, (_, i) => ((i + seed) * 7919) % vocabulary),
      [batch, window],
      "int32",
    );
  const [inputIds, targets] = [random(0), random(1)];
  const times: number[] = [];
  const told = progress("Training: step", steps + 1);
  for (let i = 0; i <= steps; i++) {
    told(i);
    const start = performance.now();
    using loss = step(inputIds, targets);
    await download(loss);
    times.push(performance.now() - start);
  }
  const [firstStepMs, ...rest] = times as [number, ...number[]];
  const sorted = rest.sort((a, b) => a - b);
  const msPerStep = sorted[sorted.length >> 1] as number;
  const { arenaBytes } = step.memory();
  const speed = (1e3 * batch * window) / msPerStep;
  say(`${device.about}; ${words(model.numParameters())} parameters, LoRA of rank ${rank} on all linear layers`);
  say(
    `a step of ${batch} × ${window} tokens  ${msPerStep.toFixed(1)} ms (best ${(sorted[0] as number).toFixed(1)}, first ${firstStepMs.toFixed(0)}), ${words(speed)} tokens/s`,
  );
  say(`intermediate values        ${megabytes(arenaBytes)} planned`);
  say(`writing, one text          ${words(tokensPerSecond)} tokens/s`);
  if (options.explain) say(`\n${step.explain()}`);
  let kernels: ReturnType<typeof profile> | undefined;
  if (options.profile) {
    if (device.name !== "wasm")
      throw new ConfigError(`a profile needs the wasm device, this is ${device.name}.`, { operation: "bench", got: device.name });
    kernels = profile(step, [inputIds, targets], device);
    say(`\n${profileTable(kernels)}`);
  }
  const summary = {
    device: device.about,
    node: process.version,
    msPerStep,
    bestMsPerStep: sorted[0],
    firstStepMs,
    trainingTokensPerSecond: speed,
    plannedBytes: arenaBytes,
    writtenTokensPerSecond: tokensPerSecond,
    ...(kernels && { profile: kernels }),
  };
  if (options.json) process.stdout.write(`${JSON.stringify(summary)}\n`);
}

/** Tokens a second after a prompt of eight; the first text makes the programs and does not count. */
async function writingSpeed(model: CausalLM, vocabulary: number, { tokens, window }: BenchOptions): Promise<number> {
  const prompt = Array.from({ length: Math.min(8, window) }, (_, i) => (i * 7919) % vocabulary);
  const maxNewTokens = Math.min(tokens, (model.maxLength ?? Number.POSITIVE_INFINITY) - prompt.length);
  const told = progress("Writing, the first time without counting it: token", 2 * maxNewTokens);
  let written = 0;
  let start = 0;
  for (let text = 0; text < 2; text++) {
    start = performance.now();
    for await (const _ of generate(model, prompt, { maxNewTokens })) told(++written);
  }
  return (1e3 * written) / 2 / (performance.now() - start);
}
