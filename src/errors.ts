/** The errors that people meet: one class by what the caller can do about it, one sentence each. */

/** The named parts of an error, so that tests and tools need not parse the sentence. */
export interface ErrorFields {
  readonly operation: string;
  readonly expected?: unknown;
  readonly got?: unknown;
  readonly hint?: string;
}

/** Base of every error that lorikeet throws on purpose: `operation: what is wrong. The way out.` */
export class LorikeetError extends Error {
  readonly operation: string;
  readonly expected: unknown;
  readonly got: unknown;
  readonly hint: string | undefined;

  constructor(problem: string, fields: ErrorFields) {
    super(`${fields.operation}: ${problem}${fields.hint === undefined ? "" : ` ${fields.hint}`}`);
    this.name = new.target.name;
    this.operation = fields.operation;
    this.expected = fields.expected;
    this.got = fields.got;
    this.hint = fields.hint;
  }
}

/** Sizes or axes do not fit together. */
export class ShapeError extends LorikeetError {}
/** The element type is not one that the operation takes. */
export class DTypeError extends LorikeetError {}
/** Memory was given back before this use. */
export class DisposedError extends LorikeetError {}
/** A device cannot do what was asked of it. */
export class DeviceError extends LorikeetError {}
/** A file or text is not what its format says. */
export class FormatError extends LorikeetError {}
/** An option or configuration key is wrong. */
export class ConfigError extends LorikeetError {}

/** Words a shape: `[2, 3]`. */
export function wordShape(shape: readonly number[]): string {
  return `[${shape.join(", ")}]`;
}

/** The name among `candidates` that `name` most likely meant, or `undefined` when none is near. */
export function nearestName(name: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(name.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (previous[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(substitution, (previous[j] as number) + 1, (row[j - 1] as number) + 1));
    }
    previous = row;
  }
  return previous[b.length] as number;
}
