/** The page: shows what the engine tells, and tells it what the person wants. */
import { drawCurve } from "./curve.ts";
import { button, byId, element } from "./element.ts";
import { defendRun } from "./owner.ts";
import type { Command, EngineEvent, Phase, Settings } from "./protocol.ts";
import { reportOf } from "./report.ts";
import { RunView, showScale, tell } from "./run-view.ts";
import { showOwnPrompt, showSample } from "./samples.ts";
import { prepareSetup } from "./setup.ts";

const engine = new Worker(new URL("./engine.ts", import.meta.url), { type: "module", name: "lorikeet" });
const ask = (command: Command): void => engine.postMessage(command);
const setup = byId("setup", HTMLFormElement);
const runSection = element("run");
const scale = byId("scale", HTMLInputElement);

const keptNote = "The run is kept in this browser: a reload loses nothing.";

let view: RunView | undefined;

function showProblem(message: string): void {
  element("problem").textContent = message;
  element("problem").hidden = message === "";
  if (message !== "") element("problem").scrollIntoView({ block: "nearest" });
}

function begin(settings: Settings): RunView {
  view = new RunView(settings);
  setup.hidden = true;
  runSection.hidden = false;
  return view;
}

function showPhase(phase: Phase, note: string): void {
  if (phase !== "idle") {
    view?.showPhase(phase, note);
    keepAwake(view?.isRunning ?? false);
    return;
  }
  view = undefined;
  setup.hidden = false;
  runSection.hidden = true;
  document.title = "lorikeet: fine-tune a language model in this tab";
  keepAwake(false);
}

const shows: { readonly [Type in EngineEvent["type"]]: (event: Extract<EngineEvent, { readonly type: Type }>) => void } = {
  ready({ methods, devices, keeps }) {
    if (keeps) defendRun();
    element("starting").hidden = true;
    prepareSetup(methods, devices, (command) => {
      showProblem("");
      begin(command.settings);
      element("work").focus();
      ask(command);
    });
    element("kept-note").textContent = keeps
      ? keptNote
      : "This browser keeps nothing for this page (a private window, or another tab has it open): a reload loses the run.";
    if (!globalThis.crossOriginIsolated)
      element("threads").textContent = "This server does not isolate the page, so the engine has one thread.";
  },
  opening: ({ settings }) => void begin(settings),
  phase: ({ phase, note }) => showPhase(phase, note),
  kept: ({ run }) => view?.showKept(run),
  facts: ({ facts }) => view?.showFacts(facts),
  before: ({ perplexity }) => view?.showBefore(perplexity),
  step: ({ event, bytesInUse }) => view?.showStep(event, bytesInUse),
  evaluation: ({ event }) => view?.showEvaluation(event),
  sample: ({ side, prompt, text, done }) => showSample(side, prompt, text, done),
  outcome: ({ outcome }) => view?.showOutcome(outcome),
  keeping({ problem }) {
    element("kept-note").textContent = problem ? "The run goes on, and a reload loses what is new in it." : keptNote;
    showProblem(problem ?? "");
  },
  file: ({ name, blob }) => download(name, blob),
  problem: ({ message }) => showProblem(message),
};

/** Hands a file to the person. */
function download(name: string, blob: Blob): void {
  const url = URL.createObjectURL(blob);
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
  tell(`${name} is ready.`);
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

let awake: WakeLockSentinel | undefined;

/** A phone that falls asleep stops computing. */
async function keepAwake(running: boolean): Promise<void> {
  try {
    if (running && !awake) awake = await navigator.wakeLock.request("screen");
    if (!running) {
      await awake?.release();
      awake = undefined;
    }
  } catch {
    // not everywhere, and not in a page that is not looked at: it was only a wish
  }
}

engine.addEventListener("message", ({ data }: MessageEvent<EngineEvent>) =>
  (shows[data.type] as (event: EngineEvent) => void)(data),
);
engine.addEventListener("error", ({ message }) => {
  showProblem(`The engine could not start: ${message || "its script was not loaded"}. Reload the page, or try a newer browser.`);
});

button("pause").addEventListener("click", () => {
  ask({ type: "pause" });
  element("phase").textContent = "Pausing after this step";
});
button("continue").addEventListener("click", () => {
  showProblem("");
  ask({ type: "continue" });
  button("pause").hidden = false;
  button("pause").focus();
  button("continue").hidden = true;
});
button("discard").addEventListener("click", () => {
  const trained = view && view.history.loss.length > 0;
  if (trained && !confirm("Forget this run? What was trained and not downloaded is gone.")) return;
  showProblem("");
  ask({ type: "discard" });
});
button("get-adapter").addEventListener("click", () => ask({ type: "adapter" }));
button("get-gguf").addEventListener("click", () => ask({ type: "gguf" }));
button("get-merged").addEventListener("click", () => {
  button("get-merged").disabled = true;
  tell("Merging the adapter into the weights.");
  ask({ type: "merged" });
});
button("get-report").addEventListener("click", () => {
  if (view) download("report.html", new Blob([reportOf(view)], { type: "text/html" }));
});
scale.addEventListener("input", showScale);
scale.addEventListener("change", () => ask({ type: "scale", scale: Number(scale.value) }));
byId("try", HTMLFormElement).addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = byId("prompt", HTMLInputElement).value;
  showOwnPrompt(prompt);
  ask({ type: "try", prompt });
});
// a phone that is turned
addEventListener("resize", () => view && drawCurve(view.history, view.settings.steps));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => event.preventDefault());
