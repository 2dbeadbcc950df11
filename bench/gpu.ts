/**
 * How fast is the gpu device beside tfjs and jax-js on the same interface of the same Chromium? Operations stay on the device and are
 * waited for; only right answers count; the engines of an interface take turns, those of WebGPU and WebGL 2 first. Slow modes have one turn;
 * a peer that does not finish the small step, or takes twice as long for it as another, has no part in the whole one. headlessgl is run by
 * Node. Leaves gpu.json, and a page with charts, in bench/results.
 * With --node no browser has a part: a process of Node each for those of WebGPU, by way of Dawn, on the machine's graphics card, and beside
 * them PyTorch on CUDA where Python has it. Leaves gpu-node.json and its page.
 */
import {
  type ComparisonOptions,
  comparisonOptions,
  describeMachine,
  keepResults,
  packageVersions,
  processOutput,
  takeTurns,
} from "./comparison.ts";
import { type GpuRatios, gpuEngines, gpuRatiosOf, gpuWorks, heatsOf, nodeEngines, nodeWorks, startersOf } from "./gpu-engines.ts";
import { adapterOfNode } from "./gpu-node.ts";
import { commandOf, type Engine, findPython, installPeers, paceOf } from "./peer-engines.ts";
import { comparisonPage } from "./peer-page.ts";
import { cases, type Entry, tableOf } from "./peer-results.ts";

/** What `--help` prints. */
export const usage = `Usage: npm run bench -- gpu [OPTIONS]

  --hardware         on this machine's graphics card; the browser's software adapters without it
  --node             in processes of Node, on this machine's graphics card; beside PyTorch on CUDA, where Python has it
  --processor-time   what the browser's processes compute (Linux) in place of what passes, on a machine with other work
  --quick            without long works and slow engines, once; at most 5 minutes
  --only WORK,…      ${gpuWorks.map(({ name }) => name).join(", ")}; with --node:
                     ${nodeWorks.map(({ name }) => name).join(", ")}
  --case START       how the names of the cases begin
  --engines NAME,…   by the beginning of their names: ${[...gpuEngines, ...nodeEngines.filter(({ kind }) => kind === "pytorch")].map(({ name }) => name).join(", ")}
  --rounds N         how often the engines take turns (2)
  --seconds S        of measuring in one page or process (3)
  --budget S         after which a page or process is ended (90)
  --minutes M        after which no more are started (15)

The last line is the answer as JSON; ratios above 1 mean that lorikeet is faster. Leaves gpu.json and gpu.html in bench/results, and
with --node gpu-node.json and gpu-node.html.`;

export interface GpuOptions extends ComparisonOptions {
  /** On the machine's graphics card; the browser's software adapters without it. */
  readonly hardware: boolean;
  /** In processes of Node, by way of Dawn, and not in a browser. */
  readonly node: boolean;
  /** Times are what the browser's processes compute (Linux), not what passes: for software adapters on a machine with other work. */
  readonly processorTime: boolean;
}

/** @throws {Error} for an option or a name that there is not */
export function gpuOptions(args: readonly string[]): GpuOptions {
  const own = ["--hardware", "--node", "--processor-time"];
  const others = args.filter((argument) => !own.includes(argument));
  const node = args.includes("--node");
  if (node && args.includes("--processor-time"))
    throw new Error("bench: --processor-time is of a browser's processes: not with --node");
  const field = { works: node ? nodeWorks : gpuWorks, engines: node ? nodeEngines : gpuEngines, extras: [] };
  return {
    ...comparisonOptions(others, { ...field, rounds: [2, 1], seconds: [3, 2], budget: [90, 60], minutes: [15, 5] }),
    hardware: args.includes("--hardware"),
    node,
    processorTime: args.includes("--processor-time"),
  };
}

const apiNames = { webgpu: "WebGPU", webgl2: "WebGL 2", webgl: "WebGL 1", processor: "processor" } as const;

const worded = (ratios: Readonly<Record<string, GpuRatios>>): [string, string][] =>
  Object.entries(ratios).flatMap(([title, modes]) =>
    Object.entries(modes).map(([mode, { ratio, against, vsTorch }]): [string, string] => [
      `${title}, ${mode}`,
      `${ratio.toFixed(2)} times as fast as ${against}${vsTorch === undefined ? "" : `, ${vsTorch.toFixed(2)} as PyTorch`}`,
    ]),
  );

export async function gpu(args: readonly string[]): Promise<Record<string, unknown>> {
  const { works, engines, case: start, rounds, seconds, budget, minutes, hardware, node, processorTime } = gpuOptions(args);
  const begun = performance.now();
  const end = begun + minutes * 60_000;
  const say = (text: string) => console.log(text);
  const folder = installPeers((text) => process.stderr.write(`${text}\n`));
  const { machine, load } = describeMachine(say);
  await using pages = node ? null : await (await import("./gpu-pages.ts")).openPages(engines, folder, hardware);
  const about = pages?.about ?? (await adapterOfNode(folder));
  const python = node ? findPython() : undefined;
  say(Object.entries(about).map(([name, text]) => `${name}: ${text}`).join("; ")); // biome-ignore format: one sentence
  const clock = processorTime ? ["clock=processor"] : [];
  const only = start ? [`case=${start}`] : [];
  const entries: Entry[] = [];
  for (const heat of heatsOf(works, engines)) {
    const { work } = heat;
    const outputOf = (engine: Engine, _work: unknown, limit: number) => {
      const {
        script: [file, ...words],
        isSlow = false,
        inNode,
      } = engine;
      const pace = [...paceOf(isSlow, seconds), ...(isSlow ? [] : ["least=2"])];
      if (engine.kind === "pytorch" && !python) return Promise.resolve({ text: "", note: "there is no Python with PyTorch" });
      return inNode
        ? processOutput(...commandOf(engine, work, { seconds, case: start, python, flags: [] }), folder, limit)
        : pages!.run(file!, [work.name, ...words, ...clock, ...only, ...pace], limit);
    };
    const found = await takeTurns([work], startersOf(heat, entries), { rounds, budget }, outputOf, end);
    entries.push(...found);
    const api = apiNames[heat.engines[0]!.api ?? "processor"];
    if (!found.length) say(`\n${work.about}, ${api}: nothing was measured`);
    for (const [title, group] of cases(found)) say(`\n${tableOf(`${work.about} (${title}), ${api}`, group, engines)}`);
    for (const { engine, compilations, problem } of found)
      if (compilations !== undefined && problem === undefined)
        say(`  ${engine}: ${compilations} kernels compiled, all of them in the first step`);
  }
  const ratios = Object.fromEntries([...cases(entries)].map(([title, group]) => [title, gpuRatiosOf(group, engines)]));
  say(`\nagainst the faster peer on the same interface:`);
  for (const [name, text] of worded(ratios)) say(`  ${name.padEnd(50)}${text}`);
  const result = {
    date: new Date().toISOString(),
    machine,
    load,
    versions: {
      ...packageVersions(folder, ["@jax-js/jax", "@tensorflow/tfjs", "@tensorflow/tfjs-backend-webgpu"]),
      ...about,
    },
    options: { rounds, seconds, hardware, node, processorTime },
    minutes: Number(((performance.now() - begun) / 60_000).toFixed(1)),
    ratios,
    entries,
  };
  keepResults(node ? "gpu-node" : "gpu", result, await comparisonPage(result, worded(ratios)), say);
  say(`It took ${result.minutes} minutes.`);
  const { entries: _, ...summary } = result;
  return { bench: "gpu", ...summary };
}
