/**
 * Dropout. Keys come from one generator for each device, whose state lies in variables: every replay of a compiled step
 * draws new masks, and a run that is saved and gone on with draws those that it would have drawn.
 */
import { currentDevice } from "../compile/program.ts";
import type { Device } from "../devices/device.ts";
import { ConfigError, FormatError, requireKind, ShapeError, under, wordArgument, wordShape } from "../errors.ts";
import { mul } from "../graph/elementwise.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import { assignAll, type Variable } from "../graph/variable.ts";
import { dropout as dropoutWith, Generator } from "../tensor/random.ts";
import { Module } from "./module.ts";

const generators = new WeakMap<Device, Generator>();

/** The generator of dropout masks on the current device. */
function generator(): Generator {
  const device = currentDevice();
  let own = generators.get(device);
  if (!own) generators.set(device, (own = new Generator(0)));
  return own;
}

/** Makes dropout on the current device draw the masks of `seed` from the first one on. */
export const seedDropout = (seed: number): void => under("seedDropout", () => generator().manualSeed(seed));

/** What the next dropout mask depends on. */
export const dropoutVariables = (): Map<string, Variable> => new Map(Object.entries(generator().state));

/** Where the generator of dropout masks stands, for a checkpoint. */
export const dropoutState = (): Map<string, Tensor> =>
  new Map([...dropoutVariables()].map(([name, { stored }]) => [name, stored]));

/** Goes on where a saved run stood. @throws {FormatError} when a value is missing */
export function loadDropoutState(saved: ReadonlyMap<string, Tensor>): void {
  requireKind("loadDropoutState", "a Map", { saved });
  const pairs = [...dropoutVariables()].map(([name, variable]) => {
    const value = saved.get(name);
    if (!value) throw new FormatError(`"${name}" is missing.`, { operation: "loadDropoutState", expected: name });
    return [variable, value] as const;
  });
  assignAll(pairs);
}

/**
 * Each element 0 with probability p, the others divided by 1 − p; another mask at every call and every replay.
 * For training: layers leave it out in evaluation.
 *
 * @throws {ConfigError} unless p is in [0, 1)
 * @see https://jmlr.org/papers/v15/srivastava14a.html
 */
export function dropout(x: Tensor, p: number): Tensor {
  requireTensors("dropout", { x });
  checkProbability("dropout", p);
  return p === 0 ? x : dropoutWith(generator().next(), x, p);
}

function checkProbability(operation: string, p: number): void {
  if (!(typeof p === "number" && p >= 0 && p < 1))
    throw new ConfigError(`\`p\` (= ${wordArgument(p)}) must be at least 0 and below 1.`, { operation, got: p });
}

/** Dropout in training, nothing in evaluation. */
export class Dropout extends Module {
  readonly p: number;

  constructor(p = 0.5) {
    super();
    checkProbability(new.target.name, p);
    this.p = p;
  }

  forward(x: Tensor): Tensor {
    return this.training ? dropout(x, this.p) : x;
  }
}

/** Leaves out whole channels of [N, C, ...] in training: PyTorch's Dropout1d, 2d and 3d. @see https://arxiv.org/abs/1411.4280 */
export class Dropout2d extends Dropout {
  override forward(x: Tensor): Tensor {
    requireTensors("Dropout2d", { x });
    if (!this.training || this.p === 0) return x;
    if (x.rank < 2)
      throw new ShapeError(`needs [N, C, ...], got ${wordShape(x.shape)}.`, { operation: "Dropout2d", got: x.shape });
    const channels = x.shape.map((extent, axis) => (axis < 2 ? extent : 1));
    return mul(x, dropout(constant(1, channels, x.dtype), this.p));
  }
}
