/** The command line with every method but LoRA, which finetune.test.ts tries: within one process, where nothing has to start again. */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { afterEach, expect, it, vi } from "vitest";
import { addFinetune } from "../../src/cli/finetune.ts";
import { methods } from "../../src/peft/method-registry.ts";
import { lastLine } from "./command.ts";
import { smallRun } from "./small-run.ts";

const { at, args } = smallRun();

/** What is written to a stream during a test. */
function written(stream: NodeJS.WriteStream): () => string {
  let all = "";
  vi.spyOn(stream, "write").mockImplementation((text) => {
    all += text;
    return true;
  });
  return () => all;
}
afterEach(() => void vi.restoreAllMocks());

/** Sizes that fit a model of 32 channels. */
const sizes: Record<string, string[]> = {
  fourierft: ["n_frequency=50"],
  waveft: ["n_frequency=50"],
  psoft: ["r=4"],
  road: ["group_size=8"],
  c3a: ["block_size=16"],
  vblora: ["vectorLength=16", "numVectors=20"],
  trainableTokens: ["tokenIndices=[1,2,30,40,50,60]", "--targets", "embed_tokens"],
  kasa: ["r=4"],
  bdlora: ['useBdlora={"target_modules_bd_a":[],"target_modules_bd_b":["_proj"],"nblocks":2}'],
  alora: ["aloraInvocationTokens=[1]"],
  shira: ["r=4"],
  cpt: ["cptTokenIds=[3,40,41,5]", "cptTokensTypeMask=[1,2,2,4]"],
};

const changesNoWeight: readonly string[] = [
  "alora",
  "beft",
  "adaptionPrompt",
  "promptTuning",
  "prefixTuning",
  "pTuning",
  "multitaskPrompt",
  "cartridge",
  "cpt",
  "poly",
  "shadow",
  "lily",
];

it.each(Object.keys(methods).filter((method) => method !== "lora"))(
  "%s trains, is saved, and merges if it can",
  async (method) => {
    const set = sizes[method] ? ["--set", ...sizes[method]] : [];
    const merged = join(at(method), "merged");
    mkdirSync(merged, { recursive: true });
    writeFileSync(join(merged, "model.safetensors"), "of an earlier run");
    const [stdout, stderr] = [written(process.stdout), written(process.stderr)];
    const program = new Command("lorikeet");
    addFinetune(program);
    const own = ["--method", method, ...set, "--steps", "2", "--out", at(method), "--json"];
    await program.parseAsync([...args, ...own], { from: "user" });
    expect(stderr()).toContain("held-out perplexity");
    const { perplexityBefore, perplexityAfter, mergeMaxLogitDifference, mergedDir } = lastLine(stdout());
    // an aLoRA acts behind its words only, which the book may not have
    if (method !== "alora") expect(perplexityAfter).not.toBe(perplexityBefore);
    const merges = !changesNoWeight.includes(method);
    expect(mergedDir).toBe(merges ? merged : null);
    expect(existsSync(merged)).toBe(merges);
    if (merges) expect(mergeMaxLogitDifference).toBeLessThan(1e-3);
    else expect(stderr()).toContain("not a change of the weights");
  },
);
