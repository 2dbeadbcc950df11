/** The engine's Worker: does what the page asks for, one thing after the other, and tells what it is doing. */

import { fieldsOf } from "../src/cli/method-option.ts";
import { LorikeetError } from "../src/errors.ts";
import { useDevice } from "../src/index.ts";
import { type MethodName, methods } from "../src/peft/index.ts";
import { makeDevice, wishes } from "./device.ts";
import { claimRun } from "./owner.ts";
import type { Command, DeviceWish, EngineEvent } from "./protocol.ts";
import { Run, type Sources } from "./run.ts";
import { problemWith, Store } from "./store.ts";

const tell = (event: EngineEvent): void => self.postMessage(event);
const nothingGiven = { use, modelFiles: [], textFile: null };

/** The device and what it was asked for as. */
let current: { readonly wish: DeviceWish; readonly values: number; readonly device: Disposable } | undefined;

async function use(wish: DeviceWish, values: number): Promise<void> {
  if (current?.wish === wish && current.values === values) return;
  current?.device[Symbol.dispose]();
  current = undefined;
  const device = await makeDevice(wish, values);
  useDevice(device);
  current = { wish, values, device };
}

let store: Store | undefined;
let run: Run | undefined;
let sources: Sources = { store, ...nothingGiven };

async function begin(): Promise<void> {
  store = (await claimRun()) ? await Store.open() : undefined;
  sources = { store, ...nothingGiven };
  const choices = (Object.keys(methods) as MethodName[]).map((name) => ({ name, fields: fieldsOf(name) }));
  tell({ type: "ready", methods: choices, devices: wishes, keeps: store !== undefined });
  const settings = await store?.settings();
  if (!settings) return idle();
  tell({ type: "opening", settings });
  await open(settings, await store?.checkpoint());
}

const idle = (): void => tell({ type: "phase", phase: "idle", note: "" });

/** Reads a run, and shows it when it was kept. */
async function open(settings: Run["settings"], checkpoint?: Uint8Array): Promise<void> {
  run = await Run.open(settings, sources, tell, checkpoint);
  tell({ type: "kept", run: run.kept });
  run.tellPhase();
}

/** @param pause ends the training that the command begins */
async function obey(command: Exclude<Command, { type: "pause" }>, pause: AbortSignal): Promise<void> {
  switch (command.type) {
    case "start": {
      const { settings, modelFiles, textFile } = command;
      close();
      tell({ type: "phase", phase: "reading", note: "Reading the files" });
      sources = { use, store: await keepFiles(command), modelFiles, textFile };
      run = await Run.open(settings, sources, tell);
      return run.train(pause);
    }
    case "continue":
      return run?.train(pause);
    case "discard":
      close();
      await store?.clear();
      return idle();
    case "scale":
      return run?.rescale(command.scale);
    case "try":
      return run?.tryPrompt(command.prompt);
    case "adapter":
      if (run) tell({ type: "file", name: "adapter.zip", blob: await run.adapter() });
      return;
    case "gguf":
      if (run) tell({ type: "file", name: "adapter.gguf", blob: await run.gguf() });
      return;
    case "merged":
      return merged();
  }
}

/** The store, with the run's files in it; `undefined` when they are more than the browser gives room for. */
async function keepFiles({ settings, modelFiles, textFile }: Extract<Command, { type: "start" }>): Promise<Store | undefined> {
  const kept = store;
  if (!kept) return undefined;
  const files = [settings.model === null ? [] : modelFiles, settings.text === null ? null : textFile] as const;
  const problem = await problemWith(() => kept.begin(settings, ...files));
  if (problem !== null) await kept.clear();
  tell({ type: "keeping", problem });
  return problem === null ? kept : undefined;
}

/** What can be done between two steps. */
const isShort = ({ type }: Command): boolean => ["scale", "try", "adapter", "gguf"].includes(type);

async function merged(): Promise<void> {
  if (!run) return;
  const { settings } = run;
  const state = await run.encode();
  try {
    tell({ type: "file", name: "merged.zip", blob: await run.merged() });
  } finally {
    close();
    await open(settings, state);
  }
}

function close(): void {
  run?.[Symbol.dispose]();
  run = undefined;
}

/** Says what went wrong, and what there still is. */
function report(error: unknown): void {
  if (!(error instanceof LorikeetError)) console.error(error);
  tell({ type: "problem", message: error instanceof Error ? error.message : String(error) });
  if (!run) idle();
  else if (!run.isRunning) run.tellPhase();
}

let last = begin().catch(report);
/** Of everything that was asked for up to now, also of what still waits for its turn. */
let pause = new AbortController();

addEventListener("message", ({ data: command }: MessageEvent<Command>) => {
  if (["pause", "discard", "start"].includes(command.type)) {
    pause.abort();
    pause = new AbortController();
  }
  if (command.type === "pause") return;
  const { signal } = pause;
  if (run?.isRunning && isShort(command)) run.betweenSteps(() => obey(command, signal).catch(report));
  else last = last.then(() => obey(command, signal)).catch(report);
});
