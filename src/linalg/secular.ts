/**
 * The secular equation 1/ρ + Σ zⱼ²/(pⱼ − λ) = 0: its roots are the eigenvalues of diag(p) + ρ·z·zᵀ, one between each two poles and one
 * behind the last. Roots are found as offsets from the nearest pole, so that all pⱼ − λ are known to almost all digits, and z is
 * then computed anew from the roots: the eigenvectors are orthogonal to working precision however close the roots lie.
 *
 * @see Gu, Eisenstat, "A stable and efficient algorithm for the rank-one modification of the symmetric eigenproblem", 1994
 * @see Li, "Solving secular equations stably and efficiently", 1993
 */

/** The poles: d in ascending order, or their squares. */
export interface Poles {
  readonly d: Float64Array;
  readonly squared: boolean;
}

/** pⱼ − pₖ, to almost all digits. */
const gap = ({ d, squared }: Poles, j: number, k: number): number =>
  squared ? (d[j]! - d[k]!) * (d[j]! + d[k]!) : d[j]! - d[k]!;

/** All roots of one secular equation. */
export interface SecularRoots {
  /** λ, or its square root where poles are squared. */
  readonly values: Float64Array;
  /** Row i: pⱼ − λᵢ for all j. */
  readonly differences: Float64Array;
  /** The z for which these roots are exact. */
  readonly z: Float64Array;
}

/** All roots, in ascending order. No two poles may be equal, no z zero, and ρ positive. */
export function secularRoots(poles: Poles, z: Float64Array, rho: number): SecularRoots {
  const n = z.length;
  const weights = z.map((value) => value * value);
  const values = new Float64Array(n);
  const differences = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const row = differences.subarray(i * n, (i + 1) * n);
    const { origin, offset } = secularRoot(poles, weights, rho, i, row);
    for (let j = 0; j < n; j++) row[j] = row[j]! - offset;
    const pole = poles.d[origin]!;
    values[i] = poles.squared ? pole + offset / (pole + Math.sqrt(Math.max(0, pole * pole + offset))) : pole + offset;
  }
  const exact = new Float64Array(n);
  for (let j = 0; j < n; j++) {
    let product = -differences[(n - 1) * n + j]! / rho;
    for (let i = 0; i < j; i++) product *= differences[i * n + j]! / gap(poles, j, i);
    for (let i = j; i < n - 1; i++) product *= differences[i * n + j]! / gap(poles, j, i + 1);
    exact[j] = Math.sqrt(Math.abs(product)) * (z[j]! < 0 ? -1 : 1);
  }
  return { values, differences, z: exact };
}

/** Root i as p + offset; `gaps` becomes the distances of all poles from that one. */
function secularRoot(poles: Poles, weights: Float64Array, rho: number, i: number, gaps: Float64Array) {
  const n = weights.length;
  const measure = (origin: number) => {
    for (let j = 0; j < n; j++) gaps[j] = gap(poles, j, origin);
  };
  const inverse = 1 / rho;
  measure(i);
  if (n === 1) return { origin: i, offset: rho * weights[0]! };
  const last = i === n - 1;
  let origin = i;
  let [low, high] = [0, 0]; // the root lies between
  let offset: number;
  if (last) {
    for (const weight of weights) high += weight;
    high *= rho * (1 + 8 * Number.EPSILON);
    offset = high / 2;
  } else {
    const width = gaps[i + 1]!;
    const [w, next] = [weights[i]!, weights[i + 1]!];
    let others = inverse; // of the sum in the middle, without the two poles beside it
    for (let j = 0; j < n; j++) if (j !== i && j !== i + 1) others += weights[j]! / (gaps[j]! - width / 2);
    if (others + (2 * (next - w)) / width >= 0) {
      high = width / 2;
      offset = smallRoot(others, others * width + w + next, w * width);
    } else {
      origin = i + 1;
      measure(origin);
      low = -width / 2;
      offset = smallRoot(others, w + next - others * width, -next * width);
    }
  }
  if (!(offset > low && offset < high)) offset = (low + high) / 2;

  const [before, after] = last ? [n - 2, n - 1] : [i, i + 1];
  for (let round = 0; round < 200; round++) {
    let [psi, psiSlope, phi, phiSlope] = [0, 0, 0, 0];
    for (let j = 0; j <= before; j++) {
      const inverted = 1 / (gaps[j]! - offset);
      const term = weights[j]! * inverted;
      psi += term;
      psiSlope += term * inverted;
    }
    for (let j = after; j < n; j++) {
      const inverted = 1 / (gaps[j]! - offset);
      const term = weights[j]! * inverted;
      phi += term;
      phiSlope += term * inverted;
    }
    const f = inverse + psi + phi;
    const slope = psiSlope + phiSlope;
    const rounding = 8 * (inverse + Math.abs(psi) + Math.abs(phi)) + Math.abs(offset) * slope;
    if (Math.abs(f) <= Number.EPSILON * rounding) break;
    if (f < 0) low = offset;
    else high = offset;
    // the root of a sum of two poles and a constant that has this value and these slopes
    const [left, right] = [gaps[before]! - offset, gaps[after]! - offset];
    const constant = f - left * psiSlope - right * phiSlope;
    const a = (left + right) * f - left * right * slope;
    const b = left * right * f;
    let next = offset + (last ? lastStep(Math.abs(constant), a, b) : smallRoot(constant, a, b));
    if (!(next > low && next < high)) next = offset - f / slope;
    if (!(next > low && next < high)) next = (low + high) / 2;
    if (next === offset || next === low || next === high) break;
    offset = next;
  }
  return { origin, offset };
}

/** The root of c·x² − a·x + b next to zero. */
function smallRoot(c: number, a: number, b: number): number {
  const root = Math.sqrt(Math.abs(a * a - 4 * b * c));
  return a > 0 ? (2 * b) / (a + root) : c === 0 ? b / a : (a - root) / (2 * c);
}

/** The same behind the last pole, where it is the larger one. */
function lastStep(c: number, a: number, b: number): number {
  const root = Math.sqrt(Math.abs(a * a - 4 * b * c));
  return a >= 0 ? (a + root) / (2 * c) : (2 * b) / (a - root);
}
