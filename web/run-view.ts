/** The run as it goes: what it is doing, its numbers, and which buttons make sense. */

import { clock, megabytes, words } from "../src/cli/quantity.ts";
import type { EvaluationEvent, History, StepEvent } from "../src/train/index.ts";
import { drawCurve } from "./curve.ts";
import { button, byId, element } from "./element.ts";
import type { Facts, KeptRun, Outcome, Phase, Settings } from "./protocol.ts";
import { showPrompts, showSample } from "./samples.ts";

const progress = byId("progress", HTMLProgressElement);
const scale = byId("scale", HTMLInputElement);
const modelName = (settings: Settings): string => settings.model ?? "Tiny Llama";
const textName = (settings: Settings): string => settings.text ?? "Moby-Dick";

/** The title of a run, also of its report. */
export const titleOf = (settings: Settings): string => `${settings.method} on ${textName(settings)}`;

/** Everything that is shown of the run; made anew for each. */
export class RunView {
  readonly settings: Settings;
  history: History = { loss: [], learningRate: [], evaluations: [] };
  facts: Facts | null = null;
  outcome: Outcome | null = null;
  #before: number | null = null;
  #phase: Phase = "idle";
  #smoothLoss: number | null = null;

  constructor(settings: Settings) {
    this.settings = settings;
    for (const id of ["step", "loss", "perplexity", "speed", "left", "memory"]) element(id).textContent = "–";
    progress.value = 0;
    scale.value = "1";
    showScale();
    element("about").textContent = this.#about();
    element("warnings").textContent = "";
    showPrompts(settings.prompts);
    drawCurve(this.history, settings.steps);
  }

  #about(): string {
    const { settings, facts } = this;
    const { method, rank, alpha } = settings;
    const sizes = [...(rank === undefined ? [] : [`rank ${rank}`]), ...(alpha === undefined ? [] : [`alpha ${alpha}`])];
    const counts = facts ? `, ${words(facts.parameters)} values` : "";
    const trained = facts ? `: ${words(facts.trainable)} values to train` : "";
    return `${modelName(settings)}${counts} · ${textName(settings)} · ${[method, ...sizes].join(", ")}${trained}`;
  }

  showPhase(phase: Phase, note: string): void {
    this.#phase = phase;
    element("phase").textContent = note;
    document.title = phase === "training" ? document.title : `${note} · lorikeet`;
    tell(note);
    const [running, waiting] = [["measuring", "training", "finishing"].includes(phase), phase === "paused"];
    button("pause").hidden = !running;
    button("continue").hidden = !waiting;
    button("discard").disabled = phase === "reading";
    scale.disabled = !(this.facts?.scales ?? true) || phase === "reading";
    const done = this.history.loss.length > 0;
    button("get-adapter").disabled = !done || phase === "reading";
    button("get-gguf").disabled = !done || phase === "reading" || this.facts?.fitsGguf === false;
    button("get-merged").disabled = !done || running || phase === "reading" || this.facts?.merges === false;
    button("get-report").disabled = !done;
    if (running === false) element("left").textContent = "–";
  }

  get isRunning(): boolean {
    return ["measuring", "training", "finishing"].includes(this.#phase);
  }

  showFacts(facts: Facts): void {
    this.facts = facts;
    element("about").textContent = this.#about();
    element("threads").textContent = `Computing on ${facts.device}.`;
    this.#showMemory(null);
    element("scale-hint").textContent = facts.scales
      ? "0 is the model as it was, 1 is as trained. The weights themselves are not changed."
      : "Virtual tokens have no strength: they are there or not.";
    element("warnings").textContent = facts.warnings.map((warning) => `Note: ${warning}`).join(" ");
    element("keep-hint").textContent = [
      "The adapter is a folder that Hugging Face PEFT loads.",
      facts.fitsGguf ? "llama.cpp, Ollama and LM Studio put the .gguf file on this model." : "",
      facts.merges
        ? "The merged model is one that transformers loads."
        : "This adapter is not a change of the weights, so there is no merged model.",
    ].join(" ");
  }

  #showMemory(inUse: number | null): void {
    const planned = this.facts?.plan.planned;
    if (planned === undefined) return;
    element("memory").innerHTML =
      inUse === null ? `<small>plan</small> ${megabytes(planned)}` : `${megabytes(inUse)} <small>/ ${megabytes(planned)}</small>`;
  }

  showBefore(perplexity: number): void {
    this.#before = perplexity;
    element("perplexity").textContent = perplexity.toFixed(1);
  }

  showStep(event: StepEvent, bytesInUse: number): void {
    const { step, steps, loss, learningRate, tokensPerSecond, secondsLeft } = event;
    this.history.loss.push(loss);
    this.history.learningRate.push(learningRate);
    this.#smoothLoss = this.#smoothLoss === null ? loss : this.#smoothLoss * 0.9 + loss * 0.1;
    this.#showProgress(step, steps);
    element("loss").textContent = this.#smoothLoss.toFixed(3);
    element("speed").textContent = words(tokensPerSecond);
    element("left").textContent = clock(secondsLeft);
    this.#showMemory(bytesInUse);
    document.title = `${Math.floor((100 * step) / steps)} % · lorikeet`;
    button("get-adapter").disabled = false;
    button("get-gguf").disabled = this.facts?.fitsGguf === false;
    button("get-report").disabled = false;
    drawCurve(this.history, this.settings.steps);
  }

  #showProgress(step: number, steps: number): void {
    element("step").innerHTML = `${words(step)} <small>of ${words(steps)}</small>`;
    progress.max = steps;
    progress.value = step;
  }

  showEvaluation(event: EvaluationEvent): void {
    this.history.evaluations.push(event);
    this.#showPerplexity(event.perplexity);
    if (event.step > 0) tell(`After step ${event.step}: held-out perplexity ${event.perplexity.toFixed(1)}.`);
    drawCurve(this.history, this.settings.steps);
  }

  #showPerplexity(now: number): void {
    const before = this.#before;
    element("perplexity").innerHTML =
      before === null ? now.toFixed(1) : `<small>${before.toFixed(1)} →</small> ${now.toFixed(1)}`;
  }

  showOutcome(outcome: Outcome): void {
    this.outcome = outcome;
    this.#before = outcome.perplexityBefore;
    this.#showPerplexity(outcome.perplexityAfter);
    element("speed").textContent = words(outcome.tokensPerSecond);
    tell(
      `Finished: held-out perplexity ${outcome.perplexityBefore.toFixed(1)} before, ${outcome.perplexityAfter.toFixed(1)} after.`,
    );
  }

  /** Everything at once, after a reload. */
  showKept({ step, steps, history, perplexityBefore, samples, outcome }: KeptRun): void {
    this.history = history;
    if (perplexityBefore !== null) this.showBefore(perplexityBefore);
    const last = history.evaluations.at(-1);
    if (last) this.#showPerplexity(last.perplexity);
    if (step > 0) {
      this.#showProgress(step, steps);
      element("loss").textContent = history.loss.at(-1)?.toFixed(3) ?? "–";
    }
    for (const side of ["base", "adapted"] as const)
      samples[side].forEach((text, prompt) => void showSample(side, prompt, text, true));
    if (outcome) this.showOutcome(outcome);
    drawCurve(this.history, this.settings.steps);
  }
}

/** The number beside the slider. */
export function showScale(): void {
  const value = Number(scale.value).toFixed(2);
  element("scale-value").textContent = value;
  scale.setAttribute("aria-valuetext", value);
}

/** Read out to those who do not see the page. */
export const tell = (news: string): void => void (element("news").textContent = news);
