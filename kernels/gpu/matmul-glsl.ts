/**
 * The matrix product as fragment shaders of WebGL, written for WebGL 2; what both versions have is used, so that gl-shader.ts can write
 * them for WebGL 1. A texel holds a square of 2×2 elements, and a thread computes 2×2 squares, each in a
 * layer of its own, so that four reads serve 32 products: pack both operands, multiply, unpack. The packed matrices are textures as wide as they are, so that no address needs a division; those
 * of a batch lie in a grid, side by side and below each other. GPU.js names an argument `a` `user_a`. Everything is read with `texture`:
 * `texelFetch` takes twice as long in SwiftShader. `at_a(i)` reads an array, `own_a()` that of its elements which is written;
 * `layer_a(at, i)` reads layer i.
 * src/devices/gpu/gl-shader.ts has them, and WIDTH, the width of the result's texture.
 */
import { batchOffset, type MatmulSizes, type MatrixWalk } from "./matmul.ts";

/** How a fragment shader begins that reads these arrays, `product` with layers, and writes so many values. */
export const shaderHead = (arrays: readonly string[], results = 1): string =>
  `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp sampler2DArray;
${arrays.map((name) => `uniform ${name === "product" ? "sampler2DArray" : "sampler2D"} user_${name};`).join("\n")}
${Array.from({ length: results }, (_, i) => `layout(location = ${i}) out vec4 data${i};`).join("\n")}`;

const header = (arrays: readonly string[], layers = 1): string =>
  `${shaderHead(arrays, layers)}
// a quotient of floats, which is quicker than one of whole numbers, mended where it is inexact
int over(int i, int n) {
  int q = int(float(i) / float(n));
  int rest = i - q * n;
  return rest < 0 ? q - 1 : rest >= n ? q + 1 : q;
}`;

const inverse = (size: number): string => (1 / size).toExponential();

/** Whole numbers below this have a quotient that needs no mending: half of a part of it is more than the product is wrong by. */
const fewEnough = 2 ** 20;

/** The quotient of a whole number below `most`. */
const quotient = (i: string, n: number, most: number): string => {
  if (n === 1) return i;
  if (n >= most) return "0";
  return most <= fewEnough ? `int((float(${i}) + 0.5) * ${inverse(n)})` : `over(${i}, ${n})`;
};

/** Squares along an extent: of the sums, which are rows of a and columns of b, an even number of them. */
const half = (extent: number): number => Math.ceil(extent / 2);
const even = (extent: number): number => 2 * Math.ceil(extent / 4);

/** Matrices of a batch in one texture. */
export interface Grid {
  readonly across: number;
  readonly down: number;
}

/** The grid whose textures have no side longer than `most`; `null` where there is none. */
export function gridOf({ batches, M, N, K }: MatmulSizes, most: number): Grid | null {
  const tallest = Math.floor(most / Math.max(even(M), half(K)));
  if (tallest < 1) return null;
  const across = Math.max(1, Math.ceil(batches / tallest));
  return across * Math.max(half(K), even(N)) > most ? null : { across, down: Math.ceil(batches / across) };
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
  readonly layers?: number;
}

/** Squares of 2×2 elements, zero past the edges: of `a`, whose rows are those of the sums, or of `b`. */
export function packSquares(sizes: MatmulSizes, operand: "a" | "b", grid: Grid): Drawing {
  const { batches, M, N, K, [operand]: at } = sizes;
  const [rows, columns] = operand === "a" ? [M, K] : [K, N];
  const [height, width] = operand === "a" ? [even(M), half(K)] : [half(K), even(N)];
  const inside = (row: number, column: number): string => {
    const checks = [
      ...(rows < 2 * height && (row || rows <= 2 * height - 2) ? [`r + ${row} < ${rows}`] : []),
      ...(columns < 2 * width && (column || columns <= 2 * width - 2) ? [`c + ${column} < ${columns}`] : []),
    ];
    const value = `at_a(first + ${row * at.row + column * at.column})`;
    return checks.length ? `(${checks.join(" && ")} ? ${value} : 0.0)` : value;
  };
  const code = `${header(["a"])}
void main() {
  ${cell(grid, width, height)}
  int batch = ${grid.across === 1 ? "y" : `y * ${grid.across} + x`};
  ${grid.across === 1 ? "" : `if (batch >= ${batches}) batch = ${batches - 1};`}
  int r = 2 * (p.y - y * ${height});
  int c = 2 * (p.x - x * ${width});
  int first = ${begin(at, batches)} + r * ${at.row} + c * ${at.column};
  data0 = vec4(${inside(0, 0)}, ${inside(0, 1)}, ${inside(1, 0)}, ${inside(1, 1)});
}`;
  return { code, size: [grid.across * width, grid.down * height] };
}

