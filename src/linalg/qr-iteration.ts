/**
 * Singular vectors of a small bidiagonal matrix by QR iteration, rotation for rotation as LAPACK's `sbdsqr` and `slasdq` do it, so that
 * vectors have the same signs. Arithmetic is float64, but what counts as zero is that of float32.
 *
 * @see Demmel, Kahan, "Accurate singular values of bidiagonal matrices", 1990
 */
import { rotateRows } from "./conquer.ts";
import { identityMatrix, type Matrix } from "./matrix.ts";

/** Half of the distance of float32 numbers around 1. */
export const singleEpsilon = 2 ** -24;
const smallest = 2 ** -126;

/** A turn of the plane: [cosine, sine; −sine, cosine]. */
export interface Rotation {
  readonly cosine: number;
  readonly sine: number;
  readonly length: number;
}

/** Takes (f, g) to (length, 0); the cosine is not negative. */
function rotation(f: number, g: number): Rotation {
  if (g === 0) return { cosine: 1, sine: 0, length: f };
  if (f === 0) return { cosine: 0, sine: Math.sign(g), length: Math.abs(g) };
  const size = Math.hypot(f, g);
  const length = f < 0 ? -size : size;
  return { cosine: Math.abs(f) / size, sine: g / length, length };
}

/** −1 or 1; 1 for zero. */
const signOf = (x: number): number => (x < 0 || Object.is(x, -0) ? -1 : 1);
const withSign = (x: number, sign: number): number => Math.abs(x) * signOf(sign);

/** The smaller singular value of [[f, g], [0, h]]: `slas2`. */
function smallerValue(f: number, g: number, h: number): number {
  const [low, high] = [Math.min(Math.abs(f), Math.abs(h)), Math.max(Math.abs(f), Math.abs(h))];
  const side = Math.abs(g);
  if (low === 0) return 0;
  const [sum, difference] = [1 + low / high, (high - low) / high];
  if (side < high) {
    const ratio = (side / high) ** 2;
    return low * (2 / (Math.sqrt(sum * sum + ratio) + Math.sqrt(difference * difference + ratio)));
  }
  const ratio = high / side;
  if (ratio === 0) return (low * high) / side;
  const c = 1 / (Math.sqrt(1 + (sum * ratio) ** 2) + Math.sqrt(1 + (difference * ratio) ** 2));
  return 2 * (low * c * ratio);
}

/** Singular value decomposition of [[f, g], [0, h]]: `slasv2`. */
function decompose2(f: number, g: number, h: number) {
  const isSwapped = Math.abs(h) > Math.abs(f);
  const [ft, ht] = isSwapped ? [h, f] : [f, h];
  const [fa, ha, ga] = [Math.abs(ft), Math.abs(ht), Math.abs(g)];
  let largest: "f" | "g" | "h" = isSwapped ? "h" : "f";
  let [small, large, cl, cr, sl, sr] = [ha, fa, 1, 1, 0, 0];
  if (ga > 0) {
    if (ga > fa) largest = "g";
    if (ga > fa && fa / ga < singleEpsilon) {
      large = ga;
      small = ha > 1 ? fa / (ga / ha) : (fa / ga) * ha;
      [cl, sl, sr, cr] = [1, ht / g, 1, ft / g];
    } else {
      const d = fa - ha;
      const l = d === fa ? 1 : d / fa;
      const m = g / ft;
      const t = 2 - l;
      const mm = m * m;
      const s = Math.sqrt(t * t + mm);
      const r = l === 0 ? Math.abs(m) : Math.sqrt(l * l + mm);
      const a = 0.5 * (s + r);
      small = ha / a;
      large = fa * a;
      const tangent =
        mm === 0 ? (l === 0 ? withSign(2, ft) * signOf(g) : g / withSign(d, ft) + m / t) : (m / (s + t) + m / (r + l)) * (1 + a);
      const length = Math.sqrt(tangent * tangent + 4);
      cr = 2 / length;
      sr = tangent / length;
      cl = (cr + sr * m) / a;
      sl = ((ht / ft) * sr) / a;
    }
  }
  const left = isSwapped ? { cosine: sr, sine: cr } : { cosine: cl, sine: sl };
  const right = isSwapped ? { cosine: sl, sine: cl } : { cosine: cr, sine: sr };
  const sign = {
    f: signOf(right.cosine) * signOf(left.cosine) * signOf(f),
    g: signOf(right.sine) * signOf(left.cosine) * signOf(g),
    h: signOf(right.sine) * signOf(left.sine) * signOf(h),
  }[largest];
  return { left, right, large: large * sign, small: small * sign * signOf(f) * signOf(h) };
}

