/**
 * Does LoRA keep its promise here? A LoRA step of spec.json against a full fine-tuning step of the same model, both in turn: the work, the time and
 * the memory measured, beside what the accounting of a linear layer m×n predicts (multiply-add = 2, per token): full 6mn; frozen with something trained
 * below it 4mn; LoRA on it 4mn + 6r(m + n). Of layers that no trained weight lies below, the derivative by the input is not needed.
 * Run: `npm run bench -- lora-promise [--threads N]`
 */
import { parseArgs } from "node:util";
import { downloadSync, realize, useDevice } from "../src/compile/program.ts";
import { compile } from "../src/compile/trace.ts";
import type { Device } from "../src/devices/device.ts";
import { createWasm } from "../src/devices/wasm/device.ts";
import type { Tensor } from "../src/graph/node.ts";
import type { LlamaForCausalLM } from "../src/models/llama.ts";
import type { Parameter } from "../src/nn/module.ts";
import { AdamW } from "../src/optim/adam.ts";
import { gradientsOf } from "../src/optim/optimizer.ts";
import { buildBase, buildBatch, buildModel, type Spec, spec } from "./spec-model.ts";
import { collectGarbage, median } from "./timing.ts";

/** What a step costs by the sizes of the model alone. */
export interface Accounting {
  /** In products of matrices, attention's full squares included. */
  readonly flops: number;
  /** Of weights, their moments and gradients, all float32. */
  readonly bytes: number;
  readonly trained: number;
}

/** Counts a step of a Llama with tied embeddings as `Spec` describes it. */
export function accountFor({ model, lora }: Pick<Spec, "model" | "lora">, kind: "full" | "lora"): Accounting {
  const { vocab, dim, layers, ffn, seq, batch } = model;
  const tokens = batch * seq;
  const square = ["q_proj", "k_proj", "v_proj", "o_proj"].map((name) => ({ name, m: dim, n: dim }));
  const linears = [
    ...square,
    { name: "gate_proj", m: ffn, n: dim },
    { name: "up_proj", m: ffn, n: dim },
    { name: "down_proj", m: dim, n: ffn },
  ];
  let [perToken, base, adapter] = [0, dim * vocab + dim, 0];
  for (let layer = 0; layer < layers; layer++) {
    base += 2 * dim;
    for (const { name, m, n } of linears) {
      base += m * n;
      const adapted = kind === "lora" && lora.targets.includes(name);
      // of the first layer's q, k and v the input is the embedding: frozen under LoRA, trained in full
      const isLowest = layer === 0 && ["q_proj", "k_proj", "v_proj"].includes(name);
      const input = kind === "lora" && isLowest ? 0 : 2;
      perToken += (kind === "full" ? 6 : 2 + input) * m * n;
      if (!adapted) continue;
      adapter += lora.r * (m + n);
      // forward, and the derivatives by both factors; that by the input of A only where somebody needs it
      perToken += (input ? 6 : 4) * lora.r * n + 6 * lora.r * m;
    }
    perToken += 14 * seq * dim; // two products forward, five backward, of 2·T·d each
  }
  perToken += (kind === "full" ? 6 : 4) * vocab * dim;
  const trained = kind === "full" ? base : adapter;
  return { flops: perToken * tokens, bytes: 4 * base + (kind === "full" ? 12 : 16) * trained, trained };
}

interface Run {
  readonly device: Device;
  readonly predicted: Accounting;
  readonly step: () => number;
  /** Measured once it has run. */
  readonly measure: () => {
    readonly flops: number;
    readonly bytes: number;
    readonly bytesInUse: number;
    readonly arenaBytes: number;
  };
}

function prepare(kind: "full" | "lora", device: Device): Run {
  useDevice(device);
  const { model, parameters } = kind === "lora" ? buildModel() : whole();
  model.train();
  const { lr, beta1, beta2, eps, weightDecay } = spec.optim;
  // a tenth of the rate, at which training everything does not diverge
  const optimizer = new AdamW(parameters, { lr: kind === "full" ? lr / 10 : lr, betas: [beta1, beta2], eps, weightDecay });
  const update = compile((inputIds: Tensor, targets: Tensor) => {
    const { loss } = model.forward({ inputIds, targets });
    optimizer.step(gradientsOf(loss!, parameters));
    return loss!;
  });
  const { inputIds, targets } = buildBatch();
  realize([inputIds, targets]);
  const step = () => {
    useDevice(device);
    using loss = update(inputIds, targets);
    return downloadSync(loss)[0]!;
  };
  const trained = parameters.reduce((sum, { size }) => sum + size, 0);
  return {
    device,
    predicted: accountFor(spec, kind),
    step,
    measure() {
      const { arenaBytes, outsideBytes } = update.memory();
      const flops = update.schedule()!.steps.reduce((sum, one) => sum + ("instructions" in one.code ? 0 : one.flops), 0);
      const { bytesInUse } = device.statistics;
      // gradients lie in the arena, among activations
      return { flops, bytes: bytesInUse - arenaBytes - outsideBytes + 4 * trained, bytesInUse, arenaBytes };
    },
  };
}

