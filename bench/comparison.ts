/** What the questions `peers` and `gpu` share: their options, engines taking turns, and where results are kept. */
import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, loadavg, release, totalmem } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { benchFolder, type Engine, takesPart, type Work } from "./peer-engines.ts";
import { type Entry, entryOf, type Line, linesIn } from "./peer-results.ts";

export interface ComparisonOptions {
  readonly works: readonly Work[];
  readonly engines: readonly Engine[];
  readonly rounds: number;
  /** Of measuring, in one process or page. */
  readonly seconds: number;
  /** After so many seconds a process or page is ended. */
  readonly budget: number;
  /** After so many nothing more is started. */
  readonly minutes: number;
  /** How the names of the cases begin that are measured. */
  readonly case: string;
  /** Names among `--only` that are no work of engines, and all of them where nothing was named. */
  readonly extras: readonly string[];
}

export interface Field {
  readonly works: readonly Work[];
  readonly engines: readonly Engine[];
  readonly extras: readonly string[];
  /** Where no option says otherwise; the second with `--quick`. */
  readonly rounds: readonly [number, number];
  readonly seconds: readonly [number, number];
  readonly budget: readonly [number, number];
  readonly minutes: readonly [number, number];
}

/**
 * Options of a comparison: `[--quick] [--only WORK,…] [--case START] [--engines NAME,…] [--rounds N] [--seconds S] [--budget S]
 * [--minutes M]`.
 *
 * @throws {Error} for an option or a name that there is not
 */
export function comparisonOptions(args: readonly string[], { works, engines, extras, ...usual }: Field): ComparisonOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      quick: { type: "boolean", default: false },
      only: { type: "string" },
      case: { type: "string", default: "" },
      engines: { type: "string" },
      rounds: { type: "string" },
      seconds: { type: "string" },
      budget: { type: "string" },
      minutes: { type: "string" },
    },
  });
  const { quick, only } = values;
  const number = (name: "rounds" | "seconds" | "budget" | "minutes"): number => {
    const value = values[name] === undefined ? usual[name][quick ? 1 : 0] : Number(values[name]);
    if (!(value > 0)) throw new Error(`bench: --${name} must be a number above 0, not "${values[name]}"`);
    return value;
  };
  const wanted = only?.split(",").map((name) => name.trim());
  const names = [...works.map(({ name }) => name), ...extras];
  for (const name of wanted ?? [])
    if (!names.includes(name)) throw new Error(`bench: there is no work "${name}". There is: ${names.join(", ")}`);
  const chosen = values.engines?.split(",").map((name) => name.trim().toLowerCase());
  for (const name of chosen ?? [])
    if (!engines.some((engine) => engine.name.toLowerCase().startsWith(name)))
      throw new Error(`bench: no engine is called "${name}…". There are: ${engines.map((engine) => engine.name).join("; ")}`);
  // a whole name means that one only, though others begin like it
  const isMeant = (name: string, start: string) =>
    engines.some((engine) => engine.name.toLowerCase() === start) ? name === start : name.startsWith(start);
  return {
    works: works.filter((work) => (wanted ? wanted.includes(work.name) : !(quick && work.isLong))),
    engines: engines.filter(({ name, isSlow, isPlain }) =>
      chosen ? chosen.some((start) => isMeant(name.toLowerCase(), start)) : !(quick && (isSlow || isPlain)),
    ),
    rounds: Math.max(1, Math.round(number("rounds"))),
    seconds: number("seconds"),
    budget: number("budget"),
    minutes: number("minutes"),
    case: values.case,
    extras: extras.filter((name) => (wanted ? wanted.includes(name) : !quick)),
  };
}

/** What a process prints until it ends or its time is up. */
export function processOutput(program: string, args: readonly string[], peersFolder: string, seconds: number): Promise<Output> {
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
      else {
        const lines = errors.trim().split("\n");
        end(code === 0 ? undefined : (lines.find((line) => /^\w*Error\b/.test(line)) ?? lines.at(-1) ?? `ended with ${code}`));
      }
    });
  });
}

