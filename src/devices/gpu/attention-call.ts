/** Attention and its derivative as plans: shaders that keep the scores to themselves on webgpu, passes through memory elsewhere. */
import {
  attentionByKeys,
  attentionByQueries,
  attentionDeltas,
  attentionScores,
  attentionSlopes,
  logSums,
  rowWeights,
} from "../../../kernels/gpu/attention.ts";
import { type AttentionSizes, attentionWgsl, type HeadWalk } from "../../../kernels/gpu/attention-wgsl.ts";
import type { CallGeometry, Operand } from "../../graph/primitive.ts";
import type { KernelCall } from "../device.ts";
import type { Backend } from "./backend.ts";
import { type Argument, type ArrayArgument, binding, kernel, type Pass, type Plan, pass } from "./plan.ts";

/** Queries from which the shaders are the faster ones: they work on blocks of queries. */
const fewQueries = 8;
/** Threads that keep a graphics card busy, and the rows that are worth cutting where there are fewer. */
const manyThreads = 4096;
const longRow = 256;

const walkOf = ({ strides, offset }: Operand): HeadWalk => {
  const [batch, time, head] = strides as [number, number, number];
  return { offset, batch, time, head };
};

function sizesOf({ operands, attributes }: CallGeometry): AttentionSizes {
  const [q, k, v] = operands as [Operand, Operand, Operand];
  const [B, Tq, H, D] = q.shape as [number, number, number, number];
  const [Tk, G, E] = [k.shape[1]!, k.shape[2]!, v.shape[3]!];
  const { causal, window, scale } = attributes as { causal: number; window: number; scale: number };
  // the last query stands at the last key
  const low = causal && window > 0 && window < Tk ? Tk - Tq - window + 1 : -Tq;
  return { B, Tq, Tk, H, G, D, E, low, high: causal ? Tk - Tq + 1 : Tk, scale };
}

/** Offset and strides of an operand as constants of a kernel. */
const constants = (name: string, { offset, batch, time, head }: HeadWalk): Record<string, number> => ({
  [`${name}Offset`]: offset,
  [`${name}Batch`]: batch,
  [`${name}Time`]: time,
  [`${name}Head`]: head,
});

/** Pieces into which rows are cut, so that there are threads enough. */
function piecesOf(rows: number, width: number): number {
  if (width < longRow || rows >= manyThreads) return 1;
  return Math.min(Math.ceil(manyThreads / rows), Math.ceil(Math.sqrt(width)));
}

/** log Σ exp of rows, as one pass or two. */
function logSumPasses(at: number, rows: number, width: number): Pass[] {
  const pieces = piecesOf(rows, width);
  const size = Math.ceil(width / pieces);
  const first = kernel(logSums, { width, size, pieces }, [pass(at - 1)], rows * pieces);
  if (pieces === 1) return [first];
  return [first, kernel(logSums, { width: pieces, size: pieces, pieces: 1 }, [pass(at)], rows)];
}

const number = (value: number): Argument => ({ kind: "number", value });

/** Passes shared by both directions, with the operands' places in the call. */
class AttentionPasses {
  readonly passes: Pass[] = [];
  readonly sizes: AttentionSizes;
  private readonly walks: readonly HeadWalk[];

  constructor(geometry: CallGeometry) {
    this.sizes = sizesOf(geometry);
    this.walks = geometry.operands.map(walkOf);
  }

  private get square(): Record<string, number> {
    const { Tq, Tk, H, G } = this.sizes;
    return { Tq, Tk, H, share: H / G };
  }

  get rows(): number {
    const { B, H, Tq } = this.sizes;
    return B * H * Tq;
  }

  add(...passes: Pass[]): ArrayArgument {
    this.passes.push(...passes);
    return pass(this.passes.length - 1);
  }

  scores(): ArrayArgument {
    const { D, low, high, Tk, scale } = this.sizes;
    const sizes = { ...this.square, D, low, high, ...constants("q", this.walks[0]!), ...constants("k", this.walks[1]!) };
    return this.add(kernel(attentionScores, sizes, [binding(0), binding(1), number(scale)], this.rows * Tk));
  }

  logSums(): ArrayArgument {
    return this.add(...logSumPasses(this.passes.length, this.rows, this.sizes.Tk));
  }

  weights(scores: ArrayArgument, logSum: ArrayArgument): ArrayArgument {
    const { Tk } = this.sizes;
    return this.add(kernel(rowWeights, { width: Tk }, [scores, logSum], this.rows * Tk));
  }

