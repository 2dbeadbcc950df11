// The comparison with other engines: what it runs, which answers it believes, and how it divides. No times are measured here.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it, vi } from "vitest";
import { takeTurns } from "../../bench/comparison.ts";
import { benchFolder, commandOf, type Engine, engines, takesPart, type Work, works } from "../../bench/peer-engines.ts";
import { comparisonPage, wordedRatios } from "../../bench/peer-page.ts";
import { cases, type Entry, entryOf, linesIn, problemOf, ratiosOf, tableOf } from "../../bench/peer-results.ts";
import { peerOptions, summaryOf, usage } from "../../bench/peers.ts";

const work = (name: string): Work => works.find((one) => one.name === name)!;
const engine = (name: string): Engine => engines.find((one) => one.name === name)!;
const entry = (name: string, ms: number | null, more: Partial<Entry> = {}): Entry => ({
  engine: name,
  work: "lora-step",
  case: "train",
  ms,
  bestMs: ms,
  rounds: 1,
  ...more,
});

describe("options", () => {
  it("take everything when nothing is said", () => {
    const options = peerOptions([]);
    expect(options.works).toEqual(works);
    expect(options.engines).toEqual(engines);
    expect(options).toMatchObject({ rounds: 3, minutes: 25, extras: ["sizes"] });
  });

  it("leave out what is long and slow with --quick", () => {
    const options = peerOptions(["--quick"]);
    expect(options.works.map(({ name }) => name)).not.toContain("lora-step-4x-width");
    expect(options.engines.map(({ name }) => name)).not.toContain("js-pytorch");
    expect(options.engines.map(({ name }) => name)).not.toContain("jax-js wasm");
    expect(options).toMatchObject({ rounds: 1, minutes: 3, extras: [] });
  });

  it("take what is named", () => {
    const options = peerOptions(["--only", "lora-step,matmul", "--engines", "Lorikeet, jax-js", "--rounds=2", "--budget", "9"]);
    expect(options.works.map(({ name }) => name)).toEqual(["lora-step", "matmul"]);
    expect(new Set(options.engines.map(({ kind }) => kind))).toEqual(new Set(["lorikeet", "javascript"]));
    expect(options).toMatchObject({ rounds: 2, budget: 9, extras: [] });
    expect(peerOptions(["--minutes=0.5"]).minutes).toBe(0.5);
    expect(peerOptions(["--only", "sizes"])).toMatchObject({ works: [], extras: ["sizes"] });
  });

  it("have a name for every engine, by its beginning", () => {
    for (const { name } of engines) expect(peerOptions(["--engines", name]).engines.map((one) => one.name)).toContain(name);
  });

  it("are explained, all of them", () => {
    for (const option of ["quick", "only", "engines", "rounds", "seconds", "budget", "minutes"])
      expect(usage).toContain(`--${option}`);
    for (const { name } of [...works, ...engines]) expect(usage).toContain(name);
  });

  it.each([
    [["--only", "lora"], /no work "lora".*lora-step/],
    [["--engines", "keras"], /no engine is called "keras…"/],
    [["--rounds", "many"], /--rounds must be a number above 0, not "many"/],
    [["--fast"], /--fast/],
  ])("refuse %j", (args, message) => {
    expect(() => peerOptions(args)).toThrow(message);
  });
});

describe("processes", () => {
  it("run scripts that there are, on work that they know", () => {
    for (const { script } of engines) expect(existsSync(join(benchFolder, "peers", script[0]!)), script[0]).toBe(true);
    expect(takesPart(engine("gpu.js cpu"), work("lora-step"))).toBe(false);
    expect(takesPart(engine("tfjs wasm"), work("generate"))).toBe(false);
    expect(takesPart(engine("tfjs cpu"), work("lora-step-4x-width"))).toBe(false);
    expect(takesPart(engine("lorikeet 1 thread"), work("generate"))).toBe(true);
  });

  it("are told the work, the options and how long", () => {
    const settings = { seconds: 4, python: "/a/python", flags: ["--relaxed"] };
    const [node, args] = commandOf(engine("jax-js wasm relaxed SIMD 2 threads"), work("matmul"), settings);
    expect(node).toBe(process.execPath);
    expect(args).toEqual(["--relaxed", join(benchFolder, "peers/jax.mjs"), "matmul", "threads=2", "seconds=1"]);
    expect(commandOf(engine("lorikeet 2 threads"), work("lora-step"), settings)[1]).toContain("seconds=4");
    expect(commandOf(engine("lorikeet 2 threads"), work("lora-step-4x-width"), settings)[1]).toContain("least=1");
    expect(commandOf(engine("PyTorch 2 threads"), work("softmax"), settings)[0]).toBe("/a/python");
    expect(commandOf(engine("tfjs cpu"), work("softmax"), settings)[1]).toContain("seconds=1");
  });
});