/** What an engine printed, and why it ended where it did not end well. */
export interface Output {
  readonly text: string;
  readonly note?: string;
}

/**
 * Work by work the engines take turns, round by round, so that a ratio is one of the same minutes whatever moods the machine has. Slow
 * engines have one turn, after the others' last; an engine that had nothing to show is not asked again; what
 * would begin after `end` (of `performance.now`) is left out.
 *
 * @param outputOf runs an engine, for at most so many seconds
 */
export async function takeTurns(
  works: readonly Work[],
  engines: readonly Engine[],
  { rounds, budget }: Pick<ComparisonOptions, "rounds" | "budget">,
  outputOf: (engine: Engine, work: Work, seconds: number) => Promise<Output>,
  end = Number.POSITIVE_INFINITY,
): Promise<Entry[]> {
  const entries: Entry[] = [];
  let left = 0;
  for (const work of works) {
    const present = engines.filter((engine) => takesPart(engine, work));
    const [quick, slow] = [present.filter(({ isSlow }) => !isSlow), present.filter(({ isSlow }) => isSlow)];
    const turns = Array.from({ length: work.isOnce ? 1 : rounds }, (_, round) => quick.map((engine) => ({ engine, round })));
    const lines = new Map<Engine, Line[]>();
    const notes = new Map<Engine, string>();
    for (const { engine, round } of [...turns.flat(), ...slow.map((one) => ({ engine: one, round: 0 }))]) {
      if (notes.has(engine)) continue;
      const seconds = Math.min(budget, (end - performance.now()) / 1000);
      if (seconds < 5 && seconds < budget) {
        left++;
        if (!lines.has(engine)) notes.set(engine, "left out: the time was up");
        continue;
      }
      process.stderr.write(`${work.name}, round ${round + 1}: ${engine.name}\n`);
      const { text, note } = await outputOf(engine, work, Math.ceil(seconds));
      const printed = linesIn(text);
      if (printed.length) lines.set(engine, [...(lines.get(engine) ?? []), ...printed]);
      else if (!lines.has(engine)) notes.set(engine, note ?? "has nothing for it");
    }
    entries.push(...entriesOf(work, present, lines, notes));
  }
  if (left) process.stderr.write(`bench: the time was up: ${left} turns were left out\n`);
  return entries;
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

/** The machine, in words, and how busy it is; says so where it is too busy. */
export function describeMachine(say: (text: string) => void): { readonly machine: string; readonly load: number } {
  const machine = `${cpus()[0]?.model.trim()}, ${cpus().length} threads, ${Math.round(totalmem() / 1e9)} GB, ${process.platform} ${release()}`;
  const load = loadavg()[0] as number;
  say(`${machine}; node ${process.version}; load ${load.toFixed(1)}`);
  if (load > cpus().length / 2) say("Other programs are running: look at ratios only, and at them with care.");
  return { machine, load };
}

/** Versions of lorikeet and Node, and of packages in the peers' folder. */
export function packageVersions(folder: string, names: readonly string[]): Record<string, string> {
  const version = (path: string) => JSON.parse(readFileSync(path, "utf8")).version as string;
  return {
    node: process.version,
    lorikeet: version(join(benchFolder, "../package.json")),
    ...(folder && Object.fromEntries(names.map((name) => [name, version(join(folder, "node_modules", name, "package.json"))]))),
  };
}

/** Keeps a result and its page in bench/results. */
export function keepResults(name: string, result: unknown, page: string, say: (text: string) => void): void {
  const folder = join(benchFolder, "results");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, `${name}.json`), `${JSON.stringify(result, null, 1)}\n`);
  writeFileSync(join(folder, `${name}.html`), page);
  say(`\nwritten: ${join(folder, `${name}.json`)} and ${name}.html`);
}
