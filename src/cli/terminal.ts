/** What people see while a command works: all on standard error, so that standard output holds results only. */
import { relative } from "node:path";
import process from "node:process";
import { Presets, SingleBar } from "cli-progress";
import type { StepEvent } from "../train/progress.ts";
import { clock, words } from "./quantity.ts";

/** One line for people. */
export const say = (line = ""): void => {
  process.stderr.write(`${line}\n`);
};

/**
 * A part of a result. Who reads may be slow, and is waited for, or gone. A terminal gets no control characters, which it would obey.
 *
 * @returns whether somebody reads on
 */
export function print(text: string, stream: NodeJS.WriteStream = process.stdout): Promise<boolean> {
  const safe = stream.isTTY ? text.replace(/(?![\t\n])\p{Cc}/gu, "\ufffd") : text;
  return new Promise((told) => void stream.write(safe, (error) => told(!error)));
}

/** A path as one would type it. */
export const shown = (path: string): string => {
  const near = relative(process.cwd(), path);
  return near.startsWith("..") || near === "" ? path : near;
};

/** Tells how far long work has come, every ten seconds; of short work it says nothing. */
export function progress(what: string, total: number): (done: number) => void {
  let told = performance.now();
  return (done) => {
    if (performance.now() - told < 10_000) return;
    told = performance.now();
    say(`${what} ${words(done)} of ${words(total)} ...`);
  };
}

/** The bar of a training run: a live line in a terminal, a line every ten seconds elsewhere. */
export class TrainingBar {
  readonly #bar: SingleBar;
  #average: number | null = null;
  #started = false;

  /** @param of what it says first */
  constructor(of = "") {
    const columns = process.stderr.columns ?? 100;
    this.#bar = new SingleBar(
      {
        format: `${of}{bar} {value}/{total} · loss {loss} · {speed} tokens/s · {left} left`,
        barsize: Math.max(8, Math.min(30, columns - 68 - of.length)),
        stream: process.stderr,
        hideCursor: true,
        clearOnComplete: true, // what was measured stays, each on a line of its own
        gracefulExit: false, // Ctrl-C is ours: the step is finished and saved
        noTTYOutput: true,
        notTTYSchedule: 10_000,
        linewrap: false,
        fps: 5,
      },
      Presets.shades_classic,
    );
  }

  update({ step, steps, loss, tokensPerSecond, secondsLeft }: StepEvent): void {
    this.#average = this.#average === null ? loss : this.#average * 0.9 + loss * 0.1;
    const values = { loss: this.#average.toFixed(3), speed: words(tokensPerSecond), left: clock(secondsLeft) };
    if (!this.#started) this.#bar.start(steps, step, values);
    else {
      this.#bar.setTotal(steps);
      this.#bar.update(step, values);
    }
    this.#started = true;
  }

  /** A line above the bar, which goes on below it. */
  note(line: string): void {
    if (this.#started && process.stderr.isTTY) {
      this.#bar.stop();
      this.#started = false;
    }
    say(line);
  }

  stop(): void {
    if (this.#started) this.#bar.stop();
    this.#started = false;
  }
}