describe("turns", () => {
  const taking = ["lorikeet 2 threads", "js-pytorch", "PyTorch 2 threads"].map(engine);
  const run = async (works: readonly Work[], rounds: number, end?: number) => {
    vi.spyOn(process.stderr, "write").mockReturnValue(true);
    const turns: string[] = [];
    const outputOf = async ({ name }: Engine, { name: of }: Work) => {
      turns.push(`${of}: ${name}`);
      return { text: name.startsWith("PyTorch") ? "" : '{"case":"train","ms":1,"bestMs":1,"error":0}', note: "no torch" };
    };
    const entries = await takeTurns(works, taking, { rounds, budget: 60 }, outputOf, end);
    vi.restoreAllMocks();
    return { turns, entries };
  };

  it("go work by work, round by round, slow engines last and once; who had nothing is not asked again", async () => {
    const { turns, entries } = await run([work("lora-step"), work("generate")], 3);
    const of = (name: string) => turns.filter((turn) => turn.startsWith(`${name}:`));
    expect(turns).toEqual([...of("lora-step"), ...of("generate")]);
    expect(of("lora-step").map((turn) => turn.slice(11))).toEqual([
      "lorikeet 2 threads",
      "PyTorch 2 threads",
      "lorikeet 2 threads",
      "lorikeet 2 threads",
      "js-pytorch",
    ]);
    expect(entries.filter(({ work: name }) => name === "lora-step")).toMatchObject([
      { engine: "lorikeet 2 threads", rounds: 3, roundMs: [1, 1, 1] },
      { engine: "js-pytorch", rounds: 1 },
      { engine: "PyTorch 2 threads", ms: null, problem: "no torch" },
    ]);
  });

  it("are one each for long work, and none once the time is up", async () => {
    const long = await run([work("lora-step-4x-tokens")], 3);
    expect(long.turns.filter((turn) => turn.endsWith("lorikeet 2 threads"))).toHaveLength(1);
    const late = await run([work("lora-step")], 3, performance.now() - 1);
    expect(late).toEqual({ turns: [], entries: [] });
  });
});

describe("answers", () => {
  it.each([
    [{ case: "train", ms: 5, error: 0.009 }, "lora-step", undefined],
    [{ case: "train", ms: 5, error: 0.011 }, "lora-step", "wrong by 0.011"],
    [{ case: "train", ms: 5, error: Number.NaN }, "lora-step", "wrong by NaN"],
    [{ case: "512³", ms: 5, error: 9e-4 }, "matmul", undefined],
    [{ case: "512³", ms: 5, error: 2e-3 }, "matmul", "wrong by 0.0020"],
    [{ case: "512³", ms: 5 }, "matmul", "wrong by an unknown amount"],
    [{ case: "generate", ms: 5, error: 1 / 64 }, "generate", "wrong by 0.016"],
    [{ case: "train", ms: 5, error: 0, compilations: 97 }, "lora-step", undefined],
    [
      { case: "train", ms: 5, error: 0, compilations: 98, lateCompilations: 1 },
      "lora-step",
      "compiled 1 kernels after its first step",
    ],
    [{ case: "512³", failed: "no kernel" }, "matmul", "no kernel"],
    [{ case: "512³", error: 0 }, "matmul", "no time"],
  ])("%j of %s: %s", (line, name, problem) => {
    expect(problemOf(line, work(name))).toBe(problem);
  });

  it("are read from lines of JSON among others", () => {
    expect(linesIn('warning\n{"case":"a","ms":1}\n{broken\n{"case":"b"}\n')).toEqual([{ case: "a", ms: 1 }, { case: "b" }]);
  });

  it("become medians over rounds, with the worst of what must not be large", () => {
    const lines = [3, 9, 4].map((ms) => ({ case: "512³", ms, bestMs: ms - 1, error: ms * 1e-6, flops: 8e6, peakBytes: ms }));
    const found = entryOf(engine("tfjs wasm"), work("matmul"), lines);
    expect(found).toMatchObject({ ms: 4, bestMs: 2, rounds: 3, roundMs: [3, 9, 4], error: 9e-6, peakBytes: 9 });
    expect(found.rate).toEqual({ value: 2, unit: "GFLOP/s" });
  });

  it("count only when every round was right", () => {
    const lines = [1e-6, 0.5].map((error) => ({ case: "512³", ms: 4, bestMs: 4, error }));
    expect(entryOf(engine("tfjs wasm"), work("matmul"), lines)).toMatchObject({ ms: null, problem: "wrong by 0.50" });
  });
});

