/**
 * Shaders of ours on the WebGL 2 context of GPU.js, whose own kernels write one texture each: these may write the layers of one, so that
 * a thread computes more of what it has read. GPU.js sets what it needs of the context before each of its runs, but for the viewport
 * and the attributes of vertices, which are left as they were.
 */
import type { GpuKernel } from "./backend.ts";
import { ourShader } from "./gl-shader.ts";
import type { GlKernel, GlTexture } from "./gpujs-internals.ts";
import type { Pass } from "./plan.ts";
import { Spare } from "./spare.ts";

/** A texture of ours: four floats a texel, one or several layers. */
interface Layered {
  readonly texture: WebGLTexture;
  readonly size: readonly [width: number, height: number];
  readonly layers: number;
  delete(): void;
}

type Read = GlTexture | Layered;

const vertexShader = `#version 300 es
void main() { gl_Position = vec4(float(gl_VertexID & 1) * 4.0 - 1.0, float(gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }`;

/** The texture in which GPU.js keeps so many floats: the kernels that read it are compiled for its size. */
export function flatSize(count: number): [width: number, height: number] {
  const root = Math.sqrt(count);
  let [low, high] = [Math.floor(root), Math.ceil(root)];
  while (high * low < count) low = Math.ceil(count / --high);
  return [low, Math.ceil(count / low)];
}

export function shaderOf(gl: WebGLRenderingContext, type: number, code: string): WebGLShader {
  const shader = gl.createShader(type)!;
  gl.shaderSource(shader, code);
  gl.compileShader(shader);
  if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost())
    throw new Error(`gpu: a shader does not compile: ${gl.getShaderInfoLog(shader)}\n${code}`);
  return shader;
}

/** The fragment shader with its arrays in texture units of their own, and with `corner` at a place for attributes if one is given. */
export function programOf(gl: WebGLRenderingContext, vertex: WebGLShader, code: string, corner?: number): WebGLProgram {
  const program = gl.createProgram()!;
  const fragment = shaderOf(gl, gl.FRAGMENT_SHADER, code);
  for (const shader of [vertex, fragment]) gl.attachShader(program, shader);
  if (corner !== undefined) gl.bindAttribLocation(program, corner, "corner");
  gl.linkProgram(program);
  gl.deleteShader(fragment);
  gl.useProgram(program);
  namesOf(code).forEach((name, unit) => {
    gl.uniform1i(gl.getUniformLocation(program, `user_${name}`), unit);
  });
  return program;
}

/**
 * A texture as GPU.js's handle of a flat value.
 *
 * @param like     one that GPU.js has made
 * @param giveBack when nobody holds it any more
 */
export function flatLike(
  like: GlTexture,
  texture: WebGLTexture,
  size: readonly [number, number],
  count: number,
  giveBack: () => void,
): GlTexture {
  const { context, kernel, internalFormat, textureFormat } = like;
  const Flat = like.constructor as new (settings: object) => GlTexture;
  const owner = { ...kernel, deleteTexture: giveBack };
  const dimensions = [count, 1, 1];
  return new Flat({ texture, size, dimensions, output: [count], context, kernel: owner, internalFormat, textureFormat });
}

/** Textures that nobody holds any more and that are kept for whoever needs one of their size next. */
export const mostSpare = { bytes: 64 * 2 ** 20, things: 4096 };

/** Runs our fragment shaders on the context of a GPU.js kernel. */
export class Drawings {
  private readonly spare = new Spare<WebGLTexture>(mostSpare, (texture) => this.gl.deleteTexture(texture));
  private readonly gl: WebGL2RenderingContext;
  /** A flat value that GPU.js has made; others are made after it. */
  private readonly flat: GlTexture;
  private readonly maxTexSize: GlKernel["maxTexSize"];
  private readonly vertices: WebGLVertexArrayObject;
  private readonly vertex: WebGLShader;
  /** What `copier` copies through. */
  private rows: WebGLBuffer | null = null;
  private rowsBytes = 0;
  private readonly framebuffers = new Map<number, WebGLFramebuffer>();
  /** Whether flat values can be read as they are; known once one was asked for. */
  private readsFloats: boolean | null = null;

