/** `lorikeet/linalg`: factorisations of matrices, inverses, and Fourier transforms. */
import "../devices/choose.ts";
import "../tensor/methods.ts";

export { cayley } from "./cayley.ts";
export { type Eigh, eigh } from "./eigh.ts";
export { ifft2Real, rfft } from "./fourier.ts";
export { type Qr, qr } from "./qr.ts";
export { det, inverse, type SignedLogarithm, slogdet, solve } from "./solve.ts";
export { lstsq, pinv, type Svd, svd, svdvals } from "./svd.ts";
export { type LowrankOptions, svdLowrank } from "./svd-lowrank.ts";
export { cholesky, solveTriangular } from "./triangular.ts";
