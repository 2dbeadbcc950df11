/** Attention and its derivative as kernel calls: sizes, masks and blocks as numbers for `kernels/wasm/attention*.ts`. */
import { attentionModule, type forwardRegions, type forwardSwitches } from "../../../kernels/wasm/attention.ts";
import {
  attentionBackwardModule,
  type backwardRegions,
  type backwardSwitches,
} from "../../../kernels/wasm/attention-backward.ts";
import { panelRowBytes } from "../../../kernels/wasm/attention-blocks.ts";
import { fewRows } from "../../../kernels/wasm/attention-few.ts";
import { argument, tensorWords } from "../../../kernels/wasm/attention-task.ts";
import type { CallGeometry, Operand } from "../../graph/primitive.ts";
import type { CallEntry, Step } from "./calls.ts";

interface Sizes {
  readonly B: number;
  readonly Tq: number;
  readonly Tk: number;
  readonly H: number;
  readonly G: number;
  readonly D: number;
  readonly E: number;
}

/** Queries and keys of a block. They decide the order of sums, so they depend on nothing but sizes. */
interface Blocks {
  readonly rows: number;
  readonly keys: number;
}

/** How the work is cut: a task has one of `unitParts` parts of the units and one of `keyParts` of the keys. */
interface Cut {
  readonly unitsInTask: number;
  readonly unitParts: number;
  readonly keysInTask: number;
  readonly keyParts: number;
}

/** Tasks a thread, so that a thread that is interrupted does not hold up the others. */
const tasksPerThread = 3;
/** Bytes of results that a task of the forward kernel keeps in scratch. */
const resultBytes = 1 << 19;

const roundUp = (value: number, step: number): number => Math.ceil(value / step) * step;

/** `attention` as a kernel call, [B, T, H, D], float32; `null` for other dtypes. */
export const attention: CallEntry = ({ operands, results }, { memory, threads, relaxedSimd, module }) => {
  if ([...operands, ...results].some((dtype) => dtype !== "float32")) return null;
  const options = { shared: memory.shared, fused: relaxedSimd };
  return (geometry, addresses) => {
    const sizes = sizesOf(geometry);
    const { Tq, Tk, H, G, D, E } = sizes;
    const blocks = blocksOf(sizes, 64, 192);
    const units = (Math.ceil(Tq / blocks.rows) * H) / G;
    const outBytes = blocks.rows * roundUp(E, 8) * 4;
    const unitsInTask = Math.max(1, Math.min(Math.ceil(units / partsOf(sizes, threads)), Math.floor(resultBytes / outBytes)));
    const cut: Cut = { unitsInTask, unitParts: Math.ceil(units / unitsInTask), keysInTask: Tk, keyParts: 1 };
    const inPlace = Tq <= fewRows;
    const stride = inPlace ? rowStride(blocks) : blockStride(blocks);
    const regions: Record<keyof typeof forwardRegions, number> = {
      queries: panels(blocks.rows, D),
      values: panels(E, blocks.keys),
      scores: (inPlace ? blocks.rows : blocks.keys) * stride,
      tops: unitsInTask * blocks.rows * 4 + 32,
      sums: unitsInTask * blocks.rows * 4 + 32,
      shrinks: 32,
      out: unitsInTask * outBytes,
    };
    const kernel = module("attention", () => attentionModule(options))["attention"]!;
    const switches: Record<keyof typeof forwardSwitches, boolean> = { inPlace };
    return [stepOf(kernel, sizes, blocks, stride, cut, geometry, addresses, regions, switches)];
  };
};

/** The gradients of q, k and v, from the log-sums that `attention` has left. */
export const attentionBackward: CallEntry = ({ operands, results }, { memory, threads, relaxedSimd, module }) => {
  if ([...operands, ...results].some((dtype) => dtype !== "float32")) return null;
  const options = { shared: memory.shared, fused: relaxedSimd };
  return (geometry, addresses) => {
    const sizes = sizesOf(geometry);
    const { B, Tq, Tk, H, G, D, E } = sizes;
    const blocks = blocksOf(sizes, 96, 128);
    const units = (Math.ceil(Tq / blocks.rows) * H) / G;
    const [widthD, widthE] = [4 * roundUp(D, 8), 4 * roundUp(E, 8)];
    const stride = blockStride(blocks);
    const regions: Record<keyof typeof backwardRegions, number> = {
      constants: 128,
      queryColumns: panels(blocks.rows, D),
      cotangentColumns: panels(blocks.rows, E),
      keyRows: panels(D, blocks.keys),
      queryRows: panels(D, blocks.rows),
      cotangentRows: panels(E, blocks.rows),
      weights: blocks.keys * stride,
      slopes: blocks.keys * stride,
      deltas: 4 * blocks.rows + 32,
      dq: blocks.rows * widthD,
      dk: blocks.keys * widthD,
      dv: blocks.keys * widthE,
    };
    const kernel = module("attentionBackward", () => attentionBackwardModule(options))["attentionBackward"]!;
    const step = (cut: Cut, wanted: Record<keyof typeof backwardSwitches, boolean>) =>
      stepOf(kernel, sizes, blocks, stride, cut, geometry, addresses, regions, wanted);
    const whole: Cut = { unitsInTask: units, unitParts: 1, keysInTask: Tk, keyParts: 1 };
    const byKeys: Cut = { ...whole, keysInTask: blocks.keys, keyParts: Math.max(1, Math.ceil(Tk / blocks.keys)) };
    const unitsInTask = Math.max(1, Math.ceil(units / partsOf(sizes, threads)));
    const byUnits: Cut = { ...whole, unitsInTask, unitParts: Math.max(1, Math.ceil(units / unitsInTask)) };
    // scores and their slopes are two of five products, which cutting computes twice
    const time = (products: number, parts: number) => (products / parts) * Math.ceil((B * G * parts) / threads);
    return time(5, 1) <= time(4, byKeys.keyParts) + time(3, byUnits.unitParts)
      ? [step(whole, { keys: true, queries: true })]
      : [step(byKeys, { keys: true, queries: false }), step(byUnits, { keys: false, queries: true })];
  };
};

