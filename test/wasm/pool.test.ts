import { spawnSync } from "node:child_process";
import { afterEach, describe, expect, test, vi } from "vitest";
import { type Expression, load, ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { DeviceMemory } from "../../src/devices/wasm/memory.ts";
import { defaultThreads, Pool } from "../../src/devices/wasm/pool.ts";
import { control, taking } from "../../src/devices/wasm/worker.ts";
import { ConfigError, DeviceError } from "../../src/errors.ts";

const pools: Pool[] = [];
afterEach(() => {
  for (const pool of pools.splice(0)) pool.dispose();
});

function makePool(threads: number, shared = true): [Pool, DeviceMemory] {
  const memory = new DeviceMemory({ shared });
  const pool = new Pool(memory, { threads });
  pools.push(pool);
  return [pool, memory];
}

/** out[task] = value + task, a count of calls at args + 4, the thread that came last in args + 8 + 4 · thread; `slow` takes its time. */
function countingModule(shared: boolean, value: number, rounds = 1): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder({ shared });
  const f = module.function("count", ["i32", "i32", "i32"]);
  const [task, args, thread] = f.params;
  const waste = f.local("i32");
  f.repeat(rounds, () => f.set(waste, ["i32.xor", ["i32.mul", waste, 7], task]));
  f.atomic("i32.atomic.rmw.add", args, [1], 4).op("drop");
  f.atomic("i32.atomic.rmw.add", ["i32.add", args, ["i32.mul", thread, 4]], [1], 8).op("drop");
  f.store(
    "i32.store",
    ["i32.add", load("i32.load", args), ["i32.mul", task, 4]],
    ["i32.add", ["i32.add", task, value], ["i32.and", waste, 0]],
  );
  const trap = module.function("trap", ["i32", "i32", "i32"]);
  const wantedThread = load("i32.load", trap.params[1]);
  trap.if(["i32.eq", trap.params[2], wantedThread], () => trap.op("unreachable"));
  // others wait for the trap, so that the thread meant to trap gets a task: that is the control block's word for a failure
  trap.loop((again) => trap.brIf(again, ["i32.eqz", load("i32.atomic.load", 4 * control.failed)]));
  return module.bytes();
}

describe.each([
  [1, true],
  [1, false],
  [2, true],
  [5, true],
])("%i threads, shared memory %s", (threads, shared) => {
  test("every task runs once, with the workers that are there and with all of them", async () => {
    const [pool, memory] = makePool(threads, shared);
    const out = memory.allocate(4 * 1000);
    const args = memory.allocate(64);
    const { count } = pool.add(countingModule(shared, 100));
    const check = (tasks: number) => {
      memory.i32(args, 16).fill(0);
      memory.i32(args, 1)[0] = out;
      memory.i32(out, 1000).fill(-1);
      pool.run(count!, tasks, args);
      expect(memory.i32(args, 2)[1]).toBe(tasks);
      expect([...memory.i32(out, 1000)]).toEqual(Array.from({ length: 1000 }, (_, i) => (i < tasks ? i + 100 : -1)));
    };
    for (const tasks of [0, 1, 2, 1000]) check(tasks);
    await pool.ready();
    for (const tasks of [0, 1, 2, 3, 1000]) check(tasks);
    for (let i = 0; i < 200; i++) check(i % 7);
  });
});

test.each([
  ["from both ends, so that each thread has neighbours", 999, 2],
  ["from the front by all when there are more than are counted in half a word", taking.countable + 7, 3],
])("tasks are taken %s", async (_, tasks, threads) => {
  const [pool, memory] = makePool(threads);
  const module = new ModuleBuilder({ shared: true });
  const f = module.function("note", ["i32", "i32", "i32"]);
  const [task, args, thread] = f.params;
  const place: Expression = ["i32.add", load("i32.load", args), ["i32.shl", task, 2]];
  f.store("i32.store", place, ["i32.add", load("i32.load", place), ["i32.add", 10, thread]]);
  const { note } = pool.add(module.bytes());
  const [out, block] = [memory.allocate(4 * tasks), memory.allocate(64)];
  memory.i32(block, 1)[0] = out;
  await pool.ready();
  const taker = memory.i32(out, tasks);
  for (let round = 0; round < 20; round++) {
    taker.fill(0);
    pool.run(note!, tasks, block);
    expect([...taker].every((by) => by >= 10 && by < 10 + threads)).toBe(true);
    if (tasks < taking.countable) expect(taker).toEqual(taker.slice().sort());
  }
});