describe("ratios", () => {
  const entries = [
    entry("lorikeet 1 thread", 200),
    entry("lorikeet 2 threads", 100, { bestMs: 50, peakBytes: 250, importAndFirstStepMs: 900, planRatio: 1.01 }),
    entry("PyTorch 1 thread", 300, { peakBytes: 500, importAndFirstStepMs: 2000 }),
    entry("PyTorch 2 threads", 150, { peakBytes: 1000, importAndFirstStepMs: 1800 }),
    entry("jax-js wasm", 3000),
    entry("jax-js wasm relaxed SIMD 2 threads", 1300),
    entry("js-pytorch", null, { problem: "wrong by 4" }),
  ];

  it("are above 1 where lorikeet is faster, and compare threads with threads", () => {
    expect(ratiosOf(entries, engines)).toEqual({
      vsFastestJs: 13,
      fastestJs: "jax-js wasm relaxed SIMD 2 threads",
      vsTorch: 1.5,
      vsTorch1Thread: 1.5,
      vsTorch2Threads: 1.5,
      vsFastestJs1Thread: 15,
      bestVsFastestJs: 26,
      bestVsTorch: 3,
      bestVsTorch1Thread: 1.5,
      bestVsTorch2Threads: 3,
    });
  });

  it("are those of the rounds: in a slow minute both engines were slow", () => {
    const ours = entry("lorikeet 2 threads", 200, { bestMs: 90, roundMs: [100, 200, 400] });
    const theirs = entry("PyTorch 2 threads", 150, { bestMs: 120, roundMs: [150, 150, 600] });
    expect(ratiosOf([ours, theirs], engines)).toMatchObject({ vsTorch: 1.5, bestVsTorch: 1.333 });
    expect(ratiosOf([ours, { ...theirs, roundMs: [150] }], engines).vsTorch).toBe(0.75);
  });

  it("fall back on one thread where PyTorch had no two, and leave out what is unknown", () => {
    expect(ratiosOf([entries[0]!, entries[1]!, entries[2]!], engines)).toEqual({
      vsTorch: 1.5,
      vsTorch1Thread: 1.5,
      bestVsTorch: 1.5,
      bestVsTorch1Thread: 1.5,
    });
    expect(ratiosOf([entries[4]!], engines)).toEqual({ fastestJs: "jax-js wasm" });
  });

  it("are put together in the last line, with cold start, memory and the plan", () => {
    const about = { date: "", machine: "", load: 0, versions: {}, options: { rounds: 1, seconds: 1 }, minutes: 1, sizes: [] };
    const ratios = { "lora-step: train": ratiosOf(entries, engines) };
    expect(summaryOf({ ...about, ratios, entries })).toMatchObject({
      loraStep: {
        vsFastestJs: 13,
        vsTorch: 1.5,
        bestVsTorch: 3,
        ms: { "lorikeet 2 threads": 100 },
        bestMs: { "lorikeet 2 threads": 50 },
      },
      generation: {},
      coldStart: { ms: 900, vsTorch: 2 },
      memory: { vsTorch: 4, planRatio: 1.01, peakBytes: { "lorikeet 2 threads": 250, "PyTorch 2 threads": 1000 } },
      planRatio: 1.01,
    });
  });

  it("are shown with the fastest first and the wrong last", () => {
    const lines = tableOf("a step", entries, engines).split("\n");
    expect(lines[1]).toMatch(/lorikeet 2 threads +100 ms +best 50.0 +1.00 ×/);
    expect(lines.at(-1)).toMatch(/js-pytorch +wrong by 4/);
  });

  it("are kept case by case", () => {
    const grouped = cases([...entries, entry("tfjs wasm", 1, { work: "matmul", case: "512³" })]);
    expect([...grouped.keys()]).toEqual(["lora-step: train", "matmul: 512³"]);
  });

  it("are drawn on a page that stands alone", async () => {
    const compared = {
      date: "2026-01-01",
      machine: "<a machine>",
      load: 0,
      versions: { node: "v20" },
      options: { rounds: 1, seconds: 1 },
      minutes: 3,
      entries: [...entries, entry("lorikeet 2 threads", 400, { work: "lora-step-2x-depth" })],
      sizes: [{ name: "lorikeet", installedBytes: 1e7, bundleBytes: 2e5 }],
    };
    const page = await comparisonPage(compared, wordedRatios({ "lora-step: train": ratiosOf(entries, engines) }));
    expect(page).toContain("13.00 times as fast as jax-js wasm relaxed SIMD 2 threads");
    expect(page).toContain("How the cost grows");
    expect(page).toContain("&lt;a machine&gt;");
    expect(page.match(/<svg/g)!.length).toBeGreaterThanOrEqual(5);
    expect(page).not.toMatch(/<script|https?:\/\/(?!www\.w3\.org)/);
  });
});

