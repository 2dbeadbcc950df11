/** How long the factorisations of linalg take, of a random matrix [n, n] (768 when no size is given), in milliseconds of processor time. */
import { eighMatrix } from "../src/linalg/eigh.ts";
import { identityMatrix, type Matrix, matrix, transposed } from "../src/linalg/matrix.ts";
import { product } from "../src/linalg/product.ts";
import { qrMatrix } from "../src/linalg/qr.ts";
import { solveMatrix } from "../src/linalg/solve.ts";
import { svdMatrix } from "../src/linalg/svd.ts";
import { svdLowrankMatrix } from "../src/linalg/svd-lowrank.ts";
import { TorchGenerator } from "../src/random/torch-generator.ts";

/** User and system time, which other programs on the machine hardly change. */
function milliseconds(run: () => unknown): number {
  const before = process.cpuUsage();
  run();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

/** ‖A − B‖ / ‖B‖ */
function distance(A: Matrix, B: Matrix): number {
  let [sum, norm] = [0, 0];
  A.values.forEach((value, at) => {
    sum += (value - B.values[at]!) ** 2;
    norm += B.values[at]! ** 2;
  });
  return Math.sqrt(sum / norm);
}

/** The best of `rounds` times for each, and how exact the SVD is. */
export async function factorise([size = "768", rounds = "5"]: readonly string[]): Promise<Record<string, unknown>> {
  const n = Number(size);
  const A = matrix(n, n, new TorchGenerator(1).randn64(n * n));
  const runs = {
    svd: () => svdMatrix(A),
    eigh: () => eighMatrix(A),
    qr: () => qrMatrix(A),
    svdLowrank: () => svdLowrankMatrix(A, 16, { niter: 4, random: new TorchGenerator(0) }),
    inverse: () => solveMatrix("inverse", A, identityMatrix(n)),
    product: () => product(A, A),
  };
  const best = Object.fromEntries(
    Object.entries(runs).map(([name, run]) => {
      const times = Array.from({ length: Number(rounds) }, () => milliseconds(run));
      console.log(`${name.padEnd(12)} ${times.map((time) => time.toFixed(0)).join("  ")}`);
      return [name, Math.min(...times)];
    }),
  );
  const { U, S, Vt } = svdMatrix(A);
  const US = matrix(
    n,
    n,
    U.values.map((value, at) => value * S[at % n]!),
  );
  const reconstruction = distance(product(US, Vt), A);
  const orthogonality = distance(product(transposed(U), U), identityMatrix(n));
  return { n, milliseconds: best, reconstruction, orthogonality };
}