test("workers take part, and still do after they have slept", async () => {
  const [pool, memory] = makePool(3);
  const out = memory.allocate(4 * 1000);
  const args = memory.allocate(64);
  const { count } = pool.add(countingModule(true, 0, 10_000));
  await pool.ready();
  for (let round = 0; round < 3; round++) {
    memory.i32(args, 16).fill(0);
    memory.i32(args, 1)[0] = out;
    const byThread = () => [...memory.i32(args + 8, 3)];
    const byWorkers = () => byThread()[1]! + byThread()[2]!;
    // a worker that is woken runs when a busy machine has a core for it, which a few jobs need not wait for
    let jobs = 0;
    do pool.run(count!, 400, args);
    while (++jobs < 5 || (byWorkers() === 0 && jobs < 5000));
    expect(byThread().reduce((a, b) => a + b)).toBe(400 * jobs);
    expect(byWorkers()).toBeGreaterThan(0);
    await new Promise((resolve) => setTimeout(resolve, 60));
  }
});

test("modules added later reach the workers, hundreds of them, also those whose first kernels were never run", async () => {
  const [pool, memory] = makePool(3);
  const out = memory.allocate(4 * 64);
  const args = memory.allocate(64);
  await pool.ready();
  for (let value = 0; value < 300; value++) {
    const { count } = pool.add(countingModule(true, value));
    if (value % 3 !== 0) continue;
    memory.i32(args, 1)[0] = out;
    pool.run(count!, 64, args);
    expect(memory.i32(out, 64)[63]).toBe(value + 63);
  }
});

test("a trap on the calling thread or on a worker is an error here, and the pool goes on", async () => {
  const [pool, memory] = makePool(2);
  const out = memory.allocate(4 * 64);
  const args = memory.allocate(64);
  const { count, trap } = pool.add(countingModule(true, 5));
  await pool.ready();
  for (const thread of [0, 1, 1, 0]) {
    memory.i32(args, 1)[0] = thread;
    if (thread === 0) memory.i32(40, 1)[0] = 0;
    expect(() => pool.run(trap!, thread === 0 ? 1 : 50, args)).toThrow(DeviceError);
    memory.i32(args, 1)[0] = out;
    pool.run(count!, 64, args);
    expect(memory.i32(out, 64)[63]).toBe(68);
  }
  memory.i32(args, 1)[0] = 1;
  expect(() => pool.run(trap!, 50, args)).toThrow('wasm: kernel "trap" stopped with "unreachable".');
});

describe.each([
  ["process.exit()", "process.exit(3);"],
  ["the end of its memory", "const all = []; for (;;) all.push(new Array(1e5).fill({}));"],
])("a worker that dies by %s", (_, death) => {
  /** Pools from here on have workers that die when they take their eighth task, which is task 1 of 9; what they tell about it is not shown. */
  const ends: Promise<unknown>[] = [];
  function mortalPool(threads: number): [Pool, DeviceMemory] {
    const builtin = process.getBuiltinModule.bind(process);
    const real = builtin("node:worker_threads");
    class Mortal extends real.Worker {
      constructor(source: string, options: ConstructorParameters<typeof real.Worker>[1]) {
        const dies = `const add = Atomics.add;
          Atomics.add = (words, at, by) => {
            const before = add(words, at, by);
            if (at === ${control.taken} && before >>> 16 === 7) { ${death} }
            return before;
          };`;
        super(dies + source, { ...options, resourceLimits: { maxOldGenerationSizeMb: 8 } });
        ends.push(new Promise((ended) => this.once("exit", ended)));
      }
    }
    vi.spyOn(process, "getBuiltinModule").mockImplementation(((name: string) =>
      name === "node:worker_threads" ? { ...real, Worker: Mortal } : builtin(name)) as typeof process.getBuiltinModule);
    vi.spyOn(console, "warn").mockImplementation(() => {});
    return makePool(threads);
  }
  afterEach(async () => {
    await Promise.all(ends.splice(0)); // what a worker tells of its end is not shown either
    vi.restoreAllMocks();
  });

  test("inside of a job: an error, now and at every later job; what is in memory stays", async () => {
    const [pool, memory] = mortalPool(2);
    const module = new ModuleBuilder({ shared: true });
    const f = module.function("fill", ["i32", "i32", "i32"]);
    const [task, args, thread] = f.params;
    // the calling thread stays in its task until the worker has taken all others
    f.if(["i32.eqz", thread], () =>
      f.loop((again) => f.brIf(again, ["i32.lt_s", load("i32.atomic.load", 4 * control.taken), 8 * taking.back])),
    );
    f.store("i32.store", ["i32.add", load("i32.load", args), ["i32.mul", task, 4]], ["i32.add", task, 1]);
    const { fill } = pool.add(module.bytes());
    const out = memory.allocate(4 * 16);
    const argumentBlock = memory.allocate(64);
    memory.i32(argumentBlock, 1)[0] = out;
    await pool.ready();
    const dead = /^wasm: worker thread 1 ended inside of kernel "fill": .* make the device anew/;
    expect(() => pool.run(fill!, 9, argumentBlock)).toThrow(dead);
    expect(() => pool.run(fill!, 9, argumentBlock)).toThrow(DeviceError);
    expect(() => pool.run(fill!, 1, argumentBlock)).toThrow(dead);
    expect([...memory.i32(out, 9)].filter((value, i) => i !== 1 && value !== i + 1)).toEqual([]);
    expect(memory.i32(out, 9)[1]).toBe(0);
  });
});