function whole(): { model: LlamaForCausalLM; parameters: Parameter[] } {
  const model = buildBase();
  return { model, parameters: [...new Set([...model.namedParameters()].map(([, parameter]) => parameter))] };
}

export async function loraPromise(args: readonly string[]): Promise<Record<string, unknown>> {
  const { values } = parseArgs({ args: [...args], options: { threads: { type: "string" }, rounds: { type: "string" } } });
  const make = () => createWasm(values.threads ? { threads: Number(values.threads) } : {});
  const runs = { lora: prepare("lora", make()), full: prepare("full", make()) };
  await collectGarbage(); // first values, which the spec's have replaced
  const times: Record<keyof typeof runs, number[]> = { lora: [], full: [] };
  const losses: Record<keyof typeof runs, number[]> = { lora: [], full: [] };
  for (let round = 0; round < Number(values.rounds ?? 12); round++)
    for (const kind of ["lora", "full"] as const) {
      const start = performance.now();
      losses[kind].push(runs[kind].step());
      if (round > 1) times[kind].push(performance.now() - start);
    }
  for (const kind of ["lora", "full"] as const)
    if (!(losses[kind].at(-1)! < losses[kind][0]!))
      throw new Error(`bench: the loss of the ${kind} step does not fall: ${losses[kind]}`);
  await collectGarbage();
  const measured = { lora: runs.lora.measure(), full: runs.full.measure() };
  const predicted = { lora: runs.lora.predicted, full: runs.full.predicted };
  const ms = { lora: median(times.lora), full: median(times.full) };
  const fastest = { lora: Math.min(...times.lora), full: Math.min(...times.full) };
  const rows: [name: string, lora: string, full: string, ratio: number, predicted: number][] = [
    ["products, GFLOP", giga(measured.lora.flops), giga(measured.full.flops), measured.lora.flops / measured.full.flops, predicted.lora.flops / predicted.full.flops],
    ["  predicted", giga(predicted.lora.flops), giga(predicted.full.flops), predicted.lora.flops / predicted.full.flops, Number.NaN],
    ["a step, ms", fastest.lora.toFixed(1), fastest.full.toFixed(1), fastest.lora / fastest.full, predicted.lora.flops / predicted.full.flops],
    ["weights, moments, gradients, MB", mega(measured.lora.bytes), mega(measured.full.bytes), measured.lora.bytes / measured.full.bytes, predicted.lora.bytes / predicted.full.bytes],
    ["  predicted", mega(predicted.lora.bytes), mega(predicted.full.bytes), predicted.lora.bytes / predicted.full.bytes, Number.NaN],
    ["planned for a step, MB", mega(measured.lora.arenaBytes), mega(measured.full.arenaBytes), measured.lora.arenaBytes / measured.full.arenaBytes, Number.NaN],
    ["device memory while training, MB", mega(measured.lora.bytesInUse), mega(measured.full.bytesInUse), measured.lora.bytesInUse / measured.full.bytesInUse, Number.NaN],
  ]; // biome-ignore format: a table
  console.log(`a LoRA step (r = ${spec.lora.r} on ${spec.lora.targets.join(", ")}) and a full step, on ${runs.lora.device.about}
${"".padEnd(34)}${["LoRA", "full", "LoRA/full", "predicted"].map((head) => head.padStart(11)).join("")}
${rows.map(([name, lora, full, ratio, expected]) => `${name.padEnd(34)}${[lora, full, ratio.toFixed(3), Number.isNaN(expected) ? "" : expected.toFixed(3)].map((cell) => cell.padStart(11)).join("")}`).join("\n")}
trained parameters: ${predicted.lora.trained} and ${predicted.full.trained}; gradients of frozen weights that are formed: ${measured.lora.flops <= predicted.lora.flops * 1.001 ? "none" : "SOME, since there is more work than predicted"}`);
  const result = {
    bench: "lora-promise",
    device: runs.lora.device.about,
    node: process.version,
    ms,
    bestMs: fastest,
    measured,
    predicted,
  };
  for (const { device } of Object.values(runs)) device[Symbol.dispose]();
  return {
    ...result,
    timeRatio: fastest.lora / fastest.full,
    predictedTimeRatio: predicted.lora.flops / predicted.full.flops,
    memoryRatio: measured.lora.bytesInUse / measured.full.bytesInUse,
  };
}

const giga = (value: number): string => (value / 1e9).toFixed(3);
const mega = (value: number): string => (value / 1e6).toFixed(1);
