/**
 * Fragment shaders of WebGL: those of GPU.js, mended where they are slow, and our own, written for WebGL 2. GPU.js takes every index apart with divisions
 * of whole numbers, two to find the thread and two more for every element that it reads, which graphics cards do slowly, and SwiftShader
 * very slowly. The sizes of all textures are known when a shader is written, so each array gets a reader of its own.
 */

type Size = ArrayLike<number>;

/**
 * Width and height of a texture. One with `columns` holds the rows of matrices so wide by fours, in mode webgl: of the rows r, r + 1, r + 2
 * and r + 3, r a multiple of four, each lies in a quarter of the texture of its own, the first two above the others.
 */
export type Held = readonly [width: number, height: number, columns?: number | undefined];

/** Elements of a texture up to which the place of one is found by a product: it is wrong by less than a quarter of a texel. */
const fewEnough = 2 ** 21;

const inverse = (size: number): string => (1 / size).toExponential();

/** What a reader gives: a float of an array, or four of one of four floats a texel. */
interface Kind {
  readonly type: string;
  /** Names of the readers. */
  readonly at: string;
  readonly own: string;
  readonly part: string;
}
const kinds: readonly Kind[] = [
  { type: "float", at: "at_", own: "own_", part: ".x" },
  { type: "vec4", at: "four_", own: "own_four_", part: "" },
];

/** `at_a(i)` of rows by fours. */
function readerOfFours(name: string, width: number, height: number, columns: number): string {
  const line =
    4 * width * height <= fewEnough
      ? `float line = floor((float(i) + 0.5) * ${inverse(columns)});
  float c = float(i) - line * ${columns}.0;`
      : `int row = int(float(i) * ${inverse(columns)});
  int column = i - row * ${columns};
  if (column < 0) { column += ${columns}; row--; }
  if (column >= ${columns}) { column -= ${columns}; row++; }
  float line = float(row);
  float c = float(column);`;
  return `float at_${name}(int i) {
  ${line}
  vec2 p = floor(vec2(c, line) * 0.25);
  float layer = line - 4.0 * p.y;
  float below = layer > 1.5 ? 1.0 : 0.0;
  vec2 at = (p + vec2(layer - 2.0 * below, below) * vec2(${width / 2}, ${height / 2}) + 0.5) * vec2(${inverse(width)}, ${inverse(height)});
  vec4 four = texture(user_${name}, at);
  float part = c - 4.0 * p.x;
  return part < 1.5 ? (part < 0.5 ? four.x : four.y) : (part < 2.5 ? four.z : four.w);
}`;
}

/**
 * `at_a(i)`: element `i` of an array, whose texture is filled row by row or, with `columns`, by fours of rows; `four_a(i)` of one of four
 * floats a texel.
 */
function reader({ type, at, part }: Kind, name: string, [width, height, columns]: Held): string {
  if (columns) return readerOfFours(name, width, height, columns);
  const isExact = (width & (width - 1)) === 0 && width * height < 2 ** 23;
  if (isExact || width * height <= fewEnough)
    return `${type} ${at}${name}(int i) {
  float t = (float(i) + 0.5) * ${inverse(width)};
  float row = floor(t);
  return texture(user_${name}, vec2(t - row, (row + 0.5) * ${inverse(height)}))${part};
}`;
  return `${type} ${at}${name}(int i) {
  int row = int(float(i) * ${inverse(width)});
  int column = i - row * ${width};
  if (column < 0) { column += ${width}; row--; }
  if (column >= ${width}) { column -= ${width}; row++; }
  return texture(user_${name}, (vec2(column, row) + 0.5) * vec2(${inverse(width)}, ${inverse(height)}))${part};
}`;
}

/** `own_a()`: the element of an array that has the place of the one which is written. */
const ownReader = ({ type, at, own, part }: Kind, name: string, [width, height, columns]: Held, { 0: w, 1: h }: Size): string =>
  width === w && height === h && !columns
    ? `${type} ${own}${name}() { return texture(user_${name}, gl_FragCoord.xy * vec2(${inverse(width)}, ${inverse(height)}))${part}; }`
    : `${type} ${own}${name}() { return ${at}${name}(int(gl_FragCoord.y) * ${w} + int(gl_FragCoord.x)); }`;

