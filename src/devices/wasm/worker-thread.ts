/** A thread of the pool as its owner sees it: started, asked whether it still lives, stopped. What it runs is `worker.ts`. */
import type { MessagePort } from "node:worker_threads";
import { nodeModule } from "./features.ts";
import { workerSource } from "./worker.ts";

/** How often a worker looks for the next job before it sleeps: some hundred microseconds. */
const workerSpins = 20_000;

/** A thread that was started. */
export interface WorkerThread {
  /** Whether it has ended, as far as can be told without returning to the event loop: in a browser that cannot be told. */
  ended(): boolean;
  dispose(): void;
}

/** Nothing is wrong with the results, but somebody may wonder why they take so long. */
export const tellOfFewerThreads = (error: unknown): void =>
  console.warn(`lorikeet: computing with fewer threads: ${error instanceof Error ? error.message : String(error)}`);

/** @throws whatever the host throws where no thread may be started */
export function startWorker(memory: WebAssembly.Memory, thread: number): WorkerThread {
  const threads = nodeModule<typeof import("node:worker_threads")>("node:worker_threads");
  if (threads !== undefined) return startInNode(threads, memory, thread);
  const source = `onmessage = ({ data: { memory, thread } }) => (${workerSource})(memory, thread, ${workerSpins})`;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(url, { name: `lorikeet ${thread}` });
  worker.onerror = (event) => tellOfFewerThreads(event.message ?? "a worker could not start");
  worker.postMessage({ memory, thread });
  return {
    ended: () => false,
    dispose() {
      worker.terminate();
      URL.revokeObjectURL(url);
    },
  };
}

/**
 * A worker that ends (killed, out of memory, `process.exit`) tells so by an event, which nobody receives while the calling thread waits
 * for a job. But its end of a message channel closes with it, and a port whose other end is closed can be handed on no more:
 * that shows at once.
 */
function startInNode(
  { Worker, MessageChannel, receiveMessageOnPort }: typeof import("node:worker_threads"),
  memory: WebAssembly.Memory,
  thread: number,
): WorkerThread {
  const lifeline = new MessageChannel();
  const source = `const { memory, thread } = require("node:worker_threads").workerData;(${workerSource})(memory, thread, ${workerSpins})`;
  // no execArgv: loaders and inspectors of the main program are none of the worker's business
  const worker = new Worker(source, {
    eval: true,
    workerData: { memory, thread, lifeline: lifeline.port2 },
    transferList: [lifeline.port2],
    execArgv: [],
  });
  let [near, ended]: [MessagePort, boolean] = [lifeline.port1, false];
  worker.on("error", tellOfFewerThreads);
  worker.on("exit", () => {
    ended = true;
    near.close();
  });
  worker.unref(); // an idle worker does not keep the program running
  return {
    ended() {
      if (ended) return true;
      const { port1, port2 } = new MessageChannel();
      try {
        receiveMessageOnPort(near); // learns of the closing; no messages are sent
        port1.postMessage(near, [near]);
        near = receiveMessageOnPort(port2)!.message as MessagePort;
      } catch {
        ended = true;
      }
      port1.close();
      return ended;
    },
    dispose() {}, // ends by itself once told to stop
  };
}
