/** Turns of the event loop. Devices may compute without ever giving one up, and an `await` of what is there already is none. */

/** Lets timers, signals, the page and the collector's news of what nobody holds any more have their turn. */
export const yieldToOthers = (): Promise<void> =>
  new Promise((resume) => {
    if (typeof setImmediate === "function") setImmediate(resume);
    else afterMessages(resume);
  });

let messages: MessageChannel | undefined;

/** Browsers let a timer wait for milliseconds, and for a second in a page that is not looked at; a message they deliver at once. */
function afterMessages(resume: () => void): void {
  messages ??= new MessageChannel();
  messages.port1.addEventListener("message", resume, { once: true });
  messages.port1.start();
  messages.port2.postMessage(null);
}

/** Milliseconds that a program may go on without a turn where it could have one. */
const longest = 50;
let last = 0;

/** A turn, unless there was one a moment ago. Without any the memory of dropped tensors is never given back: finalisers wait for one. */
export async function yieldNowAndThen(): Promise<void> {
  if (performance.now() - last < longest) return;
  await yieldToOthers();
  last = performance.now();
}

interface VirtualMachine {
  createContext(global: object, options: { readonly microtaskMode: "afterEvaluate" }): object;
  runInContext(code: string, context: object): unknown;
}

const machine = globalThis.process?.getBuiltinModule?.("node:vm") as VirtualMachine | undefined;
let context: object | undefined;

/**
 * Makes weak references forget what they keep until the end of the turn, in Node: what was made or looked at in this turn, and is not held
 * otherwise, may be collected before the turn ends. A context with promises of its own ends a turn of its own whenever it has run.
 */
export const forgetKept: (() => void) | undefined =
  machine &&
  (() => {
    context ??= machine.createContext({}, { microtaskMode: "afterEvaluate" });
    machine.runInContext("0", context);
  });
