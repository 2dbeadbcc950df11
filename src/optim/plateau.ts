/** A learning rate that falls when a measured value gets no better. */
import { checkOptions, requireKind } from "../errors.ts";
import type { Schedule } from "./schedule.ts";

/** When the rate falls, and by how much. */
export interface PlateauOptions {
  /** What the rate is multiplied by. */
  readonly factor?: number;
  /** So many values in a row may be no better. */
  readonly patience?: number;
  /** What is better is so by more than this share of the best. */
  readonly threshold?: number;
  /** So many values after a fall count for nothing. */
  readonly cooldown?: number;
  /** The rate does not fall below. */
  readonly min?: number;
  /** Of two values the larger one is better: an accuracy, not a loss. */
  readonly largerIsBetter?: boolean;
}

/** Where such a schedule stands: plain data for a checkpoint. */
export type PlateauState = {
  readonly best: number | null;
  /** Values in a row that were no better. */
  readonly worse: number;
  /** Values yet to come that count for nothing. */
  readonly cooling: number;
  /** How often the rate fell. */
  readonly falls: number;
};

/**
 * PyTorch's ReduceLROnPlateau: `observe` a held-out loss, and the rate of `schedule` falls once it is no better for long.
 *
 * @example
 * const plateau = new PlateauSchedule({ factor: 0.5, patience: 0 });
 * for (const loss of [3, 2, 2]) plateau.observe(loss);
 * plateau.schedule(3, 0.1)   // 0.05
 */
export class PlateauSchedule {
  readonly #options: Required<PlateauOptions>;
  #state: PlateauState = { best: null, worse: 0, cooling: 0, falls: 0 };

  constructor(options: PlateauOptions = {}) {
    const given = checkOptions("PlateauSchedule", options, {
      factor: "a number from 0 below 1",
      patience: "a whole number from 0",
      threshold: "a number from 0",
      cooldown: "a whole number from 0",
      min: "a number from 0",
      largerIsBetter: "true or false",
    });
    const { factor = 0.1, patience = 10, threshold = 1e-4, cooldown = 0, min = 0, largerIsBetter = false } = given;
    this.#options = { factor, patience, threshold, cooldown, min, largerIsBetter };
  }

  /** The rate as it is now; the step does not count. For `setLearningRate` and for a Trainer. */
  readonly schedule: Schedule = (_step, base) => {
    const { factor, min } = this.#options;
    return this.#state.falls === 0 ? base : Math.max(min, base * factor ** this.#state.falls);
  };

  /** Takes a value in. @throws {ConfigError} for what is no number */
  observe(value: number): void {
    requireKind("observe", "a number", { value });
    const { patience, threshold, cooldown, largerIsBetter } = this.#options;
    const { best, worse, cooling, falls } = this.#state;
    const isBetter = best === null || (largerIsBetter ? value > best * (1 + threshold) : value < best * (1 - threshold));
    const row = isBetter || cooling > 0 ? 0 : worse + 1;
    const next = { best: isBetter ? value : best, worse: row, cooling: Math.max(0, cooling - 1), falls };
    this.#state = row > patience ? { ...next, worse: 0, cooling: cooldown, falls: falls + 1 } : next;
  }

  /** Where it stands, for a checkpoint. */
  get state(): PlateauState {
    return this.#state;
  }

  /** Goes on where another one stood. @throws {ConfigError} for what is no such state */
  set state(saved: PlateauState) {
    requireKind("PlateauSchedule", "an object", { state: saved });
    const { best, worse, cooling, falls } = saved;
    requireKind("PlateauSchedule", "a whole number from 0", { worse, cooling, falls });
    if (best !== null) requireKind("PlateauSchedule", "a number", { best });
    this.#state = { best, worse, cooling, falls };
  }
}