  /** @param kernel the one that made `flat` */
  constructor(flat: GlTexture, kernel: GlKernel) {
    this.flat = flat;
    this.maxTexSize = kernel.maxTexSize;
    this.gl = flat.context;
    this.vertices = this.gl.createVertexArray();
    this.vertex = shaderOf(this.gl, this.gl.VERTEX_SHADER, vertexShader);
  }

  private framebuffer(layers: number): WebGLFramebuffer {
    const { gl } = this;
    let made = this.framebuffers.get(layers);
    if (made) gl.bindFramebuffer(gl.FRAMEBUFFER, made);
    else {
      this.framebuffers.set(layers, (made = gl.createFramebuffer()));
      gl.bindFramebuffer(gl.FRAMEBUFFER, made);
      gl.drawBuffers(Array.from({ length: layers }, (_, i) => gl.COLOR_ATTACHMENT0 + i));
    }
    return made;
  }

  /** A texture to write to: a new one would be filled with zeros first. */
  private texture(size: readonly [number, number], layers: number, format: number): WebGLTexture {
    const { gl } = this;
    const known = this.spare.take(`${size},${layers},${format}`);
    if (known) return known;
    const kind = layers > 1 ? gl.TEXTURE_2D_ARRAY : gl.TEXTURE_2D;
    const texture = gl.createTexture();
    gl.activeTexture(gl.TEXTURE15);
    gl.bindTexture(kind, texture);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(kind, name, gl.NEAREST);
    for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(kind, name, gl.CLAMP_TO_EDGE);
    if (layers > 1) gl.texStorage3D(kind, 1, format, ...size, layers);
    else gl.texStorage2D(kind, 1, format, ...size);
    return texture;
  }

  private giveBack(texture: WebGLTexture, [width, height]: readonly [number, number], layers: number, format: number): void {
    const bytes = width * height * layers * (format === this.gl.R32F ? 4 : 16);
    this.spare.give(`${width},${height},${layers},${format}`, texture, bytes);
  }

