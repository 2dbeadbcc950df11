/** `npm run bench -- NAME [OPTIONS]`: one question a file; the last line printed is the answer as JSON. Without a name: operations. */
const questions: Readonly<
  Record<string, { readonly about: string; run(args: readonly string[]): Promise<Record<string, unknown>> }>
> = {
  "lora-step": {
    about: "one LoRA training step of spec.json, against PyTorch's losses",
    run: async (args) => (await import("./lora-step.ts")).loraStep(args),
  },
  "real-model": {
    about: "a pretrained model, named by LORIKEET_MODEL: loading, generation, LoRA steps, memory, merging",
    run: async (args) => (await import("./real-model.ts")).realModel(args),
  },
  "lora-promise": {
    about: "a LoRA step against a full fine-tuning step: work, time and memory, measured and predicted",
    run: async (args) => (await import("./lora-promise.ts")).loraPromise(args),
  },
  peers: {
    about: "side by side with tfjs, jax-js, js-pytorch, gpu.js and PyTorch: steps, generation, operations, memory, sizes",
    run: async (args) => (await import("./peers.ts")).peers(args),
  },
  gpu: {
    about: "the gpu device in each of its modes, side by side with tfjs and jax-js in the same Chromium",
    run: async (args) => (await import("./gpu.ts")).gpu(args),
  },
  factorise: {
    about: "SVD, eigendecomposition, QR and inverse of a matrix in float64",
    run: async (args) => (await import("./factorise.ts")).factorise(args),
  },
  operations: {
    about: "single operations with Benchmark.js, each beside the limit of memory or SIMD",
    run: async (args) => (await import("./operations/run.ts")).operations(args),
  },
};

/** Questions that print tables of their own while they are imported. */
const tables: Readonly<Record<string, { readonly about: string; load(): Promise<unknown> }>> = {
  attention: { about: "attention kernels against matrix products and a softmax", load: () => import("./attention.ts") },
  "matmul-peak": { about: "how close the matrix product comes to the processor's limit", load: () => import("./matmul-peak.ts") },
};

// the last line is JSON in any case
const [name = "operations", ...args] = process.argv.slice(2).filter((argument) => argument !== "--json");
const question = questions[name];
const table = tables[name];
if (table) await table.load();
else if (!question) {
  const list = Object.entries({ ...questions, ...tables }).map(([key, { about }]) => `  ${key.padEnd(12)} ${about}`);
  console.error(`bench: there is no question "${name}". There are:\n${list.join("\n")}`);
  process.exit(1);
} else console.log(JSON.stringify(await question.run(args)));
