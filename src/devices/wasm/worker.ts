/**
 * What a worker thread of the pool runs, and the control block through which it is told what to do. Read `pool.ts` first.
 *
 * The worker is a string, not a module: it imports nothing, so it starts the same way from TypeScript sources, from `dist` and from
 * a minified bundle, in Node (`eval: true`) and in browsers (a Blob URL).
 */

/** 32-bit words of the control block at address 0 of the shared memory. */
export const control = {
  /** Counts jobs; sleeping workers wait on it. */
  job: 0,
  /** Bit 31: a job is open. The other bits: workers inside it. */
  gate: 1,
  /** How many tasks have been taken: from the front and, in the upper half of the word, from the back. See `taking`. */
  taken: 2,
  tasks: 3,
  kernel: 4,
  /** Address of the argument block. */
  args: 5,
  /** Workers that wait instead of spinning. */
  sleeping: 6,
  /** Workers that have started. */
  ready: 7,
  stop: 8,
  /** Address of the first published module, 0 while there is none. */
  firstModule: 9,
  /** 1 once a kernel has trapped; the message is text from `message`. */
  failed: 10,
  messageBytes: 11,
  message: 64,
  /** A bit a thread, see `insideBit`: it is in the job, or about to enter it. */
  inside: 192,
} as const;
/** Words from `inside` on: bits of 1024 threads. */
const insideWords = 32;

/** Where the control block says that a thread is inside of the job. */
export const insideBit = (thread: number): { readonly word: number; readonly bit: number } => ({
  word: control.inside + ((thread >>> 5) % insideWords),
  bit: 1 << (thread & 31),
});

/**
 * The calling thread and every second worker take tasks from the front, the others from the back, until they meet: so a thread works where it has
 * worked in the kernel before, and finds the values in the caches of its core. From `countable` tasks on all take from the front.
 */
export const taking = { front: 1, back: 0x10000, countable: 0x8000, none: 0x7fff7fff } as const;

/** The control block takes the addresses below `reservedBytes` of `memory.ts`; this much of it is for a message. */
const messageCapacity = 512;

/** A published module: 32-bit words [address of the next, number of its first kernel, kernels, bytes], then the bytes. */
export const moduleHeaderWords = 4;

/** JavaScript of a worker, as a function of (memory, threadIndex, spins). */
export const workerSource = `(memory, thread, spins) => {
  // taken once: a shared buffer that has grown is still valid, and the control block lies at its beginning
  const words = new Int32Array(memory.buffer);
  const kernels = [], moduleOf = [];
  let lastModule = 0;

  // Makes kernel \`wanted\` callable: looks through the modules published since the last time, then compiles the one it is in.
  // That happens here, since a worker that waits on memory receives no messages; from a copy, since WebAssembly.Module refuses
  // shared bytes.
  const learn = (wanted) => {
    if (kernels[wanted] !== undefined) return;
    const all = new Int32Array(memory.buffer);
    while (moduleOf[wanted] === undefined) {
      lastModule = Atomics.load(all, lastModule === 0 ? ${control.firstModule} : lastModule >>> 2) >>> 0;
      const [, first, count] = all.subarray(lastModule >>> 2);
      for (let i = 0; i < count; i++) moduleOf[first + i] = lastModule;
    }
    const at = moduleOf[wanted];
    const [, first, , length] = all.subarray(at >>> 2);
    const bytes = new Uint8Array(length);
    bytes.set(new Uint8Array(memory.buffer, at + ${4 * moduleHeaderWords}, length));
    const instance = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } });
    Object.values(instance.exports).forEach((kernel, i) => { kernels[first + i] = kernel; });
  };

  const fail = (error) => {
    if (Atomics.compareExchange(words, ${control.failed}, 0, 1) !== 0) return;
    const text = String(error && error.message || error).slice(0, ${messageCapacity / 4});
    const bytes = new TextEncoder().encode(text);
    new Uint8Array(memory.buffer).set(bytes, ${4 * control.message});
    Atomics.store(words, ${control.messageBytes}, bytes.length);
  };

  const insideWord = ${control.inside} + ((thread >>> 5) % ${insideWords}), insideBit = 1 << (thread & 31);

  // The count of workers inside goes up only while the gate is open: afterwards the job cannot change until this worker leaves.
  const enter = () => {
    for (;;) {
      const gate = Atomics.load(words, ${control.gate});
      if (gate >= 0) return false;
      if (Atomics.compareExchange(words, ${control.gate}, gate, gate + 1) === gate) return true;
    }
  };

  const work = () => {
    try {
      const number = words[${control.kernel}];
      learn(number);
      const kernel = kernels[number], tasks = words[${control.tasks}], args = words[${control.args}];
      const isCountable = tasks < ${taking.countable}, isBack = isCountable && (thread & 1) === 1;
      for (;;) {
        const taken = Atomics.add(words, ${control.taken}, isBack ? ${taking.back} : ${taking.front});
        const front = isCountable ? taken & 0xffff : taken, back = isCountable ? taken >>> 16 : 0;
        if (front + back >= tasks) return;
        kernel(isBack ? tasks - 1 - back : front, args, thread);
      }
    } catch (error) {
      fail(error);
      Atomics.store(words, ${control.taken}, ${taking.none}); // nobody else need go on
    } finally {
      if (Atomics.sub(words, ${control.gate}, 1) === 1) Atomics.notify(words, ${control.gate});
    }
  };

  Atomics.add(words, ${control.ready}, 1);
  Atomics.notify(words, ${control.ready});
  let seen = 0;
  for (;;) {
    for (let i = 0; Atomics.load(words, ${control.job}) === seen; i++) {
      if (i < spins) continue;
      Atomics.add(words, ${control.sleeping}, 1);
      Atomics.wait(words, ${control.job}, seen);
      Atomics.sub(words, ${control.sleeping}, 1);
      i = 0;
    }
    seen = Atomics.load(words, ${control.job});
    if (Atomics.load(words, ${control.stop}) !== 0) return;
    Atomics.or(words, insideWord, insideBit);
    if (enter()) work();
    Atomics.and(words, insideWord, ~insideBit);
  }
}`;
