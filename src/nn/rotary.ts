/** Rotary position embedding: queries and keys are turned by angles that grow with their position. */
import { withVjp } from "../autograd/custom.ts";
import { currentDevice, upload } from "../compile/program.ts";
import type { Device } from "../devices/device.ts";
import { ConfigError, checkOptions, nearestName, requireKind, ShapeError, wordJson, wordShape } from "../errors.ts";
import { concatenate } from "../graph/composite.ts";
import { add, mul, sub } from "../graph/elementwise.ts";
import { take } from "../graph/indexing.ts";
import { flip, reshape, sliceAxis } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import type { Shape } from "../graph/shape.ts";

/** How positions become angles. Keys as in Hugging Face's `rope_parameters`, in camelCase. */
export interface RopeParameters {
  /**
   * `default`: θ^(−2i/D) per position. `linear`: positions divided by `factor`. `llama3`: only slow angles are divided.
   * `longrope`: each angle divided by a factor of its own, from another list when the text is longer than those of the training.
   * `yarn`: slow angles are divided, fast ones kept, with a ramp between. `dynamic`: θ grows with texts longer than those of the training.
   */
  readonly ropeType: RopeType;
  readonly ropeTheta: number;
  /** D of the angles where it is odd, so that one value more is turned. */
  readonly dim?: number;
  readonly factor?: number;
  readonly lowFreqFactor?: number;
  readonly highFreqFactor?: number;
  readonly originalMaxPositionEmbeddings?: number;
  /** Of `yarn`: turns within the text of training above which a pair is kept, and below which it is divided. */
  readonly betaFast?: number;
  readonly betaSlow?: number;
  /** Of `yarn`: whether the ramp begins and ends at whole pairs. */
  readonly truncate?: boolean;
  /** D/2 numbers each. */
  readonly shortFactor?: readonly number[];
  readonly longFactor?: readonly number[];
  /** Multiplies cosine and sine. */
  readonly attentionFactor?: number;
}

/** How frequencies are changed for texts longer than those of the training. */
export type RopeType = "default" | "linear" | "llama3" | "longrope" | "yarn" | "dynamic";

type WithNumbers<Keys extends keyof RopeParameters> = RopeParameters & { readonly [K in Keys]-?: NonNullable<RopeParameters[K]> };

type Scaling = (angles: readonly number[], parameters: RopeParameters, length: number) => readonly number[];

/** Angle per position of each pair of values, given the unscaled ones. */
const scalings = {
  default: (angles: readonly number[]) => angles,
  linear: (angles, parameters) => {
    const { factor } = needed(parameters, "factor");
    return angles.map((angle) => angle / factor);
  },
  llama3: (angles, parameters) => {
    const p = needed(parameters, "factor", "lowFreqFactor", "highFreqFactor", "originalMaxPositionEmbeddings");
    return angles.map((angle) => {
      // how many turns the pair makes within the context of pre-training
      const turns = (p.originalMaxPositionEmbeddings * angle) / (2 * Math.PI);
      const smooth = (turns - p.lowFreqFactor) / (p.highFreqFactor - p.lowFreqFactor);
      const kept = Math.min(1, Math.max(0, smooth));
      return (1 - kept) * (angle / p.factor) + kept * angle;
    });
  },
  // https://arxiv.org/abs/2402.13753
  longrope: (angles, parameters, length) => {
    const factors = length > lastUnchanged(parameters) ? parameters.longFactor : parameters.shortFactor;
    if (factors?.length !== angles.length)
      throw new ConfigError(
        `rope type "longrope" needs \`shortFactor\` and \`longFactor\` of ${angles.length} numbers, got ${factors?.length ?? 0}.`,
        { operation: "rotary", expected: angles.length, got: factors?.length },
      );
    return angles.map((angle, i) => angle / factors[i]!);
  },
  // https://arxiv.org/abs/2309.00071, section 3.2
  yarn: (angles, parameters) => {
    const p = needed(parameters, "factor", "originalMaxPositionEmbeddings", "betaFast", "betaSlow");
    const size = 2 * angles.length;
    /** The pair that makes so many turns. */
    const pairOf = (turns: number) =>
      (size * Math.log(p.originalMaxPositionEmbeddings / (turns * 2 * Math.PI))) / (2 * Math.log(p.ropeTheta));
    const [fast, slow] = [pairOf(p.betaFast), pairOf(p.betaSlow)];
    const whole = p.truncate !== false;
    const low = Math.max(whole ? Math.floor(fast) : fast, 0);
    const high = Math.min(whole ? Math.ceil(slow) : slow, size - 1);
    return angles.map((angle, i) => {
      const ramp = Math.min(1, Math.max(0, (i - low) / (high === low ? 0.001 : high - low)));
      return (angle / p.factor) * ramp + angle * (1 - ramp);
    });
  },
  // https://www.reddit.com/r/LocalLLaMA/comments/14mrgpr, "NTK-aware" with a base for each length
  dynamic: (angles, parameters, length) => {
    const { factor, originalMaxPositionEmbeddings: trained } = needed(parameters, "factor", "originalMaxPositionEmbeddings");
    const size = parameters.dim ?? 2 * angles.length;
    const grown = (factor * Math.max(length, trained)) / trained - (factor - 1);
    return angles.map((angle, i) => angle * grown ** ((-2 * i) / (size - 2)));
  },
} as const satisfies Record<RopeType, Scaling>;

