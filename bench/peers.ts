/**
 * How fast is lorikeet beside what else a person would use, on the same work? Every measurement is a fresh process; the engines take turns,
 * several rounds of them; only right answers count. Leaves results.json, and a page with charts, in bench/results.
 * Run: `npm run bench -- peers [--quick] [--only WORK,…] [--engines NAME,…] [--rounds N] [--seconds S] [--budget S]`
 */
import { spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, loadavg, release, totalmem } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ownSize, type PackageSize, peerSizes } from "./package-sizes.ts";
import {
  benchFolder,
  commandOf,
  type Engine,
  engines,
  findPython,
  installPeers,
  relaxedSimdFlags,
  takesPart,
  type Work,
  works,
} from "./peer-engines.ts";
import { comparisonPage } from "./peer-page.ts";
import { cases, type Entry, entryOf, type Line, linesIn, megabytes, type Ratios, ratiosOf, tableOf } from "./peer-results.ts";

export interface PeerOptions {
  readonly works: readonly Work[];
  readonly engines: readonly Engine[];
  readonly rounds: number;
  /** Of measuring, in one process. */
  readonly seconds: number;
  /** After so many a process is ended. */
  readonly budget: number;
  /** Whether packages are measured. */
  readonly sizes: boolean;
}

/** @throws {Error} for an option or a name that there is not */
export function peerOptions(args: readonly string[]): PeerOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      quick: { type: "boolean", default: false },
      only: { type: "string" },
      engines: { type: "string" },
      rounds: { type: "string" },
      seconds: { type: "string" },
      budget: { type: "string" },
    },
  });
  const { quick, only } = values;
  const number = (name: "rounds" | "seconds" | "budget", otherwise: number): number => {
    const value = values[name] === undefined ? otherwise : Number(values[name]);
    if (!(value > 0)) throw new Error(`bench: --${name} must be a number above 0, not "${values[name]}"`);
    return value;
  };
  const wanted = only?.split(",").map((name) => name.trim());
  for (const name of wanted ?? [])
    if (name !== "sizes" && !works.some((work) => work.name === name))
      throw new Error(`bench: there is no work "${name}". There is: ${works.map((work) => work.name).join(", ")}, sizes`);
  const chosen = values.engines?.split(",").map((name) => name.trim().toLowerCase());
  for (const name of chosen ?? [])
    if (!engines.some((engine) => engine.name.toLowerCase().startsWith(name)))
      throw new Error(`bench: no engine is called "${name}…". There are: ${engines.map((engine) => engine.name).join("; ")}`);
  return {
    works: works.filter((work) => (wanted ? wanted.includes(work.name) : !(quick && work.isLong))),
    engines: engines.filter(({ name, isSlow }) =>
      chosen ? chosen.some((start) => name.toLowerCase().startsWith(start)) : !(quick && isSlow),
    ),
    rounds: Math.round(number("rounds", quick ? 1 : 3)),
    seconds: number("seconds", quick ? 2 : 8),
    budget: number("budget", quick ? 60 : 150),
    sizes: wanted ? wanted.includes("sizes") : !quick,
  };
}

/** What a process prints until it ends or its time is up. */
function outputOf(
  program: string,
  args: readonly string[],
  peersFolder: string,
  seconds: number,
): Promise<{ text: string; note?: string }> {
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
  const needsPeers = options.sizes || taking.some(({ kind }) => kind === "javascript");
  const folder = needsPeers ? installPeers((text) => process.stderr.write(`${text}\n`)) : "";
  const flags = relaxedSimdFlags();
  const machine = `${cpus()[0]?.model.trim()}, ${cpus().length} threads, ${Math.round(totalmem() / 1e9)} GB, ${process.platform} ${release()}`;
  const load = loadavg()[0] as number;
  say(`${machine}; node ${process.version}; load ${load.toFixed(1)}`);
  if (load > cpus().length / 2) say("Other programs are running: look at ratios only, and at them with care.");

  const entries: Entry[] = [];
  for (const work of options.works) {
    const lines = new Map<Engine, Line[]>();
    const notes = new Map<Engine, string>();
    const present = taking.filter((engine) => takesPart(engine, work));
    for (let round = 0; round < options.rounds; round++)
      for (const engine of present) {
        if (notes.has(engine) || (engine.isSlow && round > 0)) continue;
        const [program, words] = commandOf(engine, work, { seconds: options.seconds, python, flags });
        process.stderr.write(`${work.name}, round ${round + 1}: ${engine.name}\n`);
        const { text, note } = await outputOf(program, words, folder, options.budget);
        const found = linesIn(text);
        lines.set(engine, [...(lines.get(engine) ?? []), ...found]);
        if (found.length === 0) notes.set(engine, note ?? "has nothing for it");
      }
    entries.push(...entriesOf(work, present, lines, notes));
    for (const [title, group] of cases(entries.filter((entry) => entry.work === work.name)))
      say(`\n${tableOf(`${work.about} (${title})`, group, engines)}`);
  }
  const sizes = options.sizes ? [await ownSize(join(benchFolder, "..")), ...(await peerSizes(folder))] : [];
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
  const results = join(benchFolder, "results");
  mkdirSync(results, { recursive: true });
  writeFileSync(join(results, "peers.json"), `${JSON.stringify(result, null, 1)}\n`);
  writeFileSync(join(results, "peers.html"), await comparisonPage(result));
  say(`\nwritten: ${join(results, "peers.json")} and peers.html`);
  return summaryOf(result);
}

/** Entries of one piece of work, case by case; an engine that printed nothing has one that says why. */
function entriesOf(
  work: Work,
  present: readonly Engine[],
  lines: ReadonlyMap<Engine, readonly Line[]>,
  notes: ReadonlyMap<Engine, string>,
): Entry[] {
  const names = new Set([...lines.values()].flat().map((line) => line.case));
  return [...names].flatMap((name) =>
    present.flatMap((engine) => {
      const own = (lines.get(engine) ?? []).filter((line) => line.case === name);
      if (own.length) return [entryOf(engine, work, own)];
      const problem = notes.get(engine);
      if (problem === undefined) return [];
      return [{ engine: engine.name, work: work.name, case: name, ms: null, bestMs: null, rounds: 0, problem }];
    }),
  );
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
  const { readFileSync } = await import("node:fs");
  const version = (path: string) => JSON.parse(readFileSync(path, "utf8")).version as string;
  const versions: Record<string, string> = {
    node: process.version,
    lorikeet: version(join(benchFolder, "../package.json")),
  };
  if (folder)
    for (const name of ["@jax-js/jax", "@tensorflow/tfjs", "js-pytorch", "gpu.js"])
      versions[name] = version(join(folder, "node_modules", name, "package.json"));
  if (python) {
    const { text } = await outputOf(python, ["-c", "import torch; print(torch.__version__)"], "", 60);
    versions["torch"] = text.trim();
  }
  return versions;
}
