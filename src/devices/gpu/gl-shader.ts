/**
 * Fragment shaders of WebGL: those of GPU.js, mended where they are slow, and our own for WebGL 2. GPU.js takes every index apart with divisions
 * of whole numbers, two to find the thread and two more for every element that it reads, which graphics cards do slowly, and SwiftShader
 * very slowly. The sizes of all textures are known when a shader is written, so each array gets a reader of its own.
 */

type Size = ArrayLike<number>;

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

/** `at_a(i)`: element `i` of an array, whose texture is filled row by row; `four_a(i)` of one of four floats a texel. */
function reader({ type, at, part }: Kind, name: string, [width, height]: [number, number]): string {
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
const ownReader = (
  { type, at, own, part }: Kind,
  name: string,
  [width, height]: [number, number],
  { 0: w, 1: h }: Size,
): string =>
  width === w && height === h
    ? `${type} ${own}${name}() { return texture(user_${name}, gl_FragCoord.xy * vec2(${inverse(width)}, ${inverse(height)}))${part}; }`
    : `${type} ${own}${name}() { return ${at}${name}(int(gl_FragCoord.y) * ${w} + int(gl_FragCoord.x)); }`;

/** The readers that a shader calls. */
function readers(code: string, sizes: ReadonlyMap<string, [number, number]>, written: Size): string {
  const made: string[] = [];
  for (const [name, size] of sizes)
    for (const kind of kinds) {
      const own = code.includes(`${kind.own}${name}()`);
      if (own || code.includes(`${kind.at}${name}(`)) made.push(reader(kind, name, size));
      if (own) made.push(ownReader(kind, name, size, written));
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
export const ourShader = (code: string, sizes: ReadonlyMap<string, [number, number]>, written: Size): string =>
  code
    .replace("#version 300 es", `#version 300 es\n#define WIDTH ${written[0]}`)
    .replace("void main()", `${readers(code, sizes, written)}\nvoid main()`);

/**
 * A shader of GPU.js, mended.
 *
 * @param given   what GPU.js wrote, which says the sizes of what it reads
 * @param written size of the texture that it writes
 */
export function mendedShader(given: string, written: Size): string {
  const sizes = new Map<string, [number, number]>();
  for (const [, name, width, height] of given.matchAll(/ivec2 user_(\w+)Size = ivec2\((\d+), (\d+)\);/g))
    sizes.set(name!, [Number(width), Number(height)]);
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
