/**
 * The matrix product as fragment shaders of WebGL 2. A texel holds a square of 2×2 elements, so that two reads serve eight products:
 * pack both operands, multiply, unpack. The packed matrices are textures as wide as they are, so that no address needs a division; those
 * of a batch lie in a grid, side by side and below each other. GPU.js names an argument `a` `user_a`. Everything is read with `texture`:
 * `texelFetch` takes twice as long in SwiftShader. `at_a(i)` reads an array, `own_a()` that of its elements which is written;
 * src/devices/gpu/gl-shader.ts has them, and WIDTH, the width of the result's texture.
 */
import { batchOffset, type MatmulSizes, type MatrixWalk } from "./matmul.ts";

const header = (arrays: readonly string[]): string =>
  `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
${arrays.map((name) => `uniform sampler2D user_${name};`).join("\n")}
out vec4 data0;
// a quotient of floats, which is quicker than one of whole numbers, mended where it is inexact
int over(int i, int n) {
  int q = int(float(i) / float(n));
  int rest = i - q * n;
  return rest < 0 ? q - 1 : rest >= n ? q + 1 : q;
}`;

/** Whole numbers below this have a quotient that needs no mending: half of a part of it is more than the product is wrong by. */
const fewEnough = 2 ** 20;

/** The quotient of a whole number below `most`. */
const quotient = (i: string, n: number, most: number): string => {
  if (n === 1) return i;
  if (n >= most) return "0";
  return most <= fewEnough ? `int((float(${i}) + 0.5) * ${(1 / n).toExponential()})` : `over(${i}, ${n})`;
};

const half = (extent: number): number => Math.ceil(extent / 2);

/** Matrices of a batch in one texture. */
export interface Grid {
  readonly across: number;
  readonly down: number;
}

/** The grid whose textures have no side longer than `most`; `null` where there is none. */
export function gridOf({ batches, M, N, K }: MatmulSizes, most: number): Grid | null {
  const tallest = Math.floor(most / Math.max(half(M), half(K)));
  if (tallest < 1) return null;
  const across = Math.max(1, Math.ceil(batches / tallest));
  return across * Math.max(half(K), half(N)) > most ? null : { across, down: Math.ceil(batches / across) };
}

/** Column and row of the grid for the texel that is written, whose matrices are so many texels wide and high. */
const cell = ({ across, down }: Grid, width: number, height: number): string =>
  `ivec2 p = ivec2(gl_FragCoord.xy);
  int x = ${quotient("p.x", width, across * width)};
  int y = ${quotient("p.y", height, down * height)};`;

/** Where the matrix begins. */
const begin = ({ batch, offset }: MatrixWalk, batches: number): string =>
  `${offset} + ${batchOffset(batch, (n) => quotient("batch", n, batches))}`;

/** A shader and the texture that it writes. */
export interface Drawing {
  readonly code: string;
  readonly size: readonly [width: number, height: number];
}

/** Squares of 2×2 elements, zero past the edges. */
export function packSquares(batches: number, rows: number, columns: number, at: MatrixWalk, grid: Grid): Drawing {
  const [height, width] = [half(rows), half(columns)];
  const inside = (row: number, column: number): string => {
    const checks = [...(row && rows % 2 ? [`r + 1 < ${rows}`] : []), ...(column && columns % 2 ? [`c + 1 < ${columns}`] : [])];
    const value = `at_a(first + ${row * at.row + column * at.column})`;
    return checks.length ? `(${checks.join(" && ")} ? ${value} : 0.0)` : value;
  };
  const code = `${header(["a"])}
void main() {
  ${cell(grid, width, height)}
  int batch = ${grid.across === 1 ? "y" : `min(y * ${grid.across} + x, ${batches - 1})`};
  int r = 2 * (p.y - y * ${height});
  int c = 2 * (p.x - x * ${width});
  int first = ${begin(at, batches)} + r * ${at.row} + c * ${at.column};
  data0 = vec4(${inside(0, 0)}, ${inside(0, 1)}, ${inside(1, 0)}, ${inside(1, 1)});
}`;
  return { code, size: [grid.across * width, grid.down * height] };
}

/** Product of packed matrices, packed. */
export function multiplySquares({ M, N, K }: MatmulSizes, grid: Grid): Drawing {
  const [height, width, deep] = [half(M), half(N), half(K)];
  const { across, down } = grid;
  const step = (i: number): string => `
    { float at = float(k) + ${i + 0.5};
      vec4 x = texture(user_a, vec2((left + at) * ${(1 / (across * deep)).toExponential()}, row));
      vec4 y = texture(user_b, vec2(column, (top + at) * ${(1 / (down * deep)).toExponential()}));
      s += x.xxzz * y.xyxy + x.yyww * y.zwzw; }`;
  const unrolled = deep % 4 === 0 ? 4 : deep % 2 === 0 ? 2 : 1;
  const code = `${header(["a", "b"])}
void main() {
  ${cell(grid, width, height)}
  float left = float(x * ${deep});
  float top = float(y * ${deep});
  float row = gl_FragCoord.y / ${down * height}.0;
  float column = gl_FragCoord.x / ${across * width}.0;
  vec4 s = vec4(0.0);
  for (int k = 0; k < ${deep}; k += ${unrolled}) {${Array.from({ length: unrolled }, (_, i) => step(i)).join("")}
  }
  data0 = s;
}`;
  return { code, size: [across * width, down * height] };
}

/** Whether the start of the sums lies as the result does. */
const isInOrder = ({ offset, batch, row, column }: MatrixWalk, { M, N }: MatmulSizes): boolean =>
  offset === 0 &&
  (M === 1 || row === N) &&
  (N === 1 || column === 1) &&
  (batch.length === 0 || (batch.length === 1 && batch[0]!.stride === M * N));

/** A packed matrix as an array in order, plus the start of the sums if there is one. */
export function unpackSquares(sizes: MatmulSizes, { across, down }: Grid): string {
  const { batches, M, N, start } = sizes;
  const added = !start
    ? ""
    : isInOrder(start, sizes)
      ? " + own_start()"
      : ` + at_start(${begin(start, batches)} + r * ${start.row} + c * ${start.column})`;
  return `${header(start ? ["a", "start"] : ["a"])}
void main() {
  ivec2 p = ivec2(gl_FragCoord.xy);
  int i = p.y * WIDTH + p.x;
  // the texture may have a few elements more
  int line = ${quotient("i", N, batches * M * N + 4096)};
  int c = i - line * ${N};
  int batch = ${quotient("line", M, batches * M + 4096)};
  int r = line - batch * ${M};
  int y = ${quotient("batch", across, batches)};
  int x = batch - y * ${across};
  vec2 at = vec2(x * ${half(N)} + (c >> 1), y * ${half(M)} + (r >> 1)) + 0.5;
  vec4 square = texture(user_a, at * vec2(${(1 / (across * half(N))).toExponential()}, ${(1 / (down * half(M))).toExponential()}));
  vec2 pair = (r & 1) == 0 ? square.xy : square.zw;
  data0 = vec4(((c & 1) == 0 ? pair.x : pair.y)${added}, 0.0, 0.0, 0.0);
}`;
}
