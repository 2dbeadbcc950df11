/** How alike two adapters are. */
import { type Matrix, matrix, sliceColumns, transposed } from "../../linalg/matrix.ts";
import { product } from "../../linalg/product.ts";
import { type MatrixSvd, svdMatrix } from "../../linalg/svd.ts";
import type { Module } from "../../nn/module.ts";
import { svdOfChange } from "../compose/low-rank.ts";
import { type Part, partsOf } from "./part.ts";

/** Angles between two spaces, in radians: 0 where one holds the other, π/2 where they have nothing in common. */
export interface SpaceAngles {
  readonly largest: number;
  readonly mean: number;
}

/** The changes ΔA and ΔB that two adapters make of one layer's weight. */
export interface ComparedModule {
  readonly path: string;
  /** ⟨ΔA, ΔB⟩ / (‖ΔA‖·‖ΔB‖), from −1 to 1. */
  readonly cosine: number;
  /** ‖ΔA‖ / ‖ΔB‖ */
  readonly normRatio: number;
  /** Between what the columns of ΔA and of ΔB span: what the layer can put out. */
  readonly columns: SpaceAngles;
  /** The same of the rows: what the adapters look at in x. */
  readonly rows: SpaceAngles;
}

/** What `compareAdapters` has found. */
export interface AdapterComparison {
  /** The cosine of all changes as one long vector; layers that only one adapter changes count as 0 of the other. `null` where one is 0. */
  readonly cosine: number | null;
  /** Layers that both change. */
  readonly modules: readonly ComparedModule[];
  /** Layers that only one changes, the first or the second. */
  readonly only: readonly [readonly string[], readonly string[]];
}

/**
 * Compares what two adapters of a model do to each layer, by singular values and vectors of both. Directions of a change count that are
 * more than rounding: σ > 2⁻²³·max(out, in)·σ₁. Between spaces of different dimensions there are as many angles as the smaller one has.
 *
 * @throws {ConfigError} when there is no such adapter, or while adapters are merged
 * @see Björck and Golub 1973, Numerical methods for computing angles between linear subspaces
 * @example
 * for (const name of ["poet", "lawyer"]) attach(model, lora({ r: 4, initLoraWeights: false }), { name });
 * compareAdapters(model, "poet", "lawyer").cosine
 */
export function compareAdapters(model: Module, a: string, b: string): AdapterComparison {
  const operation = "compareAdapters";
  return compared(operation, [...partsOf(operation, model, a)], [...partsOf(operation, model, b)]);
}

/** The same of parts, from wherever they come. */
export function compared(operation: string, first: readonly Part[], second: readonly Part[]): AdapterComparison {
  const other = new Map(second.map((part) => [part.path, part]));
  const modules: ComparedModule[] = [];
  const only: [string[], string[]] = [[], []];
  let [inner, squaresA, squaresB] = [0, 0, 0];
  const changing = (part: Part | undefined): MatrixSvd[] => {
    if (!part?.change || part.change.rank < 2 || part.method === "WHOLE") return [];
    const found = svdOfChange(operation, part.change).map(withoutRounding);
    return found.some(({ S }) => S.length > 0) ? found : [];
  };
  for (const path of new Set([...first, ...second].map((part) => part.path))) {
    const [A, B] = [changing(first.find((part) => part.path === path)), changing(other.get(path))];
    const [sizeA, sizeB] = [sizeOf(A), sizeOf(B)];
    squaresA += sizeA ** 2;
    squaresB += sizeB ** 2;
    if (A.length > 0 && B.length > 0) {
      const common = A.reduce((sum, each, i) => sum + innerProduct(each, B[i] as MatrixSvd), 0);
      inner += common;
      const angles = (space: (change: MatrixSvd) => Matrix) => anglesBetween(A.map(space), B.map(space));
      modules.push({
        ...{ path, cosine: common / (sizeA * sizeB), normRatio: sizeA / sizeB },
        columns: angles(({ U }) => U),
        rows: angles(({ Vt }) => transposed(Vt)),
      });
    } else if (A.length > 0) only[0].push(path);
    else if (B.length > 0) only[1].push(path);
  }
  const size = Math.sqrt(squaresA) * Math.sqrt(squaresB);
  return { cosine: size === 0 ? null : inner / size, modules, only };
}

const sizeOf = (change: readonly MatrixSvd[]): number => Math.hypot(...change.flatMap(({ S }) => [...S]));

function withoutRounding({ U, S, Vt }: MatrixSvd): MatrixSvd {
  const least = 2 ** -23 * Math.max(U.rows, Vt.columns) * (S[0] ?? 0);
  const r = S.filter((value) => value > least).length;
  return {
    U: sliceColumns(U, 0, r),
    S: S.subarray(0, r),
    Vt: matrix(r, Vt.columns, Vt.values.subarray(0, r * Vt.columns)),
  };
}

/** Σ σᵢ·τⱼ·(uᵢ·u′ⱼ)·(vᵢ·v′ⱼ), which is the sum of products of all entries. */
function innerProduct(A: MatrixSvd, B: MatrixSvd): number {
  const left = product(transposed(A.U), B.U);
  const right = product(A.Vt, transposed(B.Vt));
  return left.values.reduce((sum, cosine, at) => {
    const [i, j] = [Math.floor(at / left.columns), at % left.columns];
    return sum + A.S[i]! * B.S[j]! * cosine * right.values[at]!;
  }, 0);
}

/** Of orthonormal columns, in each pair of matrices; the cosines are singular values. */
function anglesBetween(A: readonly Matrix[], B: readonly Matrix[]): SpaceAngles {
  const angles = A.flatMap((each, i) => {
    const cosines = product(transposed(each), B[i] as Matrix);
    return cosines.values.length === 0 ? [] : Array.from(svdMatrix(cosines).S, (cosine) => Math.acos(Math.min(1, cosine)));
  });
  return { largest: Math.max(0, ...angles), mean: angles.reduce((sum, angle) => sum + angle, 0) / Math.max(1, angles.length) };
}
