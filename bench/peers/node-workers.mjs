/** A Worker as browsers have it, for a peer that wants one. */
import { resolveObjectURL } from "node:buffer";
import { Worker as NodeWorker } from "node:worker_threads";

const prelude =
  "const {parentPort}=require('node:worker_threads');globalThis.self=globalThis;globalThis.postMessage=(m)=>parentPort.postMessage(m);parentPort.on('message',(data)=>self.onmessage({data}));\n";

export function provideWorkers(threads) {
  if (globalThis.navigator?.hardwareConcurrency !== threads)
    Object.defineProperty(globalThis, "navigator", { value: { hardwareConcurrency: threads }, configurable: true });
  globalThis.Worker = class {
    waiting = [];
    constructor(url) {
      resolveObjectURL(String(url))
        .text()
        .then((source) => {
          this.worker = new NodeWorker(prelude + source, { eval: true });
          this.worker.on("message", (data) => this.onmessage?.({ data }));
          this.worker.on("error", (error) => this.onerror?.(error));
          for (const message of this.waiting) this.worker.postMessage(message);
          this.waiting = null;
        });
    }
    postMessage(message) {
      if (this.waiting) this.waiting.push(message);
      else this.worker.postMessage(message);
    }
  };
}
