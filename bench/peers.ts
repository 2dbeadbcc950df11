/**
 * How fast is lorikeet beside what else a person would use, on the same work? Every measurement is a fresh process; the engines take turns,
 * several rounds of them; only right answers count. Leaves results.json, and a page with charts, in bench/results.
 * Run: `npm run bench -- peers [--quick] [--only WORK,…] [--case START] [--engines NAME,…] [--rounds N] [--seconds S] [--budget S]`
 */
import { spawn } from "node:child_process";
import { join } from "node:path";
import {
  type ComparisonOptions,
  comparisonOptions,
  describeMachine,
  keepResults,
  type Output,
  packageVersions,
  takeTurns,
} from "./comparison.ts";
import { ownSize, type PackageSize, peerSizes } from "./package-sizes.ts";
import { benchFolder, commandOf, engines, findPython, installPeers, relaxedSimdFlags, works } from "./peer-engines.ts";
import { comparisonPage, wordedRatios } from "./peer-page.ts";
import { cases, type Entry, megabytes, type Ratios, ratiosOf, tableOf } from "./peer-results.ts";

/** @throws {Error} for an option or a name that there is not */
export const peerOptions = (args: readonly string[]): ComparisonOptions =>
  comparisonOptions(args, { works, engines, extras: ["sizes"], rounds: [3, 1], seconds: [8, 2], budget: [150, 60] });

/** What a process prints until it ends or its time is up. */
function outputOf(program: string, args: readonly string[], peersFolder: string, seconds: number): Promise<Output> {
  return new Promise((resolve) => {
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, PEERS_DIR: peersFolder } });
    let [text, errors, isLate] = ["", "", false];
    child.stdout.on("data", (data) => (text += data));
    child.stderr.on("data", (data) => (errors += data));
    const timer = setTimeout(() => {
      isLate = true;
      child.kill("SIGKILL");
    }, seconds * 1000);
    const end = (note?: string) => {
      clearTimeout(timer);
      resolve(note === undefined ? { text } : { text, note });
    };
    child.on("error", (error) => end(error.message));
    child.on("close", (code) => {
      if (isLate) end(`did not finish in ${seconds} s`);
      else end(code === 0 ? undefined : (errors.trim().split("\n").at(-1) ?? `ended with ${code}`));
    });
  });
}

export interface Comparison {
  readonly date: string;
  readonly machine: string;
  readonly load: number;
  readonly versions: Readonly<Record<string, string>>;
  readonly options: { readonly rounds: number; readonly seconds: number };
  readonly ratios: Readonly<Record<string, Ratios>>;
  readonly entries: readonly Entry[];
  readonly sizes: readonly PackageSize[];
}

export async function peers(args: readonly string[]): Promise<Record<string, unknown>> {
  const options = peerOptions(args);
  const say = (text: string) => console.log(text);
  const python = options.engines.some(({ kind }) => kind === "pytorch") ? findPython() : undefined;
  if (!python) say("There is no Python with PyTorch (LORIKEET_PYTHON names one): without it.");
  const taking = options.engines.filter(({ kind }) => kind !== "pytorch" || python !== undefined);
  const withSizes = options.extras.includes("sizes");
  const needsPeers = withSizes || taking.some(({ kind }) => kind === "javascript");
  const folder = needsPeers ? installPeers((text) => process.stderr.write(`${text}\n`)) : "";
  const flags = relaxedSimdFlags();
  const { machine, load } = describeMachine(say);

  const entries: Entry[] = [];
  for (const work of options.works) {
    const outputs = takeTurns(work, taking, options.rounds, (engine) => {
      const [program, words] = commandOf(engine, work, { seconds: options.seconds, case: options.case, python, flags });
      return outputOf(program, words, folder, options.budget);
    });
    entries.push(...(await outputs));
    for (const [title, group] of cases(entries.filter((entry) => entry.work === work.name)))
      say(`\n${tableOf(`${work.about} (${title})`, group, engines)}`);
  }
  const sizes = withSizes ? [await ownSize(join(benchFolder, "..")), ...(await peerSizes(folder))] : [];
  if (sizes.length) say(`\n${sizesTable(sizes)}`);
  const ratios = Object.fromEntries([...cases(entries)].map(([title, group]) => [title, ratiosOf(group, engines)]));
  const result: Comparison = {
    date: new Date().toISOString(),
    machine,
    load,
    versions: await versionsOf(folder, python),
    options: { rounds: options.rounds, seconds: options.seconds },
    ratios,
    entries,
    sizes,
  };
  keepResults("peers", result, await comparisonPage(result, wordedRatios(ratios)), say);
  return summaryOf(result);
}

/** The answer in short, for the last line. */
function summaryOf({ date, machine, load, versions, ratios, entries, sizes }: Comparison): Record<string, unknown> {
  const own = entries.filter(({ engine, ms }) => engine.startsWith("lorikeet") && ms !== null);
  const times = Object.fromEntries(
    entries.flatMap(({ engine, work, ms }) => (work === "lora-step" && ms !== null ? [[engine, Number(ms.toPrecision(4))]] : [])),
  );
  return {
    bench: "peers",
    loraStep: { ...ratios["lora-step: train"], ms: times },
    generate: ratios["generate: generate"] ?? {},
    ratios,
    coldStartMs: own.find(({ work }) => work === "lora-step")?.importAndFirstStepMs,
    peakBytes: Object.fromEntries(
      entries.flatMap(({ engine, work, peakBytes }) => (work === "lora-step" && peakBytes ? [[engine, peakBytes]] : [])),
    ),
    sizes,
    date,
    machine,
    load,
    versions,
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
  const { text } = await outputOf(python, ["-c", "import torch; print(torch.__version__)"], "", 60);
  return { ...versions, torch: text.trim() };
}