/**
 * Of the matrix with `d` on and `e` above the diagonal, which may have one column more than rows: values in no order, and the vectors of
 * both sides as rows; the last right one is taken to zero where there is a column more.
 *
 * @param e one number less than d, or as many where there is a column more
 */
export function iterateQr(
  d: Float64Array,
  e: Float64Array,
): { readonly values: Float64Array; readonly left: Matrix; readonly right: Matrix } {
  const n = d.length;
  const wide = e.length === n;
  const [left, right] = [identityMatrix(n), identityMatrix(wide ? n + 1 : n)];
  const turnRows = (M: Matrix, at: number, { cosine, sine }: Pick<Rotation, "cosine" | "sine">) =>
    rotateRows(M, at, at + 1, cosine, sine, 0, M.columns);
  const cross = (M: Matrix) => {
    for (const [i, turn] of crossDiagonal(d, e).entries()) turnRows(M, i, turn);
  };
  if (wide && n > 0) {
    cross(right);
    const turn = rotation(d[n - 1]!, e[n - 1]!);
    d[n - 1] = turn.length;
    turnRows(right, n - 1, turn);
    cross(left);
  }
  const tolerance = Math.max(10, Math.min(100, singleEpsilon ** -0.125)) * singleEpsilon;
  let least = Math.abs(d[0] ?? 0);
  for (let i = 1, mu = least; i < n && least > 0; i++) {
    mu = Math.abs(d[i]!) * (mu / (mu + Math.abs(e[i - 1]!)));
    least = Math.min(least, mu);
  }
  const threshold = Math.max(tolerance * (least / Math.sqrt(n)), 6 * n * n * smallest);
  let [oldFirst, oldLast, down] = [-1, -1, true];
  let last = n - 1;
  for (let round = 0; last > 0 && round < 30 * n * n; round++) {
    // the block that ends at `last`
    let first = last;
    let largest = Math.abs(d[last]!);
    while (first > 0 && Math.abs(e[first - 1]!) > threshold) {
      first--;
      largest = Math.max(largest, Math.abs(d[first]!), Math.abs(e[first]!));
    }
    if (first > 0) e[first - 1] = 0;
    if (first === last) {
      last--;
      continue;
    }
    if (first === last - 1) {
      const found = decompose2(d[first]!, e[first]!, d[last]!);
      [d[first], e[first], d[last]] = [found.large, 0, found.small];
      turnRows(right, first, found.right);
      turnRows(left, first, found.left);
      last -= 2;
      continue;
    }
    if (first > oldLast || last < oldFirst) down = Math.abs(d[first]!) >= Math.abs(d[last]!);
    const settled = settle(d, e, first, last, down, tolerance);
    if (settled === null) continue;
    [oldFirst, oldLast] = [first, last];
    let shift = 0;
    if (n * tolerance * (settled / largest) > Math.max(singleEpsilon, 0.01 * tolerance)) {
      const end = Math.abs(d[down ? first : last]!);
      shift = down ? smallerValue(d[last - 1]!, e[last - 1]!, d[last]!) : smallerValue(d[first]!, e[first]!, d[first + 1]!);
      if (end > 0 && (shift / end) ** 2 < singleEpsilon) shift = 0;
    }
    const edge = down ? last - 1 : first;
    if (down)
      sweepDown(d, e, first, last, shift, (i, r, l) => {
        turnRows(right, i, r);
        turnRows(left, i, l);
      });
    else
      sweepUp(d, e, first, last, shift, (i, r, l) => {
        turnRows(right, i, r);
        turnRows(left, i, l);
      });
    if (Math.abs(e[edge]!) <= threshold) e[edge] = 0;
  }
  for (let i = 0; i < n; i++)
    if (d[i]! < 0) {
      d[i] = -d[i]!;
      for (let j = 0; j < right.columns; j++) right.values[i * right.columns + j] = -right.values[i * right.columns + j]!;
    }
  return { values: d, left, right };
}

/** Rotates each two neighbours so that the second diagonal is on the other side of the first; the rotations. */
export function crossDiagonal(d: Float64Array, e: Float64Array): Rotation[] {
  return Array.from({ length: Math.max(d.length - 1, 0) }, (_, i) => {
    const turn = rotation(d[i]!, e[i]!);
    d[i] = turn.length;
    e[i] = turn.sine * d[i + 1]!;
    d[i + 1] = turn.cosine * d[i + 1]!;
    return turn;
  });
}

