/** `npm run bench -- NAME [OPTIONS]`: one question a file; the last line printed is the answer as JSON. Without a name: operations. */
const questions: Readonly<
  Record<
    string,
    {
      readonly about: string;
      /** What `--help` prints, where there is more to say than `about`. */
      usage?(): Promise<string>;
      run(args: readonly string[]): Promise<Record<string, unknown>>;
    }
  >
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
    usage: async () => (await import("./peers.ts")).usage,
    run: async (args) => (await import("./peers.ts")).peers(args),
  },
  gpu: {
    about: "the gpu device in each of its modes, side by side with tfjs and jax-js in the same Chromium, or in Node",
    usage: async () => (await import("./gpu.ts")).usage,
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
  attention: {
    about: "attention kernels against matrix products and a softmax",
    run: async (args) => (await import("./attention.ts")).attention(args),
  },
  "matmul-peak": {
    about: "how close the matrix product comes to the processor's limit",
    run: async () => (await import("./matmul-peak.ts")).matmulPeak(),
  },
};

const list = (): string =>
  Object.entries(questions)
    .map(([key, { about }]) => `  ${key.padEnd(14)}${about}`)
    .join("\n");

/** An option or a name that there is not, or something missing: one line says it, without where in the code it was noticed. */
const isForPeople = (error: unknown): error is Error =>
  error instanceof Error &&
  (/^bench: /.test(error.message) || String((error as { code?: unknown }).code).startsWith("ERR_PARSE_ARGS"));

// the last line is JSON in any case
const words = process.argv.slice(2).filter((argument) => argument !== "--json");
const wantsHelp = words.some((word) => word === "--help" || word === "-h");
const [name = wantsHelp ? undefined : "operations", ...args] = words.filter((word) => word !== "--help" && word !== "-h");
const question = name === undefined ? undefined : questions[name];
try {
  if (wantsHelp && question) console.log((await question.usage?.()) ?? `Usage: npm run bench -- ${name}\n\n${question.about}`);
  else if (wantsHelp) console.log(`Usage: npm run bench -- [NAME] [OPTIONS]\n\n${list()}`);
  else if (question) console.log(JSON.stringify(await question.run(args)));
  else throw new Error(`bench: there is no question "${name}". There are:\n${list()}`);
} catch (error) {
  if (!isForPeople(error)) throw error;
  const { message } = error;
  console.error(
    message.startsWith("bench: ") ? message : `bench: ${message.split(". To specify")[0]}. --help lists the options.`,
  );
  process.exit(1);
}