  byQueries(weights: ArrayArgument, x: number, size: number): ArrayArgument {
    const sizes = { ...this.square, size, ...constants("x", this.walks[x]!) };
    return this.add(kernel(attentionByQueries, sizes, [weights, binding(x)], this.rows * size));
  }

  byKeys(weights: ArrayArgument, x: number, size: number): ArrayArgument {
    const { B, Tk, G } = this.sizes;
    const sizes = { ...this.square, G, size, ...constants("x", this.walks[x]!) };
    return this.add(kernel(attentionByKeys, sizes, [weights, binding(x)], B * Tk * G * size));
  }

  deltas(): ArrayArgument {
    const { Tq, H, E } = this.sizes;
    const sizes = { Tq, H, size: E, ...constants("g", this.walks[5]!), ...constants("y", this.walks[3]!) };
    return this.add(kernel(attentionDeltas, sizes, [binding(5), binding(3)], this.rows));
  }

  slopes(weights: ArrayArgument, deltas: ArrayArgument): ArrayArgument {
    const { E, Tk, scale } = this.sizes;
    const sizes = { ...this.square, size: E, ...constants("g", this.walks[5]!), ...constants("v", this.walks[2]!) };
    const args = [weights, deltas, binding(5), binding(2), number(scale)];
    return this.add(kernel(attentionSlopes, sizes, args, this.rows * Tk));
  }

  /** A shader; `operands` are what it reads, by the name it has there. */
  shader(wanted: Parameters<typeof attentionWgsl>[0], operands: Readonly<Record<string, ArrayArgument>>, count: number) {
    const names = Object.keys(operands);
    const walks = Object.fromEntries(
      Object.entries(operands).flatMap(([name, { kind, index }]) => (kind === "binding" ? [[name, this.walks[index]!]] : [])),
    );
    return this.add({
      // GPU.js takes the names of the arguments from a body that never runs
      source: `function (${names.join(", ")}) { return ${names.map((name) => `${name}[0]`).join(" + ")}; }`,
      functions: [],
      args: Object.values(operands),
      count,
      wgsl: attentionWgsl(wanted, this.sizes, names, walks),
    });
  }

  plan(...results: readonly (readonly [binding: number, pass: ArrayArgument])[]): Plan {
    return { passes: this.passes, results: results.map(([binding, { index }]) => ({ binding, pass: index })) };
  }
}

type Target = Pick<Backend, "mode" | "inputs">;

const hasShader = ({ Tq }: AttentionSizes, { mode }: Target): boolean => mode === "webgpu" && Tq >= fewQueries;

/** softmax(scale·q·kᵀ + mask)·v: operands q, k, v; results y and the log-sums of the scores, which the derivative reads. */
export function attentionPlan(_call: KernelCall, geometry: CallGeometry, target: Target): Plan {
  const made = new AttentionPasses(geometry);
  const { sizes, rows } = made;
  const [q, k, v] = [binding(0), binding(1), binding(2)];
  if (hasShader(sizes, target)) {
    const logSum = made.shader("logSums", { q, k }, rows);
    return made.plan([3, made.shader("y", { q, k, v, logSum }, rows * sizes.E)], [4, logSum]);
  }
  const scores = made.scores();
  const logSum = made.logSums();
  return made.plan([3, made.byQueries(made.weights(scores, logSum), 2, sizes.E)], [4, logSum]);
}

/** Gradients of q, k and v: operands q, k, v, y, the log-sums and the gradient of y. */
export function attentionBackwardPlan(_call: KernelCall, geometry: CallGeometry, target: Target): Plan {
  const made = new AttentionPasses(geometry);
  const { sizes, rows } = made;
  const { B, Tk, G, D, E } = sizes;
  const [q, k, v, logSum, g] = [binding(0), binding(1), binding(2), binding(4), binding(5)];
  const deltas = made.deltas();
  if (hasShader(sizes, target)) {
    const dq = made.shader("dq", { q, k, v, g, logSum, deltas }, rows * D);
    const dk = made.shader("dk", { q, k, v, g, logSum, deltas }, B * Tk * G * D);
    return made.plan([6, dq], [7, dk], [8, made.shader("dv", { q, k, g, logSum }, B * Tk * G * E)]);
  }
  const weights = made.weights(made.scores(), logSum);
  const dv = made.byKeys(weights, 5, E);
  const slopes = made.slopes(weights, deltas);
  return made.plan([6, made.byQueries(slopes, 1, D)], [7, made.byKeys(slopes, 0, D)], [8, dv]);
}