/** Whether the product can be written row by row, as it lies in a flat value: then it is copied and not unpacked. */
export const isInRows = ({ batches, M, N }: MatmulSizes, { across }: Grid): boolean =>
  N % 4 === 0 && across === 1 && (batches === 1 || M % 4 === 0);

/**
 * Product of packed matrices: a texel of each layer is one of the squares of a square of them; or with `inRows` four elements of one of
 * four rows, the start of the sums among them.
 */
export function multiplySquares(sizes: MatmulSizes, { across, down }: Grid, inRows: boolean): Drawing {
  const { batches, M, N, K } = sizes;
  const start = inRows ? sizes.start : undefined;
  const [height, width, deep] = [even(M) / 2, even(N) / 2, half(K)];
  const product = (s: number, x: string, y: string): string => `s${s} += ${x}.xxzz * ${y}.xyxy + ${x}.yyww * ${y}.zwzw;`;
  const step = (i: number): string => `
    { float at = float(k) + ${i + 0.5};
      float u = (left + at) * ${inverse(across * deep)};
      float v = (top + at) * ${inverse(down * deep)};
      vec4 x0 = texture(user_a, vec2(u, row0));
      vec4 x1 = texture(user_a, vec2(u, row1));
      vec4 y0 = texture(user_b, vec2(column0, v));
      vec4 y1 = texture(user_b, vec2(column1, v));
      ${product(0, "x0", "y0")} ${product(1, "x0", "y1")} ${product(2, "x1", "y0")} ${product(3, "x1", "y1")} }`;
  const unrolled = deep % 4 === 0 ? 4 : deep % 2 === 0 ? 2 : 1;
  const layers = [0, 1, 2, 3] as const;
  const [top, bottom] = [0, 2].map((row) => {
    const at = (r: number, c: number) => `at_start(first + ${r * start!.row + c * start!.column})`;
    const square = (column: number) =>
      start ? `vec4(${[at(row, column), at(row, column + 1), at(row + 1, column), at(row + 1, column + 1)]})` : "vec4(0.0)";
    return [square(0), square(2)];
  }) as [string[], string[]];
  const starts = [...top, ...bottom];
  // four rows of two squares each
  const rows = ["s0.xy, s1.xy", "s0.zw, s1.zw", "s2.xy, s3.xy", "s2.zw, s3.zw"];
  const code = `${header(start ? ["a", "b", "start"] : ["a", "b"], 4)}
void main() {
  ${cell({ across, down }, width, height)}
  ${start ? `int batch = y; int first = ${begin(start, batches)} + (p.y - y * ${height}) * ${4 * start.row} + p.x * ${4 * start.column};` : ""}
  float left = float(x * ${deep});
  float top = float(y * ${deep});
  float row0 = (2.0 * gl_FragCoord.y - 0.5) * ${inverse(2 * down * height)};
  float row1 = (2.0 * gl_FragCoord.y + 0.5) * ${inverse(2 * down * height)};
  float column0 = (2.0 * gl_FragCoord.x - 0.5) * ${inverse(2 * across * width)};
  float column1 = (2.0 * gl_FragCoord.x + 0.5) * ${inverse(2 * across * width)};
  ${layers.map((i) => `vec4 s${i} = ${starts[i]};`).join(" ")}
  for (int k = 0; k < ${deep}; k += ${unrolled}) {${Array.from({ length: unrolled }, (_, i) => step(i)).join("")}
  }
  ${layers.map((i) => `data${i} = ${inRows ? `vec4(${rows[i]})` : `s${i}`};`).join(" ")}
}`;
  return { code, size: [across * width, down * height], layers: layers.length };
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
  const [height, width] = [even(M) / 2, even(N) / 2];
  return `${header(start ? ["product", "start"] : ["product"])}
void main() {
  ivec2 p = ivec2(gl_FragCoord.xy);
  int i = p.y * WIDTH + p.x;
  // the texture may have a few elements more
  int line = ${quotient("i", N, batches * M * N + 4096)};
  int c = i - line * ${N};
  int batch = ${batches === 1 ? "0" : quotient("line", M, batches * M + 4096)};
  int r = line - batch * ${M};
  int y = ${quotient("batch", across, batches)};
  int x = batch - y * ${across};
  int right = int(float(c) * 0.25);
  int down = int(float(r) * 0.25);
  vec2 at = (vec2(x * ${width} + right, y * ${height} + down) + 0.5) * vec2(${inverse(across * width)}, ${inverse(down * height)});
  int column = c - 4 * right;
  int row = r - 4 * down;
  vec4 square = layer_product(at, (row > 1 ? 2 : 0) + (column > 1 ? 1 : 0));
  vec2 pair = row == 0 || row == 2 ? square.xy : square.zw;
  data0 = vec4((column == 0 || column == 2 ? pair.x : pair.y)${added}, 0.0, 0.0, 0.0);
}`;
}
