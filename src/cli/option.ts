/** Reading the values of command-line options. Each parser refuses with one sentence. */
import { InvalidArgumentError } from "commander";

/** A whole number from `least` to `most`. */
export const whole =
  (least = 1, most = 2 ** 31 - 1) =>
  (text: string): number => {
    const value = /^[+-]?\d+$/.test(text.trim()) ? Number(text) : Number.NaN;
    if (!(value >= least && value <= most))
      throw new InvalidArgumentError(`It must be a whole number from ${least}${most < 2 ** 31 - 1 ? ` to ${most}` : ""}.`);
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
