/** What initialisers that start from the weight have in common. */
import { ConfigError } from "../../errors.ts";
import { type Matrix, matrix, readMatrix, sliceColumns, toTensor } from "../../linalg/matrix.ts";
import { multiplyAdd, part } from "../../linalg/product.ts";
import type { Parameter } from "../../nn/module.ts";
import type { Base, Calibration, Start } from "../method.ts";

/** The layer's own weight [out, in] (of an embedding [in, out]), in float64. */
export const weightOf = (base: Base): Matrix => readMatrix("attach", base.original);

/** @throws {ConfigError} when the layer is no linear one */
export function requireLinear(name: string, base: Base): void {
  if (base.kind === "linear") return;
  throw new ConfigError(`\`initLoraWeights\` (= "${name}") is nothing for ${base.path}, which is ${wordKind[base.kind]}.`, {
    operation: "attach",
    got: base.path,
    hint: "Take it out with `excludeModules`, or start another way.",
  });
}

const wordKind: Readonly<Record<Base["kind"], string>> = {
  linear: "linear",
  embedding: "an embedding",
  conv1d: "a convolution",
  conv2d: "a convolution",
  conv3d: "a convolution",
  attention: "an attention",
  block: "a block",
  parameter: "a parameter",
};

/** @throws {ConfigError} when the layer has fewer directions than are needed */
export function requireRank(name: string, base: Base, r: number, needed = r): void {
  const most = Math.min(base.in, base.out);
  if (needed <= most) return;
  throw new ConfigError(
    `\`r\` (= ${r}) is too much for ${base.path}: "${name}" needs ${needed} directions of [${base.out}, ${base.in}].`,
    { operation: "attach", got: r, hint: `Use at most ${Math.floor((most * r) / needed)}, in \`r\` or in \`rankPattern\`.` },
  );
}

/** @throws {ConfigError} when B·A would be scaled by a number that nothing can be divided by */
export function requireScaling(name: string, scaling: number): void {
  if (scaling > 0) return;
  throw new ConfigError(`\`loraAlpha\` must be positive for \`initLoraWeights\` "${name}".`, {
    operation: "attach",
    got: scaling,
  });
}

/** What a pass over data has found about a layer. @throws {ConfigError} when there was none */
export function calibrationOf(name: string, { path }: Base, calibration: Calibration | undefined): Matrix {
  const found = calibration?.get(path);
  if (found) return found;
  const maker = { corda: "calibrateCorda", eva: "calibrateEva", lora_ga: "calibrateLoraGa" }[name];
  throw new ConfigError(
    calibration
      ? `nothing was found out about ${path}.`
      : `\`initLoraWeights\` "${name}" depends on data, of which none was given.`,
    { operation: "attach", got: path, hint: `Use attach(model, ${maker}(model, lora({ … }), batches)).` },
  );
}

/** A [r, in] and B [out, r] in float32, and what they leave of the weight: W − s·B·A. */
export function takenOut(base: Base, A: Matrix, B: Matrix, scaling: number): Start {
  const values = { A: new Float32Array(A.values), B: new Float32Array(B.values) };
  const rest = weightOf(base);
  // with the factors as they are kept, so that their product puts back just what was taken
  const [roundedA, roundedB] = [
    matrix(A.rows, A.columns, Float64Array.from(values.A)),
    matrix(B.rows, B.columns, Float64Array.from(values.B)),
  ];
  multiplyAdd(part(rest, 0, 0), part(roundedB, 0, 0), part(roundedA, 0, 0), -scaling);
  // on the device of what the layer holds: a weight that methods see turned is not there yet
  const { stored } = base.layer.parameters()[0] as Parameter;
  return { values, weight: toTensor(rest.values, [rest.rows, rest.columns], stored) };
}

/** Factors with B·A = U·diag(S)·Vᵀ/s: the square root of each value goes to either side. Columns of U and rows of Vᵀ from `start` on. */
export function balanced(
  { U, S, Vt }: { readonly U: Matrix; readonly S: Float64Array; readonly Vt: Matrix },
  r: number,
  scaling: number,
  start = 0,
): { readonly A: Matrix; readonly B: Matrix } {
  const roots = S.slice(start, start + r).map((value) => Math.sqrt(value / scaling));
  const [A, B] = [matrix(r, Vt.columns), sliceColumns(U, start, start + r)];
  for (let i = 0; i < r; i++)
    for (let j = 0; j < A.columns; j++) A.values[i * A.columns + j] = Vt.values[(start + i) * A.columns + j]! * roots[i]!;
  B.values.forEach((value, at) => {
    B.values[at] = value * roots[at % r]!;
  });
  return { A, B };
}
