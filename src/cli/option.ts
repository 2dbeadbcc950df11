/** Reading the values of command-line options. Each parser refuses with one sentence. */
import { InvalidArgumentError } from "commander";

/** A whole number from `least` to `most`. */
export const whole =
  (least = 1, most = 2 ** 31 - 1) =>
  (text: string): number => {
    const value = /^[+-]?\d+$/.test(text.trim()) ? Number(text) : Number.NaN;
    if (!(value >= least && value <= most))
      throw new InvalidArgumentError(`It must be a whole number from ${least}${value > most ? ` to ${most}` : ""}.`);
    return value;
  };

/** A number above 0. */
export function positive(text: string): number {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (!(value > 0) || !Number.isFinite(value)) throw new InvalidArgumentError("It must be a number above 0.");
  return value;
}

/** A number from 0. */
export function nonNegative(text: string): number {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (!(value >= 0) || !Number.isFinite(value)) throw new InvalidArgumentError("It must be a number from 0.");
  return value;
}

/** A number from 0 to 1. */
export function share(text: string): number {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (!(value >= 0 && value <= 1)) throw new InvalidArgumentError("It must be a number from 0 to 1.");
  return value;
}

/** A number above 0 up to 1. */
export function someShare(text: string): number {
  const value = share(text);
  if (value === 0) throw new InvalidArgumentError("It must be a number above 0 up to 1.");
  return value;
}

/** A name of a file or folder; an empty one is a variable of the shell that was not set. */
export function path(text: string): string {
  if (text.trim() === "") throw new InvalidArgumentError("It must name a file or folder.");
  return text;
}

/** For an option that may be given several times: its values, each read by `parse`. */
export const repeated =
  <Value>(parse: (text: string) => Value) =>
  (text: string, before: readonly Value[] = []): readonly Value[] => [...before, parse(text)];