/** The readers that a shader calls. */
function readers(code: string, sizes: ReadonlyMap<string, Held>, written: Size): string {
  const made: string[] = [];
  for (const [name, size] of sizes) {
    for (const kind of kinds) {
      const own = code.includes(`${kind.own}${name}()`);
      if (own || code.includes(`${kind.at}${name}(`)) made.push(reader(kind, name, size));
      if (own) made.push(ownReader(kind, name, size, written));
    }
    if (code.includes(`layer_${name}(`))
      made.push(`vec4 layer_${name}(vec2 at, int layer) { return texture(user_${name}, vec3(at, layer)); }`);
  }
  return made.join("\n");
}

/** What GPU.js reads texels with. */
const slowRead = /vec4 getImage2D\(sampler2D tex[^}]*}/;
const quickRead = `vec4 getImage2D(sampler2D tex, ivec2 texSize, ivec3 texDim, int z, int y, int x) {
  int index = x + texDim.x * (y + texDim.y * z);
  int row = int(float(index) / float(texSize.x));
  int column = index - row * texSize.x;
  if (column < 0) { column += texSize.x; row--; }
  if (column >= texSize.x) { column -= texSize.x; row++; }
  return texture(tex, (vec2(column, row) + 0.5) / vec2(texSize));
}`;
const slowThread = /index = int\(vTexCoord[^;]*;\s*threadId = indexTo3D\(index, uOutputDim\);/;

/**
 * A shader of ours, with what it reads.
 *
 * @param sizes   of the textures that it reads
 * @param written size of the one that it writes
 */
export const ourShader = (code: string, sizes: ReadonlyMap<string, Held>, written: Size): string =>
  code
    .replace("#version 300 es", `#version 300 es\n#define WIDTH ${written[0]}`)
    .replace("void main()", `${readers(code, sizes, written)}\nvoid main()`);

/** A shader of ours for WebGL 1, where the layers of an array are the quarters of one texture. */
export function olderShader(code: string): string {
  const several = code.includes("out vec4 data1;");
  return code
    .replace("#version 300 es", several ? "#extension GL_EXT_draw_buffers : require" : "")
    .replace(/^precision highp sampler2DArray;$/m, "")
    .replace(/^layout\(location = \d\) out .*$/gm, "")
    .replace(/sampler2DArray/g, "sampler2D")
    .replace(/vec3\(at, layer\)/g, "(at + (layer > 1 ? vec2(layer - 2, 1) : vec2(layer, 0))) * 0.5")
    .replace(/\bdata(\d)\b/g, "gl_FragData[$1]")
    .replace(/\btexture\(/g, "texture2D(");
}

/**
 * A shader of GPU.js, mended.
 *
 * @param given   what GPU.js wrote, which says the sizes of what it reads
 * @param written size of the texture that it writes
 * @param columns of the arrays that are rows by fours
 */
export function mendedShader(given: string, written: Size, columns: ReadonlyMap<string, number> = new Map()): string {
  const sizes = new Map<string, Held>();
  for (const [, name, width, height] of given.matchAll(/ivec2 user_(\w+)Size = ivec2\((\d+), (\d+)\);/g))
    sizes.set(name!, [Number(width), Number(height), columns.get(name!)]);
  let code = given
    .replace(slowThread, `threadId = ivec3(int(gl_FragCoord.y) * ${written[0]} + int(gl_FragCoord.x), 0, 0);`)
    .replace(slowRead, quickRead)
    .replace(/getFloatFromSampler2D\(user_(\w+), user_\1Size, user_\1Dim, 0, 0, /g, "at_$1(");
  // variables that are the thread's number, and stay it
  for (const [, name] of code.matchAll(/float (user_\w+)=float\(threadId\.x\);/g))
    if (code.split(`${name}=`).length === 2)
      for (const array of sizes.keys()) code = code.replaceAll(`at_${array}(int(${name}))`, `own_${array}()`);
  code = code.replace("void kernel()", `${readers(code, sizes, written)}\nvoid kernel()`);
  return code.startsWith("#version 300 es") ? code : code.replace(/\btexture\(/g, "texture2D(");
}