  /** Draws to textures, or to the layers of one, and reads from them. */
  private attach(textures: readonly WebGLTexture[], layers: number): void {
    const { gl } = this;
    this.framebuffer(Math.max(layers, textures.length));
    for (let i = 0; i < layers && layers > 1; i++)
      gl.framebufferTextureLayer(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0 + i, textures[0]!, 0, i);
    if (layers === 1)
      textures.forEach((texture, i) => {
        gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0 + i, gl.TEXTURE_2D, texture, 0);
      });
  }

  /** The buffer to copy through, bound to be written. */
  private bindRows(bytes: number): void {
    const { gl } = this;
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, (this.rows ??= gl.createBuffer()));
    if (bytes > this.rowsBytes) gl.bufferData(gl.PIXEL_PACK_BUFFER, (this.rowsBytes = bytes), gl.STREAM_COPY);
  }

  /** Fills a texture from that buffer. */
  private fromRows(texture: WebGLTexture, size: readonly [number, number], format: number): void {
    const { gl } = this;
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, null);
    gl.bindBuffer(gl.PIXEL_UNPACK_BUFFER, this.rows);
    gl.activeTexture(gl.TEXTURE15);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, ...size, format, gl.FLOAT, 0);
    gl.bindBuffer(gl.PIXEL_UNPACK_BUFFER, null);
  }

  private flatOf(texture: WebGLTexture, size: readonly [number, number], count: number): GlTexture {
    return flatLike(this.flat, texture, size, count, () => this.giveBack(texture, size, 1, this.gl.R32F));
  }

  /** A pass that copies the rows of matrices through a buffer to a flat value. */
  copier({ copiedColumns, count }: Pass): GpuKernel {
    const { gl } = this;
    const columns = copiedColumns!;
    const size = flatSize(count);
    const run = ({ texture: from, size: [width, height], layers }: Layered): GlTexture => {
      const texture = this.texture(size, 1, gl.R32F);
      // the flat value's texture may have a few elements more, and so may the rows
      const bytes = Math.max(16 * width * height * layers, 4 * size[0] * size[1]);
      this.attach([from], layers);
      this.bindRows(bytes);
      // a layer's rows lie so many texels apart
      gl.pixelStorei(gl.PACK_ROW_LENGTH, columns);
      for (let i = 0; i < layers; i++) {
        gl.readBuffer(gl.COLOR_ATTACHMENT0 + i);
        gl.readPixels(0, 0, width, height, gl.RGBA, gl.FLOAT, 4 * columns * i);
      }
      gl.pixelStorei(gl.PACK_ROW_LENGTH, 0);
      this.fromRows(texture, size, gl.RED);
      return this.flatOf(texture, size, count);
    };
    return kernelOf(run, () => {});
  }

  /** A pass that copies a flat value through a buffer to a texture of four floats a texel. */
  fours(pass: Pass): GpuKernel {
    const { gl } = this;
    const size = pass.size!;
    let drawn: GpuKernel | null = null;
    const run = (flat: GlTexture): unknown => {
      const [width, height] = flat.size as unknown as [number, number];
      if (this.readsFloats !== false) this.attach([flat.texture], 1);
      // which formats there are, beside four floats a texel, the driver says of what is attached
      this.readsFloats ??=
        gl.getParameter(gl.IMPLEMENTATION_COLOR_READ_FORMAT) === gl.RED &&
        gl.getParameter(gl.IMPLEMENTATION_COLOR_READ_TYPE) === gl.FLOAT;
      if (!this.readsFloats) return (drawn ??= this.kernel(pass))(flat);
      const texture = this.texture(size, 1, gl.RGBA32F);
      this.bindRows(Math.max(4 * width * height, 16 * size[0] * size[1]));
      gl.readBuffer(gl.COLOR_ATTACHMENT0);
      gl.readPixels(0, 0, width, height, gl.RED, gl.FLOAT, 0);
      this.fromRows(texture, size, gl.RGBA);
      return this.layered(texture, size, 1);
    };
    return kernelOf(run, () => drawn?.destroy());
  }

  private layered(texture: WebGLTexture, size: readonly [number, number], layers: number): Layered {
    return { texture, size, layers, delete: () => this.giveBack(texture, size, layers, this.gl.RGBA32F) };
  }

  /** A pass with a shader of its own, which is compiled when it runs first: then the sizes of what it reads are known. */
  kernel({ glsl, size: given, layers = 1, count, also = [] }: Pass): GpuKernel {
    const { gl } = this;
    const size = given ?? flatSize(count);
    let program: WebGLProgram | null = null;
    const run = (...reads: readonly Read[]): readonly (GlTexture | Layered)[] => {
      gl.bindVertexArray(this.vertices);
      if (program) gl.useProgram(program);
      else {
        const sizes = namesOf(glsl!).map(
          (name, i) => [name, [reads[i]!.size[0], reads[i]!.size[1]] as [number, number]] as const,
        );
        program = programOf(gl, this.vertex, ourShader(glsl!, new Map(sizes), size));
      }
      const format = given ? gl.RGBA32F : gl.R32F;
      const textures = [count, ...also].map(() => this.texture(size, layers, format));
      this.attach(textures, layers);
      reads.forEach((read, unit) => {
        gl.activeTexture(gl.TEXTURE0 + unit);
        gl.bindTexture("layers" in read && read.layers > 1 ? gl.TEXTURE_2D_ARRAY : gl.TEXTURE_2D, read.texture);
      });
      gl.viewport(0, 0, ...size);
      gl.scissor(0, 0, ...size);
      gl.drawArrays(gl.TRIANGLES, 0, 3);
      const [width, height] = this.maxTexSize;
      gl.viewport(0, 0, width, height);
      gl.bindVertexArray(null);
      return textures.map((texture) => (given ? this.layered(texture, given, layers) : this.flatOf(texture, size, count)));
    };
    return kernelOf(run, () => {
      if (program) gl.deleteProgram(program);
    });
  }
}

/** As one of GPU.js. */
export const kernelOf = (run: unknown, destroy: () => void): GpuKernel =>
  Object.assign(run as (...reads: unknown[]) => unknown, {
    kernel: { constructor: { mode: "gpu" }, fallbackReason: null },
    setOutput() {},
    destroy,
  }) as GpuKernel;

/** The arrays that a shader reads, in their order. */
export const namesOf = (code: string): string[] =>
  [...code.matchAll(/uniform sampler2D(?:Array)? user_(\w+);/g)].map(([, name]) => name!);