/** Tokens of a text past which its angles are others; ∞ where its length does not matter. */
const lastUnchanged = ({ ropeType, originalMaxPositionEmbeddings = Number.POSITIVE_INFINITY }: RopeParameters): number =>
  ropeType === "longrope" || ropeType === "dynamic" ? originalMaxPositionEmbeddings : Number.POSITIVE_INFINITY;

function needed<Keys extends keyof RopeParameters>(parameters: RopeParameters, ...keys: Keys[]): WithNumbers<Keys> {
  for (const key of keys)
    if (typeof parameters[key] !== "number" || !(Number(parameters[key]) > 0))
      throw new ConfigError(`rope type "${parameters.ropeType}" needs \`${key}\`, a number above 0.`, {
        operation: "rotary",
        got: parameters[key],
      });
  return parameters as WithNumbers<Keys>;
}

/** @throws {ConfigError} naming the types that there are */
export function checkRopeType(operation: string, type: unknown): RopeType {
  if (typeof type === "string" && Object.hasOwn(scalings, type)) return type as RopeType;
  const near = nearestName(String(type), Object.keys(scalings));
  throw new ConfigError(`rope type ${wordJson(type)} is not supported.`, {
    operation,
    expected: Object.keys(scalings),
    got: type,
    hint: near ? `Did you mean "${near}"?` : `There are ${Object.keys(scalings).join(", ")}.`,
  });
}

/**
 * Angle per position, in radians, of each of the `size` / 2 pairs. @see https://arxiv.org/abs/2104.09864, section 3.2
 *
 * @param length tokens of the text, for `longrope` and `dynamic`
 */
export const rotaryAngles = (size: number, parameters: RopeParameters, length = 0): readonly number[] =>
  anglesOf("rotaryAngles", size, parameters, length);

function anglesOf(operation: string, size: number, parameters: RopeParameters, length: number): readonly number[] {
  requireKind(operation, "a whole number from 1", { size });
  requireKind(operation, "an object", { parameters });
  requireKind(operation, "a number", { ropeTheta: parameters.ropeTheta, length });
  if (size % 2 !== 0)
    throw new ShapeError(`turns pairs of values, so the head size (= ${size}) must be even.`, { operation, got: size });
  const { ropeTheta, dim = size } = parameters;
  const angles = Array.from({ length: size / 2 }, (_, i) => ropeTheta ** ((-2 * i) / dim));
  const scaling: Scaling = scalings[checkRopeType(operation, parameters.ropeType)];
  return scaling(angles, parameters, length);
}

/** Which two values of a head are a pair: i and i + D/2 (Hugging Face's `rotate_half`), or 2i and 2i + 1 (the paper). */
export type RotaryPairs = "halves" | "interleaved";

/** Cosine and sine of the angles of some positions: both [..., T, 1, 2, D/2] (halves) or [..., T, 1, D/2, 2] (interleaved). */
export interface RotaryTables {
  readonly cos: Tensor;
  /** Sine, negative for the first of each pair, so that turning is x·cos + swapped(x)·sin. */
  readonly sin: Tensor;
  readonly pairs: RotaryPairs;
}

/** The tables made on each device. */
type Tables = WeakMap<Device, { readonly length: number; readonly cos: Tensor; readonly sin: Tensor }>;

/** Lengths of which tables are kept, where each has its own. */
const mostLengths = 8;

/** The tables of one model; computed once in float64, kept on each device that asks. */
export class Rotary {
  readonly size: number;
  readonly pairs: RotaryPairs;
  readonly #parameters: RopeParameters;
  /** By length of the text: 0 where nothing is changed. */
  readonly #tables = new Map<number, Tables>();

  /** @param size values of a head that are turned: D */
  constructor(size: number, parameters: RopeParameters, options: { readonly pairs?: RotaryPairs } = {}) {
    const { pairs = "halves" } = checkOptions("Rotary", options, { pairs: ["halves", "interleaved"] });
    this.size = size;
    this.pairs = pairs;
    this.#parameters = parameters;
    for (const length of [0, Number.POSITIVE_INFINITY]) anglesOf("Rotary", size, parameters, length); // says at once what is wrong
    if (parameters.ropeType === "dynamic" && size < 4)
      throw new ConfigError(`rope type "dynamic" needs to turn 4 values of a head or more, got ${size}.`, {
        operation: "Rotary",
        got: size,
      });
  }