/** Zeroes what is small enough in a block, and then gives `null`; else a lower bound of the block's values. */
function settle(d: Float64Array, e: Float64Array, first: number, last: number, down: boolean, tolerance: number): number | null {
  const [edge, corner] = down ? [last - 1, last] : [first, first];
  if (Math.abs(e[edge]!) <= tolerance * Math.abs(d[corner]!)) {
    e[edge] = 0;
    return null;
  }
  let mu = Math.abs(d[down ? first : last]!);
  let least = mu;
  for (let k = 0; k < last - first; k++) {
    const at = down ? first + k : last - 1 - k;
    if (Math.abs(e[at]!) <= tolerance * mu) {
      e[at] = 0;
      return null;
    }
    mu = Math.abs(d[down ? at + 1 : at]!) * (mu / (mu + Math.abs(e[at]!)));
    least = Math.min(least, mu);
  }
  return least;
}

/** What a sweep does to rows `at` and `at + 1` of the vectors of both sides. */
type Turn = (at: number, right: Pick<Rotation, "cosine" | "sine">, left: Pick<Rotation, "cosine" | "sine">) => void;

/** One QR step from the top of a block to its bottom. */
function sweepDown(d: Float64Array, e: Float64Array, first: number, last: number, shift: number, turn: Turn): void {
  if (shift === 0) {
    let [right, left]: Rotation[] = [
      { cosine: 1, sine: 0, length: 0 },
      { cosine: 1, sine: 0, length: 0 },
    ];
    for (let i = first; i < last; i++) {
      right = rotation(d[i]! * right!.cosine, e[i]!);
      if (i > first) e[i - 1] = left!.sine * right.length;
      left = rotation(left!.cosine * right.length, d[i + 1]! * right.sine);
      d[i] = left.length;
      turn(i, right, left);
    }
    const h = d[last]! * right!.cosine;
    d[last] = h * left!.cosine;
    e[last - 1] = h * left!.sine;
    return;
  }
  let f = (Math.abs(d[first]!) - shift) * (signOf(d[first]!) + shift / d[first]!);
  let g = e[first]!;
  for (let i = first; i < last; i++) {
    const right = rotation(f, g);
    if (i > first) e[i - 1] = right.length;
    f = right.cosine * d[i]! + right.sine * e[i]!;
    e[i] = right.cosine * e[i]! - right.sine * d[i]!;
    g = right.sine * d[i + 1]!;
    d[i + 1] = right.cosine * d[i + 1]!;
    const left = rotation(f, g);
    d[i] = left.length;
    f = left.cosine * e[i]! + left.sine * d[i + 1]!;
    d[i + 1] = left.cosine * d[i + 1]! - left.sine * e[i]!;
    if (i < last - 1) {
      g = left.sine * e[i + 1]!;
      e[i + 1] = left.cosine * e[i + 1]!;
    }
    turn(i, right, left);
  }
  e[last - 1] = f;
}

const back = ({ cosine, sine }: Rotation) => ({ cosine, sine: -sine });

/** One QR step from the bottom of a block to its top. */
function sweepUp(d: Float64Array, e: Float64Array, first: number, last: number, shift: number, turn: Turn): void {
  if (shift === 0) {
    let [left, right]: Rotation[] = [
      { cosine: 1, sine: 0, length: 0 },
      { cosine: 1, sine: 0, length: 0 },
    ];
    for (let i = last; i > first; i--) {
      left = rotation(d[i]! * left!.cosine, e[i - 1]!);
      if (i < last) e[i] = right!.sine * left.length;
      right = rotation(right!.cosine * left.length, d[i - 1]! * left.sine);
      d[i] = right.length;
      turn(i - 1, back(right), back(left));
    }
    const h = d[first]! * left!.cosine;
    d[first] = h * right!.cosine;
    e[first] = h * right!.sine;
    return;
  }
  let f = (Math.abs(d[last]!) - shift) * (signOf(d[last]!) + shift / d[last]!);
  let g = e[last - 1]!;
  for (let i = last; i > first; i--) {
    const left = rotation(f, g);
    if (i < last) e[i] = left.length;
    f = left.cosine * d[i]! + left.sine * e[i - 1]!;
    e[i - 1] = left.cosine * e[i - 1]! - left.sine * d[i]!;
    g = left.sine * d[i - 1]!;
    d[i - 1] = left.cosine * d[i - 1]!;
    const right = rotation(f, g);
    d[i] = right.length;
    f = right.cosine * e[i - 1]! + right.sine * d[i - 1]!;
    d[i - 1] = right.cosine * d[i - 1]! - right.sine * e[i - 1]!;
    if (i > first + 1) {
      g = right.sine * e[i - 2]!;
      e[i - 2] = right.cosine * e[i - 2]!;
    }
    turn(i - 1, back(right), back(left));
  }
  e[first] = f;
}
