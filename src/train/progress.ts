/** How far a training run has come: what is told after steps, kept for curves and saved in checkpoints, and how fast it goes. */
import type { Evaluation } from "./evaluate.ts";

/** After a step. */
export interface StepEvent {
  /** Steps done, this one included. */
  readonly step: number;
  readonly steps: number;
  /** Mean over the labels of this batch, before the step. */
  readonly loss: number;
  readonly learningRate: number;
  /** Norm of all gradients together before clipping. */
  readonly gradientNorm: number;
  /** Tokens learned from so far, or texts and images of a classifier. */
  readonly tokens: number;
  /** Of the last steps. */
  readonly tokensPerSecond: number;
  /** Spent in training steps so far. */
  readonly seconds: number;
  /** Until the last step, at the speed of the last steps. */
  readonly secondsLeft: number;
}

/** After an evaluation on the way. */
export interface EvaluationEvent extends Evaluation {
  /** Steps done. */
  readonly step: number;
}

/** What was measured on the way, for curves. */
export interface History {
  /** One entry a step. */
  readonly loss: number[];
  readonly learningRate: number[];
  readonly evaluations: EvaluationEvent[];
}

/** What a run has done. */
export interface TrainingResult {
  /** Steps done since the run began, before it was resumed included. */
  readonly step: number;
  /** Whether all steps were done. */
  readonly finished: boolean;
  readonly tokens: number;
  /** Spent in training steps, evaluations left out. */
  readonly seconds: number;
  /** Mean over the run, without the step in which the program was made. */
  readonly tokensPerSecond: number;
  readonly history: History;
}

/** Steps whose time decides what is left. */
const recentSteps = 20;

/** Tokens, and the seconds that they took. */
interface Pace {
  readonly tokens: number;
  readonly seconds: number;
}

const sumOf = (paces: readonly Pace[]): Pace =>
  paces.reduce((sum, { tokens, seconds }) => ({ tokens: sum.tokens + tokens, seconds: sum.seconds + seconds }), {
    tokens: 0,
    seconds: 0,
  });

/** What a checkpoint keeps of it. */
export interface SavedProgress extends Pace {
  readonly step: number;
  readonly timed: Pace;
  readonly history: History;
}

/** The count of steps, tokens and seconds of one run. */
export class Progress {
  history: History = { loss: [], learningRate: [], evaluations: [] };
  #step = 0;
  #spent: Pace = { tokens: 0, seconds: 0 };
  /** The steps that were not slowed down by making the program. */
  #timed: Pace = { tokens: 0, seconds: 0 };
  #recent: readonly Pace[] = [];

  /** Steps done. */
  get step(): number {
    return this.#step;
  }

  /** The speed of steps before now says nothing about those to come. */
  begin(): void {
    this.#recent = [];
  }

  /** Counts a step, whose values decide what comes next: before anything else is said about it. */
  count(): number {
    return ++this.#step;
  }

  /**
   * Notes what a counted step was like.
   *
   * @param slow it made the program, which says nothing about the speed of the others
   * @param steps of the whole run
   */
  note(
    measured: Pick<StepEvent, "loss" | "learningRate" | "gradientNorm">,
    pace: Pace,
    { slow, steps }: { readonly slow: boolean; readonly steps: number },
  ): StepEvent {
    this.#spent = sumOf([this.#spent, pace]);
    this.history.loss.push(measured.loss);
    this.history.learningRate.push(measured.learningRate);
    if (!slow) {
      this.#timed = sumOf([this.#timed, pace]);
      this.#recent = [...this.#recent, pace].slice(-recentSteps);
    }
    const recent = this.#recent.length > 0 ? this.#recent : [pace];
    const { tokens, seconds } = sumOf(recent);
    return {
      step: this.#step,
      steps,
      ...measured,
      ...this.#spent,
      tokensPerSecond: tokens / seconds,
      secondsLeft: (seconds / recent.length) * (steps - this.#step),
    };
  }

  /** What was done so far of a run of so many steps. */
  result(steps: number): TrainingResult {
    const { tokens, seconds } = this.#timed.seconds > 0 ? this.#timed : this.#spent;
    return {
      step: this.#step,
      finished: this.#step >= steps,
      ...this.#spent,
      tokensPerSecond: seconds > 0 ? tokens / seconds : 0,
      history: this.history,
    };
  }

  /** Plain data from which `restore` goes on. */
  save(): SavedProgress {
    return { step: this.#step, ...this.#spent, timed: this.#timed, history: this.history };
  }

  restore({ step, tokens, seconds, timed, history }: SavedProgress): void {
    this.#step = step;
    this.#spent = { tokens, seconds };
    this.#timed = timed;
    const { loss, learningRate, evaluations } = history;
    this.history = { loss: [...loss], learningRate: [...learningRate], evaluations: [...evaluations] };
  }
}