  /** Tokens of a text past which its angles are others; ∞ where its length does not matter. */
  get lastUnchanged(): number {
    return lastUnchanged(this.#parameters);
  }

  /** Tables of positions 0 … length − 1. */
  range(length: number): RotaryTables {
    const { cos, sin } = this.#upTo(length, length);
    const rows = (table: Tensor) => reshape(sliceAxis(table, 0, 0, length), [length, 1, ...table.shape.slice(1)]);
    return { cos: rows(cos), sin: rows(sin), pairs: this.pairs };
  }

  /**
   * Tables of the given positions.
   * @param positions [B, T] int32, each below `length`
   * @param tokens of the text, for `longrope` and `dynamic`; ∞ means that each position is that of the last token of a text
   */
  at(positions: Tensor, length: number, tokens = length): RotaryTables {
    const { cos, sin } = this.#upTo(length, tokens);
    const [B, T] = positions.shape as [number, number];
    const rows = (table: Tensor) => reshape(take(table, positions), [B, T, 1, ...table.shape.slice(1)]);
    return { cos: rows(cos), sin: rows(sin), pairs: this.pairs };
  }

  #of(tokens: number): Tables {
    const { ropeType } = this.#parameters;
    const length = tokens <= this.lastUnchanged ? 0 : ropeType === "longrope" ? Number.POSITIVE_INFINITY : tokens;
    const known = this.#tables.get(length) ?? new WeakMap();
    // the one that was used last behind
    this.#tables.delete(length);
    this.#tables.set(length, known);
    if (this.#tables.size > mostLengths) this.#tables.delete(this.#tables.keys().next().value as number);
    return known;
  }

  #upTo(length: number, tokens: number): { cos: Tensor; sin: Tensor } {
    const device = currentDevice();
    const made = this.#of(tokens);
    const known = made.get(device);
    if (known && known.length >= length) return known;
    // powers of two, so that growing sentences do not build a table each
    const rows = 2 ** Math.ceil(Math.log2(Math.max(length, 64)));
    const half = this.size / 2;
    const { attentionFactor: scale = 1 } = this.#parameters;
    const shape: Shape = this.pairs === "halves" ? [rows, 2, half] : [rows, half, 2];
    const [cos, sin] = [new Float32Array(rows * this.size), new Float32Array(rows * this.size)];
    const each = this.#parameters.ropeType === "dynamic" && tokens === Number.POSITIVE_INFINITY;
    const shared = each ? [] : rotaryAngles(this.size, this.#parameters, tokens);
    for (let position = 0; position < rows; position++)
      (each ? rotaryAngles(this.size, this.#parameters, position + 1) : shared).forEach((angle, i) => {
        const row = position * this.size;
        const [first, second] = this.pairs === "halves" ? [row + i, row + half + i] : [row + 2 * i, row + 2 * i + 1];
        cos[first] = cos[second] = scale * Math.cos(position * angle);
        sin[second] = scale * Math.sin(position * angle);
        sin[first] = -sin[second]!;
      });
    const table = { length: rows, cos: upload(device, cos, shape, "float32"), sin: upload(device, sin, shape, "float32") };
    made.set(device, table);
    return table;
  }
}

/**
 * Turns each pair (a, b) of a head by its angle: (a·cos − b·sin, b·cos + a·sin).
 * The derivative turns back by the same angle. Tables for a part of the head turn its first values and leave the others.
 *
 * @param x [B, T, H, D]
 * @returns [B, T, H, D]
 * @throws {ShapeError} when D is less than what the tables were made for
 * @see https://arxiv.org/abs/2104.09864
 */
export function rotate(x: Tensor, tables: RotaryTables): Tensor {
  requireKind("rotate", "an object", { tables });
  const { cos, sin, pairs } = tables;
  requireTensors("rotate", { x, cos, sin });
  const D = x.shape[x.rank - 1] as number;
  const pair = cos.shape.slice(-2) as [number, number];
  const size = pair[0] * pair[1];
  if (D > size) {
    const part = (from: number, to: number) => sliceAxis(x, x.rank - 1, from, to);
    return concatenate([rotate(part(0, size), { cos, sin, pairs }), part(size, D)], x.rank - 1);
  }
  if (D < size)
    throw new ShapeError(`the tables are for heads of ${size} values, x is ${wordShape(x.shape)}.`, {
      operation: "rotate",
      expected: size,
      got: D,
    });
  const swapped = (t: Tensor) => flip(t, pairs === "halves" ? t.rank - 2 : t.rank - 1);
  // the swap is a view with a negative stride, so that turning reads x twice and writes once
  const turn = withVjp(
    (t) => add(mul(t, cos), mul(swapped(t), sin)),
    (g) => [sub(mul(g, cos), mul(swapped(g), sin))],
  );
  return reshape(turn(reshape(x, [...x.shape.slice(0, -1), ...pair])), x.shape);
}