function sizesOf({ operands }: CallGeometry): Sizes {
  const [q, k, v] = operands as readonly [Operand, Operand, Operand];
  const [B, Tq, H, D] = q.shape as readonly [number, number, number, number];
  return { B, Tq, Tk: k.shape[1]!, H, G: k.shape[2]!, D, E: v.shape[3]! };
}

const blocksOf = ({ Tq, Tk }: Sizes, rows: number, keys: number): Blocks => ({
  rows: Math.min(rows, roundUp(Math.max(1, Tq), 8)),
  keys: Math.min(keys, roundUp(Math.max(1, Tk), 8)),
});

/** Into how many parts to cut the units of a key head. */
const partsOf = ({ B, G }: Sizes, threads: number): number =>
  threads === 1 ? 1 : Math.ceil((threads * tasksPerThread) / Math.max(1, B * G));

/** Bytes of a panel; an extra line keeps neighbours from competing for the same place in the cache. */
const panelBytes = (depth: number): number => roundUp(depth, 4) * panelRowBytes + 64;
const panels = (columns: number, depth: number): number => Math.ceil(columns / 8) * panelBytes(depth);
/** Bytes of a row of scores where a row is a query: 16 more than there are keys, which the kernels may write. */
const rowStride = ({ keys }: Blocks): number => 4 * (roundUp(keys, 8) + 16);
/** Bytes of a row of scores where a row is a key: an odd number of lines, so that a column is in all parts of the cache. */
const blockStride = ({ rows }: Blocks): number => 64 * (Math.ceil(rows / 16) | 1);

function stepOf(
  kernel: number,
  sizes: Sizes,
  blocks: Blocks,
  stride: number,
  cut: Cut,
  geometry: CallGeometry,
  addresses: readonly number[],
  regions: Readonly<Record<string, number>>,
  switches: Readonly<Record<string, boolean>>,
): Step {
  const { B, Tq, Tk, H, G, D, E } = sizes;
  const { causal, window, scale } = geometry.attributes as { causal: number; window: number; scale: number };
  const tensors = [...geometry.operands, ...geometry.results];
  const args = new Int32Array(argument.tensors + tensorWords * tensors.length);
  const set = (index: number, ...values: number[]) => args.set(values, index);
  set(argument.Tq, Tq, Tk, D, E, G, H / G);
  // the last query stands at the last key
  set(argument.low, causal && window > 0 && window < Tk ? Tk - Tq - window + 1 : -Tq, causal ? Tk - Tq + 1 : Tk);
  new Float32Array(args.buffer)[argument.scale] = scale;
  set(argument.rowBlock, blocks.rows, blocks.keys, cut.keysInTask, cut.unitsInTask, cut.keyParts, cut.unitParts);
  set(argument.switches, ...Object.values(switches).map(Number));
  set(argument.blockStride, stride, panelBytes(D), panelBytes(E), panelBytes(blocks.keys), panelBytes(blocks.rows));
  let bytes = 0;
  for (const [i, size] of Object.values(regions).entries()) {
    args[argument.regions + i] = bytes;
    bytes += roundUp(size, 64) + 64;
  }
  args[argument.scratchStride] = bytes;
  args[argument.batches] = B;
  tensors.forEach(({ shape, strides, offset }, i) => {
    // log-sums are [B, H, T], everything else [B, T, H, size]
    const [batch, time, head] = shape.length === 3 ? [strides[0]!, 1, strides[1]!] : (strides as [number, number, number]);
    set(argument.tensors + tensorWords * i, ...[addresses[i]! + 4 * offset, 4 * batch, 4 * time, 4 * head]);
  });
  return { kernel, tasks: B * G * cut.unitParts * cut.keyParts, args, scratch: { word: argument.scratch, bytes } };
}
