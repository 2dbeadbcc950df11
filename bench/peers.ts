/**
 * How fast is lorikeet beside what else a person would use, on the same work? Every measurement is a fresh process; the engines take turns,
 * several rounds of them; only right answers count. Leaves results.json, and a page with charts, in bench/results.
 * Run: `npm run bench -- peers [--quick] [--only WORK,…] [--case START] [--engines NAME,…] [--rounds N] [--seconds S] [--budget S] [--minutes M]`
 */
import { join } from "node:path";
import {
  type ComparisonOptions,
  comparisonOptions,
  describeMachine,
  keepResults,
  packageVersions,
  processOutput,
  takeTurns,
} from "./comparison.ts";
import { ownSize, type PackageSize, peerSizes } from "./package-sizes.ts";
import {
  benchFolder,
  commandOf,
  type Engine,
  engines,
  findPython,
  installPeers,
  relaxedSimdFlags,
  type Work,
  works,
} from "./peer-engines.ts";
import { comparisonPage, wordedRatios } from "./peer-page.ts";
import { cases, coldStartOf, type Entry, megabytes, memoryOf, type Ratios, ratiosOf, tableOf } from "./peer-results.ts";

/** What `--help` prints. */
export const usage = `Usage: npm run bench -- peers [OPTIONS]

  --quick            the step, generation and single operations once, without slow engines; at most 3 minutes
  --only WORK,…      ${works.map(({ name }) => name).join(", ")}, sizes
  --case START       how the names of the cases begin
  --engines NAME,…   by the beginning of their names: ${engines.map(({ name }) => name).join(", ")}
  --rounds N         how often the engines take turns (3; single operations, long works and slow engines once)
  --seconds S        of measuring in one process (4; a quarter of it for single operations)
  --budget S         after which a process is ended (60)
  --minutes M        after which no more processes are started (25)

All of it takes at most 25 minutes on two cores. The last line is the answer as JSON; ratios above 1 mean that lorikeet is faster or smaller.
LORIKEET_PYTHON names a Python with PyTorch. Leaves peers.json and peers.html in bench/results.`;

/** @throws {Error} for an option or a name that there is not */
export const peerOptions = (args: readonly string[]): ComparisonOptions =>
  comparisonOptions(args, {
    works,
    engines,
    extras: ["sizes"],
    rounds: [3, 1],
    seconds: [4, 2],
    budget: [60, 30],
    minutes: [25, 3],
  });

export interface Comparison {
  readonly date: string;
  readonly machine: string;
  readonly load: number;
  readonly versions: Readonly<Record<string, string>>;
  readonly options: { readonly rounds: number; readonly seconds: number };
  /** How long all of it took. */
  readonly minutes: number;
  readonly ratios: Readonly<Record<string, Ratios>>;
  readonly entries: readonly Entry[];
  readonly sizes: readonly PackageSize[];
}

export async function peers(args: readonly string[]): Promise<Record<string, unknown>> {
  const options = peerOptions(args);
  const start = performance.now();
  const say = (text: string) => console.log(text);
  const wantsPython = options.engines.some(({ kind }) => kind === "pytorch");
  const python = wantsPython ? findPython() : undefined;
  if (wantsPython && !python) say("There is no Python with PyTorch (LORIKEET_PYTHON names one): without it.");
  const taking = options.engines.filter(({ kind }) => kind !== "pytorch" || python !== undefined);
  const withSizes = options.extras.includes("sizes");
  const needsPeers = withSizes || taking.some(({ kind }) => kind === "javascript");
  const folder = needsPeers ? installPeers((text) => process.stderr.write(`${text}\n`)) : "";
  const flags = relaxedSimdFlags();
  const { machine, load } = describeMachine(say);

  say(`At most ${options.minutes} minutes.`);
  // before the engines: bundling takes both cores
  const sizes = withSizes ? [await ownSize(join(benchFolder, "..")), ...(await peerSizes(folder))] : [];
  const { seconds, case: begin } = options;
  const outputs = (engine: Engine, work: Work, limit: number) => {
    const [program, words] = commandOf(engine, work, { seconds, case: begin, python, flags });
    return processOutput(program, words, folder, limit);
  };
  const entries = await takeTurns(options.works, taking, options, outputs, start + options.minutes * 60_000);
  for (const work of options.works)
    for (const [title, group] of cases(entries.filter((entry) => entry.work === work.name)))
      say(`\n${tableOf(`${work.about} (${title})`, group, engines)}`);
  if (sizes.length) say(`\n${sizesTable(sizes)}`);
  const ratios = Object.fromEntries([...cases(entries)].map(([title, group]) => [title, ratiosOf(group, engines)]));
  const result: Comparison = {
    date: new Date().toISOString(),
    machine,
    load,
    versions: await versionsOf(folder, python),
    options: { rounds: options.rounds, seconds },
    minutes: Number(((performance.now() - start) / 60_000).toFixed(1)),
    ratios,
    entries,
    sizes,
  };
  const summary = summaryOf(result);
  keepResults("peers", { ...result, summary }, await comparisonPage(result, wordedRatios(ratios)), say);
  say(`It took ${result.minutes} minutes.`);
  return summary;
}

/** The answer in short, for the last line: ratios above 1 mean that lorikeet is faster, or needs less. */
export function summaryOf(comparison: Comparison): Record<string, unknown> {
  const { ratios, entries, sizes, ...about } = comparison;
  const of = (name: string) => entries.filter(({ work, ms }) => work === name && ms !== null);
  const speeds = (name: string) => {
    const times = (key: "ms" | "bestMs") =>
      Object.fromEntries(of(name).map((entry) => [entry.engine, Number(entry[key]!.toPrecision(4))]));
    return { ...ratios[`${name}: ${name === "generate" ? name : "train"}`], ms: times("ms"), bestMs: times("bestMs") };
  };
  const memory = memoryOf(of("lora-step"), engines);
  const peaks = of("lora-step").flatMap(({ engine, peakBytes }) => (peakBytes === undefined ? [] : [[engine, peakBytes]]));
  return {
    bench: "peers",
    loraStep: speeds("lora-step"),
    generation: speeds("generate"),
    coldStart: coldStartOf(of("lora-step"), engines),
    memory: { ...memory, peakBytes: Object.fromEntries(peaks) },
    planRatio: memory.planRatio,
    ratios,
    sizes,
    ...about,
  };
}

const sizesTable = (sizes: readonly PackageSize[]): string =>
  [
    "packages: installed with all they need; bundled whole, minified and compressed",
    ...sizes.map(({ name, installedBytes, bundleBytes, wasmBytes }) => {
      const bundled = bundleBytes === undefined ? "cannot be bundled" : megabytes(bundleBytes);
      return `  ${name.padEnd(38)}${megabytes(installedBytes).padStart(11)}${bundled.padStart(20)}${wasmBytes ? ` and ${megabytes(wasmBytes)} of wasm` : ""}`;
    }),
  ].join("\n");

async function versionsOf(folder: string, python: string | undefined): Promise<Record<string, string>> {
  const versions = packageVersions(folder, ["@jax-js/jax", "@tensorflow/tfjs", "js-pytorch", "gpu.js"]);
  if (!python) return versions;
  const { text } = await processOutput(python, ["-c", "import torch; print(torch.__version__)"], "", 60);
  return { ...versions, torch: text.trim() };
}
