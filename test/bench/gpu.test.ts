// The comparison of the gpu device with peers in Chromium: what it runs and how it divides. No times are measured here.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { gpuOptions } from "../../bench/gpu.ts";
import { gpuEngines, gpuRatiosOf, gpuWorks, heatsOf, nodeEngines, nodeWorks, startersOf } from "../../bench/gpu-engines.ts";
import { benchFolder, paceOf } from "../../bench/peer-engines.ts";
import type { Entry } from "../../bench/peer-results.ts";
import { gpuModes } from "../../src/devices/gpu/backend.ts";

describe("options", () => {
  it("take everything when nothing is said", () => {
    expect(gpuOptions([])).toMatchObject({
      works: gpuWorks,
      engines: gpuEngines,
      rounds: 2,
      minutes: 15,
      hardware: false,
      node: false,
      processorTime: false,
    });
  });

  it("in Node take what computes with WebGPU, and PyTorch", () => {
    const options = gpuOptions(["--node", "--only", "lora-step,norm"]);
    expect(options.works.map(({ name }) => name)).toEqual(["lora-step", "norm"]);
    expect(options.engines.map(({ name }) => name)).toEqual(["lorikeet webgpu", "tfjs webgpu", "jax-js webgpu", "PyTorch CUDA"]);
    expect(gpuOptions(["--node"])).toMatchObject({ works: nodeWorks, engines: nodeEngines, node: true });
  });

  it("take what is named", () => {
    const options = gpuOptions([
      "--hardware",
      "--only",
      "matmul,softmax",
      "--case",
      "512",
      "--engines",
      "tfjs",
      "--processor-time",
    ]);
    expect(options.works.map(({ name }) => name)).toEqual(["matmul", "softmax"]);
    expect(options.engines.map(({ name }) => name)).toEqual(["tfjs webgpu", "tfjs webgl2", "tfjs webgl1"]);
    expect(options).toMatchObject({ hardware: true, processorTime: true, case: "512" });
  });

  it("take an engine by its whole name, and several by how their names begin", () => {
    const names = (engines: string) => gpuOptions(["--engines", engines]).engines.map(({ name }) => name);
    expect(names("lorikeet webgl")).toEqual(["lorikeet webgl"]);
    expect(names("lorikeet webg")).toEqual(["lorikeet webgpu", "lorikeet webgl2", "lorikeet webgl"]);
  });

  it("leave out what is slow with --quick", () => {
    expect(gpuOptions(["--quick"]).engines.map(({ name }) => name)).not.toContain("lorikeet cpu");
  });

  it.each([
    [["--only", "generate"], /no work "generate".*lora-step/],
    [["--engines", "PyTorch"], /no engine is called "pytorch…"/],
    [["--seconds", "0"], /--seconds must be a number above 0/],
    [["--fast"], /--fast/],
    [["--node", "--processor-time"], /--processor-time is of a browser's processes/],
    [["--node", "--engines", "lorikeet webgl2"], /no engine is called "lorikeet webgl2…"/],
  ])("refuse %j", (args, message) => {
    expect(() => gpuOptions(args)).toThrow(message);
  });
});

describe("engines", () => {
  it("are every mode, one of them in Node, and scripts that there are", () => {
    const names = gpuEngines.map(({ name }) => name);
    for (const mode of gpuModes) expect(names, mode).toContain(`lorikeet ${mode}`);
    expect(gpuEngines.filter(({ inNode }) => inNode).map(({ name }) => name)).toEqual(["lorikeet headlessgl"]);
    for (const { script } of [...gpuEngines, ...nodeEngines])
      expect(existsSync(join(benchFolder, "peers", script[0]!)), script[0]).toBe(true);
  });

  it("do one step where they are slow", () => {
    expect(paceOf(true, 8)).toEqual(["seconds=1", "least=1"]);
    expect(paceOf(false, 8)).toEqual(["seconds=8"]);
  });
});

describe("heats", () => {
  const work = (name: string) => gpuWorks.find((one) => one.name === name)!;
  const named = (name: string) => gpuEngines.find((one) => one.name === name)!;
  const entry = (engine: string, ms: number | null, problem?: string): Entry => ({
    engine,
    work: "lora-step-small",
    case: "train",
    ms,
    bestMs: ms,
    rounds: 1,
    ...(problem !== undefined && { problem }),
  });

  it("are of one interface each, WebGPU and WebGL 2 first, in every work, and no engine is forgotten", () => {
    const heats = heatsOf(gpuWorks, gpuEngines);
    const order = heats.map(({ work: { name }, engines }) => `${name}, ${engines[0]!.api}`);
    const graphics = gpuWorks.flatMap(({ name }) => [`${name}, webgpu`, `${name}, webgl2`]);
    expect(order.slice(0, graphics.length)).toEqual(graphics);
    expect(new Set(order).size).toBe(order.length);
    for (const { name } of gpuWorks) {
      const taking = heats.filter(({ work }) => work.name === name).flatMap(({ engines }) => engines);
      expect(new Set(taking)).toEqual(new Set(gpuEngines));
    }
  });

  it("leave out of the whole step who did not finish, and peers that another one leaves far behind", () => {
    const heat = { work: work("lora-step"), engines: ["lorikeet webgpu", "tfjs webgpu", "jax-js webgpu"].map(named) };
    const names = (entries: readonly Entry[]) => startersOf(heat, entries).map(({ name }) => name);
    const all = heat.engines.map(({ name }) => name);
    expect(names([])).toEqual(all);
    expect(names([entry("lorikeet webgpu", 500), entry("tfjs webgpu", 190), entry("jax-js webgpu", 100)])).toEqual(all);
    expect(names([entry("lorikeet webgpu", 500), entry("tfjs webgpu", 210), entry("jax-js webgpu", 100)])).toEqual([
      "lorikeet webgpu",
      "jax-js webgpu",
    ]);
    expect(names([entry("jax-js webgpu", null, "did not finish in 90 s"), entry("tfjs webgpu", 900)])).toEqual([
      "lorikeet webgpu",
      "tfjs webgpu",
    ]);
    expect(startersOf({ ...heat, work: work("softmax") }, [entry("tfjs webgpu", 900), entry("jax-js webgpu", 1)])).toEqual(
      heat.engines,
    );
  });
});

describe("ratios", () => {
  const entry = (engine: string, ms: number | null): Entry => ({
    engine,
    work: "matmul",
    case: "256³",
    ms,
    bestMs: ms,
    rounds: 1,
  });

  it("compare with the faster peer on the same interface only", () => {
    const entries = [
      entry("lorikeet webgpu", 10),
      entry("tfjs webgpu", 30),
      entry("jax-js webgpu", 20),
      entry("lorikeet webgl2", 40),
      entry("lorikeet webgl", 80),
      entry("tfjs webgl2", 20),
      entry("tfjs webgl1", 160),
      entry("lorikeet wasm", 1),
    ];
    expect(gpuRatiosOf(entries, gpuEngines)).toEqual({
      webgpu: { ratio: 2, against: "jax-js webgpu" },
      webgl2: { ratio: 0.5, against: "tfjs webgl2" },
      webgl: { ratio: 2, against: "tfjs webgl1" },
    });
  });

  it("in Node are against PyTorch, too, which is no peer of JavaScript", () => {
    const timed = [entry("lorikeet webgpu", 10), entry("jax-js webgpu", 160), entry("PyTorch CUDA", 45)];
    expect(gpuRatiosOf(timed, nodeEngines)).toEqual({ webgpu: { ratio: 16, against: "jax-js webgpu", vsTorch: 4.5 } });
  });

  it("leave out whose answer was wrong", () => {
    expect(gpuRatiosOf([entry("lorikeet webgpu", 10), entry("jax-js webgpu", null)], gpuEngines)).toEqual({});
    expect(gpuRatiosOf([entry("lorikeet webgpu", null), entry("jax-js webgpu", 5)], gpuEngines)).toEqual({});
  });
});