describe("the work", async () => {
  // @ts-expect-error: the engines' scripts are plain JavaScript
  const { errorOf, inputOf, problems, values, warmUpOf } = await import("../../bench/peers/workload.mjs");

  it("has the values of spec-model.ts", () => {
    const list = values("layers.0.q_proj", 3, 0.05);
    expect(list).toHaveLength(3);
    expect(Math.max(...list.map(Math.abs))).toBeLessThanOrEqual(Math.sqrt(3) * 0.05);
  });

  it("leaves six steps out, fewer where steps take long, and never all", () => {
    expect(warmUpOf(new Array(20).fill(100), 2000)).toBe(6);
    expect(warmUpOf(new Array(20).fill(900), 2000)).toBe(3);
    expect(warmUpOf(new Array(4).fill(100), 2000)).toBe(3);
    expect(warmUpOf([30_000], 2000)).toBe(0);
  });

  it("covers the operations that are compared", () => {
    expect(Object.keys(problems).sort()).toEqual(works.filter(({ kind }) => kind === "operation").map(({ name }) => name).sort()); // biome-ignore format: one sentence
  });

  it("tells a right answer from a wrong one", () => {
    const [problem] = problems.embedding;
    const inputs = problem.inputs.map(inputOf);
    const [table, ids] = inputs as [Float32Array, Int32Array];
    const right = Float32Array.from({ length: problem.size }, (_, i) => table[ids[i >> 8]! * 256 + (i & 255)]!);
    expect(errorOf(problem, inputs, right)).toBe(0);
    expect(errorOf(problem, inputs, right.map((value) => -value))).toBeGreaterThan(1); // biome-ignore format: one sentence
    expect(errorOf(problem, inputs, right.fill(Number.NaN))).toBe(Number.POSITIVE_INFINITY);
    expect(() => errorOf(problem, inputs, right.subarray(1))).toThrow("values instead of");
  });
});

describe("lorikeet's own program", () => {
  const operations = works.filter(({ kind }) => kind === "operation");
  it.each(operations.map(({ name }) => name))("answers %s rightly", (name) => {
    const options = { seconds: 0, python: undefined, flags: [] };
    const [program, words] = commandOf(engine("lorikeet 1 thread"), work(name), options);
    const { stdout } = spawnSync(program, words, { encoding: "utf8" });
    const lines = linesIn(stdout);
    expect(lines).not.toHaveLength(0);
    expect(lines.map((line) => [line.case, problemOf(line, work(name))])).toEqual(lines.map((line) => [line.case, undefined]));
  });
});
