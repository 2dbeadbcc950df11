/**
 * The matrix product as fragment shaders of WebGL 2. A texel holds a square of 2×2 elements, so that two reads serve eight products:
 * pack both operands, multiply, unpack. The packed matrices are textures as wide as they are, so that no address needs a division.
 * GPU.js names an argument `a` `user_a`. Everything is read with `texture`: `texelFetch` takes twice as long in SwiftShader.
 */
import type { MatmulSizes, MatrixWalk } from "./matmul.ts";

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

/** Reads an element of an array, whose texture is filled row by row. */
const readFlat = (name: string): string => `float at_${name}(int i) {
  ivec2 size = textureSize(user_${name}, 0);
  int y = over(i, size.x);
  return texture(user_${name}, (vec2(i - y * size.x, y) + 0.5) / vec2(size)).x;
}`;

const half = (extent: number): number => Math.ceil(extent / 2);

/** A shader and the texture that it writes. */
export interface Drawing {
  readonly code: string;
  readonly size: readonly [width: number, height: number];
}

/** Squares of 2×2 elements, zero past the edges: [columns / 2, batches · rows / 2]. */
export function packSquares(batches: number, rows: number, columns: number, at: MatrixWalk): Drawing {
  const inside = (row: number, column: number): string => {
    const checks = [...(row && rows % 2 ? [`r + 1 < ${rows}`] : []), ...(column && columns % 2 ? [`c + 1 < ${columns}`] : [])];
    const value = `at_a(first + ${row * at.row + column * at.column})`;
    return checks.length ? `(${checks.join(" && ")} ? ${value} : 0.0)` : value;
  };
  const code = `${header(["a"])}
${readFlat("a")}
void main() {
  ivec2 p = ivec2(gl_FragCoord.xy);
  int batch = ${batches === 1 ? "0" : `over(p.y, ${half(rows)})`};
  int r = 2 * (p.y - batch * ${half(rows)});
  int c = 2 * p.x;
  int first = ${at.offset} + batch * ${at.batch} + r * ${at.row} + c * ${at.column};
  data0 = vec4(${inside(0, 0)}, ${inside(0, 1)}, ${inside(1, 0)}, ${inside(1, 1)});
}`;
  return { code, size: [half(columns), batches * half(rows)] };
}

/** Product of packed matrices, packed. */
export function multiplySquares({ batches, M, N, K }: MatmulSizes): Drawing {
  const [rows, deep] = [half(M), half(K)];
  const step = (i: number): string => `
    { float at = float(k) + ${i + 0.5};
      vec4 x = texture(user_a, vec2(at * ${(1 / deep).toExponential()}, row));
      vec4 y = texture(user_b, vec2(column, (first + at) * ${(1 / (batches * deep)).toExponential()}));
      s += x.xxzz * y.xyxy + x.yyww * y.zwzw; }`;
  const unrolled = deep % 4 === 0 ? 4 : deep % 2 === 0 ? 2 : 1;
  const code = `${header(["a", "b"])}
void main() {
  float first = ${batches === 1 ? "0.0" : `float(over(int(gl_FragCoord.y), ${rows}) * ${deep})`};
  float row = gl_FragCoord.y / ${batches * rows}.0;
  float column = gl_FragCoord.x / ${half(N)}.0;
  vec4 s = vec4(0.0);
  for (int k = 0; k < ${deep}; k += ${unrolled}) {${Array.from({ length: unrolled }, (_, i) => step(i)).join("")}
  }
  data0 = s;
}`;
  return { code, size: [half(N), batches * rows] };
}

/** A packed matrix as an array in order, plus the start of the sums if there is one. `WIDTH` stands for the width of the result's texture. */
export function unpackSquares({ batches, M, N, start }: MatmulSizes): string {
  const added = start ? ` + at_start(${start.offset} + batch * ${start.batch} + r * ${start.row} + c * ${start.column})` : "";
  return `${header(start ? ["a", "start"] : ["a"])}
${start ? readFlat("start") : ""}
void main() {
  ivec2 p = ivec2(gl_FragCoord.xy);
  int i = p.y * WIDTH + p.x;
  int line = over(i, ${N});
  int c = i - line * ${N};
  int batch = ${batches === 1 ? "0" : `over(line, ${M})`};
  int r = line - batch * ${M};
  if (line >= ${batches * M}) { data0 = vec4(0.0); return; }
  ivec2 at = ivec2(c / 2, batch * ${half(M)} + r / 2);
  vec4 square = texture(user_a, (vec2(at) + 0.5) / vec2(${half(N)}, ${batches * half(M)}));
  vec2 pair = (r & 1) == 0 ? square.xy : square.zw;
  data0 = vec4(((c & 1) == 0 ? pair.x : pair.y)${added}, 0.0, 0.0, 0.0);
}`;
}