test("a worker that ends between two jobs is not waited for", async () => {
  const builtin = process.getBuiltinModule.bind(process);
  const real = builtin("node:worker_threads");
  const started: InstanceType<typeof real.Worker>[] = [];
  class Watched extends real.Worker {
    constructor(...words: ConstructorParameters<typeof real.Worker>) {
      super(...words);
      started.push(this);
    }
  }
  vi.spyOn(process, "getBuiltinModule").mockImplementation(((name: string) =>
    name === "node:worker_threads" ? { ...real, Worker: Watched } : builtin(name)) as typeof process.getBuiltinModule);
  const [pool, memory] = makePool(3);
  await pool.ready();
  vi.restoreAllMocks();
  await started[0]!.terminate();
  const out = memory.allocate(4 * 64);
  const args = memory.allocate(64);
  memory.i32(args, 1)[0] = out;
  const { count } = pool.add(countingModule(true, 3, 10_000));
  for (let i = 0; i < 3; i++) pool.run(count!, 64, args);
  expect(memory.i32(out, 64)[63]).toBe(66);
  await pool.ready();
});

test("threads come from the option, then from LORIKEET_THREADS, then from the number of cores", () => {
  const before = process.env["LORIKEET_THREADS"];
  process.env["LORIKEET_THREADS"] = "3";
  expect(defaultThreads()).toBe(3);
  expect(makePool(2)[0].threads).toBe(2);
  process.env["LORIKEET_THREADS"] = "many";
  expect(() => defaultThreads()).toThrow("wasm: LORIKEET_THREADS (= many) must be a positive integer.");
  delete process.env["LORIKEET_THREADS"];
  expect(defaultThreads()).toBeGreaterThan(0);
  if (before !== undefined) process.env["LORIKEET_THREADS"] = before;
  expect(() => makePool(0)).toThrow(ConfigError);
  expect(makePool(4, false)[0].threads).toBe(1);
});

test("dispose gives back what the pool took from the memory", async () => {
  const [pool, memory] = makePool(2);
  pool.add(countingModule(true, 1));
  await pool.ready();
  expect(memory.statistics().internalBytes).toBeGreaterThan(0);
  pool.dispose();
  expect(memory.statistics().internalBytes).toBe(0);
});

test("a program with idle workers ends by itself", () => {
  const built = (file: string) => JSON.stringify(new URL(`../../dist/src/devices/wasm/${file}`, import.meta.url).href);
  const program = `
    import { DeviceMemory } from ${built("memory.js")};
    import { Pool } from ${built("pool.js")};
    const pool = new Pool(new DeviceMemory(), { threads: 3 });
    await pool.ready();
    console.log("ready", pool.workersReady);`;
  const { stdout, status } = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
    encoding: "utf8",
    timeout: 60_000, // for ever: it is done within a second
  });
  expect([stdout.trim(), status]).toEqual(["ready 2", 0]);
});

test("where no thread may be started the calling one does all the work, and says so once", () => {
  const builtin = process.getBuiltinModule.bind(process);
  const refusing = {
    ...builtin("node:worker_threads"),
    Worker: class {
      constructor() {
        throw new Error("Access to this API has been restricted");
      }
    },
  };
  vi.spyOn(process, "getBuiltinModule").mockImplementation(((name: string) =>
    name === "node:worker_threads" ? refusing : builtin(name)) as typeof process.getBuiltinModule);
  const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
  const [pool, memory] = makePool(4);
  const { count } = pool.add(countingModule(true, 10));
  const args = memory.allocate(64);
  const out = memory.allocate(4 * 8);
  memory.i32(args, 16).fill(0).set([out]);
  pool.run(count!, 8, args);
  pool.run(count!, 8, args);
  vi.restoreAllMocks();
  expect([...memory.i32(out, 8)]).toEqual([10, 11, 12, 13, 14, 15, 16, 17]);
  expect(memory.i32(args, 3)[1]).toBe(16);
  expect(warn.mock.calls).toEqual([["lorikeet: computing with fewer threads: Access to this API has been restricted"]]);
});
