/** What rounding does to a change when it is written into a weight. */
import { downloadSync, realize } from "../compile/program.ts";
import type { DType } from "../graph/dtype.ts";
import { cast, mul, sub } from "../graph/elementwise.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceSum } from "../graph/reduction.ts";
import type { AdapterLayer } from "./adapter-layer.ts";

/** One layer, merged. */
export interface MergedLayer {
  readonly path: string;
  /** In what the weight is kept. */
  readonly dtype: DType | "codes";
  /** ‖ΔW‖ / ‖W‖ */
  readonly change: number;
  /** ‖(W′ − W) − ΔW‖ / ‖ΔW‖: the share of the change that is lost. In 16 bits small changes are lost as a whole, which is 1. */
  readonly error: number;
}

/** What merging has done. */
export interface MergeReport {
  /** Of the layers and modules that were changed. */
  readonly paths: readonly string[];
  readonly layers: readonly MergedLayer[];
  /** The largest difference of a value of `probe`, beside the weights and in them; `null` without one. */
  readonly difference: number | null;
}

interface Recorded {
  readonly weight: Tensor;
  readonly change: Tensor | null;
}

/** The weight as it is now and the change that is to come. */
export function recorded(layer: AdapterLayer, names: readonly string[]): Recorded {
  const weight = cast(layer.base().weight, "float32");
  const { weight: change } = layer.change(names);
  realize(change ? [weight, change] : [weight]);
  return { weight, change };
}

/** ‖x‖, the root of the sum of all squares. */
export function frobenius(x: Tensor): number {
  const wide = cast(x, x.dtype === "float64" ? "float64" : "float32");
  const squares = reduceSum(
    mul(wide, wide),
    x.shape.map((_, axis) => axis),
  );
  return Math.sqrt(Number(downloadSync(squares)[0]));
}

/** How much of the change has come. */
export function measured(layer: AdapterLayer, { weight, change }: Recorded): MergedLayer {
  const size = (x: Tensor | null) => (x ? frobenius(x) : 0);
  const share = (part: number, whole: number) => (part === 0 ? 0 : part / whole);
  const arrived = sub(cast(layer.base().weight, "float32"), weight);
  const wanted = size(change);
  return {
    path: layer.path,
    dtype: layer.holdsCodes ? "codes" : layer.weight.dtype,
    change: share(wanted, size(weight)),
    error: share(size(change ? sub(arrived, change) : arrived), wanted),
  };
}
